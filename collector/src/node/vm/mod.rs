//! A pod's virtual machine as this host sees it: what it is, what it costs, what it left behind.
//!
//! Only /proc, the cgroup file system and Kata's own files below /run are read; no guest, no shim and no hypervisor is asked
//! anything, so nothing of it can be held up or harmed (one GET of a shim's metrics may end its pod). The one program that is
//! ever run is the shim's own file with `-info`, once per release. Where nothing of Kata's is on a node, nothing is read.

mod cgroups;
mod deaths;
mod facts;
mod household;
mod ledger;
mod orphans;
mod release;
mod table;
mod tally;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

pub use cgroups::HostUse;
pub use deaths::Death;
pub use facts::{Facts, text as plain_text};
pub use household::{Component, Hypervisor};
pub use orphans::{Orphan, OrphanKind};
pub use release::{FileFacts, Release};
pub use usage::{Usage, Vcpus};

use self::{
    deaths::{Teller, Watched},
    household::Roots,
    ledger::{Guest, Ledger},
    orphans::Suspects,
    release::Releases,
    table::{Process, Table},
    usage::Counted,
};
use tokio::time::Instant;

use super::{Periods, process};
use crate::{
    enrich::ShimKind,
    metrics::{About, Container, Happened, Machine, Registry, Wrapper},
    time::now_ns,
};

/// The kernel walks all of a process's memory for its proportional share: no more often than this.
const PROPORTIONAL: Duration = Duration::from_secs(60);
/// Sandboxes that are remembered after their wrappers went.
const REMEMBERED: usize = 1_024;

/// What is known of one sandbox that is a VM. Absent = not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// When it was looked at.
    pub at: Instant,
    /// Its shim.
    pub shim: ShimKind,
    /// Its shim's release.
    pub release: Option<Release>,
    /// What the shim's linker called its build.
    pub build: Option<String>,
    /// Its processes on this host by what they are for, each in order.
    pub pids: BTreeMap<Component, Vec<u32>>,
    /// What it is.
    pub facts: Facts,
    /// What its processes use.
    pub components: BTreeMap<Component, Usage>,
    /// Its processors.
    pub vcpus: Option<Vcpus>,
    /// What this host charges it with.
    pub host: HostUse,
    /// CPU time beyond what its containers used, since it was first seen, in ns.
    pub overhead_cpu_ns: Option<i64>,
    /// Memory beyond what its containers use, in bytes.
    pub overhead_memory_bytes: Option<i64>,
}

/// What a look at the node found beside its sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// A look was made at all: something of Kata's is here.
    pub looked: bool,
    /// What was left behind.
    pub orphans: Vec<Orphan>,
    /// Processes that are somebody's kata-monitor.
    pub monitors: Vec<u32>,
}

/// The looks at all sandboxes of a node.
#[derive(Debug, Default)]
pub(super) struct Machines {
    releases: Releases,
    suspects: Suspects,
    kept: HashMap<u64, Kept>,
    /// When the last full look was, by the thread's own clock.
    looked: Option<Duration>,
}

/// What is kept of a sandbox from look to look.
#[derive(Debug, Default)]
struct Kept {
    watched: Watched,
    ledger: Ledger,
    counted: Counted,
    /// When proportional shares were asked for last.
    shared: Option<Duration>,
    proportional: BTreeMap<Component, u64>,
    /// What its wrapper was when it was connected last.
    about: Option<About>,
    over: bool,
}

/// One full look.
#[derive(Clone, Copy)]
struct Looked<'l> {
    table: &'l Table,
    root: &'l Path,
    now: Duration,
}

// === impl Machines ===

impl Machines {
    /// One turn, at `now` of a clock that never goes back.
    pub(super) fn look(&mut self, registry: &Registry, periods: Periods, now: Duration, root: &Path) {
        let interval = periods.interval;
        let wrappers: Vec<_> = registry
            .attached()
            .into_iter()
            .map(|wrapper| (wrapper.about(), wrapper.inner(), wrapper))
            .map(|(about, inner, wrapper)| (ShimKind::of(&inner.binary, &about.id, root), about, wrapper))
            .filter(|(kind, _, _)| kind.is_kata())
            .collect();
        for (kind, _, wrapper) in &wrappers {
            wrapper.machine.is_of(*kind);
        }
        let connected = wrappers.iter().map(|(_, about, wrapper)| (wrapper.id, about.clone())).collect();
        self.deaths(registry, &connected, now, root);
        let due = interval.saturating_mul(9) / 10;
        if self.looked.is_some_and(|before| now.saturating_sub(before) < due) {
            return;
        }
        if wrappers.is_empty() && !["run/kata", "run/vc"].iter().any(|dir| root.join(dir).is_dir()) {
            registry.found(Findings::default());
            return;
        }
        self.looked = Some(now);
        let table = Table::look(root);
        let mut served = BTreeSet::new();
        for (kind, about, wrapper) in wrappers {
            served.insert(about.id.clone());
            let at = Looked { table: &table, root, now };
            let sandbox = self.sandbox(registry, at, kind, &about, &wrapper);
            wrapper.machine.seen(sandbox);
        }
        let monitors = table.all().filter(|process| process.program() == "kata-monitor");
        registry.found(Findings {
            looked: true,
            orphans: self.suspects.look(root, &table, &served, now, periods.orphan),
            monitors: monitors.map(|process| process.pid).collect(),
        });
    }

    /// Judges what became of those that are known, and forgets them when nothing more can become of them.
    fn deaths(&mut self, registry: &Registry, connected: &BTreeMap<u64, About>, now: Duration, root: &Path) {
        let lives = |(pid, born)| process::born(root, pid) == Some(born);
        for (id, kept) in &mut self.kept {
            if let Some(about) = connected.get(id) {
                kept.about = Some(about.clone());
            }
            let about = kept.about.as_ref();
            let ours = about.map_or([0; 2], |about| [about.keeper_pid, about.worker_pid]);
            let runs = ours.iter().any(|pid| *pid != 0 && process::born(root, *pid).is_some());
            let machine = registry.known(*id);
            let machine = machine.as_ref().map(|wrapper| &wrapper.machine);
            let told = machine.is_some_and(Machine::outlived_its_shim);
            let teller = Teller { connected: connected.contains_key(id), runs, told };
            let vmm = || {
                let table = Table::look(root);
                let members = household::members(&table, roots(about?));
                let vmm = members.into_iter().find(|(component, _)| *component == Component::Vmm);
                vmm.map(|(_, process)| process.known())
            };
            if let Some(death) = kept.watched.look(lives, vmm, teller, now) {
                if machine.is_none_or(Machine::dies) {
                    registry.totals.sandbox_deaths.add(death, 1);
                }
                let what = if death == Death::Shim { Happened::ShimDied } else { Happened::VmDied };
                for container in kept.watched.lost() {
                    registry.lifecycle.note(&container, what);
                }
            }
            kept.over = teller.is_over() && kept.watched.is_settled();
        }
        self.kept.retain(|_, kept| !kept.over);
        if self.kept.len() > REMEMBERED {
            self.kept.retain(|id, _| connected.contains_key(id));
        }
    }

    fn sandbox(
        &mut self,
        registry: &Registry,
        Looked { table, root, now }: Looked<'_>,
        kind: ShimKind,
        about: &About,
        wrapper: &Wrapper,
    ) -> Sandbox {
        let members = household::members(table, roots(about));
        let of = |wanted: Component| {
            members.iter().filter(move |(component, _)| *component == wanted).map(|(_, process)| *process)
        };
        let vmm = of(Component::Vmm).next();
        let containers = registry.of_sandbox(&about.namespace, &about.id);
        let kept = self.kept.entry(wrapper.id).or_default();
        kept.about = Some(about.clone());
        let vmms: Vec<_> = of(Component::Vmm).map(Process::known).collect();
        kept.watch(&vmms, of(Component::Shim).next(), &containers);

        let facts = facts::read(root, &about.id, vmm);
        let charged: Vec<u32> =
            of(Component::Vmm).chain(of(Component::Virtiofsd)).map(|process| process.pid).collect();
        let others: Vec<u32> = of(Component::Shim).map(|process| process.pid).collect();
        let asked =
            cgroups::Asked { sandbox: &about.id, named: &facts.cgroups, charged: &charged, others: &others };
        let host = cgroups::read(root, &asked);
        let build = wrapper.inner_build().and_then(|build| facts::text(&build));
        let release = wrapper.inner_file().and_then(|file| {
            let path = wrapper.inner().binary;
            self.releases.of(Path::new(&path), file, build.as_deref(), now)
        });
        let mut pids: BTreeMap<Component, Vec<u32>> = BTreeMap::new();
        for (component, process) in &members {
            pids.entry(*component).or_default().push(process.pid);
        }
        pids.values_mut().for_each(|pids| pids.sort_unstable());
        Sandbox {
            at: Instant::now(),
            build,
            pids,
            shim: narrowed(kind, release.as_ref()),
            overhead_cpu_ns: kept.ledger.take(now_ns(), host.cpu_ns, &guests(&containers, registry.fresh)),
            overhead_memory_bytes: overhead_memory(host.memory_bytes, &containers, registry.fresh),
            components: kept.usage(root, &members, now),
            vcpus: vmm.and_then(|vmm| usage::vcpus(root, vmm, &mut kept.counted)),
            release,
            facts,
            host,
        }
    }
}

/// The shim says itself which of Kata's it is.
fn narrowed(kind: ShimKind, release: Option<&Release>) -> ShimKind {
    match release {
        Some(release) if kind == ShimKind::Kata && release.rust => ShimKind::KataRust,
        _ => kind,
    }
}

fn roots(about: &About) -> Roots<'_> {
    Roots { sandbox: &about.id, shim: about.inner_pid, wrapper: [about.keeper_pid, about.worker_pid] }
}

/// The oldest sample that says how it is now, in Unix ns.
fn oldest_ns(fresh: Duration) -> u64 {
    now_ns().saturating_sub(u64::try_from(fresh.as_nanos()).unwrap_or(u64::MAX))
}

/// CPU time of containers: of one that runs as it is now, of one that ended as it was at last.
fn guests(containers: &[Arc<Container>], fresh: Duration) -> Vec<Guest> {
    let oldest = oldest_ns(fresh);
    let guest = |container: &Arc<Container>| {
        let live = container.live();
        let running = live.is_running();
        let sample = live.sample.as_ref().filter(|sample| !running || sample.time_ns > oldest);
        let used_ns = sample.and_then(|sample| sample.cpu_ns);
        Guest { incarnation: container.key.incarnation, started_ns: live.started_ns, used_ns }
    };
    containers.iter().map(guest).collect()
}

/// What the host is charged with beyond what the guest's kernel says of its containers, page cache on both sides.
fn overhead_memory(host: Option<u64>, containers: &[Arc<Container>], fresh: Duration) -> Option<i64> {
    let oldest = oldest_ns(fresh);
    let running = containers.iter().filter(|container| container.live().is_running());
    let mut guest = 0u64;
    let mut known = 0;
    for container in running {
        let live = container.live();
        let sample = live.sample.as_ref().filter(|sample| sample.time_ns > oldest)?;
        guest = guest.checked_add(sample.memory_usage?)?;
        known += 1;
    }
    let difference = i128::from(host?) - i128::from(guest);
    i64::try_from(difference).ok().filter(|_| known > 0)
}

// === impl Kept ===

impl Kept {
    /// Remembers who is there now, unless somebody of before is missing.
    fn watch(&mut self, vmms: &[deaths::Known], shim: Option<&Process>, containers: &[Arc<Container>]) {
        if !self.watched.is_whole() {
            return;
        }
        // Those that descend from the shim are first; one of before stays the one while it is there.
        if !self.watched.vmm.is_some_and(|known| vmms.contains(&known)) {
            self.watched.vmm = vmms.first().copied().or(self.watched.vmm);
        }
        self.watched.shim = self.watched.shim.or(shim.map(Process::known));
        self.watched.running =
            containers.iter().filter(|container| container.live().is_running()).cloned().collect();
        let streams = self.watched.running.iter().flat_map(|container| container.live().streams.clone());
        self.watched.open = streams
            .filter(|stream| stream.process.is_empty() && stream.ending().is_none())
            .filter(|stream| stream.not_captured.is_none())
            .collect();
    }

    fn usage(
        &mut self,
        root: &Path,
        members: &[(Component, &Process)],
        now: Duration,
    ) -> BTreeMap<Component, Usage> {
        let due = self.shared.is_none_or(|before| now.saturating_sub(before) >= PROPORTIONAL);
        let mut usage = usage::of(root, members, due, &mut self.counted);
        if due {
            self.shared = Some(now);
            let known =
                usage.iter().filter_map(|(component, usage)| Some((*component, usage.proportional_bytes?)));
            self.proportional = known.collect();
        }
        for (component, usage) in &mut usage {
            usage.proportional_bytes = self.proportional.get(component).copied();
        }
        usage
    }
}

#[cfg(test)]
mod tests;

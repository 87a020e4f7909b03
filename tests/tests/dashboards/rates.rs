//! What the usual queries of dashboards come to while everything works: rates of CPU, throttling, network and disks, and the
//! working set, of a pod of runc and of pods in VMs, by the same expressions and from the same Prometheus.
//!
//! The truth of the pod of runc is what the kernel's own files say over the same seconds; that of a VM is what its guest counts
//! (so much in every second), and for its network the kernel's files again. One VM is of the Rust shim with a guest of cgroup v2,
//! the other of the Go shim with v1's message. Their hypervisors are in networks of their own, beside a tap that mirrors.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    oracle::cgroup::{self, Figures},
    rig::{
        Hook, Node, Setup, Shim, Version, collector::Settings, eventually, now_and_then, prometheus::Labels,
        prometheus::Prometheus,
    },
    standin::{
        kata::{
            Profile,
            guest::{Cgroup, Device, Guest},
        },
        script::Script,
    },
};

use super::{
    network::{self, Bytes, Network},
    pods, scrape,
    scrape::Scope,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Over which rates are taken. Long enough for ten samples, so that their edges say little.
const WINDOW: Duration = Duration::from_secs(10);
/// What Prometheus' rate may differ from the truth: it goes by samples a second apart, and on to the window's edges.
const SLACK: f64 = 0.2;

/// Between two looks at the kernel's files.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes to a disk past the cache, burns its quota and asks its network's other end, all the time.
const WORK: &str = "gw=$(ip route | sed -n 's/.* via \\([^ ]*\\).*/\\1/p' | head -n 1); \
    while :; do ping -c 1 $gw; sleep 0.2; done >/dev/null & \
    while :; do dd if=/dev/zero of=/host/f bs=65536 count=4 oflag=direct 2>/dev/null; sleep 0.2; done & \
    echo >/host/began; while :; do :; done";

/// The pods, by name, and whose row a figure is: the container's, or its pod's.
const PODS: [&str; 3] = ["web", "rust", "go"];

/// What a guest's counters grow by in a second.
fn growth() -> Guest {
    let device =
        Device { reads: 2, writes: 3, read_bytes: 8_192, written_bytes: 40_960, ..Device::default() };
    Guest {
        user_us: 200_000,
        system_us: 100_000,
        periods: 10,
        throttled: 4,
        throttled_us: 30_000,
        devices: vec![device],
        ..Guest::default()
    }
}

/// What the kernel says at one moment.
struct Look {
    at: Instant,
    web: Figures,
    /// By pod: what passed `eth0`.
    passed: BTreeMap<&'static str, Bytes>,
}

/// Where the kernel's word on the pods is to be had, and what it was.
struct Truth {
    group: String,
    pids: BTreeMap<&'static str, i32>,
    looks: Vec<Look>,
    guests: BTreeMap<&'static str, Guest>,
}

/// The whole of it on one containerd.
pub fn the_usual_queries_answer_for_each_pod(version: Version) -> Result<()> {
    let told = Settings::each_second();
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told).run(|node| {
        let disk = std::env::temp_dir().join(format!("{}-disk", node.mark()));
        fs::create_dir_all(&disk).context("create a folder on a disk")?;
        let answer = at_work(node, &disk);
        // Where it fails a container may still write there, which must not hide why.
        let removed = fs::remove_dir_all(&disk).context("remove the folder on the disk");
        answer.and(removed)
    })
}

fn at_work(node: &Node, disk: &Path) -> Result<()> {
    let networks = [Network::make(0)?, Network::make(1)?];
    let [first, second] = networks.each_ref().map(Network::path);
    let vm = |pod, shim, cgroup, network: &Path| {
        let (guest, grows) = (Some(Guest::worked(cgroup)), Some(growth()));
        let script = Script { guest, guest_grows: grows, ..Script::stayer() };
        pods::with_a_network(node, pod, shim, network, &script)
    };
    let rust = vm("rust", Profile::Rust, Cgroup::V2, &first)?;
    let go = vm("go", Profile::Go(Cgroup::V1), Cgroup::V1, &second)?;
    let (web, id) = pods::of_runc(node, disk, WORK)?;
    pods::said(disk, "began")?;
    let vmm = |vm: &pods::Networked| -> Result<i32> {
        eventually(LIMIT, "its hypervisor", || Ok(vm.sandbox.processes("qemu-system-x86_64")?.pop()))
    };
    let pids = [("web", network::process_of(&web.id)?), ("rust", vmm(&rust)?), ("go", vmm(&go)?)];
    let guests = [("rust", Guest::worked(Cgroup::V2)), ("go", Guest::worked(Cgroup::V1))];
    let mut truth = Truth {
        group: format!("{}/{id}", node.mark()),
        pids: pids.into(),
        looks: Vec::new(),
        guests: guests.into(),
    };
    let address = node.collector(|collector| Ok(collector.address().to_owned()))?;
    let targets = [None, Some(address.as_str()), Some(&address)];
    let config = scrape::configuration("prometheus.yml", Scope::All, targets)?;
    // Without a kubelet the network has to come from here.
    let config = config.replace("regex: container_network_.*", "regex: nothing");
    let prometheus = Prometheus::start(node.dir(), "rates", &config)?;
    let judged = judge(&prometheus, &mut truth);
    rust.end()?;
    go.end()?;
    node.cri()?.remove_pod(&web)?;
    judged
}

/// Each query until it is right; by then the looks reach back as far as it does.
fn judge(prometheus: &Prometheus, truth: &mut Truth) -> Result<()> {
    let of_pod = "namespace, pod";
    let of_container = "namespace, pod, container";
    let rate = |name: &str| format!("rate({name}{{cluster=\"rig\", namespace=\"rig\", image!=\"\"}}[10s])");
    let net = |name: &str| format!("rate(container_network_{name}_bytes_total{{namespace=\"rig\"}}[10s])");
    let sum = |by: &str, of: &str| format!("sum by ({by}) ({of})");
    let [reads, writes] = ["reads", "writes"].map(|way| rate(&format!("container_fs_{way}_bytes_total")));
    let [counted, throttled] = ["cfs_periods", "cfs_throttled_periods"]
        .map(|of| sum(of_container, &rate(&format!("container_cpu_{of}_total"))));
    let set = "container_memory_working_set_bytes{cluster=\"rig\", namespace=\"rig\", image!=\"\"}";
    let queries: [(String, Wanted); 7] = [
        (
            sum(of_container, &rate("container_cpu_usage_seconds_total")),
            Wanted::Rate(&["container_cpu_usage_seconds_total"], 0.3),
        ),
        (
            format!("{throttled} / {counted}"),
            Wanted::Ratio(
                "container_cpu_cfs_throttled_periods_total",
                "container_cpu_cfs_periods_total",
                0.4,
            ),
        ),
        (sum(of_container, set), Wanted::WorkingSet),
        (
            sum(of_container, &format!("{reads} + {writes}")),
            Wanted::Rate(&["container_fs_reads_bytes_total", "container_fs_writes_bytes_total"], 49_152.0),
        ),
        (
            sum(of_container, &rate("container_fs_writes_total")),
            Wanted::Rate(&["container_fs_writes_total"], 3.0),
        ),
        (sum(of_pod, &net("receive")), Wanted::Network(0)),
        (sum(of_pod, &net("transmit")), Wanted::Network(1)),
    ];
    now_and_then(PAUSE, LIMIT, "a window's looks", || {
        truth.look()?;
        Ok((truth.span() >= WINDOW).then_some(()))
    })?;
    for (query, wanted) in &queries {
        comes_out(prometheus, query, wanted, truth)?;
    }
    once_per_pod(prometheus)
}

/// What a query is to come to, for the pod of runc by the families that it is made of, and for those in VMs.
enum Wanted {
    /// The sum of these families' rates.
    Rate(&'static [&'static str], f64),
    /// The first's rate in the second's.
    Ratio(&'static str, &'static str, f64),
    WorkingSet,
    /// What passed the real interface, this way.
    Network(usize),
}

fn comes_out(prometheus: &Prometheus, query: &str, wanted: &Wanted, truth: &mut Truth) -> Result<()> {
    let mut last = (Vec::new(), BTreeMap::new());
    now_and_then(PAUSE, LIMIT, query, || {
        truth.look()?;
        let rows = prometheus.ask(query)?;
        let right = truth.of(wanted)?;
        let is_right = |(labels, value): &(Labels, f64)| {
            let pod = labels.get("pod").map(String::as_str).unwrap_or_default();
            let container = matches!(wanted, Wanted::Network(_)) == !labels.contains_key("container");
            let near = |right: &f64| (value - right).abs() <= right * SLACK && *right > 0.0;
            container && right.get(pod).is_some_and(near)
        };
        let all = rows.len() == right.len() && rows.iter().all(is_right);
        last = (rows, right);
        Ok(all.then_some(()))
    })
    .with_context(|| format!("{query}: {:?}, not {:?}\n{}", last.0, last.1, prometheus.said()))
}

/// A pod's network is one row, of its real interface and of no container.
fn once_per_pod(prometheus: &Prometheus) -> Result<()> {
    let rows = prometheus.ask("container_network_transmit_bytes_total{namespace=\"rig\"}")?;
    let mut pods: Vec<_> = rows.iter().filter_map(|(labels, _)| labels.get("pod").cloned()).collect();
    pods.sort();
    let mut all = PODS.map(str::to_owned);
    all.sort();
    // To Prometheus an empty label is none.
    let real = rows.iter().all(|(labels, _)| {
        labels.get("interface").is_some_and(|it| it == "eth0") && !labels.contains_key("container")
    });
    ensure!(pods == all && real, "{rows:?}");
    Ok(())
}

// === impl Truth ===

impl Truth {
    fn look(&mut self) -> Result<()> {
        let passed = self.pids.iter().map(|(pod, pid)| Ok((*pod, network::passed(*pid, "eth0")?)));
        let passed = passed.collect::<Result<_>>()?;
        self.looks.push(Look { at: Instant::now(), web: cgroup::figures(&self.group)?, passed });
        Ok(())
    }

    /// How far the looks reach back.
    fn span(&self) -> Duration {
        self.looks.first().map(|look| look.at.elapsed()).unwrap_or_default()
    }

    /// What a figure grew by in a second, over the last window; `None` where the kernel does not count it. It counts some from
    /// the first time on.
    fn rate(&self, of: impl Fn(&Look) -> Option<f64>) -> Result<Option<f64>> {
        let last = self.looks.last().context("nobody looked")?;
        let far = |look: &&Look| last.at.duration_since(look.at) >= WINDOW;
        let first = self.looks.iter().rev().find(far).context("nobody has looked for so long")?;
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        Ok(of(last).map(|to| (to - of(first).unwrap_or(0.0)) / seconds))
    }

    /// By pod; without the one of runc where the kernel does not count such a thing.
    fn of(&self, wanted: &Wanted) -> Result<BTreeMap<&'static str, f64>> {
        let web = |name: &'static str| self.rate(|look| look.web.get(name).copied());
        let (web, vms) = match wanted {
            Wanted::Rate(names, vms) => {
                let all: Option<Vec<f64>> = names.iter().map(|name| web(name)).collect::<Result<_>>()?;
                (all.map(|all| all.iter().sum()), *vms)
            }
            Wanted::Ratio(part, whole, vms) => (web(part)?.zip(web(whole)?).map(|(p, w)| p / w), *vms),
            Wanted::WorkingSet => return self.working_sets(),
            Wanted::Network(way) => {
                let of = |pod: &'static str| {
                    let passed = self.rate(|look| look.passed.get(pod)?.get(*way).copied())?;
                    Ok((pod, passed.context("no such interface")?))
                };
                return PODS.into_iter().map(of).collect();
            }
        };
        let mut rates = BTreeMap::from([("rust", vms), ("go", vms)]);
        rates.extend(web.map(|web| ("web", web)));
        Ok(rates)
    }

    fn working_sets(&self) -> Result<BTreeMap<&'static str, f64>> {
        const NAME: &str = "container_memory_working_set_bytes";
        let web = self.looks.last().and_then(|look| look.web.get(NAME).copied()).context("no working set")?;
        let mut sets = BTreeMap::from([("web", web)]);
        for (pod, guest) in &self.guests {
            sets.insert(*pod, *guest.truth().get(NAME).context("no working set")?);
        }
        Ok(sets)
    }
}

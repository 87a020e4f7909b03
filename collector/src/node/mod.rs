//! What this host's kernel says of containers beside their Stats: processes of a cgroup, interfaces of a pod's network; and
//! of pods that are virtual machines, what those are and cost (`vm`).
//!
//! A thread of its own reads small files of /proc and of the cgroup file system, each container's once per interval. It
//! enters no namespace, opens no device, and needs no privilege: nearly all of it may be read by anybody, and the rest is
//! absent. It never talks to a running shim, a guest or a container, so nothing here can hold one up; and a read that hangs
//! holds up nobody but this thread.
//!
//! What is shown carries the time at which it was read. A figure of which it is not certain whose it is, is absent.

mod network;
mod process;
mod procs;
mod vm;

use std::{
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

#[cfg(test)]
pub use network::Counts;
pub use network::{Interface, Interfaces};
pub use process::Born;
pub use vm::{
    Component, Death, FileFacts, Findings, Hypervisor, Orphan, OrphanKind, Sandbox, Usage, plain_text,
};
#[cfg(test)]
pub use vm::{Facts, HostUse, Release, Vcpus};

use crate::{
    enrich::Role,
    metrics::{Container, Registry},
    time::now_ns,
};

/// How often it is looked whose time has come; also how long a pod may live unseen.
const LOOK: Duration = Duration::from_secs(1);

/// Figures of one container, read by us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFigures {
    /// Unix ns of the reading.
    pub time_ns: u64,
    /// The same by a clock that never goes back; none of what was never read.
    pub at: Option<Instant>,
    /// Processes in the container's cgroup and those below it.
    pub processes: Option<u64>,
    /// The pod's interfaces, at its sandbox.
    pub interfaces: Option<Interfaces>,
    /// The process that was asked for the network: another with its number is another's.
    pub network_of: Option<Born>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// From one look to the next.
    pub interval: Duration,
    /// How long something of Kata's has been without a shim before it is said to be left behind.
    pub orphan: Duration,
}

/// Starts the thread, which ends some time after `stop`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    registry: Arc<Registry>,
    periods: Periods,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let look = move || {
        let root = Path::new("/");
        let mut machines = vm::Machines::default();
        let step = LOOK.min(periods.interval);
        let begun = Instant::now();
        while !*stop.borrow() && stop.has_changed().is_ok() {
            look_at_all(&registry, periods.interval, root);
            machines.look(&registry, periods, begun.elapsed(), root);
            thread::sleep(step);
        }
    };
    thread::Builder::new().name("node".into()).spawn(look)
}

fn look_at_all(registry: &Registry, interval: Duration, root: &Path) {
    for container in registry.containers() {
        let Some((pid, known)) = due(&container, interval) else { continue };
        let figures = read(&container, pid, known, root);
        let mut live = container.live();
        // It may have ended meanwhile, and its process's number may be another's.
        if live.is_told_of() && live.pid == pid {
            live.host = Some(figures);
        }
    }
}

/// The process of a container whose time has come, where that is certainly its, and which one was asked for the network.
fn due(container: &Container, interval: Duration) -> Option<(u32, Option<Born>)> {
    let live = container.live();
    let last = live.host.as_ref().and_then(|figures| figures.at);
    let due = last.is_none_or(|last| last.elapsed() >= interval.saturating_mul(9) / 10);
    (due && live.is_told_of() && live.pid != 0)
        .then(|| (live.pid, live.host.as_ref().and_then(|figures| figures.network_of)))
}

fn read(container: &Container, pid: u32, known: Option<Born>, root: &Path) -> HostFigures {
    let mut figures = HostFigures { time_ns: now_ns(), at: Some(Instant::now()), ..HostFigures::default() };
    let identity = &container.identity;
    if identity.host_visible {
        figures.processes = procs::count(root, &identity.path, pid);
    }
    if identity.role == Role::Sandbox && container.has_own_network {
        if let Some((interfaces, born)) = network::read(root, pid, known) {
            figures.interfaces = Some(interfaces);
            figures.network_of = Some(born);
        } else {
            figures.network_of = known;
        }
    }
    figures
}

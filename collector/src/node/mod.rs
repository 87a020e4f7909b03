//! What this host's kernel says of containers beside their Stats: processes of a cgroup, interfaces of a pod's network.
//!
//! A thread of its own reads small files of /proc and of the cgroup file system, each container's once per interval. It
//! enters no namespace, opens no device, and needs no privilege: all of it may be read by anybody. It never talks to a shim,
//! a guest or a container, so nothing here can hold one up; and a read that hangs holds up nobody but this thread.
//!
//! What is shown carries the time at which it was read. A figure of which it is not certain whose it is, is absent.

mod network;
mod process;
mod procs;

use std::{
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::watch;

#[cfg(test)]
pub use network::Counts;
pub use network::{Interface, Interfaces};
pub use process::Born;

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
    /// Processes in the container's cgroup and those below it.
    pub processes: Option<u64>,
    /// The pod's interfaces, at its sandbox.
    pub interfaces: Option<Interfaces>,
    /// The process that was asked for the network: another with its number is another's.
    pub network_of: Option<Born>,
}

/// Starts the thread, which ends some time after `stop`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    registry: Arc<Registry>,
    interval: Duration,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let look = move || {
        let root = Path::new("/");
        while !*stop.borrow() && stop.has_changed().is_ok() {
            look_at_all(&registry, interval, root);
            thread::sleep(LOOK.min(interval));
        }
    };
    thread::Builder::new().name("node".into()).spawn(look)
}

fn look_at_all(registry: &Registry, interval: Duration, root: &Path) {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    for container in registry.containers() {
        let Some((pid, before)) = due(&container, interval) else { continue };
        let figures = read(&container, pid, before.as_ref(), root);
        let mut live = container.live();
        // It may have ended meanwhile, and its process's number may be another's.
        if live.is_told_of() && live.pid == pid {
            live.host = Some(figures);
        }
    }
}

/// The process and the last figures of a container whose time has come, where that process is certainly its.
fn due(container: &Container, interval_ns: u64) -> Option<(u32, Option<HostFigures>)> {
    let live = container.live();
    let last = live.host.as_ref().map_or(0, |figures| figures.time_ns);
    let due = now_ns().saturating_sub(last) >= interval_ns.saturating_mul(9) / 10;
    (due && live.is_told_of() && live.pid != 0).then(|| (live.pid, live.host.clone()))
}

fn read(container: &Container, pid: u32, before: Option<&HostFigures>, root: &Path) -> HostFigures {
    let mut figures = HostFigures { time_ns: now_ns(), ..HostFigures::default() };
    let identity = &container.identity;
    if identity.host_visible {
        figures.processes = procs::count(root, &identity.path, pid);
    }
    if identity.role == Role::Sandbox && container.has_own_network {
        let known = before.and_then(|before| before.network_of);
        if let Some((interfaces, born)) = network::read(root, pid, known) {
            figures.interfaces = Some(interfaces);
            figures.network_of = Some(born);
        } else {
            figures.network_of = known;
        }
    }
    figures
}

//! Whole looks at a node that is a folder: what is said of a sandbox, of a node without one, and of what died.

use std::{fs, path::Path, sync::Arc, time::Duration};

use shimtap_proto::link;

use super::{table::tests::process, *};
use crate::{
    metrics::{Sample, SampleSource, Update},
    sinks::Backlog,
    time::now_ns,
};

const CAPTURED: &str = include_str!("../../../tests/fixtures/kata/state.json");
const INTERVAL: Duration = Duration::from_secs(10);
const SHIM: u32 = 20;
const VMM: u32 = 23;

/// A node with a sandbox `k2` of the Rust shim, as it was captured, and its containers.
struct Node {
    root: tempfile::TempDir,
    registry: Registry,
    machines: Machines,
    wrapper: Arc<Wrapper>,
    now: Duration,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let at = root.path();
        let dir = at.join("run/kata/k2");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("state.json"), CAPTURED).expect("a file");
        process(at, SHIM, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "k2"]);
        process(
            at,
            21,
            SHIM,
            &["/opt/kata/bin/virtiofsd", "--socket-path", "/run/kata/k2/root/virtiofsd.sock"],
        );
        let qemu = "/opt/kata/bin/qemu-system-x86_64";
        process(at, VMM, SHIM, &[qemu, "-name", "sandbox-k2", "-m", "416M", "-smp", "1"]);
        process(at, 30, 1, &["/usr/bin/containerd-shim-tap-v2"]);
        process(at, 31, 30, &["/usr/bin/containerd-shim-tap-v2"]);
        let top = at.join("sys/fs/cgroup");
        let cgroup = top.join("default/k2");
        fs::create_dir_all(&cgroup).expect("a folder");
        fs::write(top.join("cgroup.controllers"), "").expect("a file");
        fs::write(cgroup.join("memory.current"), "500000000\n").expect("a file");
        for pid in [SHIM, 21, VMM] {
            fs::write(at.join(format!("proc/{pid}/cgroup")), "0::/default/k2\n").expect("a file");
            let thread = at.join(format!("proc/{pid}/task/{pid}"));
            fs::create_dir_all(&thread).expect("a folder");
            fs::write(thread.join("cgroup"), "0::/default/k2\n").expect("a file");
            fs::write(thread.join("comm"), if pid == VMM { "CPU 0/KVM" } else { "x" }).expect("a file");
            fs::write(thread.join("schedstat"), "7000 90 1\n").expect("a file");
        }
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), INTERVAL);
        let inner = link::InnerShim {
            binary: "/opt/kata/bin/containerd-shim-kata-v2".into(),
            pid: SHIM,
            ..Default::default()
        };
        let hello = link::Hello {
            wrapper: 5,
            namespace: "default".into(),
            id: "k2".into(),
            keeper_pid: 30,
            worker_pid: 31,
            inner: Some(inner).into(),
            ..Default::default()
        };
        let wrapper = registry.attach(&hello);
        Self { root, registry, machines: Machines::default(), wrapper, now: Duration::ZERO }
    }

    fn container(&self, id: &str, incarnation: u64) -> Arc<Container> {
        let annotations = [("io.kubernetes.cri.sandbox-id".to_owned(), "k2".to_owned())].into();
        let open = link::Open {
            namespace: "default".into(),
            container: id.into(),
            incarnation,
            started_ns: 5,
            annotations,
            ..Default::default()
        };
        self.registry.container(&open, &self.wrapper.inner())
    }

    fn charge(&self, cpu_secs: u64) {
        let stat = format!("usage_usec {}\n", cpu_secs * 1_000_000);
        fs::write(self.root.path().join("sys/fs/cgroup/default/k2/cpu.stat"), stat).expect("a file");
    }

    /// A full look, whatever the time.
    fn look(&mut self) -> Sandbox {
        self.machines.looked = None;
        self.turn();
        Sandbox::clone(&self.wrapper.machine.sandbox().expect("looked at"))
    }

    fn turn(&mut self) {
        self.now += Duration::from_secs(1);
        let periods = Periods { interval: INTERVAL, orphan: Duration::from_secs(60) };
        self.machines.look(&self.registry, periods, self.now, self.root.path());
    }

    fn end(&self, pid: u32) {
        fs::remove_dir_all(self.root.path().join(format!("proc/{pid}"))).expect("it is there");
    }

    /// The wrapper ends, as it does a moment after its shim, and was heard to its end.
    fn ends(&mut self) -> (u64, u64) {
        self.end(30);
        self.end(31);
        self.registry.detach(&self.wrapper);
        self.deaths(|_| {})
    }

    fn deaths(&mut self, then: impl Fn(&Self)) -> (u64, u64) {
        self.turn();
        then(self);
        for _ in 0..10 {
            self.turn();
        }
        let deaths = &self.registry.totals.sandbox_deaths;
        (deaths.get(Death::Shim), deaths.get(Death::Vm))
    }
}

fn sampled(container: &Container, after: u64, cpu_secs: u64, bytes: u64) {
    let sample = Sample {
        time_ns: now_ns() + after,
        cpu_ns: Some(cpu_secs * 1_000_000_000),
        memory_usage: Some(bytes),
        ..Sample::default()
    };
    assert!(container.sampled(sample, SampleSource::Polled));
}

#[test]
fn a_sandbox_is_told_in_full() {
    let mut node = Node::new();
    node.charge(40);
    let sandbox = node.look();
    assert_eq!((sandbox.shim, sandbox.release.clone()), (ShimKind::KataRust, None), "nobody was asked");
    assert_eq!(sandbox.facts.hypervisor, Some(Hypervisor::Qemu));
    assert_eq!((sandbox.facts.memory_bytes, sandbox.facts.vcpus), (Some(416 << 20), Some(1)));
    assert_eq!(sandbox.facts.confidential, Some(false));
    let components: Vec<_> = sandbox.components.iter().map(|(c, usage)| (*c, usage.threads)).collect();
    use Component::{Shim, Virtiofsd, Vmm, Wrapper};
    assert_eq!(components, [(Vmm, 3), (Virtiofsd, 3), (Shim, 3), (Wrapper, 6)]);
    assert_eq!(sandbox.vcpus, Some(Vcpus { count: 1, run_ns: Some(7_000), wait_ns: Some(90) }));
    let host = HostUse { memory_bytes: Some(500_000_000), cpu_ns: Some(40_000_000_000) };
    assert_eq!(sandbox.host, host);
    assert_eq!(sandbox.overhead_memory_bytes, None, "nothing is known of the guest");
    assert!(node.registry.findings().looked);
    assert_eq!(*node.wrapper.machine.floor().borrow(), crate::metrics::FLOOR);
}

#[test]
fn overhead_is_host_less_guest_and_may_be_below_0() {
    let mut node = Node::new();
    let (first, second) = (node.container("k2", 1), node.container("c", 2));
    sampled(&first, 0, 1, 1_000_000);
    node.charge(40);
    let sandbox = node.look();
    assert_eq!(
        (sandbox.overhead_memory_bytes, sandbox.overhead_cpu_ns),
        (None, None),
        "of one is nothing known"
    );
    sampled(&second, 0, 9, 99_000_000);
    let sandbox = node.look();
    assert_eq!((sandbox.overhead_memory_bytes, sandbox.overhead_cpu_ns), (Some(400_000_000), Some(0)));
    node.charge(45);
    sampled(&second, 1, 12, 600_000_000);
    let sandbox = node.look();
    assert_eq!(sandbox.overhead_memory_bytes, Some(-101_000_000));
    assert_eq!(sandbox.overhead_cpu_ns, Some(2_000_000_000));
    // What ended is no longer in memory; its cycles stay.
    second.update(Update::Exited { at_ns: 7, status: 0 });
    let sandbox = node.look();
    assert_eq!(sandbox.overhead_memory_bytes, Some(499_000_000));
    assert_eq!(sandbox.overhead_cpu_ns, Some(2_000_000_000));
}

#[test]
fn a_node_without_kata_is_not_looked_at() {
    let mut node = Node::new();
    node.registry.detach(&node.wrapper);
    fs::remove_dir_all(node.root.path().join("run")).expect("it is there");
    // Would be listed, were it looked for.
    node.machines.looked = None;
    node.turn();
    assert_eq!(*node.registry.findings(), Findings::default());
    assert!(node.wrapper.machine.sandbox().is_none());
}

#[test]
fn somebodys_monitor_is_found() {
    let mut node = Node::new();
    process(node.root.path(), 40, 1, &["/usr/bin/kata-monitor", "-listen-address", "127.0.0.1:8090"]);
    node.look();
    assert_eq!(node.registry.findings().monitors, [40]);
}

#[test]
fn the_death_of_a_shim_is_its_containers_end() {
    let mut node = Node::new();
    let container = node.container("c", 1);
    node.look();
    assert_eq!(node.deaths(|_| {}), (0, 0));
    assert_eq!(node.deaths(|node| node.end(SHIM)), (0, 0), "its wrapper may still say what became of it");
    assert_eq!(node.ends(), (1, 0));
    assert!(!container.live().is_running());
    assert_eq!(node.deaths(|node| node.end(VMM)), (1, 0), "what follows of it is not another");
    assert!(node.machines.kept.is_empty(), "nothing is kept of it");
}

#[test]
fn the_death_of_a_vm_is_told_from_it() {
    let mut node = Node::new();
    let all = [node.container("k2", 1), node.container("c", 2)];
    node.look();
    let died = |node: &Node| {
        node.end(VMM);
        all.iter().for_each(|container| container.update(Update::Exited { at_ns: 7, status: 255 }));
    };
    assert_eq!(node.deaths(died), (0, 1));
    assert_eq!(node.deaths(|node| node.end(SHIM)), (0, 1));
}

#[test]
fn an_ordinary_end_is_no_death() {
    let mut node = Node::new();
    let container = node.container("k2", 1);
    node.look();
    let ended = |node: &Node| {
        container.update(Update::Killed);
        container.update(Update::Exited { at_ns: 7, status: 137 });
        node.end(VMM);
        node.end(SHIM);
    };
    assert_eq!(node.deaths(ended), (0, 0));
    assert_eq!(node.ends(), (0, 0));
    assert!(node.machines.kept.is_empty(), "nothing is kept of it");
}

#[test]
fn a_dead_wrapper_is_not_a_dead_shim() {
    let mut node = Node::new();
    let _container = node.container("c", 1);
    node.look();
    // Keeper and worker are killed; containerd's `delete` ends the shim; their last bytes are not read yet.
    let killed = |node: &Node| [30, 31, SHIM, VMM].into_iter().for_each(|pid| node.end(pid));
    assert_eq!(node.deaths(killed), (0, 0));
    node.registry.detach(&node.wrapper);
    assert_eq!(node.deaths(|_| {}), (0, 0));
}

#[test]
fn a_hypervisor_that_another_follows_is_not_dead() {
    let mut node = Node::new();
    let container = node.container("c", 1);
    // A foreign process that calls itself so is not taken for it.
    let qemu = "/usr/bin/qemu-system-x86_64";
    process(node.root.path(), 22, 2, &[qemu, "-name", "sandbox-k2"]);
    node.look();
    node.end(22);
    assert_eq!(node.deaths(|_| {}), (0, 0));
    process(node.root.path(), 24, SHIM, &[qemu, "-name", "sandbox-k2"]);
    assert_eq!(node.deaths(|node| node.end(VMM)), (0, 0));
    assert!(container.live().is_running());
    assert_eq!(node.deaths(|node| node.end(24)), (0, 0), "nobody said anything of it yet");
    assert_eq!(node.ends(), (0, 1));
}

#[test]
fn what_a_mute_guest_uses_is_not_overhead() {
    let mut node = Node::new();
    let container = node.container("c", 1);
    let at = |ago: Duration| now_ns() - u64::try_from(ago.as_nanos()).expect("small");
    let old = at(node.registry.fresh + Duration::from_secs(1));
    let sample = Sample { time_ns: old, cpu_ns: Some(1_000_000_000), ..Sample::default() };
    assert!(container.sampled(sample, SampleSource::Polled));
    node.charge(40);
    assert_eq!(node.look().overhead_cpu_ns, None, "it is too old to begin with");
    sampled(&container, 0, 2, 1);
    assert_eq!(node.look().overhead_cpu_ns, Some(0));
    container.live().sample.as_mut().expect("there").time_ns = old;
    node.charge(90);
    assert_eq!(node.look().overhead_cpu_ns, None, "the workload may have used it");
    sampled(&container, 1, 51, 1);
    assert_eq!(node.look().overhead_cpu_ns, Some(1_000_000_000));
}

#[test]
fn an_id_that_is_a_way_elsewhere_is_nobodys() {
    let root = Path::new("/");
    for id in ["../..", "", "."] {
        assert_eq!(facts::read(root, id, None), Facts::default(), "{id}");
    }
}

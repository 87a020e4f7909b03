//! What the processes of a sandbox use: CPU time, memory and threads by component, and how long vCPUs ran and waited.
//!
//! Counters are everything that was ever seen of them, also of processes and vCPUs that are gone. Resident memory of QEMU and
//! virtiofsd overlaps, where virtiofsd maps the guest's memory; their proportional set size does not.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    household::Component,
    table::Process,
    tally::{Member, Tally},
};
use crate::units::{pages_as_bytes, ticks_as_ns};

/// Threads of one process that are looked at.
const THREADS: usize = 4_096;

/// What one component uses, all its processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in ns.
    pub cpu_ns: Option<u64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Swapped out, in bytes. Not known of a hypervisor: the kernel leaves shared memory out, which its guest's may be.
    pub swap_bytes: Option<u64>,
    /// Proportional share of memory, in bytes; asked for seldom, and only where the kernel lets us.
    pub proportional_bytes: Option<u64>,
    /// Threads.
    pub threads: u64,
}

/// The guest's processors, as this host's scheduler sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// Threads that are vCPUs.
    pub count: u64,
    /// For how long they ran, in ns; absent where one cannot be read.
    pub run_ns: Option<u64>,
    /// For how long they would have run and had no processor, in ns: what the guest sees as steal.
    pub wait_ns: Option<u64>,
}

/// What was counted of a sandbox by now.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// In ticks.
    cpu: BTreeMap<Component, Tally>,
    run: Tally,
    wait: Tally,
}

/// By component. Each figure is of all its processes, or absent.
pub(super) fn of(
    root: &Path,
    members: &[(Component, &Process)],
    proportional: bool,
    counted: &mut Counted,
) -> BTreeMap<Component, Usage> {
    let mut usage: BTreeMap<Component, Usage> = BTreeMap::new();
    for (component, process) in members {
        let one = Usage {
            cpu_ns: None,
            resident_bytes: pages_as_bytes(process.stat.resident_pages),
            swap_bytes: (*component != Component::Vmm)
                .then(|| kibibytes(root, process.pid, "status", "VmSwap:"))
                .flatten(),
            proportional_bytes: proportional
                .then(|| kibibytes(root, process.pid, "smaps_rollup", "Pss:"))
                .flatten(),
            threads: process.stat.threads,
        };
        usage.entry(*component).and_modify(|sum| *sum = sum.and(one)).or_insert(one);
    }
    for (component, usage) in &mut usage {
        let its = members.iter().filter(|(one, _)| one == component);
        let ticks: Vec<(Member, u64)> = its
            .map(|(_, process)| ((process.pid, process.stat.born.ticks()), process.stat.cpu_ticks))
            .collect();
        usage.cpu_ns = ticks_as_ns(counted.cpu.entry(*component).or_default().take(&ticks));
    }
    usage
}

/// A row of a file of /proc/PID that counts in kB.
fn kibibytes(root: &Path, pid: u32, file: &str, row: &str) -> Option<u64> {
    let text = fs::read_to_string(root.join(format!("proc/{pid}/{file}"))).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(row))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The vCPUs among the threads of that hypervisor; `None` without one.
pub(super) fn vcpus(root: &Path, vmm: &Process, counted: &mut Counted) -> Option<Vcpus> {
    let entries = fs::read_dir(root.join(format!("proc/{}/task", vmm.pid))).ok()?.flatten();
    // A thread is told from a later one of its number by what it counts: that begins at 0.
    let born = vmm.stat.born.ticks();
    let (mut run, mut wait) = (Vec::new(), Vec::new());
    let mut count = 0u64;
    for entry in entries.take(THREADS) {
        let thread = entry.path();
        let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
        if !is_vcpu(name.trim_end()) {
            continue;
        }
        count += 1;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some((number, (ran, waited))) = number.zip(schedstat(&thread)) else { continue };
        run.push(((number, born), ran));
        wait.push(((number, born), waited));
    }
    // What is known of some is counted, and shown when all are.
    let known = u64::try_from(run.len()) == Ok(count);
    let (run, wait) = (counted.run.take(&run), counted.wait.take(&wait));
    let shown = |sum: u64| known.then_some(sum);
    (count > 0).then(|| Vcpus { count, run_ns: shown(run), wait_ns: shown(wait) })
}

/// How long a thread ran and waited, in ns. A thread that is there has run: one without a time was not measured.
fn schedstat(thread: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map_while(|number| number.parse::<u64>().ok());
    let (ran, waited) = (numbers.next()?, numbers.next()?);
    (ran != 0).then_some((ran, waited))
}

/// What hypervisors call the threads of their vCPUs.
fn is_vcpu(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let qemu = || name.strip_prefix("CPU ")?.split_once('/').map(|(n, how)| number(n) && !how.is_empty());
    // Cloud Hypervisor `vcpu3`, Firecracker `fc_vcpu 3`, Dragonball `db_vcpu3`, OpenVMM `vp-3`.
    let others = ["vcpu", "fc_vcpu ", "db_vcpu", "vp-"];
    qemu().unwrap_or(false) || others.iter().any(|start| name.strip_prefix(start).is_some_and(number))
}

// === impl Usage ===

impl Usage {
    fn and(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
        Self {
            cpu_ns: None,
            resident_bytes: both(self.resident_bytes, other.resident_bytes),
            swap_bytes: both(self.swap_bytes, other.swap_bytes),
            proportional_bytes: both(self.proportional_bytes, other.proportional_bytes),
            threads: self.threads.saturating_add(other.threads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::table::Table, super::table::tests::process, *};

    fn thread(root: &Path, pid: u32, thread: u32, name: &str, schedstat: &str) {
        let dir = root.join(format!("proc/{pid}/task/{thread}"));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("comm"), format!("{name}\n")).expect("a file");
        fs::write(dir.join("schedstat"), schedstat).expect("a file");
    }

    #[test]
    fn components_are_the_sum_of_their_processes_or_absent() {
        let root = tempfile::tempdir().expect("a folder");
        for (pid, pss) in [(8, "Pss:   100 kB\n"), (9, "")] {
            process(root.path(), pid, 1, &["/bin/virtiofsd"]);
            let dir = root.path().join(format!("proc/{pid}"));
            fs::write(dir.join("status"), "Name:\tx\nVmSwap:\t      12 kB\n").expect("a file");
            fs::write(dir.join("smaps_rollup"), format!("Rss: 1 kB\n{pss}")).expect("a file");
        }
        let table = Table::look(root.path());
        let both: Vec<_> = table.all().map(|process| (Component::Virtiofsd, process)).collect();
        let mut counted = Counted::default();
        let used = of(root.path(), &both, true, &mut counted);
        let of_files = used.get(&Component::Virtiofsd).expect("both");
        assert_eq!((of_files.threads, of_files.swap_bytes), (6, Some(24 << 10)));
        assert_eq!(of_files.cpu_ns, ticks_as_ns(600));
        assert_eq!(of_files.resident_bytes, pages_as_bytes(100));
        assert_eq!(of_files.proportional_bytes, None, "one of them is not known");
        let first = of(root.path(), both.get(..1).expect("two"), true, &mut counted);
        assert_eq!(first.get(&Component::Virtiofsd).and_then(|u| u.cpu_ns), ticks_as_ns(600), "not less");
        assert_eq!(first.get(&Component::Virtiofsd).and_then(|u| u.proportional_bytes), Some(100 << 10));
        let vmm: Vec<_> = both.iter().map(|(_, process)| (Component::Vmm, *process)).collect();
        let vmm = of(root.path(), &vmm, true, &mut counted);
        assert_eq!(vmm.get(&Component::Vmm).and_then(|u| u.swap_bytes), None, "its guest's may be shared");
        let unasked = of(root.path(), both.get(..1).expect("two"), false, &mut counted);
        assert_eq!(unasked.get(&Component::Virtiofsd).and_then(|u| u.proportional_bytes), None);
    }

    #[test]
    fn vcpus_are_told_from_other_threads() {
        let root = tempfile::tempdir().expect("a folder");
        process(root.path(), 7, 1, &["/usr/bin/qemu-system-x86_64"]);
        let table = Table::look(root.path());
        let vmm = table.get(7).expect("there");
        let mut counted = Counted::default();
        let mut seen = || vcpus(root.path(), vmm, &mut counted);
        thread(root.path(), 7, 7, "qemu-system-x86", "9 9 9");
        assert_eq!(seen(), None, "a hypervisor that has not begun");
        thread(root.path(), 7, 8, "CPU 0/KVM", "1000 50 3\n");
        thread(root.path(), 7, 9, "CPU 11/TCG", "2000 70 3\n");
        thread(root.path(), 7, 10, "IO mon_iothread", "5 5 5");
        let two = Vcpus { count: 2, run_ns: Some(3_000), wait_ns: Some(120) };
        assert_eq!(seen(), Some(two));
        for unknown in ["1000", "0 0 0\n"] {
            thread(root.path(), 7, 11, "CPU 2/KVM", unknown);
            assert_eq!(seen(), Some(Vcpus { count: 3, run_ns: None, wait_ns: None }), "one of them");
        }
        fs::remove_dir_all(root.path().join("proc/7/task/11")).expect("it is there");
        fs::remove_dir_all(root.path().join("proc/7/task/9")).expect("it is there");
        assert_eq!(seen(), Some(Vcpus { count: 1, ..two }), "unplugged: what it used stays");
        for name in ["vcpu0", "fc_vcpu 3", "db_vcpu12", "vp-0"] {
            assert!(is_vcpu(name), "{name}");
        }
        for name in ["vcpu", "vcpu_manager", "fc_vmm", "CPU /KVM", "CPU 1", "vp-x"] {
            assert!(!is_vcpu(name), "{name}");
        }
    }
}

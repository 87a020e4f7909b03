//! Which processes make up a sandbox on this host: its hypervisor, its virtiofsd, its shim, our wrapper.
//!
//! Told by what they descend from and by the name of their program. What was left to init is told by the sandbox's id in its
//! arguments, which anybody may write there: so it must be root's, or of the user that the shim has. Where there is no separate hypervisor (Dragonball is a part of the shim, a remote one is elsewhere),
//! there is none in this list.

use super::table::{Process, Table};
use crate::closed::closed;

closed! {
    /// What a process is for.
    pub enum Component {
        /// The hypervisor, its guest's memory and vCPUs included.
        Vmm => "vmm",
        /// The file server of the guest.
        Virtiofsd => "virtiofsd",
        /// The shim that containerd would talk to without us.
        Shim => "shim",
        /// Keeper and worker.
        Wrapper => "wrapper",
    }
}

closed! {
    /// A hypervisor.
    pub enum Hypervisor {
        /// QEMU.
        Qemu => "qemu",
        /// Cloud Hypervisor.
        Cloud => "cloud-hypervisor",
        /// Firecracker.
        Firecracker => "firecracker",
        /// Dragonball: within the Rust shim.
        Dragonball => "dragonball",
        /// OpenVMM.
        OpenVmm => "openvmm",
        /// StratoVirt.
        StratoVirt => "stratovirt",
        /// On another machine.
        Remote => "remote",
    }
}

const INIT: u32 = 1;

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roots<'a> {
    /// Id of the sandbox.
    pub(super) sandbox: &'a str,
    /// The shim, as the wrapper knows it; 0 = not known.
    pub(super) shim: u32,
    /// Keeper and worker; 0 = not known.
    pub(super) wrapper: [u32; 2],
}

/// The processes of a sandbox; of each component those that descend from the shim are first.
pub(super) fn members<'t>(table: &'t Table, roots: Roots<'_>) -> Vec<(Component, &'t Process)> {
    let shim = shim(table, roots);
    let mut found: Vec<(Component, &Process)> =
        shim.map(|shim| (Component::Shim, shim)).into_iter().collect();
    let wrapper = roots.wrapper.iter().filter(|pid| **pid != 0).filter_map(|pid| table.get(*pid));
    found.extend(wrapper.map(|process| (Component::Wrapper, process)));
    let mut left = Vec::new();
    for process in table.all() {
        let Some(component) = component(process.program()) else { continue };
        if shim.is_some_and(|shim| table.descends(process.pid, shim.pid)) {
            found.push((component, process));
        } else if is_left(process, shim, roots) && process.names(roots.sandbox) {
            left.push((component, process));
        }
    }
    found.extend(left);
    found
}

/// Can it be one that lost its parent? Orphans are init's, or our keeper's where it takes them.
fn is_left(process: &Process, shim: Option<&Process>, roots: Roots<'_>) -> bool {
    let parent = process.stat.parent;
    let taken = parent == INIT || (parent != 0 && roots.wrapper.contains(&parent));
    let trusted = |uid: u32| uid == 0 || shim.and_then(|shim| shim.uid) == Some(uid);
    taken && process.uid.is_some_and(trusted)
}

/// The shim: the one that the wrapper named, or else the only one that was run for this sandbox. (The path that is named may
/// be a script, or a link by another name: then the wrapper does not vouch for a number.)
fn shim<'t>(table: &'t Table, roots: Roots<'_>) -> Option<&'t Process> {
    if roots.shim != 0 {
        return table.get(roots.shim);
    }
    let is_ours = |process: &&Process| {
        process.program().starts_with("containerd-shim")
            && process.value_of("-id") == Some(roots.sandbox)
            && !roots.wrapper.contains(&process.pid)
            // Verbs come and go; the one that stays has none.
            && !process.arguments.iter().any(|word| word == "start" || word == "delete")
    };
    let mut all = table.all().filter(is_ours).filter(|process| process.program().contains("kata"));
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

pub(super) fn component(program: &str) -> Option<Component> {
    match program {
        "virtiofsd" => Some(Component::Virtiofsd),
        other => Hypervisor::of_program(other).map(|_| Component::Vmm),
    }
}

// === impl Hypervisor ===

impl Hypervisor {
    /// By the name of its program.
    pub(super) fn of_program(program: &str) -> Option<Self> {
        match program {
            "cloud-hypervisor" | "clh" => Some(Self::Cloud),
            "firecracker" => Some(Self::Firecracker),
            "stratovirt" => Some(Self::StratoVirt),
            _ if program.starts_with("qemu-system-") || program == "qemu-kvm" => Some(Self::Qemu),
            _ if program.starts_with("openvmm") => Some(Self::OpenVmm),
            _ => None,
        }
    }

    /// By the word that Kata's state files have for it.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        match word {
            "qemu" => Some(Self::Qemu),
            "cloud-hypervisor" | "clh" => Some(Self::Cloud),
            "firecracker" => Some(Self::Firecracker),
            "dragonball" => Some(Self::Dragonball),
            "openvmm" => Some(Self::OpenVmm),
            "stratovirt" => Some(Self::StratoVirt),
            "remote" => Some(Self::Remote),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::table::tests::process, *};

    const QEMU: &str = "/opt/kata/bin/qemu-system-x86_64";

    fn found(table: &Table, roots: Roots<'_>) -> Vec<(Component, u32)> {
        members(table, roots).into_iter().map(|(component, process)| (component, process.pid)).collect()
    }

    #[test]
    fn a_sandbox_is_its_shim_and_what_came_of_it() {
        let root = tempfile::tempdir().expect("a folder");
        let at = root.path();
        process(at, 20, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "p1"]);
        process(
            at,
            21,
            20,
            &["/opt/kata/bin/virtiofsd", "--socket-path", "/run/kata/p1/root/virtiofsd.sock"],
        );
        process(
            at,
            22,
            21,
            &["/opt/kata/bin/virtiofsd", "--socket-path", "/run/kata/p1/root/virtiofsd.sock"],
        );
        process(at, 23, 20, &[QEMU, "-name", "sandbox-p1"]);
        process(at, 24, 23, &["/opt/kata/bin/vhost-device-vsock", "--guest-cid", "3"]);
        process(at, 30, 1, &["/usr/bin/containerd-shim-tap-v2", "tap-keeper"]);
        process(at, 31, 30, &["/usr/bin/containerd-shim-tap-v2", "tap-worker"]);
        // Another's, and somebody's own machine.
        process(at, 40, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "p2"]);
        process(at, 41, 40, &[QEMU, "-name", "sandbox-p2"]);
        process(at, 42, 1, &["/usr/bin/qemu-system-x86_64", "-name", "build"]);
        let table = Table::look(at);
        use Component::{Shim, Virtiofsd, Vmm, Wrapper};
        let all = [(Shim, 20), (Wrapper, 30), (Wrapper, 31), (Virtiofsd, 21), (Virtiofsd, 22), (Vmm, 23)];
        for shim in [20, 0] {
            assert_eq!(found(&table, Roots { sandbox: "p1", shim, wrapper: [30, 31] }), all, "{shim}");
        }
    }

    #[test]
    fn what_was_left_to_init_is_known_by_the_id_alone() {
        let root = tempfile::tempdir().expect("a folder");
        process(root.path(), 23, 1, &[QEMU, "-name", "sandbox-p1"]);
        let table = Table::look(root.path());
        assert_eq!(found(&table, Roots { sandbox: "p1", shim: 0, wrapper: [0, 0] }), [(Component::Vmm, 23)]);
        assert_eq!(found(&table, Roots { sandbox: "p", shim: 0, wrapper: [0, 0] }), []);
    }

    #[test]
    fn a_foreign_process_of_that_name_is_nobodys() {
        let root = tempfile::tempdir().expect("a folder");
        let at = root.path();
        process(at, 20, 1, &["/opt/kata/bin/containerd-shim-kata-v2", "-id", "p1"]);
        // Somebody's child; somebody else's; and the one that the shim made, later than both.
        process(at, 5, 4, &[QEMU, "-name", "sandbox-p1"]);
        process(at, 6, 1, &[QEMU, "-name", "sandbox-p1"]);
        fs::write(at.join("proc/6/status"), "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n").expect("a file");
        process(at, 7, 1, &[QEMU, "-name", "sandbox-p1"]);
        process(at, 23, 20, &[QEMU, "-name", "sandbox-p1"]);
        let all = found(&Table::look(at), Roots { sandbox: "p1", shim: 20, wrapper: [0, 0] });
        assert_eq!(all, [(Component::Shim, 20), (Component::Vmm, 23), (Component::Vmm, 7)]);
        fs::write(at.join("proc/20/status"), "Uid:\t1000\t1000\t1000\t1000\n").expect("a file");
        let all = found(&Table::look(at), Roots { sandbox: "p1", shim: 20, wrapper: [0, 0] });
        assert!(all.contains(&(Component::Vmm, 6)), "the shim's own user: {all:?}");
    }

    #[test]
    fn hypervisors_are_known_by_program_and_by_word() {
        for hypervisor in [Hypervisor::Qemu, Hypervisor::Cloud, Hypervisor::Firecracker] {
            assert_eq!(Hypervisor::of_word(hypervisor.label()), Some(hypervisor));
        }
        assert_eq!(Hypervisor::of_program("qemu-system-aarch64"), Some(Hypervisor::Qemu));
        assert_eq!(Hypervisor::of_program("openvmm"), Some(Hypervisor::OpenVmm));
        assert_eq!(Hypervisor::of_program("qemu-img"), None);
        assert_eq!(Hypervisor::of_word("acrn"), None, "not known is not guessed");
    }
}

//! The interfaces of a pod, counted where they are: in the network namespace of its sandbox.
//!
//! Read from the sandbox's process (the pause container's, or the VMM's) below /proc, which needs no entry into the
//! namespace and no privilege. Never of a pod on the host's network: the OCI spec has to name a namespace, and the one that
//! is read must not be the host's, whatever a runtime made of that spec. In a VM's pod the hypervisor's tap device mirrors
//! what passes the real interface, so it is left out.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use super::process::{self, Born};
use crate::few::Few;

/// Interfaces of a pod by name.
pub type Interfaces = Few<String, Interface>;

/// What the kernel counts of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Received.
    pub received: Counts,
    /// Sent.
    pub sent: Counts,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Interfaces of a pod that are kept: CNI gives one, Multus a few. Fewer are shown (`metrics.max_interfaces`).
pub const MOST: usize = 256;

/// Reads them from process `pid`, which has to be the one of before, where there was one. `None` where it is not, where the
/// network is the host's, and where nothing can be read.
pub(super) fn read(root: &Path, pid: u32, known: Option<Born>) -> Option<(Interfaces, Born)> {
    let born = process::born(root, pid)?;
    if known.is_some_and(|known| known != born) {
        return None;
    }
    let network = namespace(root, &pid.to_string())?;
    // Ours is the host's unless we are in a container ourselves, and then the first process's is, or it is nobody's.
    let hosts = [namespace(root, "self"), namespace(root, "1")];
    if hosts.iter().flatten().any(|host| *host == network) {
        return None;
    }
    let text = fs::read_to_string(root.join(format!("proc/{pid}/net/dev"))).ok()?;
    let interfaces = parse(&text)?;
    let same = process::born(root, pid) == Some(born) && namespace(root, &pid.to_string()) == Some(network);
    same.then_some((interfaces, born))
}

/// Names a process's network namespace: each has files of its own below /proc/PID/net. (The name that /proc/PID/ns/net has for
/// it is not for everybody to read.)
fn namespace(root: &Path, process: &str) -> Option<(u64, u64)> {
    let file = fs::metadata(root.join("proc").join(process).join("net/dev")).ok()?;
    Some((file.dev(), file.ino()))
}

/// The text of /proc/PID/net/dev; `None` where it is not that.
fn parse(text: &str) -> Option<Interfaces> {
    let mut found = BTreeMap::new();
    for row in text.lines().skip(2) {
        let (name, numbers) = row.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let counts = |from: usize| -> Option<Counts> {
            let mut four = numbers.iter().skip(from).copied();
            Some(Counts {
                bytes: four.next()?,
                packets: four.next()?,
                errors: four.next()?,
                dropped: four.next()?,
            })
        };
        let name = name.trim();
        let interface = Interface { received: counts(0)?, sent: counts(8)? };
        if is_real(name) && found.len() < MOST {
            found.insert(name.to_owned(), interface);
        }
    }
    Some(found.into())
}

/// cAdvisor leaves out the same, except for the tap devices: `tap0_kata` and `br0_kata` are Kata's.
fn is_real(name: &str) -> bool {
    let mirrors = ["tap", "veth", "docker", "nerdctl"];
    name != "lo" && !name.ends_with("_kata") && !mirrors.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    fn process(root: &Path, pid: &str, born: u64, rows: &str) {
        let dir = root.join("proc").join(pid).join("net");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("dev"), format!("{HEAD}{rows}")).expect("a file");
        let stat = format!("1 (x) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {born} 0 0");
        fs::write(dir.with_file_name("stat"), stat).expect("a file");
    }

    const LO: &str = "    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n";
    const ETH0: &str = "  eth0: 1000 10 1 2 0 0 0 3 2000 20 4 5 0 0 0 0\n";
    const TAP: &str = "tap0_kata: 2000 20 0 0 0 0 0 0 1000 10 0 0 0 0 0 0\n";

    fn eth0() -> Interface {
        Interface {
            received: Counts { bytes: 1_000, packets: 10, errors: 1, dropped: 2 },
            sent: Counts { bytes: 2_000, packets: 20, errors: 4, dropped: 5 },
        }
    }

    #[test]
    fn a_pod_has_its_real_interfaces() {
        let root = tempfile::tempdir().expect("a folder");
        process(root.path(), "self", 1, LO);
        process(
            root.path(),
            "7",
            4,
            &format!("{LO}{ETH0}{TAP}  br0_kata: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"),
        );
        let (found, born) = read(root.path(), 7, None).expect("interfaces");
        assert_eq!(found, Interfaces::from([("eth0".to_owned(), eth0())]));
        assert!(read(root.path(), 7, Some(born)).is_some());
        process(root.path(), "7", 5, ETH0);
        assert_eq!(read(root.path(), 7, Some(born)), None, "another process with its number");
        assert_eq!(read(root.path(), 8, None), None, "nobody");
    }

    #[test]
    fn the_hosts_network_is_no_pods() {
        for host in ["self", "1"] {
            let root = tempfile::tempdir().expect("a folder");
            process(root.path(), "7", 4, ETH0);
            let its = root.path().join("proc").join(host).join("net");
            fs::create_dir_all(&its).expect("a folder");
            fs::hard_link(root.path().join("proc/7/net/dev"), its.join("dev")).expect("the same file");
            assert_eq!(read(root.path(), 7, None), None, "{host}");
        }
    }

    #[test]
    fn a_table_that_is_none_says_nothing() {
        for rows in ["eth0 1000\n", "eth0: 1 2 3\n", "eth0: a b c d e f g h 1 2 3 4\n", ":\n"] {
            assert_eq!(parse(&format!("{HEAD}{rows}")), None, "{rows}");
        }
        assert_eq!(parse(HEAD), Some(Interfaces::default()));
        let many: String = (0..300).map(|n| ETH0.replace("eth0", &format!("eth{n}"))).collect();
        assert_eq!(parse(&format!("{HEAD}{many}")).map(|found| found.iter().len()), Some(MOST));
    }
}

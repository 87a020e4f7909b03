//! One look at every process of this host: who runs, whose child it is, with which arguments.
//!
//! Arguments are read only of those whose name says that they may be part of a sandbox. What a process calls itself and was
//! given is its own word: it is compared, cut to a length, and never followed as a path.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use crate::node::process::{self, Born, Stat};

/// A process with more arguments than this has its reasons; what is beyond is not read.
const ARGUMENTS_BYTES: u64 = 64 << 10;

/// Beginnings of names (`comm`, 15 bytes) whose arguments are read.
const OF_INTEREST: [&str; 9] = [
    "containerd-shim",
    "qemu-system",
    "cloud-hyperviso",
    "firecracker",
    "openvmm",
    "stratovirt",
    "virtiofsd",
    "jailer",
    "kata-monitor",
];

/// Every process at one moment.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_pid: BTreeMap<u32, Process>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) stat: Stat,
    /// Its user; not known where its arguments were not read.
    pub(super) uid: Option<u32>,
    /// Empty where they were not read.
    pub(super) arguments: Vec<String>,
}

// === impl Table ===

impl Table {
    /// Looks. Processes that end meanwhile are in it or not.
    pub(super) fn look(root: &Path) -> Self {
        let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let by_pid = pids.filter_map(|pid| Some((pid, Process::read(root, pid)?)));
        Self { by_pid: by_pid.collect() }
    }

    /// The process of that number.
    pub(super) fn get(&self, pid: u32) -> Option<&Process> {
        self.by_pid.get(&pid)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Process> {
        self.by_pid.values()
    }

    /// Is `pid` a descendant of `ancestor`?
    pub(super) fn descends(&self, pid: u32, ancestor: u32) -> bool {
        let mut at = pid;
        // A table that was read while it changed may have a circle in it.
        for _ in 0..64 {
            let Some(process) = self.get(at) else { return false };
            at = process.stat.parent;
            if at == ancestor {
                return true;
            }
        }
        false
    }
}

// === impl Process ===

impl Process {
    fn read(root: &Path, pid: u32) -> Option<Self> {
        let stat = process::stat(root, pid)?;
        let known = OF_INTEREST.iter().any(|name| stat.name.starts_with(name));
        let arguments = if known { arguments(root, pid) } else { Vec::new() };
        let uid = known.then(|| uid(root, pid)).flatten();
        Some(Self { pid, stat, uid, arguments })
    }

    /// What tells it from another that has its number later.
    pub(super) fn known(&self) -> (u32, Born) {
        (self.pid, self.stat.born)
    }

    /// Base name of what it was run as; its own word for itself where its arguments are not known.
    pub(super) fn program(&self) -> &str {
        let run = self.arguments.first().map_or("", String::as_str);
        run.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&self.stat.name)
    }

    /// The argument behind `flag`.
    pub(super) fn value_of(&self, flag: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == flag)?;
        self.arguments.get(at.checked_add(1)?).map(String::as_str)
    }

    /// Do its arguments name that sandbox as Kata does? As `-name sandbox-ID`, or as one of Kata's folders: an id alone may be
    /// anybody's word.
    pub(super) fn names(&self, sandbox: &str) -> bool {
        let name = self.value_of("-name").map(first_part).and_then(|name| name.strip_prefix("sandbox-"));
        let mut folders = self.arguments.iter().filter_map(|argument| sandbox_folder(argument));
        !sandbox.is_empty() && (name == Some(sandbox) || folders.any(|folder| folder == sandbox))
    }

    /// The sandbox whose folder of Kata's its arguments name.
    pub(super) fn kata_sandbox(&self) -> Option<&str> {
        self.arguments.iter().find_map(|argument| sandbox_folder(argument))
    }
}

/// QEMU's values go on behind a comma.
fn first_part(value: &str) -> &str {
    value.split(',').next().unwrap_or_default()
}

/// `ID` of `…/run/kata/ID/…`, `…/run/vc/vm/ID/…`, `…/run/vc/sbs/ID/…`; none where that is no folder's name.
fn sandbox_folder(argument: &str) -> Option<&str> {
    let rests = ["/run/kata/", "/run/vc/vm/", "/run/vc/sbs/"].iter().filter_map(|below| {
        let (_, rest) = argument.split_once(below)?;
        rest.split(['/', ',']).next()
    });
    rests.into_iter().find(|id| is_plain_id(id))
}

/// Foreign words may stand for a sandbox where they are as containerd's own ids: nothing that a terminal would act on.
pub(super) fn is_plain_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.bytes().all(allowed)
}

/// The user that it really is: whom its folder belongs to is root where it may not be looked into.
fn uid(root: &Path, pid: u32) -> Option<u32> {
    let text = fs::read_to_string(root.join(format!("proc/{pid}/status"))).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

fn arguments(root: &Path, pid: u32) -> Vec<String> {
    let mut bytes = Vec::new();
    let path = root.join(format!("proc/{pid}/cmdline"));
    let read = fs::File::open(path).and_then(|file| file.take(ARGUMENTS_BYTES).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    // The last one ends with a zero too.
    if words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A process below `root` as the kernel shows it.
    pub(in crate::node) fn process(root: &Path, pid: u32, parent: u32, arguments: &[&str]) {
        let dir = root.join(format!("proc/{pid}"));
        fs::create_dir_all(&dir).expect("a folder");
        let name = arguments.first().and_then(|a| a.rsplit('/').next()).expect("a program");
        let name: String = name.chars().take(15).collect();
        let stat = format!("{pid} ({name}) S {parent} 7 7 0 -1 0 1 0 0 0 200 100 0 0 20 0 3 0 {pid}00 9 50");
        fs::write(dir.join("stat"), stat).expect("a file");
        fs::write(dir.join("status"), format!("Name:\t{name}\nUid:\t0\t0\t0\t0\n")).expect("a file");
        let mut line = arguments.join("\0");
        line.push('\0');
        fs::write(dir.join("cmdline"), line).expect("a file");
    }

    #[test]
    fn a_sandbox_is_named_in_full_or_not_at_all() {
        let with = |arguments: &[&str]| Process {
            pid: 7,
            stat: process::stat(Path::new("/"), std::process::id()).expect("ourselves"),
            uid: None,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        };
        let yes = [
            &["qemu-system-x86_64", "-name", "sandbox-p1,debug-threads=on"][..],
            &["virtiofsd", "--socket-path", "/run/kata/p1/root/virtiofsd.sock"],
            &["cloud-hypervisor", "--api-socket", "/run/vc/vm/p1/clh-api.sock"],
            &["qemu-system-x86_64", "-qmp", "unix:path=/run/vc/vm/p1,server=on"],
        ];
        for arguments in yes {
            assert!(with(arguments).names("p1"), "{arguments:?}");
            assert!(!with(arguments).names("p") && !with(arguments).names(""), "{arguments:?}");
        }
        let no = [
            &["qemu-system-x86_64", "-name", "sandbox-p10"][..],
            &["qemu-system-x86_64", "-name", "p1"],
            &["firecracker", "--id", "p1"],
            &["qemu-system-x86_64", "-name"],
            &["containerd-shim-kata-v2", "-id"],
            &["virtiofsd", "--shared-dir", "/srv/p1/ro"],
            &["virtiofsd", "/run/kata/p10/p1"],
            &[],
        ];
        for arguments in no {
            assert!(!with(arguments).names("p1"), "{arguments:?}");
        }
        assert_eq!(with(&["x", "/run/kata/../p1/x"]).kata_sandbox(), None);
        assert_eq!(with(&["x", "a=/run/vc/vm/p1/x"]).kata_sandbox(), Some("p1"));
        assert_eq!(with(&["x", "a=/run/vc/vm/p1\x1b[2J/x"]).kata_sandbox(), None);
    }

    #[test]
    fn the_table_is_what_proc_says() {
        let root = tempfile::tempdir().expect("a folder");
        process(root.path(), 10, 1, &["/usr/bin/containerd-shim-kata-v2", "-id", "p1"]);
        process(root.path(), 11, 10, &["/usr/bin/qemu-system-x86_64", "-m", "2048M"]);
        process(root.path(), 12, 11, &["/bin/sh", "-c", "x"]);
        // As the kernel shows a process that ended meanwhile.
        fs::create_dir_all(root.path().join("proc/13")).expect("a folder");
        fs::create_dir_all(root.path().join("proc/sys")).expect("a folder");
        let table = Table::look(root.path());
        assert_eq!(table.all().map(|p| p.pid).collect::<Vec<_>>(), [10, 11, 12]);
        let qemu = table.get(11).expect("there");
        assert_eq!((qemu.program(), qemu.value_of("-m")), ("qemu-system-x86_64", Some("2048M")));
        assert_eq!(table.get(12).map(|p| p.arguments.len()), Some(0), "nobody's business");
        assert!(table.descends(12, 10) && table.descends(11, 10));
        assert!(!table.descends(10, 11) && !table.descends(99, 10) && !table.descends(10, 10));
    }
}

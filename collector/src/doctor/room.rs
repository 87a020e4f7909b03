//! Findings about the machine: who may touch our folders, how much room disks and pipes have, what keeps the clock.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::{
    Evidence, Finding, Id,
    evidence::guard,
    finding::{Severity, Whose},
};

/// What a wrapper leaves free of the disk that it spools to, unless its shim.toml says otherwise.
const SPOOL_PERCENT: u64 = 15;
const SPOOL_BYTES: u64 = 2 << 30;
/// A pipe's pages unless somebody asks for more.
const PIPE_PAGES: u64 = 16;
const PIPES_LIMIT: &str = "/proc/sys/fs/pipe-user-pages-soft";
/// Programs that keep a clock, by the name that the kernel shows (15 bytes).
const CLOCKS: [&str; 6] = ["chronyd", "ntpd", "ntpsec", "systemd-timesyn", "phc2sys", "VBoxService"];
/// A stamp of the future that no rounding explains.
const AHEAD_NS: u64 = 2_000_000_000;

/// What is to be said of it.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    [permissions(evidence), spool(evidence), pipes(evidence), clock(evidence)].into_iter().flatten().collect()
}

/// What holds sockets and output.
fn guarded(evidence: &Evidence) -> Vec<PathBuf> {
    let told = evidence.collector.as_ref().ok().into_iter().flat_map(|told| &told.health.places);
    let run = ["s", "c"].map(|of| evidence.places.run_dir.join(of)).into_iter();
    run.chain(told.map(|place| place.path.clone())).collect()
}

fn permissions(evidence: &Evidence) -> Option<Finding> {
    let open = guarded(evidence).into_iter().filter_map(|path| {
        let (owner, bits) = guard(&path)?;
        is_open(owner, bits).then(|| format!("{}: owner {owner}, mode {bits:03o}", path.display()))
    });
    let open: Vec<String> = open.collect();
    let what =
        "what holds containers' output is not root's alone; wrappers do not spool where others could write";
    let remedy = "chown root, and chmod 700 folders, 600 sockets";
    (!open.is_empty())
        .then(|| Finding::new(Id::Permissions, Severity::Fault, Whose::Setup, what, remedy).about(open))
}

/// Whether others than root can come by.
fn is_open(owner: u32, bits: u32) -> bool {
    owner != 0 || bits & 0o077 != 0
}

/// Whether there is room for spool files, which are wanted when nothing else works.
fn spool(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok()?;
    let disk = told.health.places.iter().find(|place| place.what == "spool_disk")?;
    let system = statvfs(there(&disk.path)?).ok()?;
    let block = system.fragment_size();
    let (size, free) =
        (system.blocks().saturating_mul(block), system.blocks_available().saturating_mul(block));
    let (bytes, percent) = spool_keeps_free(&evidence.places.shim_toml);
    let reserve = (size / 100).saturating_mul(percent).max(bytes);
    let what = format!(
        "{} MiB are free where wrappers spool, and they leave {} MiB free: with the collector away, only memory is left",
        free >> 20,
        reserve >> 20
    );
    let remedy = "make room there, or lower [spool] disk_free_bytes and disk_free_percent in shim.toml";
    (free < reserve).then(|| {
        Finding::new(Id::SpoolReserve, Severity::Warning, Whose::Node, what, remedy)
            .about([disk.path.display().to_string()])
    })
}

/// In bytes and in percent.
fn spool_keeps_free(shim_toml: &Path) -> (u64, u64) {
    let table: toml::Table =
        fs::read_to_string(shim_toml).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
    let number = |key: &str| {
        let value = table.get("spool").and_then(|spool| spool.get(key)).and_then(toml::Value::as_integer);
        value.and_then(|value| u64::try_from(value).ok())
    };
    (number("disk_free_bytes").unwrap_or(SPOOL_BYTES), number("disk_free_percent").unwrap_or(SPOOL_PERCENT))
}

/// The path, or the first folder above it that is there.
fn there(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

/// A pipe or FIFO: its file system, in two numbers, and its number there.
type Pipe = (u32, u32, u64);

/// Beyond its share a user's new pipes have two pages instead of sixteen, unless a process with CAP_SYS_RESOURCE or CAP_SYS_ADMIN
/// makes them: containerd and we get whole ones, and containers that run as root pay.
fn pipes(evidence: &Evidence) -> Option<Finding> {
    let limit: u64 = fs::read_to_string(PIPES_LIMIT).ok()?.trim().parse().ok()?;
    let open: HashSet<Pipe> = evidence.processes.iter().flat_map(|process| pipes_of(process.pid)).collect();
    are_short(u64::try_from(open.len()).unwrap_or(u64::MAX), limit)
}

/// So many pipes, of so many pages that a user may have; 0 is no limit.
fn are_short(pipes: u64, limit: u64) -> Option<Finding> {
    let pages = pipes.saturating_mul(PIPE_PAGES);
    let what = format!(
        "{pipes} pipes and FIFOs of root's are open, which may be {pages} of the {limit} pages that a user's may have: beyond that the \
         pipes that root makes without CAP_SYS_RESOURCE or CAP_SYS_ADMIN, as in most containers, have 2 pages instead of 16 and are \
         slow; containerd and shimtap are exempt"
    );
    let remedy = "sysctl fs.pipe-user-pages-soft, for instance four times as much; of ours are five pipes of a pod, a FIFO of each \
                  captured stream and a pipe of each that waits for its reader";
    let short = limit > 0 && pages.saturating_mul(10) > limit.saturating_mul(8);
    short.then(|| Finding::new(Id::PipeBudget, Severity::Warning, Whose::Node, what, remedy))
}

/// Pipes and FIFOs that a process of root's has open. A FIFO's pages are booked like a pipe's.
fn pipes_of(pid: u32) -> Vec<Pipe> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if guard(&process).is_none_or(|(owner, _)| owner != 0) {
        return Vec::new();
    }
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| pipe_at(&entry.path())).collect()
}

/// Which one a descriptor leads to. Asks no server: a file of a network's file system that is away would hold us for ever.
fn pipe_at(descriptor: &Path) -> Option<Pipe> {
    let about = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO).ok()?;
    let is_pipe = FileType::from_raw_mode(about.stx_mode.into()) == FileType::Fifo;
    is_pipe.then_some((about.stx_dev_major, about.stx_dev_minor, about.stx_ino))
}

fn clock(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok();
    let containers = told.into_iter().flat_map(|told| &told.ps.containers);
    let stamps = containers.flat_map(|one| [Some(one.created_ns), one.started_ns, one.sampled_ns]).flatten();
    let ahead = stamps.max().unwrap_or_default().saturating_sub(evidence.now_ns);
    if ahead > AHEAD_NS {
        let what = format!(
            "the clock has gone back by {} s while containers ran: times of records are not in order",
            ahead / 1_000_000_000
        );
        let remedy =
            "let chrony or systemd-timesyncd slew it; a step at boot belongs before containerd's start";
        return Some(Finding::new(Id::Clock, Severity::Warning, Whose::Node, what, remedy));
    }
    let kept = evidence.processes.iter().any(|process| CLOCKS.contains(&process.name.as_str()));
    let what = "no program that keeps the clock is running here: times of records are this machine's guess";
    let remedy = "chrony or systemd-timesyncd, unless the hypervisor keeps it";
    (!kept).then(|| Finding::new(Id::Clock, Severity::Note, Whose::Node, what, remedy))
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::PermissionsExt};

    use super::{
        super::evidence::{Process, Told},
        *,
    };
    use crate::admin::{HealthPlace, PsContainer};

    /// A node whose collector says that it has this place.
    fn with_place(dir: &Path, what: &str, path: &Path) -> Evidence {
        let mut told = Told::default();
        told.health.places = vec![HealthPlace { what: what.to_owned(), path: path.to_owned() }];
        Evidence { collector: Ok(told), ..Evidence::pretended(dir) }
    }

    #[test]
    fn what_others_than_root_can_come_by_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("journal");
        fs::create_dir(&journal).expect("a folder");
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o755)).expect("a mode");
        let node = with_place(dir.path(), "journal", &journal);
        let found = permissions(&node).expect("it is open");
        assert_eq!((found.id, found.severity), (Id::Permissions, Severity::Fault));
        assert!(
            found.which.iter().all(|one| one.contains("journal") && one.contains("mode 755")),
            "{found:?}"
        );
        // One that is not there is nobody's.
        assert_eq!(permissions(&with_place(dir.path(), "journal", &dir.path().join("none"))), None);
        for (owner, bits, open) in
            [(0, 0o700, false), (0, 0o600, false), (0, 0o750, true), (0, 0o701, true), (1, 0o700, true)]
        {
            assert_eq!(is_open(owner, bits), open, "{owner} {bits:o}");
        }
        // The wrappers' own folders are looked at without a collector.
        fs::create_dir_all(dir.path().join("run/s")).expect("a folder");
        fs::set_permissions(dir.path().join("run/s"), fs::Permissions::from_mode(0o707)).expect("a mode");
        let found = permissions(&Evidence::pretended(dir.path())).expect("it is open");
        assert!(found.which.iter().any(|one| one.contains("run/s") && one.contains("mode 707")), "{found:?}");
    }

    #[test]
    fn a_disk_without_room_for_spool_files_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        // It is made when it is needed.
        let node = with_place(dir.path(), "spool_disk", &dir.path().join("not/there/yet"));
        let says = |text: &str| {
            fs::write(&node.places.shim_toml, text).expect("a file");
            spool(&node).map(|found| (found.id, found.severity))
        };
        let short = Some((Id::SpoolReserve, Severity::Warning));
        assert_eq!(says("[spool]\ndisk_free_bytes = 4611686018427387904\n"), short);
        assert_eq!(says("[spool]\ndisk_free_bytes = 0\ndisk_free_percent = 101\n"), short);
        assert_eq!(says("[spool]\ndisk_free_bytes = 0\ndisk_free_percent = 0\n"), None);
        // A collector that has no such place says nothing of it, and neither do we.
        let other = with_place(dir.path(), "journal", dir.path());
        fs::write(&other.places.shim_toml, "[spool]\ndisk_free_bytes = 4611686018427387904\n")
            .expect("a file");
        assert_eq!(spool(&other), None);
    }

    #[test]
    fn pipes_that_are_short_are_named() {
        // Sixteen pages each: four fifths of 1000 are 50 of them.
        for (open, limit, short) in
            [(50, 1000, false), (51, 1000, true), (u64::MAX, 0, false), (u64::MAX, 1, true)]
        {
            let found = are_short(open, limit).map(|found| (found.id, found.severity));
            assert_eq!(found, short.then_some((Id::PipeBudget, Severity::Warning)), "{open} of {limit}");
        }
    }

    #[test]
    fn a_process_s_pipes_and_fifos_are_counted_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
            .expect("a FIFO");
        let open = || fs::OpenOptions::new().read(true).write(true).open(&fifo).expect("it opens");
        let ends = [open(), open()];
        let plain = fs::File::create(dir.path().join("file")).expect("a file");
        let at = |fd: i32| pipe_at(Path::new(&format!("/proc/self/fd/{fd}")));
        // Both ends of one are one, whatever has a name.
        let pipe = at(reader.as_raw_fd()).expect("a pipe");
        assert_eq!(at(writer.as_raw_fd()), Some(pipe));
        let named = at(ends[0].as_raw_fd()).expect("a FIFO");
        assert_eq!(at(ends[1].as_raw_fd()), Some(named));
        assert_ne!(named, pipe);
        assert_eq!(at(plain.as_raw_fd()), None);
        // Only root's count against root's share.
        let own: HashSet<Pipe> = pipes_of(std::process::id()).into_iter().collect();
        let is_root = nix::unistd::geteuid().is_root();
        assert_eq!((own.contains(&pipe), own.contains(&named)), (is_root, is_root), "{own:?}");
    }

    #[test]
    fn a_clock_that_went_back_is_named_and_one_that_nobody_keeps_is_a_note() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |ahead_ns: u64, keeper: Option<&str>| {
            let mut node = Evidence::pretended(dir.path());
            let container = PsContainer {
                created_ns: 1,
                sampled_ns: Some(node.now_ns + ahead_ns),
                ..PsContainer::default()
            };
            let mut told = Told::default();
            told.ps.containers = vec![container];
            node.collector = Ok(told);
            node.processes.extend(keeper.map(|name| Process { pid: 1, name: name.to_owned() }));
            clock(&node).map(|found| (found.id, found.severity))
        };
        let (back, alone) = (Some((Id::Clock, Severity::Warning)), Some((Id::Clock, Severity::Note)));
        assert_eq!(at(AHEAD_NS + 1, Some("chronyd")), back);
        assert_eq!(at(AHEAD_NS, Some("chronyd")), None);
        assert_eq!(at(0, Some("systemd-timesyn")), None);
        assert_eq!(at(0, Some("sleep")), alone);
        assert_eq!(at(0, None), alone);
    }
}

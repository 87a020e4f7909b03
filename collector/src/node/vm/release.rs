//! Which release of Kata a shim is: asked of the very file that runs, once, or known of its build by then.
//!
//! `-info` is what containerd itself asks a shim for before it makes a pod; it starts nothing. Asked is only a file that is
//! still the one whose device, inode, size and time the wrapper took from the running process, and only where it is one of
//! Kata's. It gets no input, no environment and two seconds, and its word is bounded.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use containerd_shim_protos::{protobuf::Message, types::introspection::RuntimeInfo};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::facts;

/// For an answer that takes 20 ms.
const PATIENCE: Duration = Duration::from_secs(2);
/// One that could not be asked may be asked a moment later; one that never can costs two seconds each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
const LOOK: Duration = Duration::from_millis(5);
/// Of 200 bytes, usually.
const ANSWER_BYTES: u64 = 64 << 10;
/// Files that are remembered; a node has few.
const FILES: usize = 64;
/// The Rust shim says so of itself, the Go shim says nothing of the kind.
const RUST_ALONE: &str = "containerd.io/runtime-allow-mounts";

/// A file that cannot be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileFacts {
    /// Number of its device.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last, in Unix ns.
    pub changed_ns: i128,
}

/// A release of Kata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As the shim says it: `4.1.0`.
    pub text: String,
    /// Major and minor, of a release that is finished: one that has `-rc0` behind it has not what it promises.
    pub finished: Option<(u32, u32)>,
    /// The shim is the Rust one.
    pub rust: bool,
}

/// What was asked by now.
#[derive(Debug, Default)]
pub(super) struct Releases {
    known: BTreeMap<(PathBuf, FileFacts), Said>,
    /// By what their linker called them: a file that is not there any more, or elsewhere, may be one that was asked.
    builds: BTreeMap<String, Release>,
}

/// What came of asking a file.
#[derive(Clone, Debug)]
enum Said {
    /// It answered: a release, or something that is certainly not Kata's.
    Answered(Option<Release>),
    /// It could not be run, did not end in time, or failed: asked again after `next`.
    Failed { times: u32, next: Duration },
}

// === impl Releases ===

impl Releases {
    /// Of the shim at `path`, if that is still the file that runs, or another file of that build has said it. `now` is of a clock
    /// that never goes back.
    pub(super) fn of(
        &mut self,
        path: &Path,
        runs: FileFacts,
        build: Option<&str>,
        now: Duration,
    ) -> Option<Release> {
        let release = self.asked(path, runs, now);
        let Some(build) = build else { return release };
        if let Some(release) = &release
            && (self.builds.len() < FILES || self.builds.contains_key(build))
        {
            self.builds.insert(build.to_owned(), release.clone());
        }
        release.or_else(|| self.builds.get(build).cloned())
    }

    fn asked(&mut self, path: &Path, runs: FileFacts, now: Duration) -> Option<Release> {
        let key = (path.to_owned(), runs);
        let times = match self.known.get(&key) {
            Some(Said::Answered(release)) => return release.clone(),
            Some(Said::Failed { next, .. }) if now < *next => return None,
            Some(Said::Failed { times, .. }) => *times,
            None => 0,
        };
        // Not remembered where another file has its place: it may come back.
        if FileFacts::of(path) != Some(runs) {
            return None;
        }
        if self.known.len() >= FILES {
            self.known.clear();
        }
        let said = match ask(path) {
            Some(answer) => Said::Answered(Release::parse(&answer)),
            None => {
                let pause = FIRST_PAUSE.saturating_mul(1 << times.min(8)).min(LONGEST_PAUSE);
                Said::Failed { times: times.saturating_add(1), next: now.saturating_add(pause) }
            }
        };
        let release = if let Said::Answered(release) = &said { release.clone() } else { None };
        self.known.insert(key, said);
        release
    }
}

// === impl FileFacts ===

impl FileFacts {
    fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let changed_ns = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
        Some(Self { device: about.dev(), inode: about.ino(), size: about.size(), changed_ns })
    }
}

// === impl Release ===

impl Release {
    /// What `-info` printed; `None` where it is not Kata's word.
    fn parse(answer: &[u8]) -> Option<Self> {
        let info = RuntimeInfo::parse_from_bytes(answer).ok()?;
        if !info.name.contains("kata") {
            return None;
        }
        let text = facts::text(&info.version.version)?;
        let finished = finished(&text);
        Some(Self { text, finished, rust: info.annotations.contains_key(RUST_ALONE) })
    }

    /// Certainly this release or a later one.
    #[must_use]
    pub fn is_from(&self, major: u32, minor: u32) -> bool {
        self.finished.is_some_and(|known| known >= (major, minor))
    }
}

fn finished(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    let (major, minor, patch) = (numbers.next()?, numbers.next()?, numbers.next()?);
    patch.parse::<u32>().ok()?;
    numbers.next().is_none().then_some((major.parse().ok()?, minor.parse().ok()?))
}

fn ask(path: &Path) -> Option<Vec<u8>> {
    let mut child = Command::new(path)
        .arg("-info")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let Some(status) = ends(&mut child) else {
        // It leads a group of its own, with everything that it began.
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = child.wait();
        return None;
    };
    if !status.success() {
        return None;
    }
    // What it may have left behind could hold the pipe open.
    let out = child.stdout.take()?;
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    let mut answer = Vec::new();
    // With an error: it was held open. What was read is the answer all the same, or is none.
    let _ = out.take(ANSWER_BYTES).read_to_end(&mut answer);
    Some(answer)
}

/// How it ended; `None` where it has not in time.
fn ends(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(LOOK),
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use containerd_shim_protos::types::introspection::RuntimeVersion;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn info(name: &str, version: &str, rust: bool) -> Vec<u8> {
        let version = RuntimeVersion { version: version.into(), ..Default::default() };
        let mut info = RuntimeInfo { name: name.into(), version: Some(version).into(), ..Default::default() };
        if rust {
            info.annotations.insert(RUST_ALONE.into(), "mkdir/*,format/*,erofs".into());
        }
        info.write_to_bytes().expect("encodes")
    }

    #[test]
    fn a_release_is_what_the_shim_says() {
        let rust = Release::parse(&info("io.containerd.kata.v2", "4.1.0", true)).expect("Kata's");
        assert_eq!((rust.text.as_str(), rust.rust), ("4.1.0", true));
        assert!(rust.is_from(4, 1) && rust.is_from(3, 9) && !rust.is_from(4, 2));
        let early = Release::parse(&info("io.containerd.kata.v2", "4.1.0-rc0", false)).expect("Kata's");
        assert!(!early.rust && !early.is_from(4, 1) && !early.is_from(0, 0), "not finished");
        for (name, version) in [("io.containerd.runc.v2", "1"), ("io.containerd.kata.v2", ""), ("", "4.1.0")]
        {
            assert_eq!(Release::parse(&info(name, version, true)), None, "{name} {version}");
        }
        assert_eq!(Release::parse(b"\xff\xff\xff"), None);
        let odd = format!("4.1.0\x1b[0m{}", "x".repeat(500));
        let cut = Release::parse(&info("io.containerd.kata.v2", &odd, false)).expect("Kata's");
        assert!(cut.text.len() <= 128 && !cut.text.contains('\x1b'), "{}", cut.text);
    }

    /// A program that answers, and notes that it was asked.
    fn shim(dir: &Path, version: &str, then: &str) -> PathBuf {
        let path = dir.join("containerd-shim-kata-v2");
        let answer = dir.join(format!("answer-{version}"));
        fs::write(&answer, info("io.containerd.kata.v2", version, true)).expect("a file");
        let asked = dir.join("asked");
        let script = format!(
            "#!/bin/sh\n[ \"$*\" = -info ] || exit 1\necho >> {}\n/bin/cat {}\n{then}\n",
            asked.display(),
            answer.display()
        );
        let mut file = fs::File::create(&path).expect("a file");
        file.write_all(script.as_bytes()).expect("a file");
        file.set_permissions(fs::Permissions::from_mode(0o755)).expect("a program");
        path
    }

    #[test]
    fn a_file_is_asked_once_and_only_if_it_is_the_one_that_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = shim(dir.path(), "4.1.0", "");
        let runs = FileFacts::of(&path).expect("a file");
        let mut releases = Releases::default();
        let another = FileFacts { inode: runs.inode + 1, ..runs };
        assert_eq!(releases.of(&path, another, None, NOW), None);
        assert!(!dir.path().join("asked").exists(), "another file was asked");
        for _ in 0..3 {
            assert_eq!(
                releases.of(&path, runs, None, NOW).map(|release| release.text),
                Some("4.1.0".to_owned())
            );
        }
        assert_eq!(fs::read(dir.path().join("asked")).expect("it was").len(), 1);
        // Replaced while pods run: those that run are what they were.
        let path = shim(dir.path(), "4.2.0-much-later", "");
        assert_eq!(releases.of(&path, runs, None, NOW).map(|release| release.text), Some("4.1.0".to_owned()));
    }

    #[test]
    fn another_file_of_a_build_that_was_asked_is_of_that_release() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = shim(dir.path(), "4.1.0", "");
        let runs = FileFacts::of(&path).expect("a file");
        let mut releases = Releases::default();
        let gone = FileFacts { inode: runs.inode + 1, ..runs };
        let mut of = |file, build| releases.of(&path, file, build, NOW).map(|release| release.text);
        assert_eq!(of(gone, Some("abc")), None, "nobody has asked one");
        assert_eq!(of(runs, Some("abc")).as_deref(), Some("4.1.0"));
        assert_eq!(of(gone, Some("abc")).as_deref(), Some("4.1.0"));
        assert_eq!([of(gone, Some("abd")), of(gone, None)], [None, None]);
        assert_eq!(fs::read(dir.path().join("asked")).expect("it was").len(), 1);
    }

    #[test]
    fn a_moments_failure_is_not_kept_for_good() {
        let dir = tempfile::tempdir().expect("a folder");
        let mended = dir.path().join("mended");
        let then = format!("[ -e {} ] || exit 3", mended.display());
        let path = shim(dir.path(), "4.1.0", &then);
        let runs = FileFacts::of(&path).expect("a file");
        let mut releases = Releases::default();
        assert_eq!(releases.of(&path, runs, None, NOW), None);
        fs::write(mended, "").expect("a file");
        assert_eq!(releases.of(&path, runs, None, FIRST_PAUSE / 2), None, "not at once");
        assert!(releases.of(&path, runs, None, FIRST_PAUSE).is_some());
    }

    #[test]
    fn one_that_hangs_or_fails_says_nothing() {
        for then in ["exec /bin/sleep 1000", "exit 3"] {
            let dir = tempfile::tempdir().expect("a folder");
            let path = shim(dir.path(), "4.1.0", then);
            let runs = FileFacts::of(&path).expect("a file");
            assert_eq!(Releases::default().of(&path, runs, None, NOW), None, "{then}");
        }
        // One that leaves somebody behind who holds its output.
        let dir = tempfile::tempdir().expect("a folder");
        let path = shim(dir.path(), "4.1.0", "/bin/sleep 3 &");
        let runs = FileFacts::of(&path).expect("a file");
        assert!(Releases::default().of(&path, runs, None, NOW).is_some());
    }
}

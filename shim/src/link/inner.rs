//! The inner shim's process id, as the collector gets it: what the shim said of itself, or nothing.
//!
//! A shim in a pid namespace of its own says a number that means another process here, and a number may have been given
//! to somebody else since. So it is passed on only where that process runs a binary of the inner shim's name.
//!
//! Which file that is goes along, taken from the running process itself: a path may name another one by now.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    sync::atomic::Ordering,
};

use shimtap_proto::link::InnerFile;

use crate::{block::Tables, run_dir::RunDir, verbs::Description};

/// The process id; 0 = not known.
pub fn pid(tables: &Tables) -> u32 {
    let who = &tables.identity;
    let pid = who.inner_pid.load(Ordering::Relaxed);
    if is_of_binary(pid, Path::new(&who.inner_binary.get())) { pid } else { 0 }
}

/// Does the process of that number run the inner shim's binary?
pub fn runs(tables: &Tables, pid: u32) -> bool {
    is_of_binary(pid, Path::new(&tables.identity.inner_binary.get()))
}

/// The file that the process of that number runs, whatever became of its name. 0 = not known.
pub(super) fn file(pid: u32) -> Option<InnerFile> {
    if pid == 0 {
        return None;
    }
    let about = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let changed = about.mtime().checked_mul(1_000_000_000)?.checked_add(about.mtime_nsec())?;
    Some(InnerFile {
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        changed_ns: changed,
        ..Default::default()
    })
}

/// What `start` found its build to be called; empty where it is not known. Our own files are in memory.
pub(super) fn build(tables: &Tables) -> String {
    let who = &tables.identity;
    let text = fs::read(RunDir::at(who.run_dir.get()).description(&who.key.get())).unwrap_or_default();
    serde_json::from_slice(&text).map_or_else(|_| String::new(), |said: Description| said.inner_build)
}

fn is_of_binary(pid: u32, binary: &Path) -> bool {
    let runs = || fs::read_link(format!("/proc/{pid}/exe"));
    pid != 0 && runs().is_ok_and(|exe| binary.file_name().is_some_and(|name| is_of_name(&exe, name)))
}

/// A link in /proc says so where the file was removed or replaced meanwhile.
fn is_of_name(exe: &Path, name: &OsStr) -> bool {
    let bytes = exe.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Path::new(OsStr::from_bytes(bytes)).file_name() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_that_binary_is_known() {
        let me = std::env::current_exe().unwrap();
        assert!(is_of_binary(std::process::id(), &me));
        assert!(
            !is_of_binary(std::process::id(), Path::new("/usr/bin/containerd-shim-runc-v2")),
            "another's"
        );
        assert!(!is_of_binary(std::process::id(), Path::new("")));
        // Larger than any pid can be.
        assert!(!is_of_binary(u32::MAX, &me), "nobody's");
        assert!(!is_of_binary(0, &me), "not said");
        let mut ended = std::process::Command::new(&me)
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(i32::try_from(ended.id()).unwrap())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(!is_of_binary(ended.id(), &me), "it has ended, and nobody has waited for it");
        ended.wait().unwrap();
    }

    #[test]
    fn the_file_is_the_one_that_runs() {
        let me = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let file = file(std::process::id()).unwrap();
        assert_eq!((file.device, file.inode, file.size), (me.dev(), me.ino(), me.size()));
        assert!(super::file(0).is_none() && super::file(u32::MAX).is_none());
    }

    #[test]
    fn a_replaced_binary_is_the_same_shim() {
        let name = OsStr::new("shim");
        assert!(is_of_name(Path::new("/a/shim"), name) && is_of_name(Path::new("/a/shim (deleted)"), name));
        assert!(!is_of_name(Path::new("/a/shim-v2"), name));
    }
}

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

use crate::{block::Tables, sys::atomic::AtomicU32};

/// The process id; 0 = not known.
pub(super) fn pid(tables: &Tables) -> u32 {
    let who = &tables.identity;
    known(&who.inner_pid, Path::new(&who.inner_binary.get()))
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

fn known(said: &AtomicU32, binary: &Path) -> u32 {
    let pid = said.load(Ordering::Relaxed);
    if pid == 0 {
        return 0;
    }
    let runs = fs::read_link(format!("/proc/{pid}/exe"));
    let same = runs.is_ok_and(|exe| binary.file_name().is_some_and(|name| is_of_name(&exe, name)));
    if same { pid } else { 0 }
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
        let said = AtomicU32::new(std::process::id());
        assert_eq!(known(&said, &me), std::process::id());
        assert_eq!(known(&said, Path::new("/usr/bin/containerd-shim-runc-v2")), 0, "another's");
        assert_eq!(known(&said, Path::new("")), 0);
        // Larger than any pid can be.
        assert_eq!(known(&AtomicU32::new(u32::MAX), &me), 0, "nobody's");
        assert_eq!(known(&AtomicU32::new(0), &me), 0, "not said");
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

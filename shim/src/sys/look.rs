//! What a path would be good for, looked at by a child without a descriptor: a disk that hangs holds the child, and not us.
//!
//! "No" also where it cannot be said within the time. Nothing is made, opened for writing or changed.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::{Errno, epoll, fd, process::bare_fork};

/// Would execve(2) of that file begin?
pub fn can_be_executed(path: &Path, patience_ms: u16) -> bool {
    asked(path, patience_ms, is_executable)
}

/// Would open(2) of that file for appending succeed, its folders made where they are not there? Regular files only.
pub fn can_be_appended_to(path: &Path, patience_ms: u16) -> bool {
    asked(path, patience_ms, is_appendable)
}

/// `look`, in the child, gets the path with its end, may only do async-signal-safe calls, and must not allocate.
fn asked(path: &Path, patience_ms: u16, look: fn(&mut [u8]) -> bool) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut path = path.into_bytes_with_nul();
    let Ok((said, says)) = fd::pipe() else { return false };
    // SAFETY: the child does only async-signal-safe calls on memory prepared above (see `say`) and never returns.
    // JUSTIFICATION: another thread would hold our descriptors for as long as the disk hangs.
    #[expect(unsafe_code, reason = "clone")]
    match unsafe { bare_fork(0) } {
        Ok(None) => say(&mut path, look, says.as_raw_fd()),
        Ok(Some(_)) => {}
        Err(_) => return false,
    }
    drop(says);
    let mut byte = [0u8; 1];
    epoll::readable_within(said.as_fd(), patience_ms) == Ok(true)
        && nix::unistd::read(&said, &mut byte) == Ok(1)
}

/// The child's side: one byte for yes.
fn say(path: &mut [u8], look: fn(&mut [u8]) -> bool, says: i32) -> ! {
    // SAFETY: every call is async-signal-safe, and the byte is the program's own.
    // JUSTIFICATION: nothing else may be called between a fork of a process with threads and its end.
    #[expect(unsafe_code, reason = "between fork and exit")]
    unsafe {
        libc::dup2(says, 3);
        libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, 0u32);
        if look(path) {
            libc::write(3, c"y".as_ptr().cast(), 1);
        }
        libc::_exit(0)
    }
}

fn is_executable(path: &mut [u8]) -> bool {
    const HEAD: usize = 128;
    let mut head = [0u8; HEAD];
    // SAFETY: async-signal-safe; the path ends with its zero, and the buffer is this frame's and as long as the kernel is told.
    // JUSTIFICATION: as in `say`.
    #[expect(unsafe_code, reason = "between fork and exit")]
    let got = unsafe {
        let file = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK);
        libc::read(file, head.as_mut_ptr().cast(), HEAD - 1)
    };
    match &head {
        _ if got < 4 || !may(path, libc::X_OK) => false,
        [0x7f, b'E', b'L', b'F', ..] => true,
        [b'#', b'!', rest @ ..] => {
            // The interpreter's name, between blanks: what follows it is zero from here on.
            let blank = |b: &u8| b" \t\n".contains(b);
            let from = rest.iter().position(|b| !b" \t".contains(b)).unwrap_or(0);
            let name = rest.get(from..).unwrap_or_default();
            let len = name.iter().position(|b| blank(b) || *b == 0).unwrap_or(0);
            let end = 2usize.saturating_add(from).saturating_add(len);
            let start = end.saturating_sub(len);
            head.get_mut(end..).unwrap_or_default().fill(0);
            len > 0 && head.get(start..).is_some_and(|name| may(name, libc::X_OK))
        }
        _ => false,
    }
}

fn is_appendable(path: &mut [u8]) -> bool {
    match mode(path) {
        Ok(mode) if mode & libc::S_IFMT == libc::S_IFREG => return may(path, libc::W_OK),
        Err(Errno::ENOENT) => {}
        _ => return false,
    }
    // The nearest folder that is there has to take what is to be made.
    while let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
        path.get_mut(slash.max(1)..).unwrap_or_default().fill(0);
        match mode(path) {
            // The kernel's own folders (/proc) take nothing, and root is told that it may write there.
            Ok(mode) if mode & (libc::S_IFMT | libc::S_IWUSR) == libc::S_IFDIR | libc::S_IWUSR => {
                return may(path, libc::W_OK | libc::X_OK);
            }
            Err(Errno::ENOENT) if slash > 0 => {}
            _ => return false,
        }
    }
    false
}

/// access(2), of a path with its end.
fn may(path: &[u8], how: i32) -> bool {
    // SAFETY: async-signal-safe; the path ends with its zero.
    // JUSTIFICATION: as in `say`.
    #[expect(unsafe_code, reason = "between fork and exit")]
    unsafe {
        path.contains(&0) && libc::access(path.as_ptr().cast(), how) == 0
    }
}

/// Kind and permissions of what is there, by stat(2), of a path with its end.
fn mode(path: &[u8]) -> Result<libc::mode_t, Errno> {
    let mut about = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: async-signal-safe; the path ends with its zero, and what the kernel has not written is not read.
    // JUSTIFICATION: as in `say`.
    #[expect(unsafe_code, reason = "between fork and exit")]
    unsafe {
        if !path.contains(&0) {
            return Err(Errno::EINVAL);
        }
        Errno::result(libc::stat(path.as_ptr().cast(), about.as_mut_ptr()))?;
        Ok(about.assume_init().st_mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_MS: u16 = 60_000;

    #[test]
    fn files_that_can_be_appended_to_are_told_from_others() {
        let dir = std::env::temp_dir().join(format!("shimtap-look-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("there"), "").unwrap();
        for (name, can) in
            [("there", true), ("new", true), ("one/two/new", true), ("there/new", false), ("", false)]
        {
            assert_eq!(can_be_appended_to(&dir.join(name), LIMIT_MS), can, "{name:?}");
        }
        assert!(!can_be_appended_to(Path::new("/dev/null"), LIMIT_MS), "no regular file");
        assert!(!can_be_appended_to(Path::new("/proc/none/new"), LIMIT_MS), "nothing can be made there");
        assert!(can_be_appended_to(Path::new("/new-below-the-root"), LIMIT_MS));
        assert!(!dir.join("new").exists() && !dir.join("one").exists(), "looking makes nothing");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

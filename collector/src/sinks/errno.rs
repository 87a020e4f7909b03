//! Operating-system failures as label values: the errno's name, never its text.

use std::io;

use nix::errno::Errno;

/// `ENOSPC`, `EIO`, …; `other` where the failure has no errno.
#[must_use]
pub fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        None | Some(Errno::UnknownErrno) => "other".to_owned(),
        Some(errno) => format!("{errno:?}"),
    }
}

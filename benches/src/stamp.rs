//! A mark at the beginning of a line that says who wrote it and when, so that whoever finds it anywhere, in whatever wrapping, can
//! say how long it took.
//!
//! `@b=<19 digits> `: plain text that JSON leaves as it is and a length-prefixed message carries whole. The time is the
//! node's wall clock in ns, which containers share with it; a step of the clock makes a run worthless.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a stamp, its blank included.
pub const LENGTH: usize = 23;
const DIGITS: usize = 19;

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// One of the many.
    Busy,
    /// Writes a line now and then.
    Quiet,
    /// Has just begun: its first line.
    New,
}

/// All of them.
pub const WRITERS: [Writer; 3] = [Writer::Busy, Writer::Quiet, Writer::New];

impl Writer {
    /// By the letter of `pour`'s option.
    pub fn of(letter: u8) -> Option<Writer> {
        WRITERS.into_iter().find(|writer| writer.letter() == letter)
    }

    /// In a stamp.
    pub fn letter(self) -> u8 {
        match self {
            Writer::Busy => b'b',
            Writer::Quiet => b'q',
            Writer::New => b'n',
        }
    }
}

/// What stands at the beginning of a line that is written now.
pub fn now(writer: Writer) -> [u8; LENGTH] {
    let text = format!("@{}={:0DIGITS$} ", char::from(writer.letter()), now_ns());
    let mut stamp = [b' '; LENGTH];
    for (to, from) in stamp.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    stamp
}

/// The wall clock, Unix ns.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// All stamps in `bytes` that are there whole.
pub fn all(bytes: &[u8]) -> impl Iterator<Item = (Writer, u64)> + '_ {
    let ats = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'@').map(|(at, _)| at);
    ats.filter_map(|at| {
        let stamp = bytes.get(at..at + LENGTH)?;
        let [b'@', letter, b'=', digits @ .., b' '] = stamp else { return None };
        let time = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some((Writer::of(*letter)?, time))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_any_wrapping_and_not_where_it_is_cut() {
        let before = now_ns();
        let stamp = now(Writer::Quiet);
        let text =
            [b"{\"message\":\"", stamp.as_slice(), b"xx @b=12 \"}", stamp.get(..9).unwrap_or_default()];
        let found: Vec<_> = all(&text.concat()).collect();
        let [(writer, at)] = found.as_slice() else { unreachable!("{found:?}") };
        assert_eq!(*writer, Writer::Quiet);
        assert!(*at >= before && *at <= now_ns());
    }
}

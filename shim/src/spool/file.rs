//! One spool file: appended to with plain writes, whole records only.

use std::os::fd::{AsFd, OwnedFd};

use shimtap_proto::spool::{Header, record};

use super::place::{Place, Refusal};
use crate::{
    block::words::wide,
    sys::{Errno, Kernel, unix_ns},
};

/// The file system is asked what it has free once for so many bytes.
const LOOK_BYTES: u64 = 1 << 20;
/// Names that are tried: each is one that nobody has used, unless somebody plays with the directory.
const TRIES: u32 = 16;

/// A file that is being written.
pub struct SpoolFile {
    place: Place,
    fd: OwnedFd,
    /// Bytes in it, all in whole records.
    len: u64,
    /// Bytes it may hold.
    room: u64,
    /// At this length the file system is asked again.
    look: u64,
}

// === impl SpoolFile ===

impl SpoolFile {
    /// Makes one with its header; `next_number` numbers it. It may hold what the limits leave, and `spare` bytes.
    pub fn make(
        place: Place,
        wrapper: u64,
        spare: u64,
        mut next_number: impl FnMut() -> u32,
    ) -> Result<Self, Refusal> {
        let room = place.room(wrapper, spare)?;
        if !place.keeps_free(LOOK_BYTES)? {
            return Err(Refusal::Full);
        }
        for _ in 0..TRIES {
            let number = next_number();
            let Some(fd) = place.make(wrapper, number)? else { continue };
            let mut file = Self { place, fd, len: 0, room, look: LOOK_BYTES };
            let header = Header { wrapper, number, boot: boot_id(), created_ns: unix_ns() };
            file.put(&header.encode())?;
            return Ok(file);
        }
        Err(Refusal::Kernel(Errno::EEXIST))
    }

    /// Appends one message; when this returns the file has it, whatever becomes of us.
    pub fn append(&mut self, message: &[u8]) -> Result<u64, Refusal> {
        let record = record(message).ok_or(Errno::EMSGSIZE)?;
        let end = self.len.saturating_add(wide(record.len()));
        if end > self.room {
            return Err(Refusal::Full);
        }
        if end > self.look {
            if !self.place.keeps_free(LOOK_BYTES)? {
                return Err(Refusal::Full);
            }
            self.look = end.saturating_add(LOOK_BYTES);
        }
        self.put(&record)?;
        Ok(wide(record.len()))
    }

    /// From now on it may hold `spare` bytes more.
    pub fn widen(&mut self, spare: u64) {
        self.room = self.room.saturating_add(spare);
    }

    fn put(&mut self, bytes: &[u8]) -> Kernel<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match nix::unistd::write(self.fd.as_fd(), rest) {
                Ok(0) => return self.take_back(Errno::EIO),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return self.take_back(errno),
            }
        }
        self.len = self.len.saturating_add(wide(bytes.len()));
        Ok(())
    }

    /// A disk that is full takes half a record: the file ends behind the last whole one again. Where that fails too it has
    /// a torn end, which its reader knows.
    fn take_back(&self, errno: Errno) -> Kernel<()> {
        if let Ok(len) = i64::try_from(self.len) {
            let _ = nix::unistd::ftruncate(&self.fd, len);
        }
        Err(errno)
    }
}

/// Of this boot of the kernel; zeros where it does not say.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let mut id = [0u8; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum << 4 | u8::try_from(*digit).unwrap_or(0));
    }
    id
}

//! One spool file: appended to with plain writes, whole records only.

use std::os::fd::{AsFd, OwnedFd};

use shimtap_proto::spool::{Header, record};

use super::place::{Place, Refusal};
use crate::{
    block::words::wide,
    sys::{Errno, Kernel, unix_ns},
};

/// What the directory and its file system have left is looked at once for so many bytes.
const LOOK_BYTES: u64 = 1 << 20;
/// Names that are tried: each is one that nobody has used, unless somebody plays with the directory.
const TRIES: u32 = 16;

/// A file that is being written.
pub struct SpoolFile {
    place: Place,
    wrapper: u64,
    fd: OwnedFd,
    /// Bytes in it, all in whole records.
    len: u64,
    /// Bytes it may hold by the limits, and (for last words) beyond them.
    room: u64,
    beyond: u64,
    /// At this length it is looked again what the directory and its file system have left.
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
            let mut file = Self { place, wrapper, fd, len: 0, room, beyond: 0, look: LOOK_BYTES };
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
        if end > self.look {
            self.look_again()?;
            self.look = end.saturating_add(LOOK_BYTES);
        }
        if end > self.room.saturating_add(self.beyond) {
            return Err(Refusal::Full);
        }
        self.put(&record)?;
        Ok(wide(record.len()))
    }

    /// From now on it may hold `spare` bytes more.
    pub fn widen(&mut self, spare: u64) {
        self.beyond = self.beyond.saturating_add(spare);
    }

    /// What others have written since this was begun counts as well: of many that begin in an empty directory each was told that there
    /// is room for all of its own. (Whoever begins with last words has said them before the first look.)
    fn look_again(&mut self) -> Result<(), Refusal> {
        if !self.place.keeps_free(LOOK_BYTES)? {
            return Err(Refusal::Full);
        }
        let left = match self.place.room(self.wrapper, 0) {
            Err(Refusal::Full) => 0,
            left => left?,
        };
        self.room = self.room.min(self.len.saturating_add(left));
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use shimtap_proto::spool::file_name;

    use super::{super::place::tests::Lab, *};
    use crate::block::spool::Kind;

    const MIB: u64 = 1 << 20;

    /// How much of so many records of 64 KiB it takes.
    fn taken(file: &mut SpoolFile, records: usize) -> (u64, Option<Refusal>) {
        let record = vec![7; 64 << 10];
        let refusal = (0..records).find_map(|_| file.append(&record).err());
        (file.len, refusal)
    }

    /// Each of many that begin at once finds an empty directory.
    #[test]
    fn what_others_write_meanwhile_is_room_that_a_file_has_not() {
        let lab = Lab::new("meanwhile");
        lab.0.tables().spool.limit_bytes.store(4 * MIB, Ordering::Relaxed);
        let mut file = SpoolFile::make(lab.place(Kind::Disk), 7, 0, || 0).unwrap();
        // All but two MiB of what sixteen may have.
        lab.file(Kind::Disk, &file_name(1, 0), 62 * MIB);
        let (len, refusal) = taken(&mut file, 60);
        assert_eq!(refusal, Some(Refusal::Full));
        assert!((MIB..=2 * MIB).contains(&len), "{len} bytes");
        // Others do not take its last words away, however much they have written by now.
        lab.file(Kind::Disk, &file_name(2, 0), 8 * MIB);
        file.widen(MIB / 4);
        let (widened, refusal) = taken(&mut file, 60);
        assert_eq!(refusal, Some(Refusal::Full));
        assert!(widened > len && widened <= 2 * MIB + MIB / 4, "{widened} bytes after {len}");
    }

    #[test]
    fn a_file_that_is_alone_has_what_its_wrapper_may() {
        let lab = Lab::new("alone");
        lab.0.tables().spool.limit_bytes.store(4 * MIB, Ordering::Relaxed);
        lab.file(Kind::Disk, &file_name(7, 0), MIB);
        let mut file = SpoolFile::make(lab.place(Kind::Disk), 7, 0, || 1).unwrap();
        let (len, refusal) = taken(&mut file, 60);
        assert_eq!(refusal, Some(Refusal::Full));
        assert!(len <= 3 * MIB && len + (65 << 10) > 3 * MIB, "{len} bytes");
    }
}

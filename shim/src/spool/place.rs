//! Where spool files lie, and how much of them there may be.
//!
//! Two directories: one on a disk, one in memory for what must not reach a disk. Either must be one that only we can
//! write to; what is in it and is not ours is nobody's business here.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use nix::{
    fcntl::{OFlag, open, openat},
    sys::{
        stat::{Mode, SFlag, fstat},
        statfs::{TMPFS_MAGIC, fstatfs},
        statvfs::fstatvfs,
    },
};
use shimtap_proto::spool::{file_name, parse_name};

use crate::{
    block::{
        Block,
        counters::{Counter, Counters},
        spool::Kind,
    },
    run_dir::private_dir,
    sys::{Errno, Kernel, fd},
};

/// Files in memory may hold so much less than those on a disk.
const MEMORY_PART: u64 = 4;
/// All wrappers' files in a directory hold at most so many times what one's may: pods end and leave theirs behind, and no
/// collector may come for days. With the default of 16 MiB that is 256 MiB on a disk and 64 MiB in memory.
const WRAPPERS: u64 = 16;
/// Of a file system in memory so much stays free, in percent.
const MEMORY_FREE: u64 = 50;

/// Why nothing (more) is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A bound of ours is reached.
    Full,
    /// Somebody else can write there, or it is a disk where it must be memory.
    Unsafe,
    /// The system's answer.
    Kernel(Errno),
}

/// One directory.
pub struct Place {
    path: PathBuf,
    dir: OwnedFd,
    /// What its file system keeps free.
    reserve: Reserve,
    /// Bytes that this wrapper's files, and all wrappers', may hold.
    limits: (u64, u64),
}

/// What a file system is to keep free: so many bytes and so many percent of it, both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reserve {
    bytes: u64,
    percent: u64,
}

// === impl Refusal ===

impl Refusal {
    /// Counts it under its name.
    pub fn count(self, counters: &Counters) {
        counters.add(match self {
            Self::Full => Counter::SpoolFull,
            Self::Unsafe => Counter::SpoolUnsafe,
            Self::Kernel(Errno::ENOSPC | Errno::EDQUOT) => Counter::SpoolRefusedSpace,
            Self::Kernel(Errno::EROFS | Errno::EACCES | Errno::EPERM) => Counter::SpoolRefusedAccess,
            Self::Kernel(Errno::EIO) => Counter::SpoolRefusedIo,
            Self::Kernel(_) => Counter::SpoolRefusedOther,
        });
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Kernel(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

// === impl Place ===

impl Place {
    /// Opens the directory, made where it is missing.
    pub fn open(block: &Block, kind: Kind) -> Result<Self, Refusal> {
        let spool = &block.tables().spool;
        let limit = spool.limit_bytes.load(Ordering::Relaxed);
        let (path, part, reserve) = match kind {
            Kind::Disk => {
                let bytes = spool.free_bytes.load(Ordering::Relaxed);
                let percent = u64::from(spool.free_percent.load(Ordering::Relaxed));
                (spool.disk_dir.get(), 1, Reserve { bytes, percent })
            }
            Kind::Memory => (spool.memory_dir.get(), MEMORY_PART, Reserve { bytes: 0, percent: MEMORY_FREE }),
        };
        let path = PathBuf::from(path);
        private_dir(&path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty())?;
        if !is_private(&dir)? || (kind == Kind::Memory && fstatfs(&dir)?.filesystem_type() != TMPFS_MAGIC) {
            return Err(Refusal::Unsafe);
        }
        let limits = (spool.allowance() / part, limit.saturating_mul(WRAPPERS) / part);
        Ok(Self { path, dir, reserve, limits })
    }

    /// Bytes that another file of `wrapper` may hold, `spare` beyond all limits among them.
    pub fn room(&self, wrapper: u64, spare: u64) -> Result<u64, Refusal> {
        let (own, all) = used(&self.path, wrapper)?;
        let [own_max, all_max] = [self.limits.0, self.limits.1].map(|limit| limit.saturating_add(spare));
        let room = own_max.saturating_sub(own).min(all_max.saturating_sub(all));
        if room == 0 { Err(Refusal::Full) } else { Ok(room) }
    }

    /// Does the file system keep what it is to keep, with `bytes` more?
    pub fn keeps_free(&self, bytes: u64) -> Kernel<bool> {
        let stat = fstatvfs(&self.dir)?;
        let unit = stat.fragment_size();
        let free = stat.blocks_available().saturating_mul(unit).saturating_sub(bytes);
        let whole = stat.blocks().saturating_mul(unit);
        Ok(self.reserve.is_kept(whole, free))
    }

    /// Makes file `number` of a wrapper, empty, locked for as long as it is open. `None`: one of that name is there, or the
    /// collector has already taken it for one whose writer had died.
    pub fn make(&self, wrapper: u64, number: u32) -> Result<Option<OwnedFd>, Refusal> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = file_name(wrapper, number);
        let file = match openat(&self.dir, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => file,
            Err(Errno::EEXIST) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let ours = fd::try_lock(file.as_fd())? && fstat(&file)?.st_nlink == 1;
        Ok(ours.then_some(file))
    }
}

// === impl Reserve ===

impl Reserve {
    /// Is it left where so much of a whole is free?
    fn is_kept(self, whole: u64, free: u64) -> bool {
        free >= self.bytes && free >= (whole / 100).saturating_mul(self.percent)
    }
}

fn is_private(dir: &OwnedFd) -> Kernel<bool> {
    let stat = fstat(dir)?;
    let mode = Mode::from_bits_truncate(stat.st_mode);
    let is_dir = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let others = Mode::S_IRWXG | Mode::S_IRWXO;
    Ok(is_dir && stat.st_uid == nix::unistd::geteuid().as_raw() && !mode.intersects(others))
}

/// Bytes in spool files of `wrapper`, and in all files, those set aside included.
fn used(dir: &Path, wrapper: u64) -> Result<(u64, u64), Refusal> {
    let (mut own, mut all) = (0u64, 0u64);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // One that goes meanwhile was the collector's.
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        let bytes = meta.size();
        all = all.saturating_add(bytes);
        let name = entry.file_name();
        if name.to_str().and_then(parse_name).is_some_and(|(whose, _)| whose == wrapper) {
            own = own.saturating_add(bytes);
        }
    }
    Ok((own, all))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A block whose directories nobody else has; they go with it.
    pub struct Lab(pub Block, PathBuf);

    impl Lab {
        pub fn new(name: &str) -> Self {
            let dir = Path::new("/dev/shm").join(format!("shimtap-place-{name}-{}", std::process::id()));
            let block = Block::create().unwrap();
            let spool = &block.tables().spool;
            let sub = |sub: &str| dir.join(sub).to_str().unwrap().to_owned();
            assert!(spool.disk_dir.set(&sub("disk")) && spool.memory_dir.set(&sub("memory")));
            Self(block, dir)
        }

        pub fn place(&self, kind: Kind) -> Place {
            Place::open(&self.0, kind).unwrap()
        }

        /// What another wrapper, or an earlier file of this one, has there.
        pub fn file(&self, kind: Kind, name: &str, bytes: u64) {
            fs::File::create(self.place(kind).path.join(name)).unwrap().set_len(bytes).unwrap();
        }
    }

    impl Drop for Lab {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.1).unwrap();
        }
    }

    #[test]
    fn a_reserve_is_of_bytes_and_of_percent_and_both_are_kept() {
        let kept = |bytes, percent, free| Reserve { bytes, percent }.is_kept(1000, free);
        assert!(kept(0, 0, 0), "nothing is to be kept");
        assert!(kept(400, 0, 400) && !kept(400, 0, 399), "bytes alone");
        assert!(kept(0, 15, 150) && !kept(0, 15, 149), "percent alone");
        assert!(!kept(400, 15, 200) && !kept(100, 15, 120) && kept(100, 15, 150), "whichever is more");
        assert!(!Reserve { bytes: 0, percent: 100 }.is_kept(u64::MAX, u64::MAX / 2));
    }

    #[test]
    fn a_disk_keeps_what_it_is_told_and_a_file_system_in_memory_half_of_itself() {
        let lab = Lab::new("reserve");
        let spool = &lab.0.tables().spool;
        // What a file may grow by before it asks again.
        let keeps = |bytes, percent| {
            spool.free_bytes.store(bytes, Ordering::Relaxed);
            spool.free_percent.store(percent, Ordering::Relaxed);
            let disk = lab.place(Kind::Disk).keeps_free(1 << 20).unwrap();
            assert_eq!(lab.place(Kind::Memory).reserve, Reserve { bytes: 0, percent: 50 });
            disk
        };
        assert!(keeps(0, 0));
        assert!(!keeps(1 << 60, 0), "no file system has so much");
        assert!(!keeps(0, 100), "and none has all of it free, with another byte in it");
    }

    /// Of what others have left in a directory, and set aside there, nobody may use more than is left of the whole.
    #[test]
    fn a_directory_as_a_whole_holds_sixteen_times_what_a_wrapper_may() {
        const LIMIT: u64 = 40_000;
        let lab = Lab::new("whole");
        lab.0.tables().spool.limit_bytes.store(LIMIT, Ordering::Relaxed);
        for (kind, own) in [(Kind::Disk, LIMIT), (Kind::Memory, LIMIT / 4)] {
            let place = lab.place(kind);
            let file = |name: &str, bytes| lab.file(kind, name, bytes);
            assert_eq!(place.room(7, 0), Ok(own), "{kind:?}");
            // One that is older than a limit that was lowered counts as well.
            file(&file_name(1, 0), 10 * own);
            file(&format!("{}.bad", file_name(2, 0)), 5 * own);
            assert_eq!(place.room(7, 0), Ok(own), "{kind:?}: one more has room");
            file(&file_name(7, 0), own / 4);
            assert_eq!(place.room(7, 0), Ok(own * 3 / 4), "{kind:?}: what is left of its own");
            file(&file_name(3, 0), own / 2);
            assert_eq!(place.room(7, 0), Ok(own / 4), "{kind:?}: what is left of the whole");
            file(&file_name(4, 0), own / 4);
            assert_eq!(place.room(7, 0), Err(Refusal::Full), "{kind:?}");
            assert_eq!(place.room(7, 100), Ok(100), "{kind:?}: last words have room of their own");
        }
    }
}

//! The mapped memory block: a memfd that keeper and worker share and that outlives either.
//!
//! Tables in it are structs of atomics, reached through [`Mapping::view`]. Bulk bytes (frames, container output) are
//! never referenced from Rust: they are moved in and out by the kernel or by copies, through [`Area`], whose users
//! keep the rule that one thread writes an area at a time.

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use nix::{
    fcntl::{FallocateFlags, FcntlArg, SealFlag},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap},
    },
};

use super::{
    Errno, Kernel,
    atomic::{AtomicU8, AtomicU32, AtomicU64, step},
};

/// Types that may lie in memory that another process writes: every bit pattern is valid, every field is atomic.
///
/// # Safety
/// Only for atomics, arrays of such types, and `repr(C)` structs of such fields (which [`shared_layout!`] checks).
#[expect(unsafe_code, reason = "marker")]
pub unsafe trait Shared: Sync {}

macro_rules! shared_atomics {
    ($($atomic:ty),*) => {$(
        // SAFETY: an atomic integer is valid for every bit pattern and made for concurrent access.
        // JUSTIFICATION: the leaves that `shared_layout!` builds on.
        #[expect(unsafe_code, reason = "marker")]
        unsafe impl Shared for $atomic {}
    )*};
}
shared_atomics!(AtomicU8, AtomicU32, AtomicU64);

// SAFETY: an array of such types adds no padding and no invalid pattern.
// JUSTIFICATION: tables are arrays.
#[expect(unsafe_code, reason = "marker")]
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Declares a `repr(C)` struct for the block, all of whose fields are [`Shared`].
macro_rules! shared_layout {
    ($(#[$meta:meta])* $vis:vis struct $name:ident $(<const $n:ident: usize>)? {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident: $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name $(<const $n: usize>)? { $($(#[$fmeta])* $fvis $field: $ty,)* }
        // SAFETY: repr(C), and the where clause makes every field Shared; padding is never read as a value.
        // JUSTIFICATION: views of the block are references to such structs.
        #[expect(unsafe_code, reason = "marker")]
        unsafe impl $(<const $n: usize>)? $crate::sys::shared::Shared for $name $(<$n>)?
        where $($ty: $crate::sys::shared::Shared,)* {}
    };
}
pub(crate) use shared_layout;

/// Part of a memfd, mapped shared for as long as this value lives.
pub struct Mapping {
    base: NonNull<libc::c_void>,
    len: usize,
}

/// A byte range inside a [`Mapping`].
#[derive(Clone, Copy)]
pub struct Area<'a> {
    mapping: &'a Mapping,
    start: usize,
    len: usize,
}

/// Makes the memfd: sparse, unsealed, close-on-exec, `len` bytes.
pub fn memfd(name: &str, len: usize) -> Kernel<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(|_| Errno::EFBIG)?)?;
    // Who has it mapped would die of one that was cut off, and whoever asks for an upgrade is given it.
    nix::fcntl::fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    Ok(fd)
}

/// Gives the pages of a range of the memfd back; it reads as zeros afterwards.
pub fn punch(memfd: BorrowedFd<'_>, offset: usize, len: usize) -> Kernel<()> {
    let range = (i64::try_from(offset), i64::try_from(len));
    let (Ok(offset), Ok(len)) = range else { return Err(Errno::EFBIG) };
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(memfd, flags, offset, len)
}

/// pread(2) from the memfd: a kernel copy, so a concurrent writer cannot make it undefined, only stale.
pub fn copy_out(memfd: BorrowedFd<'_>, offset: usize, into: &mut [u8]) -> Kernel<usize> {
    nix::sys::uio::pread(memfd, into, i64::try_from(offset).map_err(|_| Errno::EFBIG)?)
}

// === impl Mapping ===

// SAFETY: the mapping is plain memory; all access goes through atomics, the kernel, or `Area` copies under the
// one-writer rule, none of which depends on the thread.
// JUSTIFICATION: relay and link thread both look at the block.
#[expect(unsafe_code, reason = "shared mapping")]
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
// JUSTIFICATION: as for Send.
#[expect(unsafe_code, reason = "shared mapping")]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `memfd` from `offset` (page-aligned). Touching pages is what allocates them.
    pub fn new(memfd: BorrowedFd<'_>, offset: usize, len: usize) -> Kernel<Self> {
        let size = std::num::NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice touches no existing memory; the memfd
        // is never truncated after its creation, so pages inside its length cannot raise SIGBUS for that reason.
        // JUSTIFICATION: state that outlives a process has to be mapped.
        #[expect(unsafe_code, reason = "mmap")]
        let base = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
                memfd,
                offset,
            )
        }?;
        // SAFETY: the range is the mapping just made. A huge page for a few touched words would break the budget.
        // JUSTIFICATION: madvise has no safe form.
        #[expect(unsafe_code, reason = "madvise")]
        let _ = unsafe { madvise(base, len, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(Self { base, len })
    }

    /// A struct of atomics at `offset`. `None` where it would not fit or not be aligned.
    pub fn view<T: Shared>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: the range lies inside the live mapping (page-aligned base, so the alignment check holds), T is
        // valid for any bit pattern and all its fields are atomic, and the reference cannot outlive the mapping.
        // JUSTIFICATION: there is no safe way from mapped memory to typed atomics.
        #[expect(unsafe_code, reason = "typed view of the block")]
        Some(unsafe { self.base.cast::<u8>().add(offset).cast::<T>().as_ref() })
    }

    /// The bytes `[start, start + len)`. `None` where that is outside.
    pub fn area(&self, start: usize, len: usize) -> Option<Area<'_>> {
        (start.checked_add(len)? <= self.len).then_some(Area { mapping: self, start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mmap that made this value, and no view or area outlives it.
        // JUSTIFICATION: munmap has no safe form.
        #[expect(unsafe_code, reason = "munmap")]
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

// === impl Area ===

impl Area<'_> {
    fn at(&self, offset: usize, len: usize) -> Option<*mut u8> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: start + offset + len lies inside the mapping: `Mapping::area` checked start + self.len.
        // JUSTIFICATION: pointer arithmetic inside the mapping.
        #[expect(unsafe_code, reason = "pointer into the mapping")]
        Some(unsafe { self.mapping.base.cast::<u8>().as_ptr().add(self.start + offset) })
    }

    /// recv(2) or read(2) of at most `len` bytes straight into the area at `offset`, non-blocking.
    /// `Ok(None)` = nothing there now, `Ok(Some(0))` = end.
    pub fn read_from(&self, fd: BorrowedFd<'_>, offset: usize, len: usize) -> Kernel<Option<usize>> {
        let at = self.at(offset, len).ok_or(Errno::EFAULT)?;
        step();
        // SAFETY: `at` points to `len` writable bytes of the mapping; the kernel writes no more. No Rust reference to
        // them exists. The descriptors used are non-blocking.
        // JUSTIFICATION: bytes must be in the block the moment they have left the kernel, or a death loses them.
        #[expect(unsafe_code, reason = "read into the block")]
        let n = unsafe { libc::read(fd.as_raw_fd(), at.cast(), len) };
        match Errno::result(n) {
            Ok(n) => Ok(usize::try_from(n).ok()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// write(2) of at most `len` bytes from the area at `offset`, non-blocking. `Ok(None)` = no room now.
    pub fn write_to(&self, fd: BorrowedFd<'_>, offset: usize, len: usize) -> Kernel<Option<usize>> {
        let at = self.at(offset, len).ok_or(Errno::EFAULT)?;
        step();
        // SAFETY: `at` points to `len` readable bytes of the mapping, which the kernel only reads.
        // JUSTIFICATION: as for read_from; also spares a copy.
        #[expect(unsafe_code, reason = "write from the block")]
        let n = unsafe { libc::write(fd.as_raw_fd(), at.cast_const().cast(), len) };
        match Errno::result(n) {
            Ok(n) => Ok(usize::try_from(n).ok()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A copy of `len` bytes at `offset`; `None` where that is outside.
    pub fn get(&self, offset: usize, len: usize) -> Option<Vec<u8>> {
        let at = self.at(offset, len)?;
        let mut copy = vec![0u8; len];
        // SAFETY: source and target are valid for `len` bytes and distinct. By the one-writer rule the only thread
        // that writes this area is the caller's own (areas of a direction: the relay thread; see block/mod.rs).
        // JUSTIFICATION: a frame has to be looked at.
        #[expect(unsafe_code, reason = "copy out of the block")]
        unsafe {
            std::ptr::copy_nonoverlapping(at, copy.as_mut_ptr(), len);
        }
        Some(copy)
    }

    /// Copies `bytes` to `offset`; false where they do not fit (nothing is written then).
    pub fn put(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(at) = self.at(offset, bytes.len()) else { return false };
        step();
        // SAFETY: as for `get`, the other way round.
        // JUSTIFICATION: a rewritten frame has to lie where a successor finds it.
        #[expect(unsafe_code, reason = "copy into the block")]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
        }
        true
    }
}

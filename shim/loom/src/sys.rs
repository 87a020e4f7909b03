//! The kernel's part: memory that is copied byte by byte, without any order between the copies.

#[derive(Debug)]
pub enum Errno {
    EFAULT,
}

pub type Kernel<T> = Result<T, Errno>;

pub mod atomic {
    pub use loom::sync::atomic::{AtomicU32, fence};
}

pub mod fd {
    use std::os::fd::BorrowedFd;

    use super::Kernel;

    pub fn unread(_: BorrowedFd<'_>) -> Kernel<usize> {
        Ok(0)
    }
}

pub mod shared {
    use std::{os::fd::BorrowedFd, sync::atomic as plain};

    use loom::sync::atomic::{AtomicU8, Ordering};

    use super::Kernel;
    use crate::block::{CHUNK, CHUNKS};

    /// The chunks, and a tap out of which come the bytes 1, 2, 3, ...
    #[derive(Default)]
    pub struct Memory {
        bytes: [AtomicU8; CHUNK * CHUNKS],
        tapped: plain::AtomicU8,
    }

    impl Memory {
        /// So many bytes go another way than through the tap.
        pub fn pass_by(&self, len: u8) {
            self.tapped.fetch_add(len, plain::Ordering::Relaxed);
        }
    }

    pub struct Mapping(pub &'static Memory);

    pub struct Area {
        memory: &'static Memory,
        start: usize,
    }

    impl Mapping {
        pub fn area(&self, start: usize, _: usize) -> Option<Area> {
            Some(Area { memory: self.0, start })
        }
    }

    impl Area {
        pub fn read_from(&self, _: BorrowedFd<'_>, at: usize, len: usize) -> Kernel<Option<usize>> {
            for cell in &self.memory.bytes[self.start + at..][..len] {
                let byte = self.memory.tapped.fetch_add(1, plain::Ordering::Relaxed) + 1;
                cell.store(byte, Ordering::Relaxed);
            }
            Ok(Some(len))
        }
    }

    pub fn copy_out(memory: &Memory, place: usize, into: &mut [u8]) -> Kernel<usize> {
        for (byte, cell) in into.iter_mut().zip(&memory.bytes[place..]) {
            *byte = cell.load(Ordering::Relaxed);
        }
        Ok(into.len())
    }

    pub fn punch(_: &Memory, _: usize, _: usize) -> Kernel<()> {
        Ok(())
    }
}

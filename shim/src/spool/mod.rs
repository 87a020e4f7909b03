//! The spool: what no collector takes is written to a file, by a child that owns nothing but the block and that file.
//!
//! A disk may hang for minutes, and who hangs with it holds every descriptor it has: so neither keeper nor worker ever
//! touches one. The child lives while it is needed; it is asked for by the relay thread, made by the keeper, and ends by
//! itself. It never reads, renames or removes a spool file: that is the collector's (docs/adr/0014).
//!
//! `place`: where, and whether there is room. `file`: one file. `writer`: what goes into it.

mod file;
mod place;
mod writer;

use std::os::fd::AsFd;

use crate::{
    block::Block,
    sys::{Kernel, fd},
};

pub use self::writer::main;

/// Does a child write for this block? It holds a lock on the memfd for as long as it lives, stuck in a disk or not, and
/// whoever made it.
pub fn is_written(block: &Block) -> Kernel<bool> {
    let own = fd::reopen(block.memfd())?;
    Ok(!fd::try_lock_shared(own.as_fd())?)
}

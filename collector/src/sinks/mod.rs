//! Where records go. Until the journal exists, an acknowledgement waits for the sink itself.

mod errno;
pub mod file;
mod queue;
mod source;

pub use errno::errno_name;
#[cfg(test)]
pub use queue::Exit;
pub use queue::{Backlog, Outlet, Room, Waiting};
pub use source::Source;

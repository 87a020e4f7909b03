//! Where records go. Until the journal exists, an acknowledgement waits for the sink itself.

mod errno;
pub mod file;
mod queue;

pub use errno::errno_name;
pub use queue::{Backlog, Exit, Outlet, Room, Waiting};

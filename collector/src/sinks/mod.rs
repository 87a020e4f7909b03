//! Where records go from the journal, and the queue before it. One sink never holds another, nor the journal.

mod errno;
pub mod file;
mod queue;
mod source;

pub use errno::errno_name;
pub use queue::{Backlog, Exit, Outlet, Room, Waiting};
pub use source::Source;

//! One file per verb of containerd's.

mod append;
mod delete;
mod force;
mod last_calls;
mod logger;
mod passthrough;
mod prepare;
mod repair;
mod start;
mod tell;
mod wrap;

pub use delete::delete;
pub use logger::logger;
pub use passthrough::passthrough;
pub use start::start;
pub use tell::{VERB as TELL, tell};
pub use wrap::Description;

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

/// Ends as a child ended: the same exit status, or the same signal.
fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(|s| nix::sys::signal::Signal::try_from(s).ok()) {
        let _ = nix::sys::signal::raise(signal);
    }
    ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX))
}

//! Whose container it is, as far as that can be told.

mod details;
mod identity;
mod shim;

pub use details::{Details, Later, Overhead};
pub use identity::{Identity, Role, short_shim};
pub use shim::ShimKind;

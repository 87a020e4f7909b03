//! Whose container it is, as far as that can be told.

mod identity;
mod shim;

pub use identity::{Identity, Role, short_shim};
pub use shim::ShimKind;

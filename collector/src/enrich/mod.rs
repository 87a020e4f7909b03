//! Whose container it is, as far as that can be told.

mod identity;

pub use identity::{Identity, Role, short_shim};

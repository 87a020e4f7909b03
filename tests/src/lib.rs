//! What the integration tests share: the rig that runs a real containerd, and the oracle that compares
//! what a container wrote with what everyone else holds.

pub mod chaos;
pub mod fault;
pub mod guest;
pub mod judge;
pub mod line;
pub mod oracle;
pub mod rig;
pub mod standin;

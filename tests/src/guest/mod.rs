//! Inside the node VM: how a plan is run, and checks of a whole node (systemd, its containerd, the collector's unit).
//!
//! Nothing of this may ever run on a machine that somebody needs.

pub mod checks;
pub mod clock;
mod cores;
mod install;
mod node;
pub mod plan;
mod pods;
pub mod power;
pub mod shipped;
mod unit;

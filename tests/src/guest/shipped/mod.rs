//! What is shipped, on a node that has nothing of it yet: packages are installed, upgraded and removed as a user does it, with
//! containers running, and what the user came for is there.
//!
//! Each check begins on a node without the package and leaves one, so that whatever runs after them in the same boot finds what
//! it is used to. [`BAKED`] alone belongs to a boot of its own, from an image with the package in it.

mod baked;
mod fresh;
mod kubelet;
mod lines;
mod numbers;
mod package;
mod releases;

use std::time::Duration;

use anyhow::Result;

use super::checks::Check;
use super::node::LIMIT;
use crate::rig::now_and_then;

/// How often is asked whether something has come about. A program that is started to ask takes a good part of a second of an emulated
/// machine, which what is waited for needs as well.
const ASK: Duration = Duration::from_secs(1);

/// Those of a fresh node.
pub const CHECKS: &[Check] = &[
    ("a_user_who_wants_numbers", numbers::a_user_who_wants_numbers),
    ("a_user_who_wants_lines", lines::a_user_who_wants_lines),
    ("releases_come_and_go_under_running_pods", releases::come_and_go_under_running_pods),
    ("a_package_leaves_the_unit_as_it_was_wanted", releases::leave_the_unit_as_it_was_wanted),
];

/// That of a node booted from an image.
pub const BAKED: &[Check] =
    &[("every_handler_is_wrapped_from_the_first_boot", baked::is_wrapped_from_the_first_boot)];

/// Waits for what a busy host may hold up for minutes.
fn patiently<T>(what: &str, condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    now_and_then(ASK, LIMIT, what, condition)
}

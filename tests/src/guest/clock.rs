//! The machine's time of day goes forward and back while containers write, and nothing is lost silently: the judge's case that no
//! other machine can be asked for, since everybody on it would live by the clock that it steps.

use anyhow::Result;

use crate::judge::{self, cases};
use crate::rig::Version;

/// The case with this seed.
///
/// # Errors
/// What does not hold.
pub fn steps(seed: u64) -> Result<()> {
    println!("SHIMTAP_SEED={seed}\n{:#?}", judge::run(&cases::clock(Version::Packaged, seed))?);
    Ok(())
}

//! What this kernel counts in (clock ticks, pages), as nanoseconds and bytes. `None` where it does not say.

use nix::unistd::{SysconfVar, sysconf};

/// Nanoseconds of so many clock ticks.
pub(crate) fn ticks_as_ns(ticks: u64) -> Option<u64> {
    ticks.saturating_mul(1_000_000_000).checked_div(variable(SysconfVar::CLK_TCK)?)
}

/// Bytes of so many pages.
pub(crate) fn pages_as_bytes(pages: u64) -> Option<u64> {
    Some(pages.saturating_mul(variable(SysconfVar::PAGE_SIZE)?))
}

fn variable(name: SysconfVar) -> Option<u64> {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok())
}

//! The collector under its unit: it runs, it listens, and the kernel holds it as the unit says.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::node::{property, start_collector, systemctl};

/// CAP_DAC_READ_SEARCH, the only bit that the unit leaves.
const LEFT: u64 = 1 << 2;

/// The unit is active with a configuration of ours, and its process has what the unit leaves it and nothing more.
pub fn is_active_and_hardened() -> Result<()> {
    start_collector()?;
    ensure!(systemctl(&["is-active", "shimtap.service"])?.text().trim() == "active", "it is not active");
    let pid = property("shimtap.service", "MainPID")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the collector's status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("its status has no {name}"))
    };
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let bits = u64::from_str_radix(field(set)?, 16).with_context(|| format!("{set} is no number"))?;
        ensure!(bits & !LEFT == 0, "{set} is {bits:#x}");
    }
    ensure!(field("CapAmb")?.chars().all(|digit| digit == '0'), "it has ambient capabilities");
    ensure!(field("NoNewPrivs")? == "1", "it may gain privileges");
    ensure!(field("Seccomp")? == "2", "it may make every system call");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).context("read its mounts")?;
    let root = mounts.lines().find(|row| row.split(' ').nth(4) == Some("/")).context("it has no root")?;
    let options = root.split(' ').nth(5).context("a mount without options")?;
    ensure!(options.split(',').any(|option| option == "ro"), "its root is writable: {root}");
    ensure!(property("shimtap.service", "NRestarts")? == "0", "it had to be restarted");
    Ok(())
}

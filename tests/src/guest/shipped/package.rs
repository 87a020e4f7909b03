//! The package as an administrator handles it: dpkg, and the installed programs by their installed paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::node::{LIMIT, property};
use crate::rig::run::{Finished, run};
use crate::rig::vm::plan::PAYLOAD;

/// Runs dpkg.
pub fn dpkg(words: &[&str]) -> Result<Finished> {
    let mut command = Command::new("dpkg");
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    run(command, LIMIT)
}

/// Installs a package of the payload, over whichever is there.
pub fn install(deb: &str) -> Result<()> {
    let path = Path::new(PAYLOAD).join(deb);
    // It warns of a downgrade, and does it.
    dpkg(&["--install", &path.to_string_lossy()])?.ok().with_context(|| format!("install {deb}")).map(drop)
}

/// Takes everything away, and demands that nothing is left.
pub fn purge() -> Result<()> {
    dpkg(&["--purge", "shimtap"])?.ok().context("purge it")?;
    let places = [
        "/usr/bin",
        "/usr/lib/systemd/system",
        "/usr/lib/tmpfiles.d",
        "/etc",
        "/var/lib",
        "/var/log",
        "/run",
    ];
    let names = ["shimtap", "containerd-shim-tap-v2", "shimtap.service", "shimtap.conf"];
    let all = places.iter().flat_map(|place| names.iter().map(move |name| Path::new(place).join(name)));
    let left: Vec<PathBuf> = all.filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "a purge left {left:?}");
    ensure!(property("shimtap.service", "LoadState")? == "not-found", "systemd still knows the unit");
    Ok(())
}

/// Takes away what a check that failed has left, whatever that breaks, so that those after it say something of their own.
pub fn sweep() -> Result<()> {
    end_leftovers();
    if !Path::new("/usr/bin/shimtap").exists() {
        return Ok(());
    }
    // Its links, where it can still remove them; what else speaks against a removal is put out of the way.
    let _ = shimtap(&["uninstall", "--yes", "--restart"]);
    let locks = fs::read_dir("/run/shimtap-shim/s").into_iter().flatten().flatten().map(|entry| entry.path());
    let locks = locks.filter(|path| path.extension().is_some_and(|extension| extension == "alive"));
    for path in locks.chain([PathBuf::from("/var/lib/shimtap/install.json")]) {
        let _ = fs::remove_file(path);
    }
    purge()
}

/// Ends containers of a check that failed, with what stands before them, and what watched them: in an emulated machine a busy one
/// leaves nothing to those after it.
fn end_leftovers() {
    let is_left = |dir: &Path| {
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let name = text("comm");
        let ours = ["containerd-shim", "tap-keeper", "tap-worker", "prometheus"];
        ours.contains(&name.trim()) || text("cgroup").contains("cri-containerd-")
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|_| is_left(&entry.path())) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The installed `shimtap`, and not one that lies about.
pub fn shimtap(words: &[&str]) -> Result<Finished> {
    let mut command = Command::new("/usr/bin/shimtap");
    command.args(words);
    run(command, LIMIT)
}

/// Demands that the collector runs now and after the next boot, or neither.
pub fn unit_is(active: bool, enabled: bool) -> Result<()> {
    let (state, file) =
        (property("shimtap.service", "ActiveState")?, property("shimtap.service", "UnitFileState")?);
    ensure!((state == "active") == active, "the unit is {state}");
    ensure!((file == "enabled") == enabled, "the unit is {file}");
    Ok(())
}

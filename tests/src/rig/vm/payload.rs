//! The second disk: our programs, the tests, the pinned containerd, the containers' image, packages where they are asked for,
//! and the plan.
//!
//! Made anew for each run, in a few seconds. What is only big because of its debug information is stripped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::base::administrator;
use super::plan::{DEB, IMAGE, NEXT_DEB, PLAN, Plan, SHIPPED};
use crate::rig::packages::{self, Release};
use crate::rig::run::{Finished, run};
use crate::rig::{Version, image, tools};

const LIMIT: Duration = Duration::from_secs(120);

/// Room for the file system's own tables.
const SPARE_BYTES: u64 = 16 << 20;

/// Builds the disk with `plan` and the programs of `tests` (name, path) in `dir`, and returns its path. What was in
/// `dir` before is removed.
pub fn build(dir: &Path, plan: &Plan, tests: &[(String, PathBuf)]) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    let root = dir.join("payload");
    for folder in ["bin", "tests", "rig/bin", "packaging"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    for program in [tools::wrapper()?, tools::next()?, tools::collector()?, tools::guest()?] {
        strip(&program, &root.join("bin"))?;
    }
    for (name, program) in tests {
        strip_as(program, &root.join("tests").join(name))?;
    }
    if tests.iter().any(|(name, _)| name.starts_with("standin")) {
        strip(&tools::standin()?, &root.join("bin"))?;
    }
    let ships = plan.suites.iter().any(|suite| suite.name == SHIPPED);
    // There a file of its configuration is changed, which has to be put back: whoever ships is tried on it whatever else is not.
    let pinned = if ships { Some(Version::Pinned.tools()?) } else { super::pinned() };
    if let Some(pinned) = pinned {
        for program in [&pinned.containerd, &pinned.ctr, &pinned.runc_shim] {
            copy(program, &root.join("rig/bin"))?;
        }
    }
    let image = root.join(IMAGE);
    fs::copy(image::archive()?, &image).context("copy the containers' image")?;
    copy(&packaging("systemd/shimtap.service"), &root.join("packaging"))?;
    if ships {
        ship(&root)?;
    }
    let text = serde_json::to_vec_pretty(plan).context("write the plan")?;
    fs::write(root.join(PLAN), text).context("write the plan")?;

    let disk = dir.join("payload.img");
    let bytes = size_of(&root)? * 11 / 10 + SPARE_BYTES;
    let mut mke2fs = administrator("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&root).arg(&disk);
    mke2fs.arg(format!("{}k", bytes >> 10));
    run(mke2fs, LIMIT).and_then(Finished::ok).context("mke2fs (package e2fsprogs)")?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    Ok(disk)
}

/// Packages of this build and of the next release, and a Prometheus, unless it is left out by its variable.
fn ship(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("packages")).context("create packages")?;
    packages::deb(&root.join(DEB), Release::This)?;
    packages::deb(&root.join(NEXT_DEB), Release::Next)?;
    if std::env::var_os("SHIMTAP_SKIP_PROMTOOL").is_some() {
        return Ok(());
    }
    let prometheus = tools::in_path("prometheus");
    let prometheus =
        prometheus.context("prometheus is not installed; SHIMTAP_SKIP_PROMTOOL=1 does without it")?;
    strip(&prometheus, &root.join("bin"))
}

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(file.file_name().context("a file without a name")?);
    fs::copy(file, &to).with_context(|| format!("copy {}", file.display())).map(drop)
}

fn strip(program: &Path, folder: &Path) -> Result<()> {
    strip_as(program, &folder.join(program.file_name().context("a program without a name")?))
}

fn strip_as(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(program);
    run(strip, LIMIT).and_then(Finished::ok).context("strip (package binutils)")?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).context("make it executable")
}

/// Bytes of all files below `dir`.
fn size_of(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let about = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
        sum += if about.is_dir() { size_of(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

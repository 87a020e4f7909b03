//! Packages of this test's own build, made by the same packagers as `./dev package`, which builds for a release.
//!
//! Nothing is installed here. The next release's is the same with the next collector and wrapper in it, for upgrades.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::run::run;
use crate::rig::tools;

const LIMIT: Duration = Duration::from_secs(120);

/// The version of what is built here.
pub const THIS: &str = env!("CARGO_PKG_VERSION");
/// The version of the next collector and wrapper (`tests/next`), and of a package that holds them.
pub const NEXT: &str = "0.2.0";

/// What must be in a package of any format, and its mode.
pub const HELD: [(&str, &str); 10] = [
    ("/usr/bin/shimtap", "-rwxr-xr-x"),
    ("/usr/bin/containerd-shim-tap-v2", "-rwxr-xr-x"),
    ("/usr/lib/systemd/system/shimtap.service", "-rw-r--r--"),
    ("/usr/lib/tmpfiles.d/shimtap.conf", "-rw-r--r--"),
    ("/usr/share/man/man1/shimtap.1", "-rw-r--r--"),
    ("/usr/share/man/man1/shimtap-top.1", "-rw-r--r--"),
    ("/usr/share/bash-completion/completions/shimtap", "-rw-r--r--"),
    ("/usr/share/fish/vendor_completions.d/shimtap.fish", "-rw-r--r--"),
    ("/usr/share/shimtap/containerd/2.x-runtime-path.toml", "-rw-r--r--"),
    ("/usr/share/shimtap/kubernetes/runtimeclass.yaml", "-rw-r--r--"),
];

/// Which release a package holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// This build.
    This,
    /// The next collector and the next wrapper (`tests/next`).
    Next,
}

/// A .deb at `deb`; what its making needs is put beside it and removed.
///
/// # Errors
/// cargo-deb is not there, or fails.
pub fn deb(deb: &Path, release: Release) -> Result<()> {
    let dir = deb.with_extension("work");
    let mut command = packager("cargo-deb", &dir, release)?;
    command.args(["deb", "--no-build", "--fast", "-p", "shimtap", "--output"]).arg(deb);
    if release == Release::Next {
        command.args(["--deb-version", &format!("{NEXT}-1")]);
    }
    run(command, LIMIT)?.ok().context("cargo-deb")?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// A .rpm at `rpm`, likewise.
///
/// # Errors
/// cargo-generate-rpm is not there, or fails.
pub fn rpm(rpm: &Path, release: Release) -> Result<()> {
    let dir = rpm.with_extension("work");
    let mut command = packager("cargo-generate-rpm", &dir, release)?;
    // Nobody waits for it to be small.
    command.args(["generate-rpm", "-p", "collector", "--payload-compress", "none", "--output"]).arg(rpm);
    command.arg("--target-dir").arg(dir.join("target"));
    if release == Release::Next {
        command.args(["--set-metadata", &format!("version = \"{NEXT}\"")]);
    }
    run(command, LIMIT)?.ok().context("cargo-generate-rpm")?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// A packager, to be run with what lies below `dir/target`: it takes this build for one for a release.
///
/// # Errors
/// A program of this build is missing.
fn packager(program: &str, dir: &Path, release: Release) -> Result<Command> {
    let built = dir.join("target/release");
    fs::create_dir_all(&built).with_context(|| format!("create {}", built.display()))?;
    let (collector, wrapper) = match release {
        Release::This => (tools::collector()?, tools::wrapper()?),
        Release::Next => (tools::next_collector()?, tools::next()?),
    };
    for (file, name) in [(collector, "shimtap"), (wrapper, "containerd-shim-tap-v2")] {
        // As small as a release's: packagers digest and compress it.
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(built.join(name)).arg(&file);
        run(strip, LIMIT)?.ok().context("strip (package binutils)")?;
    }
    pages(&built)?;
    let mut command = Command::new(found(program));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.env("CARGO_TARGET_DIR", dir.join("target"));
    Ok(command)
}

/// Manual pages and completions, as `./dev package` has them made.
fn pages(built: &Path) -> Result<()> {
    let shimtap = |words: &[&str]| -> Result<String> {
        let mut command = Command::new(tools::collector()?);
        command.args(words);
        Ok(run(command, LIMIT)?.ok()?.text())
    };
    shimtap(&["man", built.join("man").to_str().context("a path of text")?])?;
    let completions = built.join("completions");
    fs::create_dir_all(&completions).context("create a folder")?;
    for (shell, file) in [("bash", "shimtap.bash"), ("zsh", "_shimtap"), ("fish", "shimtap.fish")] {
        fs::write(completions.join(file), shimtap(&["completions", shell])?).context("write completions")?;
    }
    Ok(())
}

/// Whether .debs can be made here, and are to be: `./dev test` builds what that takes, or says SHIMTAP_SKIP_PACKAGES.
#[must_use]
pub fn can_be_made() -> bool {
    let is_there = found("cargo-deb").is_absolute() || tools::in_path("cargo-deb").is_some();
    is_there && std::env::var_os("SHIMTAP_SKIP_PACKAGES").is_none()
}

/// The one that `./dev` has built, else one in PATH.
fn found(program: &str) -> PathBuf {
    let ours = tools::cache_dir().join("cargo/bin").join(program);
    if ours.is_file() { std::path::absolute(&ours).unwrap_or(ours) } else { PathBuf::from(program) }
}

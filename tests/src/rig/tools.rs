//! Which programs the rig runs: two containerds, and our own binaries of the same build.
//!
//! A missing program is an error that says how to get it, never a silent skip: what is not to be run is
//! left out by `./dev`, which says so in its last line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::rig::run::run;

/// What a program may take to say what it is: seconds on an emulated machine of a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// The containerds that every scenario runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The distribution's package: 1.6 on Debian 12.
    Packaged,
    /// The one that `./dev` builds from its pinned source: 2.3.4.
    Pinned,
    /// 1.7, which `./dev` builds, with the distribution's runc shim and `ctr`: the line whose main file is edited to install
    /// the wrapper. Only where that is asked.
    OneSeven,
}

/// A release of containerd, comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32, pub u32);

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The programs of one containerd.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The daemon.
    pub containerd: PathBuf,
    /// Its command line client.
    pub ctr: PathBuf,
    /// Its runc shim.
    pub runc_shim: PathBuf,
    /// What the daemon says it is.
    pub release: Release,
}

impl Version {
    /// Finds its programs.
    pub fn tools(self) -> Result<Tools> {
        let (containerd, ctr, runc_shim) = match self {
            Version::Packaged => {
                let containerd = in_path("containerd");
                let ctr = in_path("ctr");
                (containerd, ctr, in_path("containerd-shim-runc-v2"))
            }
            Version::Pinned => {
                let pinned = |name| {
                    let path = pinned_dir().join(name);
                    path.is_file().then_some(path)
                };
                (pinned("containerd"), pinned("ctr"), pinned("containerd-shim-runc-v2"))
            }
            Version::OneSeven => {
                (Some(built("containerd-1.7")?), in_path("ctr"), in_path("containerd-shim-runc-v2"))
            }
        };
        let (Some(containerd), Some(ctr), Some(runc_shim)) = (containerd, ctr, runc_shim) else {
            bail!("{}", self.how_to_get());
        };
        let release = release_of(&containerd)?;
        Ok(Tools { containerd, ctr, runc_shim, release })
    }

    fn how_to_get(self) -> &'static str {
        match self {
            Version::Packaged | Version::OneSeven => {
                "containerd is not installed: `sudo ./dev test` does it, or install the package"
            }
            Version::Pinned => {
                "the pinned containerd is not built: `sudo ./dev test` builds it where go is there"
            }
        }
    }
}

impl Tools {
    /// Whether CRI hands `runtime_path` on to the shim (1.6.0 to 1.6.20 and 1.7.0 do not).
    pub fn honours_runtime_path(&self) -> bool {
        self.release >= Release(1, 6, 21) && self.release != Release(1, 7, 0)
    }

    /// Whether its client closes its readers before it has read to the end, and so loses the tail of what
    /// a container wrote, with or without us (fixed in 1.6.22 and 1.7.3).
    pub fn loses_tails(&self) -> bool {
        self.release < Release(1, 6, 22)
            || (self.release >= Release(1, 7, 0) && self.release < Release(1, 7, 3))
    }

    /// Whether the configuration is that of containerd 2.
    pub fn is_v2(&self) -> bool {
        self.release.0 >= 2
    }
}

/// The OpenTelemetry Collector that `./dev` builds.
pub fn otelcol() -> Result<PathBuf> {
    built("otelcol")
}

/// The OpenTelemetry Collector that reads files, a peer in benches; none where `./dev peers` did not build it.
pub fn otelcol_filelog() -> Option<PathBuf> {
    built("otelcol-filelog").ok()
}

/// VictoriaLogs, which `./dev` builds.
pub fn victoria_logs() -> Result<PathBuf> {
    built("victoria-logs")
}

/// crictl, which `./dev` builds.
pub fn crictl() -> Result<PathBuf> {
    built("crictl")
}

/// nerdctl, which `./dev` builds.
pub fn nerdctl() -> Result<PathBuf> {
    built("nerdctl")
}

/// gVisor's shim and its runtime, which `./dev` builds.
pub fn runsc() -> Result<[PathBuf; 2]> {
    Ok([built("containerd-shim-runsc-v1")?, built("runsc")?])
}

/// The Rust runc shim, which `./dev` builds.
pub fn rust_runc_shim() -> Result<PathBuf> {
    let path = cache_dir().join("cargo/bin/containerd-shim-runc-v2-rs");
    if !path.is_file() {
        bail!("{} is not built: `sudo ./dev test` builds it", path.display());
    }
    Ok(path)
}

/// cAdvisor, a peer in benches; none where `./dev peers` did not build it.
pub fn cadvisor() -> Option<PathBuf> {
    built("cadvisor").ok()
}

/// The distribution's dockerd, which `./dev` unpacks and does not install.
pub fn dockerd() -> Result<PathBuf> {
    unpacked("sbin/dockerd")
}

/// Its client.
pub fn docker() -> Result<PathBuf> {
    unpacked("bin/docker")
}

fn unpacked(name: &str) -> Result<PathBuf> {
    let path = cache_dir().join("docker/usr").join(name);
    if !path.is_file() {
        bail!("{} is not there: `sudo ./dev test` fetches it where there is apt-get", path.display());
    }
    Ok(path)
}

/// A foreign program that `./dev` builds from its pinned source.
fn built(name: &str) -> Result<PathBuf> {
    let path = cache_dir().join("bin").join(name);
    if !path.is_file() {
        bail!("{} is not built: `sudo ./dev test` builds it where go is there", path.display());
    }
    Ok(path)
}

/// The wrapper that was built together with this test.
pub fn wrapper() -> Result<PathBuf> {
    ours("containerd-shim-tap-v2")
}

/// The wrapper as its next release: another version, another layout of its block.
pub fn next() -> Result<PathBuf> {
    ours("containerd-shim-tap-next")
}

/// The collector that was built together with this test.
pub fn collector() -> Result<PathBuf> {
    ours("shimtap")
}

/// The collector as its next release: another version, and a link that says what this release does not know.
pub fn next_collector() -> Result<PathBuf> {
    ours("shimtap-next")
}

/// The line generator that was built together with this test.
pub fn speaker() -> Result<PathBuf> {
    ours("speaker")
}

/// What runs inside the node VM, built together with this test.
pub fn guest() -> Result<PathBuf> {
    ours("guest")
}

/// The shim that answers in tests as others do.
pub fn standin() -> Result<PathBuf> {
    ours("containerd-shim-standin-v2")
}

/// Where `./dev` keeps what it builds and what the rig caches.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("SHIMTAP_RIG_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/rig"), PathBuf::from)
}

/// Removes what lies in a folder of the cache since more than a day: each build of the speaker makes a new
/// image, and nobody asks for the old ones again. What cannot be removed stays.
pub fn forget_old(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let age =
            entry.metadata().and_then(|about| about.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > Duration::from_secs(24 * 3600)) {
            let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn pinned_dir() -> PathBuf {
    std::env::var_os("SHIMTAP_RIG_CONTAINERD").map_or_else(|| cache_dir().join("bin"), PathBuf::from)
}

/// A program of this workspace, from the folder that this test was built into, or from SHIMTAP_BIN_DIR.
fn ours(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("SHIMTAP_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().context("find the test's own path")?;
            let dir = exe.parent().context("the test's path has no folder")?;
            let dir = if dir.ends_with("deps") { dir.parent().context("deps has no parent")? } else { dir };
            dir.to_owned()
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{} is not built: `cargo build --workspace` does it", path.display());
    }
    Ok(path)
}

/// The first executable of that name in PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn release_of(containerd: &Path) -> Result<Release> {
    let mut command = Command::new(containerd);
    command.arg("--version");
    let said = run(command, LIMIT)?.ok()?.text();
    parse_release(&said).with_context(|| format!("{} says {said:?}", containerd.display()))
}

/// The first word that looks like a release: `1.6.20~ds1`, `v2.3.4`, `2.3.4+unknown`.
fn parse_release(said: &str) -> Option<Release> {
    said.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let mut numbers = word.get(..end)?.split('.').map(str::parse::<u32>);
        let (major, minor, patch) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Release(major, minor, patch))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_debian_and_upstream_parse() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3";
        assert_eq!(parse_release(debian), Some(Release(1, 6, 20)));
        let upstream = "containerd github.com/containerd/containerd/v2 v2.3.4 abc";
        assert_eq!(parse_release(upstream), Some(Release(2, 3, 4)));
        let go_installed = "containerd github.com/containerd/containerd/v2 2.3.4+unknown ";
        assert_eq!(parse_release(go_installed), Some(Release(2, 3, 4)));
        assert_eq!(parse_release("containerd"), None);
    }

    #[test]
    fn runtime_path_is_known_to_be_ignored_by_old_releases() {
        let honours = |release| {
            let none = PathBuf::new();
            Tools { containerd: none.clone(), ctr: none.clone(), runc_shim: none, release }
                .honours_runtime_path()
        };
        assert!(!honours(Release(1, 6, 20)));
        assert!(honours(Release(1, 6, 21)));
        assert!(!honours(Release(1, 7, 0)));
        assert!(honours(Release(2, 3, 4)));
    }
}

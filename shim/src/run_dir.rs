//! Where the wrapper's own files stand, and nobody else's: names are made here and checked here.
//!
//! ```text
//! /run/shimtap-shim/            0700, never named in a systemd unit
//!   s/<key>                     our socket for one inner shim
//!   s/<key>.alive               held (flock) by keeper and worker together: free = both are gone
//!   s/<key>.json                who it is, for `delete` and for people
//!   s/<key>.lock                serialises `start`s, and the repair of `delete`
//!   c/<namespace>/<id>/         FIFOs of one task, and `shim` -> ../../../s/<key>
//! ```
//!
//! The key is device, inode and change time of the inner shim's socket: a restarted inner shim, or another one on
//! the same path, never meets the wrapper of its predecessor.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Default place.
pub const DEFAULT: &str = "/run/shimtap-shim";
/// Environment variable that puts it elsewhere (tests, several containerds on one machine).
pub const ENV: &str = "SHIMTAP_RUN_DIR";

/// The wrapper's directory.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

/// Why a name cannot become a path of ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{what} {name:?} is not usable as a file name (containerd would not have made it)")]
pub struct BadName {
    what: &'static str,
    name: String,
}

// === impl RunDir ===

impl RunDir {
    /// From the environment, else [`DEFAULT`].
    pub fn from_env() -> Self {
        Self(env::var_os(ENV).filter(|v| !v.is_empty()).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from))
    }

    /// A given place.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes `s/` and `c/`, mode 0700.
    pub fn make(&self) -> io::Result<()> {
        for dir in [self.0.join("s"), self.0.join("c")] {
            private_dir(&dir)?;
        }
        Ok(())
    }

    /// The name under which the wrapper of the inner socket at `path` stands in `s/`.
    pub fn key_of(path: &Path) -> io::Result<(String, fs::Metadata)> {
        let meta = fs::symlink_metadata(path)?;
        let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        Ok((format!("{:x}-{:x}-{changed:x}", meta.dev(), meta.ino()), meta))
    }

    /// Whether the socket at `path` is still the one that has this key. Device and inode alone do not say so: some
    /// file systems give a freed inode's number to the next file, which under this path is a later shim's socket.
    pub fn is_still(path: &Path, key: &str) -> bool {
        Self::key_of(path).is_ok_and(|(now, _)| now == key)
    }

    /// Our socket for that key.
    pub fn socket(&self, key: &str) -> PathBuf {
        self.0.join("s").join(key)
    }

    /// The lock that keeper and worker hold.
    pub fn alive(&self, key: &str) -> PathBuf {
        self.0.join("s").join(format!("{key}.alive"))
    }

    /// The description of a wrapper.
    pub fn description(&self, key: &str) -> PathBuf {
        self.0.join("s").join(format!("{key}.json"))
    }

    /// The lock that serialises what makes and unmakes a wrapper.
    pub fn lock(&self, key: &str) -> PathBuf {
        self.0.join("s").join(format!("{key}.lock"))
    }

    /// The directory of a task. Fails on names that containerd itself would refuse: a `/` or `..` must never
    /// lead out of our directory.
    pub fn task(&self, namespace: &str, id: &str) -> Result<PathBuf, BadName> {
        Ok(self.0.join("c").join(file_name("namespace", namespace)?).join(file_name("container id", id)?))
    }

    /// The directory of all tasks of a namespace.
    pub fn tasks(&self, namespace: &str) -> Result<PathBuf, BadName> {
        Ok(self.0.join("c").join(file_name("namespace", namespace)?))
    }
}

/// mkdir -p with mode 0700; an existing directory is fine.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn file_name<'a>(what: &'static str, name: &'a str) -> Result<&'a str, BadName> {
    // containerd's own rule (identifiers.Validate): alphanumerics joined by single . - _, at most 76 bytes. Ours is
    // a little wider and still safe.
    let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !fine {
        return Err(BadName { what, name: name.to_owned() });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out() {
        let dir = RunDir::at("/run/x");
        for bad in ["", ".", "..", "../a", "a/b", "/a", ".hidden", "a\0b", "a b"] {
            assert!(dir.task("default", bad).is_err(), "{bad:?} as id");
            assert!(dir.task(bad, "id").is_err(), "{bad:?} as namespace");
        }
        assert!(dir.task("k8s.io", &"a".repeat(129)).is_err());
        assert_eq!(dir.task("k8s.io", "a-b_c.d").unwrap(), Path::new("/run/x/c/k8s.io/a-b_c.d"));
    }

    #[test]
    fn a_new_socket_has_a_new_key() {
        let dir = env::temp_dir().join(format!("shimtap-key-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("sock");
        let first = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let key = RunDir::key_of(&path).unwrap().0;
        assert_eq!(RunDir::key_of(&path).unwrap().0, key);
        drop(first);
        fs::remove_file(&path).unwrap();
        let _second = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_ne!(RunDir::key_of(&path).unwrap().0, key);
        fs::remove_dir_all(&dir).unwrap();
    }
}

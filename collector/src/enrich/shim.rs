//! Which shim is inside a wrapper, as far as that changes what its numbers mean.
//!
//! Decided once, when the task is announced, so before its first number is shown. Only ever by what is there to see: a
//! shim that shows nothing of Kata is taken for none.

use std::path::{Component, Path};

use crate::closed::closed;

closed! {
    /// A kind of shim.
    pub enum ShimKind {
        /// Its containers are processes of this host in cgroups of their own: runc, crun.
        Host => "host",
        /// The one in Rust of `containerd-runc-shim`; its containers are as runc's are.
        RuncRust => "runc_rust",
        /// gVisor's: a kernel in user space, with what runs in it in one cgroup of this host.
        Gvisor => "gvisor",
        /// Kata's in Go.
        KataGo => "kata_go",
        /// Kata's in Rust (runtime-rs).
        KataRust => "kata_rust",
        /// Kata's, and nothing says which.
        Kata => "kata",
        /// Any other.
        Other => "other",
    }
}

/// Below these each of Kata's shims keeps a folder per sandbox while it runs: Go's `fs` persistence and the Rust one's
/// `state.json` (seen).
const FOLDERS: [(&str, ShimKind); 2] = [("run/vc/sbs", ShimKind::KataGo), ("run/kata", ShimKind::KataRust)];

// === impl ShimKind ===

impl ShimKind {
    /// By the binary's path, and by what the sandbox has below `root` (the host's `/`).
    #[must_use]
    pub fn of(binary: &str, sandbox: &str, root: &Path) -> Self {
        let named = Self::named(binary);
        if !matches!(named, Self::Kata | Self::Other) {
            return named;
        }
        // By such a name it may be either of Kata's.
        let folder = FOLDERS.iter().find(|(below, _)| has_folder(&root.join(below), sandbox));
        folder.map_or(named, |(_, kind)| *kind)
    }

    /// By the binary's path alone.
    #[must_use]
    pub fn named(binary: &str) -> Self {
        let name = Path::new(binary).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_host_visible(name) {
            if is_in_rust(name) { Self::RuncRust } else { Self::Host }
        } else if name.starts_with("containerd-shim-runsc") {
            Self::Gvisor
        } else if !name.contains("kata") {
            Self::Other
        } else if binary.contains("/runtime-rs/") {
            // kata-deploy puts the Rust shim into /opt/kata/runtime-rs/bin, and the Go one into /opt/kata/bin.
            Self::KataRust
        } else {
            Self::Kata
        }
    }

    /// True where containers are processes of this host in cgroups of their own.
    #[must_use]
    pub const fn is_host(self) -> bool {
        matches!(self, Self::Host | Self::RuncRust)
    }

    /// True where a pod is told from others by its shim alone: no VM, and not containerd's own.
    #[must_use]
    pub const fn is_another(self) -> bool {
        matches!(self, Self::RuncRust | Self::Gvisor)
    }

    /// True for each of Kata's.
    #[must_use]
    pub const fn is_kata(self) -> bool {
        matches!(self, Self::KataGo | Self::KataRust | Self::Kata)
    }
}

/// True for shims whose containers are processes of this host in cgroups of their own.
pub(super) fn is_host_visible(name: &str) -> bool {
    name.contains("runc") || name.contains("crun")
}

/// `containerd-shim-runc-v2-rs` is the name that its authors give it, `containerd-shim-runc-rs-v2` what containerd makes of
/// `io.containerd.runc-rs.v2`.
fn is_in_rust(name: &str) -> bool {
    name.starts_with("containerd-shim-runc-") && (name.ends_with("-rs") || name.contains("-rs-"))
}

/// The id comes from a client: it must be a folder's name and not a way elsewhere.
fn has_folder(below: &Path, sandbox: &str) -> bool {
    let mut parts = Path::new(sandbox).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain && below.join(sandbox).is_dir()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_shim_is_known_by_its_path_or_by_what_it_leaves() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("run/vc/sbs/go")).expect("a folder");
        fs::create_dir_all(root.path().join("run/kata/rust")).expect("a folder");
        for (binary, sandbox, kind) in [
            ("/usr/bin/containerd-shim-runc-v2", "rust", ShimKind::Host),
            ("/usr/local/bin/containerd-shim-runc-v2-rs", "x", ShimKind::RuncRust),
            ("/usr/local/bin/containerd-shim-runc-rs-v1", "x", ShimKind::RuncRust),
            ("/usr/local/bin/containerd-shim-crun-rs", "x", ShimKind::Host),
            ("/opt/kata/runtime-rs/bin/containerd-shim-kata-v2", "x", ShimKind::KataRust),
            ("/opt/kata/bin/containerd-shim-kata-v2", "x", ShimKind::Kata),
            ("/opt/kata/bin/containerd-shim-kata-v2", "go", ShimKind::KataGo),
            ("/opt/kata/bin/containerd-shim-kata-qemu-v2", "rust", ShimKind::KataRust),
            ("/usr/local/bin/containerd-shim-kata-cc-v2", "x", ShimKind::Kata),
            ("/usr/local/bin/by-another-name", "go", ShimKind::KataGo),
            ("/usr/local/bin/containerd-shim-runsc-v1", "x", ShimKind::Gvisor),
            ("/usr/local/bin/runsc", "x", ShimKind::Other),
            ("/usr/local/bin/by-another-name", "../kata/rust", ShimKind::Other),
            ("/usr/local/bin/by-another-name", "", ShimKind::Other),
            ("", "x", ShimKind::Other),
        ] {
            assert_eq!(ShimKind::of(binary, sandbox, root.path()), kind, "{binary} {sandbox}");
        }
    }
}

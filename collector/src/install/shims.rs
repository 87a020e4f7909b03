//! Which shim this node's containerd would start for a handler, and whether that is a wrapper. Asked by `install` before it plans
//! and by `doctor` when it looks; the rules of releases stand in [`super::effective`].
//!
//! Only looks: nothing is run and nothing is changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use toml::Value;

use super::{Node, effective::Handler};
use crate::wrapper;

/// By which pods may say what is collected of them.
const ANNOTATIONS: &str = "shimtap.io/*";

/// What a pilot's handler is called behind the name of the one beside it.
pub const PILOT: &str = "-tap";

// === impl Node ===

impl Node {
    /// The shim's path where a handler names it and containerd looks at that: neither a release that does nothing with it does,
    /// nor one whose sandboxes are made by the shim itself.
    pub fn runtime_path<'a>(&self, handler: &'a Handler) -> Option<&'a PathBuf> {
        handler
            .runtime_path
            .as_ref()
            .filter(|_| self.release.honours_runtime_path() && !handler.by_sandbox_api)
    }

    /// The link that comes before a shim of this name.
    pub fn opt_link(&self, name: &str) -> PathBuf {
        self.effective.opt.join("bin").join(name)
    }

    /// The file that containerd would start for a handler; none where it would find none.
    pub fn first_shim(&self, handler: &Handler) -> Option<PathBuf> {
        if let Some(path) = self.runtime_path(handler) {
            return path.is_file().then(|| path.clone());
        }
        let Some(name) = handler.shim_name() else {
            return Some(PathBuf::from(&handler.runtime_type)).filter(|path| path.is_file());
        };
        let link = self.opt_link(&name);
        if link.is_file() { Some(link) } else { self.in_its_path(&name, |_| true) }
    }

    /// The shim behind whatever is in front of it: the file that containerd would start if no wrapper were there.
    pub fn real_shim(&self, handler: &Handler) -> Option<PathBuf> {
        if let Some(path) = self.runtime_path(handler) {
            return path.is_file().then(|| path.clone());
        }
        match handler.shim_name() {
            None => Some(PathBuf::from(&handler.runtime_type)),
            Some(name) => self.in_its_path(&name, |file| !wrapper::is_one(file)),
        }
    }

    /// Whether a handler's new pods are wrapped.
    pub fn wraps(&self, handler: &Handler) -> bool {
        self.first_shim(handler).is_some_and(|file| wrapper::is_one(&file))
    }

    /// The handler that a pilot has made beside this one.
    pub fn pilot(&self, handler: &Handler) -> Option<&Handler> {
        self.effective.handlers.get(&pilot_of(&handler.name))
    }

    /// A file that `counts`, where containerd would find it: its PATH, then beside itself.
    fn in_its_path(&self, name: &str, counts: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let beside = fs::canonicalize(self.file()).ok().and_then(|file| Some(file.parent()?.to_owned()));
        let places = env::split_paths(&self.path).filter(|dir| dir.is_absolute()).chain(beside);
        places.map(|dir| dir.join(name)).find(|file| file.is_file() && counts(file))
    }
}

/// What the pilot of a handler is called.
pub fn pilot_of(handler: &str) -> String {
    format!("{handler}{PILOT}")
}

/// The table of a handler beside another: the same, and pods may say what is collected of them.
pub fn pilot_table(of: &Handler) -> toml::Table {
    let mut table = of.table.clone();
    let annotations = table.entry("pod_annotations").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(all) = annotations
        && !all.iter().any(|one| one.as_str() == Some(ANNOTATIONS))
    {
        all.push(ANNOTATIONS.into());
    }
    table
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::install::effective::Release;

    /// A node with a shim in its PATH, a wrapper elsewhere, and handlers of every kind.
    fn node(release: Release, dir: &Path) -> Node {
        let at = dir.display();
        let runtimes = format!(
            "plain = {{ runtime_type = 'io.containerd.runc.v2' }}\n\
             path = {{ runtime_type = 'io.containerd.runc.v2', runtime_path = '{at}/ours/containerd-shim-tap-v2' }}\n\
             sandbox = {{ runtime_type = 'io.containerd.runc.v2', sandboxer = 'shim', \
                runtime_path = '{at}/ours/containerd-shim-tap-v2' }}\n\
             named = {{ runtime_type = 'io.containerd.tap-runc.v2' }}\n\
             plain-tap = {{ runtime_type = 'io.containerd.runc.v2', runtime_path = '{at}/ours/containerd-shim-tap-v2' }}\n"
        );
        Node::furnished(release, dir, &runtimes)
    }

    fn wrapped(node: &Node) -> Vec<&str> {
        node.effective.handlers.values().filter(|one| node.wraps(one)).map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn a_handler_is_wrapped_where_the_first_file_is_a_wrapper() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = node(Release(2, 1, 0), dir.path());
        assert_eq!(wrapped(&node), ["path", "plain-tap"]);
        // A hook by name: the wrapper's own name in PATH, and a copy at any other place.
        symlink(
            dir.path().join("ours/containerd-shim-tap-v2"),
            dir.path().join("bin/containerd-shim-tap-runc-v2"),
        )
        .expect("a link");
        assert_eq!(wrapped(&node), ["named", "path", "plain-tap"]);
        // The link comes before PATH for all that runtime_path does not lead elsewhere.
        symlink(
            dir.path().join("ours/containerd-shim-tap-v2"),
            dir.path().join("opt/bin/containerd-shim-runc-v2"),
        )
        .expect("a link");
        assert_eq!(wrapped(&node), ["named", "path", "plain", "plain-tap", "sandbox"]);
        let plain = &node.effective.handlers["plain"];
        assert_eq!(node.real_shim(plain), Some(dir.path().join("bin/containerd-shim-runc-v2")));
        assert!(node.pilot(plain).is_some_and(|pilot| pilot.name == "plain-tap"));
    }

    #[test]
    fn runtime_path_counts_only_where_containerd_looks_at_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = node(Release(1, 6, 20), dir.path());
        assert!(wrapped(&node).is_empty(), "{:?}", wrapped(&node));
        let handler = &node.effective.handlers["path"];
        assert_eq!(node.real_shim(handler), Some(dir.path().join("bin/containerd-shim-runc-v2")));
    }
}

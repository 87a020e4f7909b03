//! Findings about containerd's handlers: which start the wrapper, which do not, and which only seem to.
//!
//! A file counts as the wrapper by its name, through all links: a package's, a copy, and the next release alike.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
};
use crate::install::{Handler, Node};

/// What every release of the wrapper is called.
const WRAPPER: &str = "containerd-shim-tap-";

/// What is to be said of them.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let Ok(node) = &evidence.containerd else { return Vec::new() };
    let installed: Vec<&Handler> =
        node.effective.handlers.values().filter(|handler| first_shim(node, handler).is_some()).collect();
    let named = |which: &dyn Fn(&&&Handler) -> bool| -> Vec<String> {
        installed.iter().filter(which).map(|handler| handler.name.clone()).collect()
    };
    let mut found = Vec::new();
    let ignored = named(&|handler| is_ignored(node, handler));
    if !ignored.is_empty() {
        let what = format!("containerd {} reads runtime_path and does nothing with it", node.release);
        let remedy = "shimtap install --hook opt, which works on this release";
        found.push(
            Finding::new(Id::RuntimePathIgnored, Severity::Fault, Whose::Containerd, what, remedy)
                .about(ignored),
        );
    }
    let plain = named(&|handler| {
        !is_wrapped(node, handler) && !is_ignored(node, handler) && !has_pilot(node, handler)
    });
    if !plain.is_empty() {
        let what = "handlers start their shim directly: their new pods are not seen";
        let remedy = "shimtap install (--dry-run shows what it would do); where that is meant, nothing";
        found.push(
            Finding::new(Id::HandlerNotWrapped, Severity::Warning, Whose::Setup, what, remedy).about(plain),
        );
    }
    let twice = named(&|handler| is_wrapped_twice(node, handler));
    if !twice.is_empty() {
        let what = "handlers are wrapped by runtime_path and by a link; the second wrapper stands aside";
        let remedy = "nothing breaks; shimtap uninstall and shimtap install leave one of the two";
        found.push(
            Finding::new(Id::HandlerWrappedTwice, Severity::Note, Whose::Setup, what, remedy).about(twice),
        );
    }
    found
}

/// The file that containerd would start for a handler; none where it would find none.
pub fn first_shim(node: &Node, handler: &Handler) -> Option<PathBuf> {
    if let Some(path) = path_in_effect(node, handler) {
        return path.is_file().then(|| path.clone());
    }
    match handler.shim_name() {
        None => Some(PathBuf::from(&handler.runtime_type)).filter(|path| path.is_file()),
        Some(name) => {
            let link = node.effective.opt.join("bin").join(&name);
            if link.is_file() { Some(link) } else { node.shim(&name, |_| false) }
        }
    }
}

/// Whether a handler's new pods are wrapped.
pub fn is_wrapped(node: &Node, handler: &Handler) -> bool {
    first_shim(node, handler).is_some_and(|file| is_wrapper(&file))
}

fn path_in_effect<'a>(node: &Node, handler: &'a Handler) -> Option<&'a PathBuf> {
    handler.runtime_path.as_ref().filter(|_| node.release.honours_runtime_path() && !handler.by_sandbox_api)
}

/// A handler that would be wrapped if its `runtime_path` were looked at.
fn is_ignored(node: &Node, handler: &Handler) -> bool {
    let meant = handler.runtime_path.as_ref().is_some_and(|path| is_wrapper(path));
    meant && path_in_effect(node, handler).is_none() && !is_wrapped(node, handler)
}

fn is_wrapped_twice(node: &Node, handler: &Handler) -> bool {
    let link = handler.shim_name().map(|name| node.effective.opt.join("bin").join(name));
    path_in_effect(node, handler).is_some_and(|path| is_wrapper(path))
        && link.is_some_and(|link| is_wrapper(&link))
}

/// A handler whose wrapping is left to another beside it.
pub fn has_pilot(node: &Node, handler: &Handler) -> bool {
    let pilot = node.effective.handlers.get(&format!("{}-tap", handler.name));
    pilot.is_some_and(|pilot| is_wrapped(node, pilot))
}

/// Whether a path leads to a wrapper.
pub fn is_wrapper(path: &Path) -> bool {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real.file_name().is_some_and(|name| name.to_string_lossy().starts_with(WRAPPER))
}

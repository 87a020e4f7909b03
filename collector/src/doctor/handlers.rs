//! Findings about containerd's handlers: which start the wrapper, which do not, and which only seem to.
//!
//! Which file containerd would start, and whether that is a wrapper, is `crate::install`'s to say.

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
};
use crate::{
    install::{Handler, Node, Standing},
    wrapper,
};

/// What is to be said of them.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let Ok(node) = &evidence.containerd else { return Vec::new() };
    let installed: Vec<&Handler> =
        node.effective.handlers.values().filter(|handler| node.first_shim(handler).is_some()).collect();
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
    let plain =
        named(&|handler| !node.wraps(handler) && !is_ignored(node, handler) && !has_pilot(node, handler));
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
    found.extend(stale(evidence));
    found
}

/// What an upgrade of Kata has moved or taken away behind our back.
fn stale(evidence: &Evidence) -> Option<Finding> {
    let all = evidence.unlike_today.iter().map(|(handler, standing)| match standing {
        Standing::Orphan => format!("{handler}: nobody but shimtap's file names it any more"),
        _ => handler.clone(),
    });
    let which: Vec<String> = all.collect();
    let what = "since shimtap was installed these handlers name another shim, or are gone: new pods start the shim of before";
    let remedy = "shimtap install --yes takes what they name now";
    (!which.is_empty())
        .then(|| Finding::new(Id::InnerStale, Severity::Warning, Whose::Setup, what, remedy).about(which))
}

/// A handler that would be wrapped if its `runtime_path` were looked at.
fn is_ignored(node: &Node, handler: &Handler) -> bool {
    let meant = handler.runtime_path.as_ref().is_some_and(|path| wrapper::is_one(path));
    meant && node.runtime_path(handler).is_none() && !node.wraps(handler)
}

fn is_wrapped_twice(node: &Node, handler: &Handler) -> bool {
    let link = handler.shim_name().map(|name| node.opt_link(&name));
    node.runtime_path(handler).is_some_and(|path| wrapper::is_one(path))
        && link.is_some_and(|link| wrapper::is_one(&link))
}

/// A handler whose wrapping is left to another beside it.
pub fn has_pilot(node: &Node, handler: &Handler) -> bool {
    node.pilot(handler).is_some_and(|pilot| node.wraps(pilot))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::install::Release;

    /// A node of 2.x with a handler that is wrapped by its path, one that is not, and one whose shim is nowhere.
    fn node(dir: &Path, release: Release) -> Evidence {
        let at = dir.display();
        let runtimes = format!(
            "runc = {{ runtime_type = 'io.containerd.runc.v2', runtime_path = '{at}/ours/containerd-shim-tap-v2' }}\n\
             kata = {{ runtime_type = 'io.containerd.kata.v2' }}\n\
             gone = {{ runtime_type = 'io.containerd.gone.v2' }}\n"
        );
        Evidence { containerd: Ok(Node::furnished(release, dir, &runtimes)), ..Evidence::pretended(dir) }
    }

    fn found(evidence: &Evidence) -> Vec<(Id, Severity, Vec<String>)> {
        examine(evidence).into_iter().map(|one| (one.id, one.severity, one.which)).collect()
    }

    #[test]
    fn each_handler_is_in_the_finding_that_is_its() {
        let dir = tempfile::tempdir().expect("a folder");
        let named = |name: &str| vec![name.to_owned()];
        let plain = (Id::HandlerNotWrapped, Severity::Warning, named("kata"));
        let mut new = node(dir.path(), Release(2, 1, 0));
        assert_eq!(found(&new), std::slice::from_ref(&plain));
        // 1.6.20 does nothing with the path.
        let old = node(dir.path(), Release(1, 6, 20));
        assert_eq!(found(&old), [(Id::RuntimePathIgnored, Severity::Fault, named("runc")), plain.clone()]);
        // Both hooks at once.
        let link = dir.path().join("opt/bin/containerd-shim-runc-v2");
        symlink(dir.path().join("ours/containerd-shim-tap-v2"), &link).expect("a link");
        let twice = (Id::HandlerWrappedTwice, Severity::Note, named("runc"));
        assert_eq!(found(&new), [plain.clone(), twice.clone()]);
        new.unlike_today = vec![("b".to_owned(), Standing::Orphan), ("a".to_owned(), Standing::Stale)];
        let stale = vec!["a".to_owned(), "b: nobody but shimtap's file names it any more".to_owned()];
        assert_eq!(found(&new), [plain, twice, (Id::InnerStale, Severity::Warning, stale)]);
    }
}

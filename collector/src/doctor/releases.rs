//! Findings about versions: containerd's, the collector's, the wrappers'.
//!
//! The table of docs/install.md in code: what was tried, and what is too far from it to be promised.

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
};
use crate::install::Release;

/// The oldest line that was tried.
const OLDEST: Release = Release(1, 6, 0);
/// Behind the newest line that was tried.
const UNTRIED: Release = Release(2, 4, 0);

/// What is to be said of them.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    match &evidence.containerd {
        Err(why) => {
            let remedy = "name the one that is meant with --containerd and --containerd-config";
            found.push(Finding::new(
                Id::ContainerdUnknown,
                Severity::Fault,
                Whose::Containerd,
                why.clone(),
                remedy,
            ));
        }
        Ok(node) => found.extend(untried(node.release)),
    }
    if let Ok(told) = &evidence.collector {
        let ours = env!("CARGO_PKG_VERSION");
        let running = &told.health.version;
        if !running.is_empty() && running != ours {
            let what = format!("the collector that runs is {running}, and this command {ours}");
            let remedy = "systemctl restart shimtap; no container notices";
            found.push(Finding::new(Id::CollectorRelease, Severity::Note, Whose::Setup, what, remedy));
        }
        let others: Vec<String> = told
            .ps
            .wrappers
            .iter()
            .filter(|wrapper| wrapper.version != *running)
            .map(|wrapper| format!("{}/{}: {}", wrapper.namespace, short(&wrapper.pod), wrapper.version))
            .collect();
        if !others.is_empty() {
            let what = format!(
                "wrappers of another release than the collector's {running}; neighbours understand each other"
            );
            let remedy = "shimtap upgrade --all brings them to the installed one; no container notices";
            found.push(
                Finding::new(Id::WrapperRelease, Severity::Note, Whose::Setup, what, remedy).about(others),
            );
        }
    }
    found
}

fn untried(release: Release) -> Option<Finding> {
    let (severity, what) = if release < OLDEST {
        (
            Severity::Fault,
            format!("containerd {release} is older than every release that shimtap was made for"),
        )
    } else if release >= UNTRIED {
        (Severity::Note, format!("containerd {release} is newer than what shimtap was tried on (1.6 to 2.3)"))
    } else {
        return None;
    };
    let remedy = "docs/install.md says which releases were tried";
    Some(Finding::new(Id::ContainerdUntried, severity, Whose::Setup, what, remedy))
}

fn short(id: &str) -> String {
    id.chars().take(13).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_tried_is_named() {
        let severity = |release| untried(release).map(|found| found.severity);
        assert_eq!(severity(Release(1, 5, 18)), Some(Severity::Fault));
        for release in [Release(1, 6, 0), Release(1, 7, 29), Release(2, 3, 99)] {
            assert_eq!(severity(release), None, "{release}");
        }
        assert_eq!(severity(Release(2, 4, 0)), Some(Severity::Note));
    }
}

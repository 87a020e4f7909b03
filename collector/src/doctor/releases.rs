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
    use super::{
        super::evidence::{Told, wrapper},
        *,
    };

    #[test]
    fn only_what_was_not_tried_is_named() {
        let severity = |release| untried(release).map(|found| found.severity);
        assert_eq!(severity(Release(1, 5, 18)), Some(Severity::Fault));
        for release in [Release(1, 6, 0), Release(1, 7, 29), Release(2, 3, 99)] {
            assert_eq!(severity(release), None, "{release}");
        }
        assert_eq!(severity(Release(2, 4, 0)), Some(Severity::Note));
    }

    #[test]
    fn a_collector_and_wrappers_of_other_releases_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = env!("CARGO_PKG_VERSION");
        let found = |collector: &str, wrappers: &[&str]| -> Vec<(Id, Severity, Vec<String>)> {
            let mut told = Told::default();
            told.health.version = collector.to_owned();
            told.ps.wrappers = wrappers.iter().map(|version| wrapper(version)).collect();
            let node = Evidence { collector: Ok(told), ..Evidence::pretended(dir.path()) };
            let found = examine(&node).into_iter().filter(|one| one.id != Id::ContainerdUnknown);
            found.map(|one| (one.id, one.severity, one.which)).collect()
        };
        assert_eq!(found(ours, &[ours]), []);
        let all = found("0.0.9", &["0.0.9"]);
        assert_eq!(all, [(Id::CollectorRelease, Severity::Note, vec![])]);
        let all = found(ours, &[ours, "0.0.9"]);
        assert_eq!(all, [(Id::WrapperRelease, Severity::Note, vec!["k8s.io/p: 0.0.9".to_owned()])]);
        // containerd could not be asked, which is the first that is said.
        let first = examine(&Evidence::pretended(dir.path()));
        assert_eq!(
            first.first().map(|one| (one.id, one.severity)),
            Some((Id::ContainerdUnknown, Severity::Fault))
        );
    }
}

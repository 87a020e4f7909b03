//! Findings about versions: containerd's, the collector's, the wrappers'.
//!
//! The table of docs/compatibility.md in code: what was tried, and what is too far from it to be promised.

use super::{
    Evidence, Finding, Id, Told,
    finding::{Severity, Whose},
};
use crate::{admin::PsWrapper, install::Release};

/// The oldest line of which a release was tried.
const OLDEST: Release = Release(1, 6, 0);
/// Behind the newest line of which one was.
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
        found.extend(wrappers(told, running));
    }
    found
}

/// Wrappers of another release than the collector's, those that are too far from it apart from the others.
fn wrappers(told: &Told, running: &str) -> Vec<Finding> {
    let others = told.ps.wrappers.iter().filter(|wrapper| wrapper.version != running);
    let (far, near): (Vec<_>, Vec<_>) = others.partition(|wrapper| are_far(&wrapper.version, running));
    let finding = |some: Vec<&PsWrapper>, severity, how, remedy| {
        let what = format!("wrappers of another release than the collector's {running}; {how}");
        let name = |one: &&PsWrapper| format!("{}/{}: {}", one.namespace, short(&one.pod), one.version);
        let found = Finding::new(Id::WrapperRelease, severity, Whose::Setup, what, remedy);
        (!some.is_empty()).then(|| found.about(some.iter().map(name)))
    };
    let far = finding(
        far,
        Severity::Warning,
        "which are no neighbours: that they understand each other is not promised",
        "shimtap upgrade goes one release at a time, through those between (docs/upgrade.md); no container notices",
    );
    let near = finding(
        near,
        Severity::Note,
        "neighbours understand each other",
        "shimtap upgrade --all brings them to the installed one; no container notices",
    );
    far.into_iter().chain(near).collect()
}

/// Whether there certainly is a release between the two. What comes before N.0 is not known here.
fn are_far(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (Release::read(a), Release::read(b)) else { return false };
    let (older, newer) = if a < b { (a, b) } else { (b, a) };
    match newer.0 - older.0 {
        0 => newer.1 - older.1 > 1,
        1 => newer.1 > 0,
        _ => true,
    }
}

fn untried(release: Release) -> Option<Finding> {
    let (severity, what) = if release < OLDEST {
        (
            Severity::Fault,
            format!("containerd {release} is older than every release that shimtap was made for"),
        )
    } else if release >= UNTRIED {
        (
            Severity::Note,
            format!(
                "containerd {release} is newer than what shimtap was made for (1.6 to 2.3; tried on 1.6.20, 1.7.29 and 2.3.4)"
            ),
        )
    } else {
        return None;
    };
    let remedy = "docs/compatibility.md says what was tried on which release";
    Some(Finding::new(Id::ContainerdUntried, severity, Whose::Setup, what, remedy))
}

fn short(id: &str) -> String {
    id.chars().take(13).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::evidence::wrapper, *};

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
    fn only_neighbours_are_promised_to_understand_each_other() {
        for (a, b, far) in [
            ("0.1.0", "0.2.0", false),
            ("0.1.0", "0.1.9", false),
            ("0.1.9", "0.3.0", true),
            ("0.9.0", "1.0.0", false),
            ("0.9.0", "1.1.0", true),
            ("0.9.0", "2.0.0", true),
            ("1.0.0-rc.1", "1.1.0", false),
            ("next", "1.1.0", false),
        ] {
            assert_eq!((are_far(a, b), are_far(b, a)), (far, far), "{a} and {b}");
        }
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
        let all = found(ours, &["0.0.9", ours, "99.1.0"]);
        let of = |severity, which: &str| (Id::WrapperRelease, severity, vec![which.to_owned()]);
        assert_eq!(all, [of(Severity::Warning, "k8s.io/p: 99.1.0"), of(Severity::Note, "k8s.io/p: 0.0.9")]);
        // containerd could not be asked, which is the first that is said.
        let first = examine(&Evidence::pretended(dir.path()));
        assert_eq!(
            first.first().map(|one| (one.id, one.severity)),
            Some((Id::ContainerdUnknown, Severity::Fault))
        );
    }
}

//! Findings about what becomes of output once a wrapper has it: the collector, its journal, its sinks.

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
};
use crate::admin::{Health, HealthContainerd, HealthJournal, HealthSink};

/// A sink that is further behind than this is worth a word: one long retry, or a backend that is too slow.
const LAG_SECS: u64 = 60;

/// What is to be said of it.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let told = match &evidence.collector {
        Ok(told) => told,
        Err(why) => {
            let remedy =
                "systemctl start shimtap; systemctl status shimtap and shimtap check say why it does not run";
            return vec![Finding::new(
                Id::CollectorAway,
                Severity::Fault,
                Whose::Collector,
                why.clone(),
                remedy,
            )];
        }
    };
    let mut found = journal(&told.health);
    if told.health.sinks.is_empty() {
        let what = "there is no sink: output is kept in the journal, for shimtap logs, and goes nowhere else";
        let remedy = "give collector.toml a [file] or [otlp] section, where that is not meant";
        found.push(Finding::new(Id::NoSink, Severity::Note, Whose::Setup, what, remedy));
    }
    found.extend(told.health.sinks.iter().flat_map(sink));
    found.extend(told.health.containerd.as_ref().and_then(|told| containerd(told, runs(evidence))));
    let faults = told.health.wrapper_counts.get("config_faults").copied().unwrap_or_default();
    if faults > 0 {
        let what = format!("{faults} starts of wrappers could not use shim.toml and went by the defaults");
        let remedy =
            "containerd's log says what is wrong with it; running wrappers keep what they were started with";
        found.push(Finding::new(Id::ShimToml, Severity::Warning, Whose::Setup, what, remedy));
    }
    found
}

/// Without its API nothing is lost but words: runtime handlers, labels of pods, kills for want of memory in VMs.
/// A socket that is not there is as it should be where no containerd runs.
fn containerd(told: &HealthContainerd, runs: bool) -> Option<Finding> {
    let (whose, remedy) = match told.state.as_str() {
        "down" => (
            Whose::Containerd,
            "names come from OCI annotations meanwhile; check [containerd] socket and who may connect to it",
        ),
        // The collector's word on it may be a minute old.
        "absent" if runs && !told.socket.as_ref().is_some_and(|socket| socket.exists()) => (
            Whose::Setup,
            "names come from OCI annotations meanwhile; the containerd that runs has its socket elsewhere: name it in collector.toml, \
             [containerd] socket (k3s and RKE2: /run/k3s/containerd/containerd.sock, k0s: /run/k0s/containerd.sock, MicroK8s: \
             /var/snap/microk8s/common/run/containerd.sock), and restart the collector",
        ),
        _ => return None,
    };
    let what =
        format!("the collector cannot ask containerd for handlers, pod labels and OOM events: {}", told.why);
    Some(Finding::new(Id::ContainerdApi, Severity::Warning, whose, what, remedy))
}

/// Whether a containerd runs here.
fn runs(evidence: &Evidence) -> bool {
    evidence.containerd.as_ref().is_ok_and(|node| node.started.is_some())
}

fn journal(health: &Health) -> Vec<Finding> {
    let heads = [("[journal]", &health.journal), ("[journal.disk]", &health.journal_disk)];
    heads.into_iter().filter_map(|(section, head)| Some(head_of(section, head.as_ref()?))).flatten().collect()
}

/// One head of the journal, by its section.
fn head_of(section: &str, journal: &HealthJournal) -> Vec<Finding> {
    let mut found = Vec::new();
    if journal.stalled {
        let what = "the journal cannot be written; wrappers keep what they can, then output is missing";
        let remedy = "see shimtap_journal_errors_total for the errno, and the disk of its dir: where there is none, a write hangs";
        let stalled = Finding::new(Id::JournalStalled, Severity::Fault, Whose::Node, what, remedy);
        found.push(stalled.about([section.to_owned()]));
    }
    if journal.budget_bytes < journal.max_bytes {
        let what = format!(
            "the disk's reserve leaves the journal {} of its {} bytes: less of the past is kept, and a slow sink loses sooner",
            journal.budget_bytes, journal.max_bytes
        );
        let remedy =
            "make room on that file system, or move its dir, or lower reserve_percent and reserve_bytes";
        let reserve = Finding::new(Id::JournalReserve, Severity::Warning, Whose::Node, what, remedy);
        found.push(reserve.about([section.to_owned()]));
    }
    found
}

fn sink(sink: &HealthSink) -> Vec<Finding> {
    let of = |id, severity, what: String, remedy: &str| {
        Finding::new(id, severity, Whose::Sink, what, remedy).about([sink.name.clone()])
    };
    let errors: Vec<String> = sink.errors.iter().map(|(error, n)| format!("{error} {n} times")).collect();
    let errors = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join(", ")) };
    let mut found = Vec::new();
    if sink.stalled {
        let what = format!("it cannot deliver{errors}; the journal keeps what it has room for");
        let remedy = "the collector's log says what fails: a full disk, an endpoint that is away or refuses";
        found.push(of(Id::SinkStalled, Severity::Fault, what, remedy));
    } else if sink.lag_secs.is_some_and(|secs| secs > LAG_SECS) {
        let what = format!(
            "it is {} s and {} bytes behind{errors}",
            sink.lag_secs.unwrap_or_default(),
            sink.lag_bytes
        );
        let remedy = "its destination is too slow for what this node writes: shimtap_sink_request_duration_seconds, rules";
        found.push(of(Id::SinkLag, Severity::Warning, what, remedy));
    }
    if sink.rejected_records > 0 {
        let what = format!(
            "its destination has refused {} records for good since the collector's start",
            sink.rejected_records
        );
        let remedy = "the collector's log and shimtap_sink_rejected_records_total say why: credentials, a limit, a wrong endpoint";
        found.push(of(Id::SinkRejected, Severity::Fault, what, remedy));
    }
    if sink.lost_bytes > 0 {
        let what =
            format!("{} bytes of output had gone from the journal before it came to them", sink.lost_bytes);
        let remedy = "a larger [journal] max_bytes bridges longer outages of a sink";
        found.push(of(Id::SinkLost, Severity::Fault, what, remedy));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(found: &[Finding]) -> Vec<Id> {
        found.iter().map(|one| one.id).collect()
    }

    #[test]
    fn a_sink_that_is_well_is_not_spoken_of() {
        let well = HealthSink { name: "otlp".to_owned(), lag_secs: Some(LAG_SECS), ..HealthSink::default() };
        assert_eq!(sink(&well), []);
    }

    #[test]
    fn a_sink_s_troubles_are_told_apart() {
        let errors = [("connect".to_owned(), 7)].into();
        let behind =
            HealthSink { lag_secs: Some(LAG_SECS + 1), lag_bytes: 9, errors, ..HealthSink::default() };
        let found = sink(&behind);
        assert_eq!(ids(&found), [Id::SinkLag]);
        assert!(found.iter().all(|one| one.what.contains("connect 7 times")), "{found:?}");
        // Whoever stands still is behind as well: once is enough.
        assert_eq!(ids(&sink(&HealthSink { stalled: true, ..behind })), [Id::SinkStalled]);
        let lossy = HealthSink { rejected_records: 1, lost_bytes: 1, ..HealthSink::default() };
        assert_eq!(ids(&sink(&lossy)), [Id::SinkRejected, Id::SinkLost]);
    }

    #[test]
    fn a_containerd_that_cannot_be_asked_is_named_and_one_that_does_not_run_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (missing, there) = (dir.path().join("none"), dir.path().to_owned());
        for (state, socket, runs, whose) in [
            ("up", Some(&there), true, None),
            ("down", Some(&there), true, Some(Whose::Containerd)),
            ("down", Some(&there), false, Some(Whose::Containerd)),
            ("absent", Some(&missing), false, None),
            ("absent", Some(&missing), true, Some(Whose::Setup)),
            // It has come since the collector looked.
            ("absent", Some(&there), true, None),
            // A collector that does not say where it looks.
            ("absent", None, true, Some(Whose::Setup)),
        ] {
            let told =
                HealthContainerd { state: state.to_owned(), why: "why".to_owned(), socket: socket.cloned() };
            let found = containerd(&told, runs);
            assert_eq!(found.as_ref().map(|one| one.whose), whose, "{state}, {socket:?}, {runs}");
            assert!(found.is_none_or(|one| one.what.contains("why") && one.id == Id::ContainerdApi));
        }
    }

    #[test]
    fn a_journal_below_its_size_is_named() {
        let of = |journal| ids(&super::journal(&Health { journal: Some(journal), ..Health::default() }));
        assert_eq!(of(HealthJournal { max_bytes: 5, budget_bytes: 5, ..HealthJournal::default() }), []);
        let short =
            HealthJournal { max_bytes: 5, budget_bytes: 4, stalled: true, ..HealthJournal::default() };
        assert_eq!(of(short), [Id::JournalStalled, Id::JournalReserve]);
        // The same of its head on a disk, by its own section.
        let full = HealthJournal { max_bytes: 5, budget_bytes: 4, ..HealthJournal::default() };
        let well = HealthJournal { max_bytes: 5, budget_bytes: 5, ..HealthJournal::default() };
        let both = Health { journal: Some(well), journal_disk: Some(full), ..Health::default() };
        let found = super::journal(&both);
        assert_eq!(ids(&found), [Id::JournalReserve]);
        assert!(found.iter().all(|one| one.which == ["[journal.disk]"]), "{found:?}");
    }
}

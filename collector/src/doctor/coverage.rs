//! Findings about containers: which have no copy made of what they write, or not of all of it, and why.
//!
//! One finding per reason, with all whom it concerns. Each container that is not covered is in exactly one of them.

use std::{collections::BTreeMap, time::SystemTime};

use super::{
    Evidence, Finding, Id, Task,
    finding::{Severity, Whose},
    handlers,
};
use crate::{
    admin::{Explained, PsStream},
    install::{Handler, Node},
};

/// Why a container is not covered where that is meant: its handler has another one beside it for those that ask.
const PILOT: &str = "pilot";

/// What is to be said of them.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut by_kind: BTreeMap<(Id, String), Vec<String>> = BTreeMap::new();
    for task in &evidence.tasks {
        if let Some(why) = uncovered(evidence, task) {
            by_kind.entry(why).or_default().push(task.name.clone());
        }
    }
    let restart =
        evidence.containerd.as_ref().map_or_else(|_| "restart containerd".to_owned(), Node::restart);
    let said =
        |((id, why), which): ((Id, String), Vec<String>)| of_uncovered(id, &why, &restart).about(which);
    let mut found: Vec<Finding> = by_kind.into_iter().map(said).collect();
    found.extend(streams(evidence));
    found.extend(rules(evidence));
    found.extend(safe_mode(evidence));
    found
}

/// Why nothing is seen of a task, and what there is to say of that; none where it is seen.
fn uncovered(evidence: &Evidence, task: &Task) -> Option<(Id, String)> {
    if evidence.is_wrapped(task) {
        let away = evidence.collector.is_err() || evidence.seen(task).is_some();
        // A collector that is away is one finding, and not one of each container.
        return (!away).then(|| (Id::NotAttached, String::new()));
    }
    if let Some(why) = stood_aside(evidence, task) {
        return Some((Id::StartedUnwrapped, why));
    }
    let node = evidence.containerd.as_ref().ok()?;
    // Which handler a task was started by is in no bundle: those that have its shim may have been it.
    let own = task.shim.as_deref().and_then(|shim| shim.file_name());
    let (of_its_shim, others): (Vec<&Handler>, Vec<&Handler>) = node
        .effective
        .handlers
        .values()
        .partition(|handler| handler.shim_name().is_some_and(|name| own == Some(name.as_ref())));
    let candidates = if of_its_shim.is_empty() { others } else { of_its_shim };
    let plain: Vec<&Handler> = candidates.into_iter().filter(|handler| !node.wraps(handler)).collect();
    if !plain.is_empty() {
        let left_to_pilots = plain.iter().all(|handler| handlers::has_pilot(node, handler));
        return Some((Id::NotWrapped, if left_to_pilots { PILOT.to_owned() } else { String::new() }));
    }
    if is_before(task.made, node.started) || is_before(task.made, evidence.installed) {
        return Some((Id::StartedBefore, String::new()));
    }
    if is_before(node.started, evidence.installed) {
        return Some((Id::ContainerdNotRestarted, String::new()));
    }
    // A handler beside the wrapped ones, a link made by hand after it was started.
    Some((Id::StartedBefore, String::new()))
}

fn is_before(a: Option<SystemTime>, b: Option<SystemTime>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a < b)
}

/// Why the wrapper stood aside when a task's pod was started, where the collector was told.
fn stood_aside(evidence: &Evidence, task: &Task) -> Option<String> {
    let told = evidence.collector.as_ref().ok()?;
    let pod = task.sandbox.as_ref().unwrap_or(&task.id);
    let is_its = |id: &str| id == pod || id == task.id;
    let unwrapped = told.ps.unwrapped.iter();
    let mut its = unwrapped.filter(|one| one.namespace == task.namespace && is_its(&one.pod));
    its.next().map(|one| one.why.clone())
}

/// `restart` is how this node's containerd is started anew.
fn of_uncovered(id: Id, why: &str, restart: &str) -> Finding {
    let (severity, whose, what, remedy) = match id {
        Id::NotAttached => (
            Severity::Fault,
            Whose::Setup,
            "their wrappers do not speak to this collector; they keep what they can (1 MiB per stream, then spool files)"
                .to_owned(),
            "wait some seconds after a start of the collector; else compare [collector] socket in shim.toml with [ingest] \
             socket in collector.toml"
                .to_owned(),
        ),
        Id::StartedUnwrapped => {
            let why = if why.is_empty() { "it did not say why" } else { why };
            (
                Severity::Warning,
                Whose::Node,
                format!("the wrapper stood aside when they were started: {why}"),
                "mend what it says and start those pods anew".to_owned(),
            )
        }
        Id::NotWrapped if why == PILOT => (
            Severity::Note,
            Whose::Setup,
            "they are not seen: their handler is left as it is, beside a pilot".to_owned(),
            "as configured; pods ask for the pilot by its RuntimeClass".to_owned(),
        ),
        Id::NotWrapped => (
            Severity::Warning,
            Whose::Setup,
            "they are not seen: a handler with their shim does not start the wrapper".to_owned(),
            format!("shimtap install, {restart}, start those pods anew"),
        ),
        Id::ContainerdNotRestarted => (
            Severity::Warning,
            Whose::Setup,
            "they are not seen: containerd was not restarted since shimtap was installed".to_owned(),
            format!("{restart} (running pods go on), then start those pods anew"),
        ),
        _ => (
            Severity::Warning,
            Whose::Setup,
            "they are not seen: they run since before the wrapper was put in place".to_owned(),
            "start those pods anew, for instance with kubectl rollout restart".to_owned(),
        ),
    };
    Finding::new(id, severity, whose, what, remedy)
}

/// Streams that no copy is made of, and output that is missing.
fn streams(evidence: &Evidence) -> Vec<Finding> {
    let mut silent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut gaps = Vec::new();
    for task in &evidence.tasks {
        for stream in evidence.seen(task).map(|seen| seen.streams.as_slice()).unwrap_or_default() {
            let name = format!("{} {}", task.name, stream.stream);
            if let Some(why) = reason(stream) {
                silent.entry(why).or_default().push(name.clone());
            }
            if stream.gap_bytes > 0 {
                gaps.push(format!("{name}: {} bytes", stream.gap_bytes));
            }
        }
    }
    let mut found: Vec<Finding> =
        silent.into_iter().map(|(why, which)| of_silent(why).about(which)).collect();
    if !gaps.is_empty() {
        let what = "output of these is missing here, counted with its reason; containerd's own log has it";
        let remedy = "shimtap_log_gap_bytes_total says the reasons: the collector away for long or too slow, a limit of a rule";
        found.push(Finding::new(Id::Gaps, Severity::Warning, Whose::Collector, what, remedy).about(gaps));
    }
    found
}

/// Why a stream is not captured, where that is worth a word: an empty one has nothing to say, and rules are asked themselves.
fn reason(stream: &PsStream) -> Option<&str> {
    stream.not_captured.as_deref().filter(|why| !matches!(*why, "empty" | "rule"))
}

fn of_silent(why: &str) -> Finding {
    let (whose, what, remedy) = match why {
        "file_uri" => (
            Whose::Setup,
            "their client has a shim write to a file, one that is not containerd's own or beside a stdin or a terminal, or to what is no regular file",
            "read that file, or start them without --log-uri file://",
        ),
        "binary_uri" => (
            Whose::Setup,
            "their client has a logging binary started, by a shim that is not containerd's own or one that cannot be executed",
            "nerdctl run --log-driver none, or read what that driver writes",
        ),
        "streaming" => (
            Whose::Containerd,
            "containerd streams their output itself",
            "set io_type of the handler to fifo, its default",
        ),
        "not_a_fifo" | "other_uri" => {
            (Whose::Setup, "what their client gave for it is no FIFO", "see the client that started them")
        }
        "no_room" => (
            Whose::Shimtap,
            "the pod has more streams than a wrapper takes",
            "nothing; 256 streams per pod are captured",
        ),
        _ => (
            Whose::Node,
            "the wrapper could not set up the copy",
            "see containerd's log for the reason, and start them anew",
        ),
    };
    let what = format!("no copy is made of these ({why}): {what}");
    Finding::new(Id::NotCaptured, Severity::Warning, whose, what, remedy)
}

/// What rules do not want, and what they change.
fn rules(evidence: &Evidence) -> Vec<Finding> {
    let Ok(told) = &evidence.collector else { return Vec::new() };
    let (mut unwanted, mut redacted) =
        (BTreeMap::<String, Vec<String>>::new(), BTreeMap::<String, Vec<String>>::new());
    for one in &told.explained {
        let Some(task) = evidence
            .tasks
            .iter()
            .find(|task| task.id == one.id && task.namespace == one.containerd_namespace)
        else {
            continue;
        };
        for (by, into) in [(unwanted_by(one), &mut unwanted), (redacted_by(one), &mut redacted)] {
            by.into_iter().for_each(|by| into.entry(by).or_default().push(task.name.clone()));
        }
    }
    let of = |id, text: &'static str, remedy: &'static str| {
        move |(by, which): (String, Vec<String>)| {
            Finding::new(id, Severity::Note, Whose::Setup, format!("{text} {by}"), remedy).about(which)
        }
    };
    let remedy = "as configured; shimtap explain POD says which rule or annotation holds";
    let unwanted = unwanted.into_iter().map(of(Id::NotSelected, "not collected, by", remedy));
    let redacted =
        redacted.into_iter().map(of(Id::Redacted, "something is taken out of their lines, by", remedy));
    unwanted.chain(redacted).collect()
}

fn unwanted_by(one: &Explained) -> Option<String> {
    one.streams.iter().find(|stream| !stream.collect).and_then(|stream| stream.collect_by.clone())
}

fn redacted_by(one: &Explained) -> Option<String> {
    one.streams.iter().find_map(|stream| stream.redact.first()).map(|redaction| redaction.by.clone())
}

fn safe_mode(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok()?;
    let safe: Vec<String> = told
        .ps
        .wrappers
        .iter()
        .filter(|wrapper| wrapper.safe_mode)
        .map(|wrapper| {
            format!(
                "{}/{}, keeper {}",
                wrapper.namespace,
                wrapper.pod.chars().take(13).collect::<String>(),
                wrapper.keeper_pid
            )
        })
        .collect();
    let what = "wrappers are in safe mode after several deaths: their pods are well, and no copy is made of their output";
    let remedy = "keep the collector's log for a report, then kill -USR2 KEEPER or shimtap upgrade --all --force ends it";
    (!safe.is_empty())
        .then(|| Finding::new(Id::SafeMode, Severity::Fault, Whose::Shimtap, what, remedy).about(safe))
}

#[cfg(test)]
mod tests {
    use super::{super::evidence::Told, *};
    use crate::admin::{PsContainer, PsUnwrapped};

    /// A node with one task of a pod, which the collector knows with these streams; none = it does not know it.
    fn node(served_by_us: bool, streams: Option<&[(&str, Option<&str>)]>) -> Evidence {
        let mut node = Evidence::pretended("/nowhere".as_ref());
        let folder =
            if served_by_us { node.places.run_dir.join("s/x") } else { "/run/containerd/s/x".into() };
        node.tasks = vec![Task {
            namespace: "k8s.io".to_owned(),
            id: "c".to_owned(),
            sandbox: Some("p".to_owned()),
            name: "ns/pod/c".to_owned(),
            address: Some(folder),
            ..Task::default()
        }];
        let mut told = Told::default();
        told.ps.containers.extend(streams.map(|streams| {
            PsContainer {
                containerd_namespace: "k8s.io".to_owned(),
                id: "c".to_owned(),
                streams: streams
                    .iter()
                    .map(|(stream, why)| PsStream {
                        stream: (*stream).to_owned(),
                        not_captured: why.map(ToOwned::to_owned),
                        ..PsStream::default()
                    })
                    .collect(),
                ..PsContainer::default()
            }
        }));
        node.collector = Ok(told);
        node
    }

    fn found(evidence: &Evidence) -> Vec<(Id, Severity, Vec<String>)> {
        examine(evidence).into_iter().map(|one| (one.id, one.severity, one.which)).collect()
    }

    #[test]
    fn each_reason_for_which_no_copy_is_made_is_a_finding_with_its_own_words() {
        let mut words = Vec::new();
        for (why, whose) in [
            ("file_uri", Whose::Setup),
            ("binary_uri", Whose::Setup),
            ("streaming", Whose::Containerd),
            ("other_uri", Whose::Setup),
            ("not_a_fifo", Whose::Setup),
            ("no_room", Whose::Shimtap),
            ("failed", Whose::Node),
        ] {
            let all = examine(&node(true, Some(&[("stdout", Some(why)), ("stderr", None)])));
            let [one] = all.as_slice() else { panic!("{why}: {all:?}") };
            assert_eq!(
                (one.id, one.severity, one.whose),
                (Id::NotCaptured, Severity::Warning, whose),
                "{why}"
            );
            assert!(one.which == ["ns/pod/c stdout"] && one.what.contains(&format!("({why})")), "{one:?}");
            words.push(one.remedy.clone());
        }
        words.sort();
        words.dedup();
        assert_eq!(words.len(), 6, "{words:?}");
        // What says nothing, or what a rule keeps away, is no finding of this kind.
        assert_eq!(found(&node(true, Some(&[("stdout", Some("empty")), ("stderr", Some("rule"))]))), []);
    }

    #[test]
    fn a_wrapper_that_stood_aside_says_why() {
        let mut aside = node(false, None);
        if let Ok(told) = &mut aside.collector {
            let of = |pod: &str, why: &str| PsUnwrapped {
                time_ns: 1,
                namespace: "k8s.io".to_owned(),
                pod: pod.to_owned(),
                why: why.to_owned(),
            };
            told.ps.unwrapped = vec![of("other", "no"), of("p", "no process is to be had")];
        }
        let all = examine(&aside);
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.id, one.severity), (Id::StartedUnwrapped, Severity::Warning));
        assert!(one.which == ["ns/pod/c"] && one.what.contains("no process is to be had"), "{one:?}");
        // Of another pod nothing is said, and containerd cannot be asked.
        assert_eq!(found(&node(false, None)), []);
    }

    #[test]
    fn a_wrapper_that_no_collector_knows_is_not_attached() {
        let named = vec!["ns/pod/c".to_owned()];
        assert_eq!(found(&node(true, None)), [(Id::NotAttached, Severity::Fault, named)]);
        assert_eq!(found(&node(true, Some(&[]))), []);
        let away = Evidence { collector: Err("away".to_owned()), ..node(true, None) };
        assert_eq!(found(&away), []);
    }
}

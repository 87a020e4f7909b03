//! What is counted, under which labels, and when.

use std::{collections::BTreeMap, time::Duration};

use shimtap_proto::link;

use super::*;
use crate::{
    enrich::Details,
    metrics::{Registry, Sample, SampleSource, Update, exposition, render_own},
    sinks::Backlog,
};

fn registry(enriched: bool) -> Registry {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    if enriched {
        registry.enrich();
    }
    registry
}

fn task(registry: &Registry, id: &str, pod: bool) -> Arc<Container> {
    let notes = [("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", "sb")];
    let notes = notes.into_iter().filter(|_| pod).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let open = link::Open {
        namespace: "k8s.io".into(),
        container: id.into(),
        incarnation: 1,
        annotations: notes.collect(),
        ..Default::default()
    };
    let inner = link::InnerShim { binary: "/usr/bin/containerd-shim-runc-v2".into(), ..Default::default() };
    registry.container(&open, &inner)
}

/// Rows of a family: the values of its labels, in the order of their names, and its value.
fn rows(registry: &Registry, name: &str) -> BTreeMap<String, f64> {
    let all = exposition::parse(&render_own(registry)).into_iter().flat_map(|family| family.samples);
    let of_name = all.filter(|sample| sample.name == name);
    of_name.map(|s| (s.labels.values().cloned().collect::<Vec<_>>().join(","), s.value)).collect()
}

fn pairs(rows: &[(&str, f64)]) -> BTreeMap<String, f64> {
    rows.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect()
}

const EXITS: &str = "shimtap_container_exits_total";

#[tokio::test(start_paused = true)]
async fn a_pod_s_task_waits_for_its_handler_and_not_for_ever() {
    let registry = registry(true);
    let (known, unknown, plain) =
        (task(&registry, "a", true), task(&registry, "b", true), task(&registry, "c", false));
    for container in [&known, &unknown, &plain] {
        registry.lifecycle.note(container, Happened::Created(30_000_000));
    }
    let count = "shimtap_container_create_seconds_count";
    assert_eq!(
        rows(&registry, count),
        pairs(&[(",host", 1.0)]),
        "who is no pod's has no handler to wait for"
    );
    known.extra.settle(Details { handler: Some("runc".into()), ..Details::default() });
    assert_eq!(rows(&registry, count), pairs(&[(",host", 1.0), ("runc,host", 1.0)]));
    tokio::time::advance(PATIENCE).await;
    assert_eq!(rows(&registry, count), pairs(&[(",host", 2.0), ("runc,host", 1.0)]));
    // What becomes known later changes nothing of what was counted.
    unknown.extra.settle(Details { handler: Some("runc".into()), ..Details::default() });
    assert_eq!(rows(&registry, count), pairs(&[(",host", 2.0), ("runc,host", 1.0)]));
    let buckets = rows(&registry, "shimtap_container_create_seconds_bucket");
    assert_eq!((buckets["runc,0.025,host"], buckets["runc,0.05,host"]), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_for_want_of_memory_where_the_kernel_said_so() {
    let registry = registry(false);
    let (before, after, never) =
        (task(&registry, "a", false), task(&registry, "b", false), task(&registry, "c", false));
    before.ran_out_of_memory();
    for container in [&before, &after, &never] {
        registry.lifecycle.note(container, Happened::Exited(137));
    }
    assert_eq!(rows(&registry, EXITS), pairs(&[("oom,137,,host", 1.0)]), "the others wait for a reason");
    after.ran_out_of_memory();
    assert_eq!(rows(&registry, EXITS), pairs(&[("oom,137,,host", 2.0)]));
    tokio::time::advance(PATIENCE).await;
    assert_eq!(rows(&registry, EXITS), pairs(&[("oom,137,,host", 2.0), ("signal,137,,host", 1.0)]));
}

#[tokio::test(start_paused = true)]
async fn a_shortage_of_long_ago_or_before_somebody_s_signal_explains_no_end() {
    let registry = registry(false);
    let sampled = |container: &Container, time_ns, kills| {
        let sample = Sample { time_ns, oom_kills: Some(kills), ..Sample::default() };
        assert!(container.sampled(sample, SampleSource::Polled));
    };
    let ends = |container: &Arc<Container>| registry.lifecycle.note(container, Happened::Exited(137));
    let [long_ago, asked, asked_then_short, counted] =
        ["a", "b", "c", "d"].map(|id| task(&registry, id, false));
    long_ago.ran_out_of_memory();
    // How many there were before us says nothing of when.
    sampled(&long_ago, 1, 3);
    sampled(&counted, 1, 3);
    tokio::time::advance(Duration::from_secs(3600)).await;
    sampled(&long_ago, 2, 3);
    sampled(&counted, 2, 4);
    for container in [&asked, &asked_then_short] {
        container.ran_out_of_memory();
        container.update(Update::Killed);
    }
    // The same kill as before the signal, told a second time.
    sampled(&asked, 3, 1);
    asked_then_short.ran_out_of_memory();
    for container in [&long_ago, &asked, &asked_then_short, &counted] {
        ends(container);
    }
    tokio::time::advance(PATIENCE).await;
    assert_eq!(rows(&registry, EXITS), pairs(&[("oom,137,,host", 2.0), ("signal,137,,host", 2.0)]));
}

#[tokio::test]
async fn exits_are_counted_by_class_and_code() {
    let registry = registry(false);
    let container = task(&registry, "a", false);
    for status in [0, 0, 3, 128, 129, 192, 193] {
        registry.lifecycle.note(&container, Happened::Exited(status));
    }
    registry.lifecycle.refused(ShimKind::Host, Some(&*container));
    registry.lifecycle.note(&container, Happened::Refused);
    let expected = [
        ("normal,0,,host", 2.0),
        ("normal,128,,host", 1.0),
        ("normal,193,,host", 1.0),
        ("normal,3,,host", 1.0),
        ("signal,129,,host", 1.0),
        ("signal,192,,host", 1.0),
        ("start_failure,,,host", 2.0),
    ];
    assert_eq!(rows(&registry, EXITS), pairs(&expected));
    // A group that is known otherwise has those rows that alerts wait for.
    registry.lifecycle.note(&container, Happened::Exec(ExecOutcome::Failure, Some(1)));
    assert_eq!(rows(&registry, EXITS).get("oom,137,,host"), Some(&0.0));
    let execs = [("host,", 0.0); 0];
    assert_eq!(rows(&registry, "nothing"), pairs(&execs));
    assert_eq!(rows(&registry, "shimtap_execs_total").get(",failure,host"), Some(&1.0));
    assert_eq!(rows(&registry, "shimtap_exec_seconds_count").get(",host"), Some(&1.0));
}

#[tokio::test]
async fn handlers_beyond_the_last_place_are_counted_together() {
    let registry = registry(true);
    for n in 0..GROUPS + 3 {
        let container = task(&registry, &n.to_string(), true);
        container.extra.settle(Details { handler: Some(format!("h{n:02}")), ..Details::default() });
        registry.lifecycle.note(&container, Happened::Started(1));
    }
    let shown = rows(&registry, "shimtap_container_start_seconds_count");
    assert_eq!(shown.len(), GROUPS + 1);
    assert_eq!((shown["h00,host"], shown["other,host"]), (1.0, 3.0));
    assert_eq!(rows(&registry, "shimtap_metrics_cut_total")["handlers"], 3.0);
}

#[tokio::test]
async fn execs_are_timed_whichever_answer_comes_first() {
    let registry = registry(false);
    let container = task(&registry, "a", false);
    assert!(container.exec_started("one", 5));
    assert_eq!(container.exec_ended("one"), Some(Some(5)));
    assert_eq!(container.exec_ended("one"), None, "somebody else waited for it as well");
    assert_eq!(container.exec_ended("two"), Some(None));
    assert!(container.exec_started("two", 7));
    assert_eq!(container.exec_ended("two"), None, "the start came after the end and is done with");
    container.exec_deleted("one");
    for n in 0..255 {
        assert!(container.exec_started(&n.to_string(), 1));
    }
    assert!(container.exec_started("256th", 1), "the one that ended made room");
    assert!(!container.exec_started("257th", 1));
    assert_eq!(container.exec_ended("7"), Some(Some(1)), "those that run are still known");
}

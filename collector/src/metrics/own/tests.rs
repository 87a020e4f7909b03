//! Every family is shown exactly once, where the table says, and the documentation is the table.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shimtap_proto::link;

use super::{
    super::{
        StreamCounts, Wanted,
        exposition::{self, Family as Shown},
        families::{ALL, Endpoint, Kind},
        registry::Registry,
        render_cadvisor, render_own,
    },
    everything::{everything, hello, open, report},
};
use crate::{
    config::{Profile, Scope},
    enrich::Details,
    event::{HoleReason, StreamKind},
    sinks::Backlog,
};

fn names(families: &[Shown]) -> Vec<(String, String)> {
    families.iter().map(|family| (family.name.clone(), family.kind.clone())).collect()
}

#[test]
fn every_family_of_the_table_is_shown_where_it_says_and_no_other() {
    let all = everything();
    let registry = &all.registry;
    let all = Wanted { scope: Scope::All, profile: Profile::Full, times: true };
    for (endpoint, text) in
        [(Endpoint::Own, render_own(registry)), (Endpoint::Cadvisor, render_cadvisor(registry, all))]
    {
        let shown = exposition::parse(&text);
        let kind = |kind| match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let table = ALL.iter().filter(|family| family.endpoint == endpoint);
        let table: BTreeSet<_> = table.map(|f| (f.name.to_owned(), kind(f.kind).to_owned())).collect();
        assert_eq!(names(&shown).into_iter().collect::<BTreeSet<_>>(), table);
        for family in shown {
            let known = ALL.iter().find(|known| known.name == family.name).expect("compared above");
            for sample in &family.samples {
                for label in known.labels {
                    assert!(sample.labels.contains_key(*label), "{label} in {sample:?}");
                }
                if endpoint == Endpoint::Own {
                    let more = usize::from(sample.name.ends_with("_bucket"));
                    assert_eq!(sample.labels.len(), known.labels.len() + more, "{sample:?}");
                }
            }
        }
    }
}

#[test]
fn names_follow_the_template() {
    let mut seen = BTreeSet::new();
    for family in ALL {
        assert!(seen.insert(family.name), "{} twice", family.name);
        if family.name.starts_with("container_") {
            assert_eq!(family.endpoint, Endpoint::Cadvisor, "{}", family.name);
            continue;
        }
        assert_eq!(family.endpoint, Endpoint::Own, "{}", family.name);
        assert!(
            family.name.starts_with("shimtap_") || family.name.starts_with("process_"),
            "{}",
            family.name
        );
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{}", family.help);
    }
}

#[test]
fn durations_stay_when_their_wrapper_goes_and_what_is_in_flight_does_not() {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let wrapper = registry.attach(&hello(1));
    wrapper.reported(&report(3));
    let other = registry.attach(&hello(2));
    other.reported(&report(4));
    let find = |name: &str, method: &str| {
        let shown = exposition::parse(&render_own(&registry));
        let all: Vec<_> = shown.into_iter().flat_map(|family| family.samples).collect();
        all.into_iter().find(|s| s.name == name && s.labels.get("method").is_some_and(|m| m == method))
    };
    let value = |name: &str, method: &str| find(name, method).map(|sample| sample.value);
    assert_eq!(value("shimtap_rpc_duration_seconds_count", "Create"), Some(7.0));
    assert_eq!(value("shimtap_rpc_duration_seconds_sum", "Create"), Some(3.0));
    assert_eq!(value("shimtap_rpc_in_flight", "Create"), Some(2.0));
    assert!(value("shimtap_rpc_in_flight_oldest_seconds", "Create").is_some_and(|age| age >= 2.0));
    assert_eq!(value("shimtap_rpc_duration_seconds_count", "other"), Some(0.0), "no buckets were sent");
    registry.detach(&wrapper);
    registry.detach(&other);
    assert_eq!(value("shimtap_rpc_duration_seconds_count", "Create"), Some(7.0));
    assert_eq!(value("shimtap_rpc_in_flight", "Create"), Some(0.0));
    assert_eq!(value("shimtap_rpc_in_flight_oldest_seconds", "Create"), None);
    // Enough others go after them for both to be forgotten: what they had said stays in the sum.
    for id in 10..1_100 {
        let wrapper = registry.attach(&hello(id));
        registry.detach(&wrapper);
    }
    assert_eq!(value("shimtap_rpc_duration_seconds_count", "Create"), Some(7.0));
    // One that comes back replaces its report instead of adding to it.
    let again = registry.attach(&hello(1_050));
    again.reported(&report(5));
    registry.detach(&again);
    registry.attach(&hello(1_050)).reported(&report(6));
    assert_eq!(value("shimtap_rpc_duration_seconds_count", "Create"), Some(13.0));
}

#[test]
fn pods_without_a_wrapper_are_counted_from_none_on() {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let told = || {
        let text = render_own(&registry);
        let rows = text.lines().filter(|row| row.starts_with("shimtap_wrapper_counts_total{"));
        rows.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let rows = |n: u64| [format!("shimtap_wrapper_counts_total{{name=\"unwrapped_starts\"}} {n}")];
    assert_eq!(told(), rows(0), "what wrappers count is not known without one");
    for n in 1..=2 {
        let start = registry.attach(&hello(n));
        let count = link::Count { name: "unwrapped_starts".into(), value: 1, ..Default::default() };
        start.reported(&link::Report { counts: vec![count], ..Default::default() });
        registry.detach(&start);
        assert_eq!(told(), rows(n));
    }
}

#[test]
fn gaps_are_counted_by_stream_and_reason() {
    let all = everything();
    let registry = &all.registry;
    registry.totals.gap_bytes.of(StreamKind::Stderr).add(HoleReason::TapFull, 5);
    let text = render_own(registry);
    assert!(
        text.contains("shimtap_log_gap_bytes_total{stream=\"stderr\",reason=\"gap_tap_full\"} 5\n"),
        "{text}"
    );
    assert!(
        text.contains("shimtap_log_gap_bytes_total{stream=\"stdout\",reason=\"gap_tap_full\"} 0\n"),
        "{text}"
    );
}

#[test]
fn a_vm_costs_what_it_costs_even_less_than_nothing() {
    let text = render_own(&everything().registry);
    for row in [
        "shimtap_pod_overhead_memory_bytes{namespace=\"\",pod=\"\",sandbox=\"vm\"} -7\n",
        "shimtap_pod_overhead_cpu_seconds{namespace=\"\",pod=\"\",sandbox=\"vm\"} -1.5\n",
        "shimtap_kata_metrics_unsafe 1\n",
        "shimtap_log_redacted{namespace=\"\",pod=\"\",sandbox=\"vm\"} 1\n",
    ] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    let none = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let text = render_own(&none);
    for family in ["shimtap_sandbox_info", "shimtap_orphans", "shimtap_kata_metrics_unsafe"] {
        assert!(!text.contains(family), "a node without a VM has none of it");
    }
}

#[test]
fn output_is_shown_under_its_containers_names_and_only_where_it_is_captured() {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let task = |incarnation: u64, bytes: u64| {
        let open = link::Open { incarnation, created_ns: incarnation, ..open() };
        let container = registry.container(&open, &link::InnerShim::default());
        let counts = StreamCounts::new(StreamKind::Stdout, "", None);
        counts.bytes.store(bytes, Ordering::Relaxed);
        counts.gap_bytes.add(HoleReason::Overflow, 1);
        counts.gap_bytes.add(HoleReason::TapFull, 2);
        let counts = Arc::new(counts);
        let of_an_exec = StreamCounts::new(StreamKind::Stdout, "exec", None);
        let not_captured = StreamCounts::new(StreamKind::Stderr, "", Some("file_uri"));
        container.live().streams = vec![Arc::clone(&counts), Arc::new(of_an_exec), Arc::new(not_captured)];
        counts
    };
    let rows = |family: &str| -> Vec<String> {
        let text = render_own(&registry);
        text.lines().filter(|row| row.starts_with(family)).map(ToOwned::to_owned).collect()
    };
    let names = "container=\"app\",id=\"/sandbox/c\\\"1\\\\/c\\\"1\\\\\",name=\"c\\\"1\\\\\",namespace=\"shop\",\
                 pod=\"cart\\\"1\\\\\",stream=\"stdout\"";
    let _later = task(7, 3);
    // Of a container that was restarted under its id, the older task does not hide the newer one's figures.
    let _earlier = task(5, 900);
    assert_eq!(
        rows("shimtap_container_log_bytes_total{"),
        [format!("shimtap_container_log_bytes_total{{{names}}} 3")]
    );
    assert_eq!(
        rows("shimtap_container_log_gap_bytes_total{"),
        [format!("shimtap_container_log_gap_bytes_total{{{names}}} 3")]
    );
    // What a rule switched off is not shown.
    let off = task(8, 4);
    off.off.store(true, Ordering::Relaxed);
    assert_eq!(
        rows("shimtap_container_log_lines_total{"),
        [format!("shimtap_container_log_lines_total{{{names}}} 0")]
    );
    assert_eq!(
        rows("shimtap_container_log_bytes_total{"),
        [format!("shimtap_container_log_bytes_total{{{names}}} 3")]
    );
}

/// Two that `ctr` made in two of containerd's namespaces under one id.
#[test]
fn containers_of_one_id_in_two_namespaces_do_not_hide_each_other() {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let runc = link::InnerShim { binary: "containerd-shim-runc-v2".into(), ..Default::default() };
    registry.enrich();
    for (namespace, bytes) in [("a", 3), ("b", 900)] {
        let container = registry.container(
            &link::Open {
                namespace: namespace.into(),
                container: "web".into(),
                cgroups_path: format!("/{namespace}/web"),
                annotations: HashMap::new(),
                ..open()
            },
            &runc,
        );
        let counts = StreamCounts::new(StreamKind::Stdout, "", None);
        counts.bytes.store(bytes, Ordering::Relaxed);
        container.live().streams.push(Arc::new(counts));
        container.extra.settle(Details::default());
    }
    let text = render_own(&registry);
    for (namespace, bytes) in [("a", 3), ("b", 900)] {
        let names = format!("container=\"web\",id=\"/{namespace}/web\",name=\"web\",namespace=\"\",pod=\"\"");
        for row in [
            format!("shimtap_container_log_bytes_total{{{names},stream=\"stdout\"}} {bytes}\n"),
            format!("shimtap_container_info{{{names},handler="),
        ] {
            assert!(text.contains(&row), "{row} is not in\n{text}");
        }
    }
}

/// `UPDATE=1 cargo test -p shimtap docs` writes the file anew.
#[test]
fn docs_are_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let made = document();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &made).expect("docs/metrics.md is writable");
    }
    let have = fs::read_to_string(&path).expect("docs/metrics.md");
    assert!(have == made, "docs/metrics.md is stale: run this test with UPDATE=1");
}

fn document() -> String {
    let mut out = String::from(include_str!("../metrics.md.in"));
    for (endpoint, mark) in [(Endpoint::Cadvisor, "<!-- cadvisor -->"), (Endpoint::Own, "<!-- own -->")] {
        let mut table = String::from("| name | type | labels | what |\n|---|---|---|---|\n");
        for family in ALL.iter().filter(|family| family.endpoint == endpoint) {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels = family.labels.join(", ");
            table.push_str(&format!("| `{}` | {kind} | {labels} | {} |\n", family.name, family.help));
        }
        out = out.replace(mark, table.trim_end());
    }
    out
}

//! What a container shows: labels per client, values or nothing, times, and its end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use containerd_shim_protos::{
    cgroups::metrics as v1, cgroups_v2::metrics as v2, protobuf::Message, protobuf::MessageField,
};
use protobuf::EnumOrUnknown;
use shimtap_proto::link;

use super::Wanted;
use crate::{
    config::{Limits, Profile, Scope},
    metrics::{
        Container, ContainerdState, Devices, Layout, Sample, SampleSource, Spec, Undecoded, Update,
        exposition::{self, Sample as Shown},
        limits::Bounds,
        registry::Registry,
        render_cadvisor,
        totals::Cut,
    },
    node::{Counts, HostFigures, Interface},
    sinks::Backlog,
    time::now_ns,
};

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

fn registry() -> Registry {
    Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(50))
}

fn open(container: &str, annotations: &[(&str, &str)], cgroups_path: &str) -> link::Open {
    let pairs = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    link::Open {
        namespace: "k8s.io".into(),
        container: container.into(),
        incarnation: 1,
        annotations: pairs.collect(),
        cgroups_path: cgroups_path.into(),
        started_ns: 1_700_000_000_500_000_000,
        ..Default::default()
    }
}

fn runc() -> link::InnerShim {
    link::InnerShim { binary: "/usr/bin/containerd-shim-runc-v2".into(), ..Default::default() }
}

fn kata() -> link::InnerShim {
    link::InnerShim { binary: "/opt/kata/bin/containerd-shim-kata-v2".into(), ..Default::default() }
}

fn stats(kind: &str, message: &impl Message, time_ns: u64) -> link::Stats {
    link::Stats {
        time_ns,
        type_url: kind.into(),
        value: message.write_to_bytes().expect("encodes"),
        source: EnumOrUnknown::new(link::StatsSource::STATS_SOURCE_SNOOPED),
        ..Default::default()
    }
}

fn sample(kind: &str, message: &impl Message, time_ns: u64) -> Sample {
    Sample::decode(&stats(kind, message, time_ns)).expect("decodes")
}

fn take(container: &Container, kind: &str, message: &impl Message, time_ns: u64) {
    assert!(container.sampled(sample(kind, message, time_ns), SampleSource::Snooped));
}

fn cpu_v2(usage_usec: u64) -> v2::Metrics {
    let cpu = v2::CPUStat { usage_usec, user_usec: usage_usec, ..Default::default() };
    let memory = v2::MemoryStat { usage: 1_000, anon: 600, inactive_file: 100, ..Default::default() };
    v2::Metrics { cpu: MessageField::some(cpu), memory: MessageField::some(memory), ..Default::default() }
}

fn shown(registry: &Registry, scope: Scope, times: bool) -> Vec<Shown> {
    rendered(registry, Wanted { scope, profile: Profile::Full, times })
}

fn rendered(registry: &Registry, wanted: Wanted) -> Vec<Shown> {
    exposition::parse(&render_cadvisor(registry, wanted))
        .into_iter()
        .flat_map(|family| family.samples)
        .collect()
}

fn values(samples: &[Shown]) -> BTreeMap<&str, f64> {
    samples.iter().map(|sample| (sample.name.as_str(), sample.value)).collect()
}

fn labels(sample: &Shown) -> Vec<(&str, &str)> {
    sample.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn labels_are_those_of_the_client() {
    let pod = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", "sb"),
        ("io.kubernetes.cri.sandbox-namespace", "ns"),
        ("io.kubernetes.cri.sandbox-name", "web-0"),
        ("io.kubernetes.cri.container-name", "app"),
        ("io.kubernetes.cri.image-name", "docker.io/app:1"),
    ];
    let sandbox = [("io.kubernetes.cri.container-type", "sandbox"), pod[1], pod[2], pod[3]];
    let slice = "kubepods-burstable-podaa_bb.slice:cri-containerd:cid";
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Pairs<'_>, &str, link::InnerShim, Pairs<'_>); 5] = [
        (
            "cid",
            &pod,
            slice,
            runc(),
            &[
                ("container", "app"),
                (
                    "id",
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podaa_bb.slice/cri-containerd-cid.scope",
                ),
                ("image", "docker.io/app:1"),
                ("name", "cid"),
                ("namespace", "ns"),
                ("pod", "web-0"),
            ],
        ),
        (
            "sb",
            &sandbox,
            "/kubepods/podx/sb",
            runc(),
            &[
                ("container", ""),
                ("id", "/kubepods/podx/sb"),
                ("name", "sb"),
                ("namespace", "ns"),
                ("pod", "web-0"),
            ],
        ),
        (
            "cid",
            &pod,
            "/kubepods/podx/cid",
            kata(),
            &[
                ("container", "app"),
                ("id", "/sandbox/sb/cid"),
                ("image", "docker.io/app:1"),
                ("name", "cid"),
                ("namespace", "ns"),
                ("pod", "web-0"),
            ],
        ),
        ("c1", &[], "/default/c1", runc(), &[("container", "c1"), ("id", "/default/c1"), ("name", "c1")]),
        (
            "0123",
            &[("nerdctl/name", "web")],
            "/default/0123",
            runc(),
            &[("container", "web"), ("id", "/default/0123"), ("name", "web")],
        ),
    ];
    for (id, annotations, path, inner, expected) in cases {
        let registry = registry();
        let container = registry.container(&open(id, annotations, path), &inner);
        take(&container, V2, &cpu_v2(5), now_ns());
        let all = shown(&registry, Scope::All, true);
        let usage = all.iter().find(|sample| sample.name == "container_memory_usage_bytes").expect("shown");
        assert_eq!(labels(usage), expected);
        let cpu =
            all.iter().find(|sample| sample.name == "container_cpu_usage_seconds_total").expect("shown");
        assert_eq!(cpu.labels["cpu"], "total");
    }
}

#[test]
fn the_second_cgroup_version_is_read_by_its_rules() {
    let cpu = v2::CPUStat {
        usage_usec: 1_500_000,
        user_usec: 1_000_000,
        system_usec: 500_000,
        nr_periods: 7,
        nr_throttled: 2,
        throttled_usec: 250_000,
        ..Default::default()
    };
    let memory = v2::MemoryStat {
        usage: 5_000,
        anon: 1_000,
        file: 3_000,
        file_mapped: 0,
        inactive_file: 6_000,
        max_usage: 9_000,
        swap_limit: u64::MAX,
        ..Default::default()
    };
    let got = sample(
        V2,
        &v2::Metrics {
            cpu: MessageField::some(cpu),
            memory: MessageField::some(memory),
            pids: MessageField::some(v2::PidsStat { current: 3, limit: u64::MAX, ..Default::default() }),
            ..Default::default()
        },
        9,
    );
    assert_eq!(
        got,
        Sample {
            time_ns: 9,
            cpu_ns: Some(1_500_000_000),
            cpu_user_ns: Some(1_000_000_000),
            cpu_system_ns: Some(500_000_000),
            periods: Some(7),
            throttled_periods: Some(2),
            throttled_ns: Some(250_000_000),
            memory_usage: Some(5_000),
            working_set: Some(0),
            rss: Some(1_000),
            cache: Some(3_000),
            swap: Some(0),
            mapped_file: Some(0),
            max_usage: Some(9_000),
            threads: Some(3),
            layout: Layout::V2,
            ..Sample::default()
        }
    );
}

#[test]
fn the_first_cgroup_version_is_read_by_its_rules() {
    let entry = |op: &str, value| v1::BlkIOEntry {
        op: op.into(),
        device: "/dev/vda".into(),
        major: 254,
        value,
        ..Default::default()
    };
    let memory = v1::MemoryStat {
        total_cache: 300,
        total_rss: 100,
        total_mapped_file: 10,
        total_inactive_file: 120,
        inactive_file: 999,
        usage: MessageField::some(v1::MemoryEntry {
            limit: 9_223_372_036_854_771_712,
            usage: 500,
            max: 800,
            failcnt: 4,
            ..Default::default()
        }),
        swap: MessageField::some(v1::MemoryEntry { usage: 530, ..Default::default() }),
        ..Default::default()
    };
    let usage = v1::CPUUsage { total: 2_000_000_000, user: 5, kernel: 7, ..Default::default() };
    let cpu = v1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(v1::Throttle::default()),
        ..Default::default()
    };
    let metrics = v1::Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        pids: MessageField::some(v1::PidsStat { current: 2, limit: 99, ..Default::default() }),
        memory_oom_control: MessageField::some(v1::MemoryOomControl { oom_kill: 3, ..Default::default() }),
        blkio: MessageField::some(v1::BlkIOStat {
            io_service_bytes_recursive: vec![entry("Read", 10), entry("Write", 0), entry("Total", 10)],
            io_serviced_recursive: vec![entry("read", 1)],
            ..Default::default()
        }),
        ..Default::default()
    };
    let got = sample(V1, &metrics, 9);
    let (device, io) = got.devices.iter().next().expect("a device");
    assert_eq!((device.name.as_str(), got.devices.iter().len()), ("/dev/vda", 1));
    assert_eq!((io.reads, io.writes, io.read_bytes, io.written_bytes), (Some(1), None, Some(10), Some(0)));
    assert_eq!(
        Sample { devices: Devices::default(), ..got },
        Sample {
            time_ns: 9,
            cpu_ns: Some(2_000_000_000),
            cpu_user_ns: Some(5),
            cpu_system_ns: Some(7),
            memory_usage: Some(500),
            working_set: Some(380),
            rss: Some(100),
            cache: Some(300),
            swap: Some(30),
            mapped_file: Some(10),
            max_usage: Some(800),
            failcnt: Some(4),
            oom_kills: Some(3),
            threads: Some(2),
            threads_max: Some(99),
            ..Sample::default()
        }
    );
}

#[test]
fn what_is_not_known_is_absent() {
    let of_v1 = Sample { time_ns: 9, ..Sample::default() };
    let empty = Sample { layout: Layout::V2, ..of_v1.clone() };
    assert_eq!(sample(V1, &v1::Metrics::new(), 9), of_v1);
    assert_eq!(sample(V2, &v2::Metrics::new(), 9), empty);
    // Sub-messages that are there and say nothing, as shims send them for a cgroup that is gone.
    let hollow = v2::Metrics {
        cpu: MessageField::some(v2::CPUStat::default()),
        memory: MessageField::some(v2::MemoryStat::default()),
        pids: MessageField::some(v2::PidsStat::default()),
        ..Default::default()
    };
    assert_eq!(sample(V2, &hollow, 9), empty);
    let usage = v1::CPUUsage { total: 5_000_000_000, ..Default::default() };
    let throttling =
        v1::Throttle { periods: 5, throttled_periods: 2, throttled_time: 0, ..Default::default() };
    let odd = v1::Metrics {
        cpu: MessageField::some(v1::CPUStat {
            usage: MessageField::some(usage),
            throttling: MessageField::some(throttling),
            ..Default::default()
        }),
        memory: MessageField::some(v1::MemoryStat {
            usage: MessageField::some(v1::MemoryEntry { usage: 7, ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let got = sample(V1, &odd, 9);
    assert_eq!((got.cpu_ns, got.cpu_user_ns, got.cpu_system_ns), (Some(5_000_000_000), None, None));
    assert_eq!((got.throttled_periods, got.throttled_ns), (Some(2), None));
    assert_eq!((got.memory_usage, got.working_set, got.rss, got.swap), (Some(7), None, None, None));
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    assert!(container.sampled(Sample { time_ns: now_ns(), ..empty }, SampleSource::Polled));
    let names: Vec<_> = shown(&registry, Scope::All, true).into_iter().map(|sample| sample.name).collect();
    assert_eq!(names, ["container_start_time_seconds", "container_last_seen"]);
}

#[test]
fn what_does_not_decode_is_named() {
    let decode = |kind: &str, value: &[u8]| {
        Sample::decode(&link::Stats { type_url: kind.into(), value: value.to_vec(), ..Default::default() })
    };
    assert_eq!(decode("containerd.runhcs.stats.v1.Statistics", b""), Err(Undecoded::Type));
    assert_eq!(decode(V2, b"\xff\xff"), Err(Undecoded::Body));
    assert!(decode("type.googleapis.com/io.containerd.cgroups.v1.Metrics", b"").is_ok());
}

#[test]
fn the_scope_and_the_times_are_the_requests() {
    let registry = registry();
    let at = now_ns();
    take(&registry.container(&open("h", &[], "/h"), &runc()), V2, &cpu_v2(5), at);
    take(&registry.container(&open("v", &[], "/v"), &kata()), V2, &cpu_v2(5), at);
    let names = |samples: &[Shown]| {
        let mut names: Vec<_> = samples.iter().map(|sample| sample.labels["name"].clone()).collect();
        names.dedup();
        names
    };
    let all = shown(&registry, Scope::All, true);
    let usage: Vec<_> =
        all.iter().filter(|s| s.name == "container_cpu_usage_seconds_total").cloned().collect();
    assert_eq!(names(&usage), ["h", "v"]);
    assert!(usage.iter().all(|s| s.at_ms == i64::try_from(at / 1_000_000).ok()));
    let vm = shown(&registry, Scope::Vm, false);
    assert_eq!(names(&vm), ["v"]);
    assert!(vm.iter().all(|sample| sample.at_ms.is_none()));
}

#[test]
fn counters_never_go_backwards_and_old_samples_do_not_win() {
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    let now = now_ns();
    take(&container, V2, &cpu_v2(2_000_000), now - 10);
    assert!(!container.sampled(sample(V2, &cpu_v2(9_000_000), now - 11), SampleSource::Polled), "older");
    take(&container, V2, &cpu_v2(1_000_000), now - 5);
    let all = shown(&registry, Scope::All, true);
    assert_eq!(values(&all)["container_cpu_usage_seconds_total"], 2.0);
    // Its cgroup is gone, and the shim answers nothing: what was counted stays counted.
    take(&container, V2, &v2::Metrics::new(), now);
    let all = shown(&registry, Scope::All, true);
    assert_eq!(values(&all)["container_cpu_usage_seconds_total"], 2.0);
    assert!(!values(&all).contains_key("container_memory_usage_bytes"));
}

#[tokio::test(start_paused = true)]
async fn at_exit_gauges_vanish_and_counters_stay_two_minutes() {
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    take(&container, V2, &cpu_v2(2_000_000), now_ns());
    assert!(values(&shown(&registry, Scope::All, true)).contains_key("container_memory_rss"));
    container.update(Update::Exited { at_ns: now_ns(), status: 0 });
    let all = shown(&registry, Scope::All, true);
    let names: Vec<_> = all.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "container_cpu_usage_seconds_total",
            "container_cpu_user_seconds_total",
            "container_cpu_system_seconds_total"
        ]
    );
    tokio::time::advance(Duration::from_secs(119)).await;
    registry.sweep(Duration::from_secs(60));
    assert_eq!(registry.containers().len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    registry.sweep(Duration::from_secs(60));
    assert_eq!(registry.containers().len(), 0);
}

#[test]
fn a_sample_that_is_older_than_three_intervals_is_not_shown() {
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    take(&container, V2, &cpu_v2(2_000_000), now_ns() - 151_000_000_000);
    let names: Vec<_> = shown(&registry, Scope::All, true).into_iter().map(|sample| sample.name).collect();
    assert_eq!(names, ["container_start_time_seconds"]);
    take(&container, V2, &cpu_v2(2_000_000), now_ns() - 140_000_000_000);
    assert!(values(&shown(&registry, Scope::All, true)).contains_key("container_memory_rss"));
    // What ended keeps its last sample as long as it is shown at all.
    let ended = registry.container(&open("c2", &[], "/c2"), &runc());
    take(&ended, V2, &cpu_v2(2_000_000), now_ns() - 300_000_000_000);
    ended.update(Update::Exited { at_ns: now_ns(), status: 0 });
    let all = shown(&registry, Scope::All, true);
    assert!(all.iter().any(|s| s.labels["name"] == "c2" && s.name == "container_cpu_usage_seconds_total"));
}

/// Where nobody need have told of one, there is no 0.
#[test]
fn kills_in_a_guest_are_those_that_were_told_and_absent_where_that_says_nothing() {
    let wasm =
        || link::InnerShim { binary: "/usr/bin/containerd-shim-wasmtime-v1".into(), ..Default::default() };
    let gvisor =
        || link::InnerShim { binary: "/usr/bin/containerd-shim-runsc-v1".into(), ..Default::default() };
    let killed = Update::Exited { at_ns: now_ns(), status: 137 };
    let ended = Update::Exited { at_ns: now_ns(), status: 1 };
    for (shim, told, updates, kills) in [
        (kata(), 0, vec![], Some(0.0)),
        (kata(), 2, vec![], Some(2.0)),
        (kata(), 0, vec![ended], Some(0.0)),
        (kata(), 1, vec![killed], Some(1.0)),
        (kata(), 0, vec![Update::Killed, killed], Some(0.0)),
        // A guest as a whole was short of memory, or not: nobody tells.
        (kata(), 0, vec![killed], None),
        (wasm(), 0, vec![], None),
        (gvisor(), 0, vec![], None),
        (wasm(), 1, vec![], Some(1.0)),
        (runc(), 1, vec![], None),
    ] {
        let registry = registry();
        registry.totals.containerd.set(ContainerdState::Up, "");
        let container = registry.container(&open("c", &[], "/c"), &shim);
        (0..told).for_each(|_| container.ran_out_of_memory());
        updates.iter().for_each(|update| container.update(*update));
        let all = shown(&registry, Scope::All, true);
        let case = format!("{} {told} {updates:?}", shim.binary);
        assert_eq!(values(&all).get("container_oom_events_total").copied(), kills, "{case}");
        registry.totals.containerd.set(ContainerdState::Off, "");
        let all = shown(&registry, Scope::All, true);
        assert!(!values(&all).contains_key("container_oom_events_total"), "nobody listens: {case}");
    }
}

fn host(processes: Option<u64>, interfaces: Option<&str>) -> HostFigures {
    let received = Counts { bytes: 1, packets: 2, errors: 3, dropped: 4 };
    let sent = Counts { bytes: 5, packets: 6, errors: 7, dropped: 8 };
    HostFigures {
        time_ns: now_ns(),
        processes,
        interfaces: interfaces.map(|name| [(name.to_owned(), Interface { received, sent })].into()),
        ..HostFigures::default()
    }
}

#[test]
fn the_network_is_the_sandboxs_and_ends_as_counters_do() {
    let registry = registry();
    let note = |kind| {
        [
            ("io.kubernetes.cri.container-type", kind),
            ("io.kubernetes.cri.sandbox-id", "sb"),
            ("io.kubernetes.cri.sandbox-name", "web-0"),
            ("io.kubernetes.cri.container-name", "app"),
        ]
    };
    let sandbox = registry.container(&open("sb", &note("sandbox")[..3], "/sb"), &kata());
    sandbox.live().host = Some(host(Some(2), Some("eth0")));
    registry.container(&open("c", &note("container"), "/c"), &kata());
    let all = shown(&registry, Scope::Vm, true);
    let network: Vec<_> = all.iter().filter(|s| s.name.starts_with("container_network_")).collect();
    let name = |what: &str| format!("container_network_{what}_total");
    let got: Vec<_> = network.iter().map(|s| (s.name.clone(), s.value)).collect();
    assert_eq!(
        got,
        [
            (name("receive_bytes"), 1.0),
            (name("receive_packets"), 2.0),
            (name("receive_errors"), 3.0),
            (name("receive_packets_dropped"), 4.0),
            (name("transmit_bytes"), 5.0),
            (name("transmit_packets"), 6.0),
            (name("transmit_errors"), 7.0),
            (name("transmit_packets_dropped"), 8.0),
        ]
    );
    for sample in &network {
        let (container, interface) = (&sample.labels["container"], &sample.labels["interface"]);
        assert_eq!((container.as_str(), interface.as_str(), sample.at_ms.is_some()), ("", "eth0", true));
    }
    assert!(all.iter().any(|s| s.name == "container_processes"));
    sandbox.update(Update::Exited { at_ns: now_ns(), status: 0 });
    let all = shown(&registry, Scope::Vm, true);
    assert_eq!(all.iter().filter(|s| s.name.starts_with("container_network_")).count(), 8);
    assert!(!all.iter().any(|s| s.name == "container_processes"), "a gauge");
}

/// What the page leaves out of many disks and interfaces is counted, on each page.
#[test]
fn of_more_devices_and_interfaces_than_are_allowed_the_first_are_shown_and_the_rest_counted() {
    let mut registry = registry();
    let limits = Limits { devices: 1, interfaces: 1, ..Limits::default() };
    registry.bounds = Bounds::new(limits, Arc::clone(&registry.totals));
    let container = registry.container(&open("sb", &[], "/sb"), &runc());
    let io = |minor| v2::IOEntry { major: 254, minor, rbytes: 7, ..Default::default() };
    let usage = v2::IOStat { usage: vec![io(0), io(16), io(32)], ..Default::default() };
    take(&container, V2, &v2::Metrics { io: MessageField::some(usage), ..cpu_v2(5) }, now_ns());
    let named = |name: &str| {
        let counts = || Counts { bytes: 1, packets: 2, errors: 3, dropped: 4 };
        (name.to_owned(), Interface { received: counts(), sent: counts() })
    };
    let interfaces = Some([named("eth0"), named("eth1")].into());
    container.live().host = Some(HostFigures { interfaces, ..host(None, None) });
    let all = shown(&registry, Scope::All, true);
    let rows = |name: &str, label: &str| -> Vec<String> {
        all.iter().filter(|s| s.name == name).map(|s| s.labels[label].clone()).collect()
    };
    assert_eq!(rows("container_network_receive_bytes_total", "interface"), ["eth0"]);
    // By what name is this machine's affair.
    assert_eq!(rows("container_fs_reads_bytes_total", "device").len(), 1);
    let cuts = &registry.totals.cuts;
    assert_eq!((cuts.get(Cut::Devices), cuts.get(Cut::Interfaces)), (2, 1));
}

#[test]
fn what_the_host_said_too_long_ago_is_not_shown() {
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    let old = HostFigures { time_ns: now_ns() - 151_000_000_000, ..host(Some(2), Some("eth0")) };
    container.live().host = Some(old);
    let names: Vec<_> = shown(&registry, Scope::All, true).into_iter().map(|sample| sample.name).collect();
    assert_eq!(names, ["container_start_time_seconds"]);
}

#[test]
fn the_minimal_profile_has_the_twenty_names_of_azures_and_no_other() {
    /// `tomlparser-default-targets-metrics-keep-list.go` of Azure's prometheus-collector, without `kubernetes_build_info`.
    const AZURE: &str = "container_spec_cpu_quota container_spec_cpu_period container_memory_rss \
        container_network_receive_bytes_total container_network_transmit_bytes_total \
        container_network_receive_packets_total container_network_transmit_packets_total \
        container_network_receive_packets_dropped_total container_network_transmit_packets_dropped_total \
        container_fs_reads_total container_fs_writes_total container_fs_reads_bytes_total \
        container_fs_writes_bytes_total container_cpu_usage_seconds_total container_memory_working_set_bytes \
        container_memory_cache container_memory_swap container_cpu_cfs_throttled_periods_total \
        container_cpu_cfs_periods_total container_start_time_seconds";
    let azure: std::collections::BTreeSet<_> = AZURE.split_whitespace().collect();
    let ours = crate::metrics::families::MINIMAL.iter().map(|family| family.name).collect();
    assert_eq!(azure, ours);
    let registry = registry();
    let container = registry.container(&open("c1", &[], "/c1"), &runc());
    take(&container, V2, &cpu_v2(2_000_000), now_ns());
    let profile = Profile::Minimal;
    let all = rendered(&registry, Wanted { scope: Scope::All, profile, times: true });
    let names: Vec<_> = all.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_memory_rss",
            "container_memory_cache",
            "container_start_time_seconds",
        ]
    );
}

#[test]
fn limits_are_the_last_ones_that_anybody_knows_of() {
    let registry = registry();
    let limited = link::Open {
        cpu_quota_us: Some(50_000),
        memory_limit_bytes: Some(1 << 62),
        ..open("c1", &[], "/c1")
    };
    let container = registry.container(&limited, &runc());
    let limits = || {
        let all = shown(&registry, Scope::All, true);
        let spec: Vec<_> = all.into_iter().filter(|s| s.name.starts_with("container_spec_")).collect();
        spec.into_iter().map(|s| (s.name, s.value)).collect::<Vec<_>>()
    };
    let quota = |us| vec![("container_spec_cpu_quota".to_owned(), us)];
    assert_eq!(limits(), quota(50_000.0), "2^62 bytes are no limit");
    container.update(Update::Limits(Some(Spec { cpu_quota_us: Some(70_000), ..Spec::default() })));
    assert_eq!(limits(), quota(70_000.0));
    container.update(Update::Limits(None));
    assert_eq!(limits(), [], "an Update that nobody can tell of");
    // The wrapper says it anew, with what it knows by now.
    let again = link::Open { cpu_quota_us: Some(70_000), again: true, ..open("c1", &[], "/c1") };
    registry.container(&again, &runc());
    assert_eq!(limits(), quota(70_000.0));
}

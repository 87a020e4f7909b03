//! One test per fault that a v1 message can have, and the captured answers of a real Kata pod.

use containerd_shim_protos::{
    cgroups::metrics::{
        BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics, PidsStat, Throttle,
    },
    protobuf::{Message, MessageField, well_known_types::any::Any},
};

use super::super::{Device, Fault, Io, Sample};
use super::*;
use crate::enrich::ShimKind;

const IDLE: &str = include_str!("../../../../tests/fixtures/kata/stats-runtime-rs-guest-v2-idle.hex");
const CACHED: &str = include_str!("../../../../tests/fixtures/kata/stats-runtime-rs-guest-v2-pagecache.hex");

fn captured(digits: &str) -> Sample {
    let digits = digits.trim().as_bytes();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("a byte");
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    let any = Any::parse_from_bytes(&bytes).expect("an Any");
    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    read(&Metrics::parse_from_bytes(&any.value).expect("metrics"))
}

fn entry(usage: u64) -> MessageField<MemoryEntry> {
    MessageField::some(MemoryEntry { usage, limit: u64::MAX, ..Default::default() })
}

/// A message with 1000 bytes in use, and these rows.
fn with(stat: MemoryStat) -> Sample {
    let memory = MessageField::some(MemoryStat { usage: entry(1_000), ..stat });
    read(&Metrics { memory, ..Default::default() })
}

fn faults(sample: &Sample) -> Vec<Fault> {
    sample.faults.iter().collect()
}

#[test]
fn a_captured_answer_with_page_cache_has_the_right_working_set() {
    let got = captured(CACHED);
    assert_eq!((got.memory_usage, got.working_set), (Some(64_978_944), Some(1_662_976)));
    assert_eq!(got.cpu_ns, Some(8_720_314_000));
    assert_eq!((got.cpu_user_ns, got.cpu_system_ns), (Some(7_297_484_000), Some(1_422_830_000)));
    assert_eq!((got.max_usage, got.threads, got.threads_max), (Some(66_269_184), Some(1), None));
    assert_eq!((got.rss, got.cache, got.mapped_file, got.swap, got.failcnt), (None, None, None, None, None));
    assert_eq!((got.periods, got.oom_kills, got.devices.iter().len()), (None, None, 0));
    assert_eq!(faults(&got), [Fault::InactiveFileRepaired, Fault::MemoryRowsMissing]);
}

#[test]
fn a_captured_idle_answer_has_no_inactive_cache() {
    let got = captured(IDLE);
    assert_eq!((got.memory_usage, got.working_set), (Some(536_576), Some(536_576)));
    assert_eq!((got.rss, got.cache, got.swap), (None, None, None));
    assert_eq!(faults(&got), [Fault::MemoryRowsMissing]);
}

#[test]
fn the_hierarchys_inactive_cache_comes_first() {
    let got = with(MemoryStat { total_inactive_file: 300, inactive_file: 200, ..Default::default() });
    assert_eq!(got.working_set, Some(700));
    assert!(!got.faults.has(Fault::InactiveFileRepaired));
}

#[test]
fn a_working_set_without_any_list_is_not_known() {
    let got = with(MemoryStat { pg_fault: 5, ..Default::default() });
    assert_eq!(got.working_set, None);
    assert!(got.faults.has(Fault::WorkingSetMissing));
}

#[test]
fn rows_that_nobody_filled_in_are_absent_and_a_whole_copy_may_say_0() {
    let got = with(MemoryStat { inactive_anon: 5, ..Default::default() });
    assert_eq!((got.rss, got.cache, got.mapped_file), (None, None, None));
    let got = with(MemoryStat { total_pg_fault: 1, ..Default::default() });
    assert_eq!((got.rss, got.cache, got.mapped_file), (Some(0), Some(0), Some(0)));
    assert_eq!(got.working_set, Some(1_000));
    assert_eq!(faults(&got), []);
}

#[test]
fn kata_go_puts_the_hierarchys_figures_where_the_cgroups_own_belong() {
    let got = with(MemoryStat {
        cache: 600,
        rss: 300,
        mapped_file: 20,
        total_inactive_file: 500,
        ..Default::default()
    });
    assert_eq!((got.cache, got.rss, got.mapped_file), (Some(600), Some(300), Some(20)));
    assert_eq!((got.working_set, got.failcnt), (Some(500), Some(0)));
    assert_eq!(faults(&got), []);
}

#[test]
fn swap_is_absent_where_it_may_be_swap_alone() {
    let swap = |stat: MemoryStat, usage| with(MemoryStat { swap: entry(usage), ..stat });
    let got = swap(MemoryStat { inactive_file: 400, ..Default::default() }, 1_700);
    assert_eq!(got.swap, None);
    assert!(got.faults.has(Fault::SwapUnclear));
    let got = swap(MemoryStat { total_rss: 400, ..Default::default() }, 1_700);
    assert_eq!(got.swap, Some(700));
    // An empty message: memory is in use, so nobody has counted.
    let got = swap(MemoryStat { total_rss: 400, ..Default::default() }, 0);
    assert_eq!(got.swap, None);
}

#[test]
fn failures_are_absent_of_a_kernel_that_does_not_count_them() {
    assert_eq!(with(MemoryStat { inactive_file: 5, ..Default::default() }).failcnt, None);
    assert_eq!(with(MemoryStat { total_rss: 5, ..Default::default() }).failcnt, Some(0));
}

#[test]
fn counts_among_the_bytes_go_where_they_belong() {
    let row = |op: &str, value| BlkIOEntry { op: op.into(), major: 254, value, ..Default::default() };
    let bytes = vec![row("read", 10), row("write", 20), row("rios", 1), row("wios", 2), row("dbytes", 9)];
    let read_rows = |serviced: Vec<BlkIOEntry>| {
        let blkio = BlkIOStat {
            io_service_bytes_recursive: bytes.clone(),
            io_serviced_recursive: serviced,
            ..Default::default()
        };
        read(&Metrics { blkio: MessageField::some(blkio), ..Default::default() })
    };
    let device = Device { major: 254, ..Device::default() };
    let io = |reads, writes| Io { reads, writes, read_bytes: Some(10), written_bytes: Some(20) };
    let got = read_rows(Vec::new());
    assert_eq!(got.devices.get(&device), Some(&io(Some(1), Some(2))));
    assert_eq!(faults(&got), [Fault::BlockCountsRepaired]);
    // Where there is a list of counts, that one holds.
    let got = read_rows(vec![row("Read", 7)]);
    assert_eq!(got.devices.get(&device), Some(&io(Some(7), None)));
    assert_eq!(faults(&got), []);
}

#[test]
fn a_device_of_which_only_sums_are_told_is_absent() {
    let total = BlkIOEntry { op: "Total".into(), major: 8, value: 5, ..Default::default() };
    let blkio = BlkIOStat { io_service_bytes_recursive: vec![total], ..Default::default() };
    assert!(read(&Metrics { blkio: MessageField::some(blkio), ..Default::default() }).devices.is_empty());
}

#[test]
fn what_is_left_out_for_a_fault_does_not_come_back_as_the_older_0() {
    let mut first = Sample { periods: Some(1), ..Sample::default() };
    first.throttling(1, 0, 0);
    first.cpu(10, 0, 0);
    assert_eq!((first.throttled_ns, first.cpu_user_ns), (Some(0), Some(0)));
    let mut second = Sample::default();
    second.throttling(9, 3, 0);
    second.cpu(9_000_000_000, 0, 0);
    let second = second.not_below(&first);
    assert_eq!((second.throttled_periods, second.throttled_ns), (Some(3), None));
    assert_eq!((second.cpu_user_ns, second.cpu_system_ns), (None, None));
    assert!(second.faults.has(Fault::ThrottledTimeMissing) && second.faults.has(Fault::UserSystemMissing));
}

#[test]
fn a_vms_throttled_time_is_not_shown_before_it_is_known_to_be_counted() {
    let mut sample = Sample::default();
    sample.throttling(5, 0, 0);
    assert_eq!(sample.clone().doubt(ShimKind::Host).throttled_ns, Some(0));
    assert_eq!(sample.clone().doubt(ShimKind::KataRust).throttled_ns, None);
    sample.throttling(5, 2, 7);
    assert_eq!(sample.doubt(ShimKind::KataRust).throttled_ns, Some(7));
}

/// As seen of gVisor's shim of January 2026, which fills in what it has and leaves all else 0.
#[test]
fn what_gvisor_says_is_taken_and_what_it_leaves_out_is_absent() {
    let usage = MessageField::some(CPUUsage { total: 3_359_159_275, ..Default::default() });
    let cpu = CPUStat { usage, throttling: MessageField::some(Throttle::default()), ..Default::default() };
    let zero = || MessageField::some(MemoryEntry::default());
    let usage = MessageField::some(MemoryEntry { usage: 2_031_616, ..Default::default() });
    let memory = MemoryStat { usage, swap: zero(), kernel: zero(), kernel_tcp: zero(), ..Default::default() };
    let got = read(&Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        pids: MessageField::some(PidsStat { current: 1, ..Default::default() }),
        ..Default::default()
    });
    let got = got.doubt(ShimKind::Gvisor);
    assert_eq!((got.cpu_ns, got.cpu_user_ns, got.cpu_system_ns), (Some(3_359_159_275), None, None));
    // A pod's, divided by the number of its containers.
    assert_eq!((got.memory_usage, got.working_set, got.max_usage), (None, None, None));
    assert!(got.faults.has(Fault::MemoryShared));
    assert_eq!((got.rss, got.cache, got.mapped_file, got.swap, got.failcnt), (None, None, None, None, None));
    assert_eq!((got.threads, got.threads_max, got.periods, got.throttled_ns), (Some(1), None, None, None));
    assert_eq!((got.page_faults, got.oom_kills, got.devices.is_empty()), (None, None, true));
}

#[test]
fn page_faults_that_were_counted_stay_when_the_cgroup_is_gone() {
    let faults = PageFaults { own: 5, own_major: 1, all: 7, all_major: 2 };
    let counted = Sample { page_faults: Some(faults), ..Sample::default() };
    assert_eq!(Sample::default().not_below(&counted).page_faults, Some(faults));
    assert_eq!(counted.clone().not_below(&Sample::default()).page_faults, Some(faults));
    assert_eq!(Sample::default().not_below(&Sample::default()).page_faults, None, "nobody counted any");
}

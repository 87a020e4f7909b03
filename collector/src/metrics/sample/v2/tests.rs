//! The faults that a v2 message can have.

use containerd_shim_protos::{
    cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryStat, Metrics},
    protobuf::MessageField,
};

use super::super::{Fault, Sample};
use super::*;
use crate::enrich::ShimKind;

fn message() -> Metrics {
    let cpu = CPUStat { usage_usec: 900, user_usec: 600, system_usec: 300, ..Default::default() };
    let memory = MemoryStat { usage: 1_000, anon: 300, file: 500, inactive_file: 400, ..Default::default() };
    let entry = IOEntry { major: 254, rbytes: 10, ..Default::default() };
    Metrics {
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        io: MessageField::some(IOStat { usage: vec![entry], ..Default::default() }),
        ..Default::default()
    }
}

fn faults(sample: &Sample) -> Vec<Fault> {
    sample.faults.iter().collect()
}

#[test]
fn a_v1_guest_behind_a_v2_message_has_no_rows() {
    let memory = MemoryStat {
        usage: 1_000,
        inactive_file: 400,
        active_anon: 90,
        pgfault: 7,
        swap_usage: 1_200,
        ..Default::default()
    };
    let got = read(&Metrics { memory: MessageField::some(memory), ..Default::default() });
    assert_eq!(got.memory_usage, Some(1_000));
    assert_eq!(
        (got.working_set, got.rss, got.cache, got.mapped_file, got.swap),
        (None, None, None, None, None)
    );
    assert_eq!(faults(&got), [Fault::WorkingSetMissing, Fault::MemoryRowsMissing, Fault::SwapUnclear]);
}

#[test]
fn what_katas_go_shim_is_feared_to_say_wrongly_is_absent_and_its_total_is_given() {
    let read = || read(&message());
    for kind in [ShimKind::KataGo, ShimKind::KataRust, ShimKind::Kata] {
        let got = read().doubt(kind);
        assert_eq!((got.cpu_ns, got.cpu_user_ns, got.cpu_system_ns), (Some(900_000), None, None), "{kind:?}");
        assert_eq!((got.working_set, got.rss), (Some(600), Some(300)));
        assert!(got.devices.is_empty());
        assert_eq!(faults(&got), [Fault::UserSystemDoubted, Fault::DevicesDoubted]);
    }
    for kind in [ShimKind::Host, ShimKind::Other] {
        let got = read().doubt(kind);
        assert_eq!((got.cpu_user_ns, got.cpu_system_ns), (Some(600_000), Some(300_000)), "{kind:?}");
        assert_eq!((got.devices.iter().len(), faults(&got)), (1, Vec::new()));
    }
}

//! What a guest says is not trusted by its host: names and numbers of devices are its own choice, and there may be others in
//! each answer. So a container has few of them, by their numbers alone, and those that it had first stay the ones.

use std::{collections::BTreeMap, mem};

use super::{Device, Devices, Fault, Io, Sample};

/// Devices of one container whose guest names them: those that it named first, for as long as it lives.
pub(super) const DEVICES: usize = 64;
/// Devices of one container that this host's kernel names: what `metrics.max_devices` may show at most.
const HOST_DEVICES: usize = 1_024;
/// `/dev/mapper/…` has 50 or so.
const NAME_BYTES: usize = 64;

/// Cuts an answer to what may be kept of any.
pub(super) fn bound(sample: &mut Sample) {
    let said = mem::take(&mut sample.devices);
    let plain = said.into_iter().map(|(device, io)| (Device { name: plain(&device.name), ..device }, io));
    let mut kept: BTreeMap<Device, Io> = plain.take(HOST_DEVICES.saturating_add(1)).collect();
    if kept.len() > HOST_DEVICES {
        kept.pop_last();
        sample.faults.insert(Fault::DevicesDropped);
    }
    sample.devices = kept.into();
}

/// Devices are those of before, and as many others as there is room for: a container that names others in each answer has no
/// more series in a week than in one page. A device is its numbers; a name is only taken of this host.
pub(super) fn settle(sample: &mut Sample, before: Option<&Devices>, host_visible: bool) {
    let most = if host_visible { HOST_DEVICES } else { DEVICES };
    let mut kept: BTreeMap<(u64, u64), (String, Io)> = BTreeMap::new();
    let old = before.into_iter().flat_map(Devices::iter).map(|(device, io)| (device.clone(), *io));
    for (device, io) in old.chain(mem::take(&mut sample.devices)) {
        let numbers = (device.major, device.minor);
        let name = if host_visible { device.name } else { String::new() };
        if let Some((known, counted)) = kept.get_mut(&numbers) {
            if known.is_empty() {
                *known = name;
            }
            *counted = counted.not_below(io);
        } else if kept.len() < most {
            kept.insert(numbers, (name, io));
        } else {
            sample.faults.insert(Fault::DevicesDropped);
        }
    }
    let named = |((major, minor), (name, io))| (Device { major, minor, name }, io);
    sample.devices = kept.into_iter().map(named).collect();
}

/// A name as it may stand in a label; one that is odd is none, and the numbers stand for it.
fn plain(name: &str) -> String {
    let odd = name.len() > NAME_BYTES || name.chars().any(|c| !c.is_ascii_graphic());
    if odd { String::new() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use containerd_shim_protos::{
        cgroups::metrics as v1, cgroups_v2::metrics as v2, protobuf::Message, protobuf::MessageField,
    };
    use proptest::prelude::*;
    use shimtap_proto::link;

    use super::*;
    use crate::{
        config::{Profile, Scope},
        metrics::{Container, Registry, SampleSource, Wanted, exposition, render_cadvisor, render_own},
        sinks::Backlog,
        time::now_ns,
    };

    fn node() -> (Registry, Arc<Container>) {
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        let open = link::Open { container: "c".into(), started_ns: 5, ..Default::default() };
        let binary = "/opt/kata/bin/containerd-shim-kata-v2".to_owned();
        let container = registry.container(&open, &link::InnerShim { binary, ..Default::default() });
        (registry, container)
    }

    /// A message of either version with whatever a guest may choose.
    fn message() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
        let row = (any::<u64>(), any::<u64>(), any::<u64>(), ".{0,80}", "(read|write|rios|WIOS|.{0,9})");
        let rows = proptest::collection::vec(row, 0..100);
        let first =
            (rows, any::<[u64; 8]>()).prop_map(|(rows, n)| {
                let entry = |(major, minor, value, device, op): (u64, u64, u64, String, String)| {
                    v1::BlkIOEntry { major, minor, value, device, op, ..Default::default() }
                };
                let rows: Vec<_> = rows.into_iter().map(entry).collect();
                let half = rows.len() / 2;
                let blkio = v1::BlkIOStat {
                    io_service_bytes_recursive: rows[..half].to_vec(),
                    io_serviced_recursive: rows[half..].to_vec(),
                    ..Default::default()
                };
                let usage = v1::CPUUsage { total: n[0], user: n[1], kernel: n[2], ..Default::default() };
                let entry = v1::MemoryEntry { usage: n[3], max: n[4], ..Default::default() };
                let memory = v1::MemoryStat {
                    usage: MessageField::some(entry),
                    inactive_file: n[5],
                    rss: n[6],
                    ..Default::default()
                };
                let cpu = v1::CPUStat { usage: MessageField::some(usage), ..Default::default() };
                let pids = v1::PidsStat { current: n[7], ..Default::default() };
                let metrics = v1::Metrics {
                    cpu: MessageField::some(cpu),
                    memory: MessageField::some(memory),
                    pids: MessageField::some(pids),
                    blkio: MessageField::some(blkio),
                    ..Default::default()
                };
                ("io.containerd.cgroups.v1.Metrics", metrics.write_to_bytes().expect("encodes"))
            });
        let entries = proptest::collection::vec(any::<[u64; 6]>(), 0..100);
        let second = (entries, any::<[u64; 4]>()).prop_map(|(entries, n)| {
            let entry = |e: [u64; 6]| v2::IOEntry {
                major: e[0],
                minor: e[1],
                rbytes: e[2],
                wbytes: e[3],
                rios: e[4],
                wios: e[5],
                ..Default::default()
            };
            let io = v2::IOStat { usage: entries.into_iter().map(entry).collect(), ..Default::default() };
            let cpu = v2::CPUStat { usage_usec: n[0], user_usec: n[1], ..Default::default() };
            let memory = v2::MemoryStat { usage: n[2], anon: n[3], ..Default::default() };
            let metrics = v2::Metrics {
                cpu: MessageField::some(cpu),
                memory: MessageField::some(memory),
                io: MessageField::some(io),
                ..Default::default()
            };
            ("io.containerd.cgroups.v2.Metrics", metrics.write_to_bytes().expect("encodes"))
        });
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        let garbage = ("io.containerd.cgroups.v(1|2).Metrics", bytes).prop_map(|(name, bytes)| {
            let known = ["io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"];
            (known[usize::from(name.contains("v2"))], bytes)
        });
        prop_oneof![4 => first, 3 => second, 1 => garbage]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Whatever a guest answers, and however often something else: the page can be read, and stays small.
        #[test]
        fn a_hostile_guest_has_a_page_that_is_small_and_whole(
            answers in proptest::collection::vec(message(), 1..8),
        ) {
            let (registry, container) = node();
            for (n, (name, value)) in (0u64..).zip(answers) {
                let type_url = name.to_owned();
                let stats = link::Stats { time_ns: now_ns() + n, type_url, value, ..Default::default() };
                if let Ok(sample) = Sample::decode(&stats) {
                    prop_assert!(sample.devices.iter().len() <= HOST_DEVICES);
                    container.sampled(sample, SampleSource::Polled);
                }
                let kept = container.live().sample.as_ref().map_or(0, |sample| sample.devices.iter().len());
                prop_assert!(kept <= DEVICES, "{kept} devices");
            }
            let all = Wanted { scope: Scope::All, profile: Profile::Full, times: true };
            let page = render_cadvisor(&registry, all);
            prop_assert!(page.len() < 256 << 10, "{} bytes", page.len());
            for family in exposition::parse(&page).into_iter().chain(exposition::parse(&render_own(&registry))) {
                let mut rows = std::collections::BTreeSet::new();
                for sample in family.samples {
                    let row = (sample.name.clone(), format!("{:?}", sample.labels));
                    prop_assert!(rows.insert(row), "{} twice: {:?}", sample.name, sample.labels);
                    for (key, value) in sample.labels {
                        let plain = value.len() <= 128 && value.chars().all(|c| c.is_ascii_graphic());
                        prop_assert!(plain, "{key}={value:?}");
                        let numbers = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
                        prop_assert!(key != "device" || numbers, "a guest's word: {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn devices_come_and_go_and_do_not_gather() {
        let (_, container) = node();
        for n in 0..500u64 {
            let device = Device { major: n, minor: 0, name: String::new() };
            let io = Io { reads: Some(n), ..Io::default() };
            let mut sample = Sample { time_ns: n + 1, devices: [(device, io)].into(), ..Sample::default() };
            bound(&mut sample);
            assert!(container.sampled(sample, SampleSource::Polled));
        }
        let live = container.live();
        let sample = live.sample.as_ref().expect("the last");
        assert_eq!(sample.devices.iter().len(), DEVICES);
        assert!(sample.faults.has(Fault::DevicesDropped));
        assert!(sample.devices.iter().all(|(device, _)| device.major < 64), "those that it had first");
    }

    #[test]
    fn a_device_is_its_numbers() {
        let device = |name: &str| Device { major: 8, minor: 0, name: name.to_owned() };
        let io = |reads, writes| Io { reads, writes, ..Io::default() };
        for (host_visible, name) in [(true, "/dev/sda"), (false, "")] {
            let both = [(device(""), io(Some(3), None)), (device("/dev/sda"), io(Some(2), Some(7)))];
            let mut sample = Sample { devices: both.into(), ..Sample::default() };
            settle(&mut sample, None, host_visible);
            assert_eq!(sample.devices, [(device(name), io(Some(3), Some(7)))].into());
        }
    }

    #[test]
    fn odd_names_are_numbers() {
        assert_eq!(plain("/dev/vda"), "/dev/vda");
        for odd in ["/dev/v\nda", "\u{202e}adv", "a b", "\x1b[0m", &"x".repeat(65)] {
            assert_eq!(plain(odd), "", "{odd:?}");
        }
    }
}

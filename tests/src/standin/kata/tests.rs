//! The stand-in's answers against the captured ones and against what was read.

use containerd_shim_protos::{
    cgroups::metrics as v1_metrics,
    protobuf::{Message, well_known_types::any::Any},
};

use super::{
    Profile, agent, go,
    guest::{Cgroup, Guest},
    rust,
};

const CAPTURED: &str =
    include_str!("../../../../collector/tests/fixtures/kata/stats-runtime-rs-guest-v2-pagecache.hex");

fn captured() -> Any {
    let digits = CAPTURED.trim().as_bytes();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(text, 16).expect("a byte")
    };
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    Any::parse_from_bytes(&bytes).expect("an Any")
}

#[test]
fn the_rust_shims_answer_is_the_captured_one() {
    let real = captured();
    let ours = Profile::Rust.stats(&Guest::captured()).expect("encodes").expect("an answer");
    assert_eq!(ours.type_url, real.type_url);
    let decode = |any: &Any| v1_metrics::Metrics::parse_from_bytes(&any.value).expect("decodes");
    assert_eq!(decode(&ours), decode(&real));
    assert_eq!(ours.value, real.value);
}

#[test]
fn the_go_shim_swaps_and_merges_on_a_v2_host() {
    let guest = Guest::worked(Cgroup::V2);
    let message = go::v2(&agent::stats(&guest));
    assert_eq!((message.cpu.user_usec, message.cpu.system_usec), (guest.system_us, guest.user_us));
    assert_eq!(message.cpu.throttled_usec, 0);
    let [io] = message.io.usage.as_slice() else { unreachable!("{:?}", message.io) };
    assert_eq!((io.minor, io.rbytes, io.wios), (16, 3_000_000, 600), "the last device's");
}

#[test]
fn a_v2_guest_leaves_v1_names_empty() {
    let said = agent::stats(&Guest::worked(Cgroup::V2));
    for message in [rust::v1(&said), go::v1(&said)] {
        let memory = &message.memory;
        assert_eq!((memory.total_inactive_file, memory.total_rss, memory.rss, memory.cache), (0, 0, 0, 0));
        assert_eq!(memory.usage.usage, 65_000_000);
        assert_eq!(message.cpu.throttling.throttled_time, 0);
        let ops: Vec<&str> =
            message.blkio.io_service_bytes_recursive.iter().map(|row| row.op.as_str()).collect();
        assert_eq!(ops.get(..6), Some(&["read", "write", "rios", "wios", "dbytes", "dios"][..]));
        assert!(message.blkio.io_serviced_recursive.is_empty());
    }
}

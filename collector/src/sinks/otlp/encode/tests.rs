//! Field by field against upstream's decoder.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::ArrayValue,
    logs::v1::{ResourceLogs, ScopeLogs},
};
use shimtap_proto::link;
use tokio::time::Instant;

use super::*;
use crate::enrich::Identity;
use crate::event::{HoleReason, Progress, StreamKind, StreamName};

fn node() -> Node {
    Node { host: Some("h1".into()), name: Some("n1".into()), cluster: Some("c1".into()) }
}

fn identity(container: &str, image: &str) -> Arc<Identity> {
    let open = link::Open {
        namespace: "k8s.io".into(),
        container: container.into(),
        annotations: [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", "sb"),
            ("io.kubernetes.cri.sandbox-namespace", "ns"),
            ("io.kubernetes.cri.sandbox-name", "web-0"),
            ("io.kubernetes.cri.sandbox-uid", "uid"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.image-name", image),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect(),
        ..Default::default()
    };
    Arc::new(Identity::new(&open, &link::InnerShim::new()))
}

fn batch(identity: &Arc<Identity>, process: &str, stream: StreamKind, records: Vec<Record>) -> Batch {
    let name = StreamName {
        namespace: identity.runtime_namespace.clone(),
        container: identity.container_id.clone(),
        incarnation: 0xab,
        process: process.into(),
        stream,
    };
    let origin = Arc::new(Origin::new(name, Arc::clone(identity)));
    let end = records.last().map_or(0, |record| record.to);
    let receipt = Arc::new(Progress::default());
    Batch { origin, records, end, ending: None, receipt, received: Instant::now(), last: false }
}

fn record(from: u64, to: u64, flags: Flags, body: Content) -> Record {
    Record { from, to, time_ns: 1_700_000_000_000_000_000_u64.wrapping_add(from), flags, body }
}

fn line(text: &'static [u8]) -> Content {
    Content::Line(Bytes::from_static(text))
}

fn encoded(node: &Node, batches: &[Batch]) -> Vec<ResourceLogs> {
    let mut encoder = Encoder::new(node, Compression::None);
    let mut parcel = Parcel::default();
    for batch in batches {
        for record in &batch.records {
            encoder.add(&mut parcel, batch, record);
        }
    }
    let estimated = encoder.size(&parcel);
    encoder.seal(&mut parcel);
    let body = whole(&parcel);
    assert!(body.len() <= estimated, "{} bytes were thought to be {estimated}", body.len());
    ExportLogsServiceRequest::decode(body).expect("a request").resource_logs
}

fn whole(parcel: &Parcel) -> Bytes {
    parcel.body().pieces().concat().into()
}

fn value(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn words(all: &[(&str, &str)]) -> Vec<KeyValue> {
    all.iter().map(|(key, value)| text(key, *value)).collect()
}

fn array(key: &str, word: &str) -> KeyValue {
    let values = vec![AnyValue { value: Some(Value::StringValue(word.into())) }];
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}

/// The attributes that every record has.
fn common(stream: &str, id: &str, from: i64, to: i64) -> Vec<KeyValue> {
    vec![
        text("log.iostream", stream),
        text("log.record.uid", id),
        attribute("shimtap.offset.from", Value::IntValue(from)),
        attribute("shimtap.offset.to", Value::IntValue(to)),
    ]
}

#[test]
fn a_request_is_what_the_conventions_say() {
    let of = identity("cid", "reg:5000/app:1.2@sha256:ff");
    let records = vec![record(3, 6, Flags::NONE, line(b"hi")), record(6, 7, Flags::NONE, line(b""))];
    let made = encoded(&node(), &[batch(&of, "", StreamKind::Stderr, records)]);
    let mut attributes = words(&[
        ("k8s.cluster.name", "c1"),
        ("k8s.node.name", "n1"),
        ("host.name", "h1"),
        ("k8s.namespace.name", "ns"),
        ("k8s.pod.name", "web-0"),
        ("k8s.pod.uid", "uid"),
        ("k8s.container.name", "app"),
        ("container.id", "cid"),
        ("container.runtime.name", "containerd"),
        ("container.image.name", "reg:5000/app"),
        ("shimtap.containerd.namespace", "k8s.io"),
        ("shimtap.sandbox.id", "sb"),
    ]);
    attributes.push(array("container.image.tags", "1.2"));
    attributes.push(array("container.image.repo_digests", "reg:5000/app@sha256:ff"));
    let log = |from: u64, to, id: &str, body: &str| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000 + from,
        observed_time_unix_nano: 1_700_000_000_000_000_000 + from,
        body: value(Value::StringValue(body.into())),
        attributes: common("stderr", id, signed(from), to),
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: "shimtap".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let expected = ResourceLogs {
        resource: Some(opentelemetry_proto::tonic::resource::v1::Resource {
            attributes,
            ..Default::default()
        }),
        scope_logs: vec![ScopeLogs {
            scope: Some(scope),
            log_records: vec![
                log(3, 6, "00000000000000ab-stderr-3", "hi"),
                log(6, 7, "00000000000000ab-stderr-6", ""),
            ],
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    };
    assert_eq!(made, [expected]);
}

#[test]
fn what_is_not_known_is_absent() {
    let open = link::Open { namespace: "default".into(), container: "c".into(), ..Default::default() };
    let plain = Arc::new(Identity::new(&open, &link::InnerShim::new()));
    let records = vec![record(0, 1, Flags::NONE, line(b""))];
    let made = encoded(&Node::default(), &[batch(&plain, "", StreamKind::Stdout, records)]);
    let attributes = &made[0].resource.as_ref().expect("a resource").attributes;
    let expected = words(&[
        ("container.id", "c"),
        ("container.runtime.name", "containerd"),
        ("shimtap.containerd.namespace", "default"),
    ]);
    assert_eq!(*attributes, expected);
}

#[test]
fn records_gather_under_their_containers_in_order() {
    let (one, two) = (identity("one", "i"), identity("two", "i"));
    let some = |from| vec![record(from, from + 1, Flags::NONE, line(b"x"))];
    let made = encoded(
        &node(),
        &[
            batch(&one, "", StreamKind::Stdout, some(0)),
            batch(&two, "", StreamKind::Stdout, some(1)),
            batch(&one, "", StreamKind::Stderr, some(2)),
            batch(&one, "", StreamKind::Stdout, some(3)),
        ],
    );
    let ids: Vec<Vec<_>> = made
        .iter()
        .map(|logs| {
            logs.scope_logs[0].log_records.iter().map(|log| log.attributes[1].value.clone()).collect()
        })
        .collect();
    let id = |id: &str| value(Value::StringValue(format!("00000000000000ab-{id}")));
    assert_eq!(ids, [vec![id("stdout-0"), id("stderr-2"), id("stdout-3")], vec![id("stdout-1")]]);
}

/// One record is filled again and again: nothing of the one before may be left in the next.
#[test]
fn nothing_is_left_of_the_record_before() {
    let of = identity("cid", "i");
    let records = vec![
        record(0, 2, Flags::PARTIAL.with(Flags::CUT), line(b"\xff")),
        record(2, 4, Flags::NONE, line(b"a")),
        record(4, 9, Flags::NONE, Content::hole(HoleReason::TapFull)),
        record(9, 10, Flags::NONE, line(b"b")),
        record(10, 12, Flags::NONE, Content::Hole(Hole { reason: HoleReason::RateLimit, lines: Some(7) })),
    ];
    let made = encoded(&node(), &[batch(&of, "ex", StreamKind::Stdout, records)]);
    let logs = &made[0].scope_logs[0].log_records;
    let with = |from: i64, to: i64, more: Vec<KeyValue>| {
        let mut all = common("stdout", &format!("00000000000000ab-ex-stdout-{from}"), from, to);
        all.push(text("shimtap.process", "ex"));
        all.extend(more);
        all
    };
    let flag = |name: &str| attribute(name, Value::BoolValue(true));
    let told: Vec<_> = logs.iter().map(|log| (log.body.clone(), log.severity_number)).collect();
    let gap = "shimtap: 5 bytes of output are not here: gap_tap_full";
    assert_eq!(
        told,
        [
            (value(Value::BytesValue(vec![0xff])), 0),
            (value(Value::StringValue("a".into())), 0),
            (value(Value::StringValue(gap.into())), 13),
            (value(Value::StringValue("b".into())), 0),
            (value(Value::StringValue("shimtap: 2 bytes of output are not here: rate_limit".into())), 13),
        ]
    );
    assert_eq!(logs[0].attributes, with(0, 2, vec![flag("shimtap.partial"), flag("shimtap.cut")]));
    assert_eq!(logs[1].attributes, with(2, 4, vec![]));
    let missing =
        vec![text("shimtap.gap.reason", "gap_tap_full"), attribute("shimtap.gap.bytes", Value::IntValue(5))];
    assert_eq!(logs[2].attributes, with(4, 9, missing));
    assert_eq!(logs[3].attributes, with(9, 10, vec![]));
    let limited = vec![
        text("shimtap.gap.reason", "rate_limit"),
        attribute("shimtap.gap.bytes", Value::IntValue(2)),
        attribute("shimtap.gap.lines", Value::IntValue(7)),
    ];
    assert_eq!(logs[4].attributes, with(10, 12, limited));
    assert_eq!((logs[2].severity_text.as_str(), logs[3].severity_text.as_str()), ("WARN", ""));
}

#[test]
fn offsets_beyond_what_otlp_can_say_are_its_largest() {
    let of = identity("cid", "i");
    let records = vec![record(u64::MAX - 1, u64::MAX, Flags::NONE, line(b""))];
    let mut batch = batch(&of, "", StreamKind::Stdout, records);
    batch.records[0].time_ns = u64::MAX;
    let made = encoded(&node(), &[batch]);
    let log = &made[0].scope_logs[0].log_records[0];
    assert_eq!(log.attributes[2].value, value(Value::IntValue(i64::MAX)));
    assert_eq!(log.time_unix_nano, u64::MAX);
}

#[test]
fn compressed_bodies_open_again() {
    use std::io::Read;
    let of = identity("cid", "i");
    // One encoder packs one after another, with what it packed the last one with; the largest is more than is packed at once.
    let bodies = |compression| {
        let mut encoder = Encoder::new(&node(), compression);
        let mut body = |text: &[u8]| {
            let mut parcel = Parcel::default();
            let text = Content::Line(Bytes::copy_from_slice(text));
            let batch = batch(&of, "", StreamKind::Stdout, vec![record(0, 9, Flags::NONE, text)]);
            encoder.add(&mut parcel, &batch, &batch.records[0]);
            encoder.seal(&mut parcel);
            assert_eq!(parcel.compression(), compression);
            whole(&parcel)
        };
        [&b"compress me, compress me, compress me"[..], &b"as well. ".repeat(20_000), b"", b"and me"]
            .map(&mut body)
    };
    let plain = bodies(Compression::None);
    let unzipped = bodies(Compression::Gzip).map(|body| {
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut unzipped).expect("gzip");
        unzipped
    });
    assert_eq!(unzipped, plain);
    assert_eq!(bodies(Compression::Zstd).map(|body| zstd::stream::decode_all(&*body).expect("zstd")), plain);
}

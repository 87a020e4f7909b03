//! Properties over generated input: what holds for any bytes (shared with the fuzz targets), and round trips.
//!
//! Generated messages have overlong varints, unknown fields and repeated fields in any order, since those are
//! what a rewriting relay would lose.

/// The fuzz targets' invariants.
#[cfg(test)]
#[path = "../fuzz/src/invariants.rs"]
mod invariants;

#[cfg(test)]
mod tests {
    use containerd_shim_protos::cgroups::metrics::{BlkIOEntry, BlkIOStat, MemoryEntry, MemoryStat, Metrics};
    use containerd_shim_protos::protobuf::Message;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use shimtap_proto::bootstrap::{Answer, Form};
    use shimtap_proto::ttrpc::repair::repair;
    use shimtap_proto::ttrpc::rewrite::{Edit, pad_path, replace};
    use shimtap_proto::ttrpc::task::{Create, Kill, StatsAnswer, TaskRef};
    use shimtap_proto::ttrpc::wire::{fields, put_len, put_number, put_varint, varint};
    use shimtap_proto::ttrpc::{
        Header, Kind, LENGTH_SANE, Method, RequestView, ResponseView, TaskApi, request_frame, status_frame,
    };

    use super::invariants;

    /// A varint with up to three bytes more than it needs (never more than ten).
    fn overlong(value: u64, extra: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        for _ in 0..extra.min(10 - bytes.len()) {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push(0);
        }
        bytes
    }

    fn len_field(number: u32, value: Vec<u8>, extra: usize) -> Vec<u8> {
        let len = u64::try_from(value.len()).unwrap();
        [overlong(u64::from(number) << 3 | 2, extra), overlong(len, extra), value].concat()
    }

    fn field() -> impl Strategy<Value = Vec<u8>> {
        let extra = prop_oneof![4 => Just(0), 1 => 0..4usize];
        let number = prop_oneof![8 => 1..12u32, 1 => 1..=(1u32 << 29) - 1];
        prop_oneof![
            4 => (number.clone(), vec(any::<u8>(), 0..40), extra.clone()).prop_map(|(n, v, e)| len_field(n, v, e)),
            2 => (number.clone(), any::<u64>(), extra)
                .prop_map(|(n, v, e)| [overlong(u64::from(n) << 3, e), overlong(v, e)].concat()),
            1 => (number.clone(), any::<[u8; 8]>()).prop_map(|(n, v)| [overlong(u64::from(n) << 3 | 1, 0), v.to_vec()].concat()),
            1 => (number, any::<[u8; 4]>()).prop_map(|(n, v)| [overlong(u64::from(n) << 3 | 5, 0), v.to_vec()].concat()),
        ]
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        vec(field(), 0..8).prop_map(|fields| fields.concat())
    }

    /// A request or response with one or more payloads among other fields.
    fn whole_frame() -> impl Strategy<Value = Vec<u8>> {
        let piece = (any::<bool>(), field(), message(), 0..3usize);
        (vec(piece, 0..5), any::<bool>(), any::<u32>(), any::<u8>()).prop_map(
            |(pieces, response, id, flags)| {
                let payload_field = if response { 2 } else { 3 };
                let body: Vec<u8> = pieces
                    .into_iter()
                    .flat_map(
                        |(is_payload, other, payload, extra)| {
                            if is_payload { len_field(payload_field, payload, extra) } else { other }
                        },
                    )
                    .collect();
                let kind = if response { Kind::Response } else { Kind::Request };
                let length = u32::try_from(body.len()).unwrap();
                [&Header { length, stream_id: id, kind, flags }.encode()[..], &body].concat()
            },
        )
    }

    fn edits() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
        vec((1..12u32, vec(any::<u8>(), 0..300)), 0..4)
    }

    /// Pieces of a request's body, more often the right ones.
    fn request_body() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => any::<bool>().prop_map(|v3| {
                let api = if v3 { TaskApi::V3 } else { TaskApi::V2 };
                len_field(1, api.service().into(), 0)
            }),
            3 => (0..17usize, 0..3usize).prop_map(|(at, extra)| len_field(2, Method::ALL[at].name().into(), extra)),
            2 => field(),
            1 => vec(any::<u8>(), 0..250).prop_map(|value| len_field(3, value, 0)),
        ];
        vec(piece, 0..5).prop_map(|pieces| pieces.concat())
    }

    /// `bytes` with one of: a byte changed, cut off, a byte put in.
    fn mutated(source: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        (source, any::<prop::sample::Index>(), any::<u8>(), 0..3).prop_map(|(mut bytes, at, byte, how)| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.truncate(at),
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        })
    }

    fn address() -> impl Strategy<Value = String> {
        prop_oneof![
            "unix:///[a-z0-9/.-]{1,90}[a-z0-9]",
            "[!-~]{1,60}",
            "(vsock|hvsock)://[0-9]{1,5}:[0-9]{1,5}"
        ]
    }

    fn printed() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            (r"[ \t\r\n]{0,3}", address(), r"[ \t\r\n]{0,3}").prop_map(|(a, b, c)| format!("{a}{b}{c}").into_bytes()),
            (0..5u32, address(), r"[ \t\r\n]{0,3}", "\\PC{0,20}").prop_map(|(version, address, space, other)| {
                let (address, other) = (serde_json::json!(address), serde_json::json!(other));
                format!(
                    "{space}{{{space}\"x\":{other},{space}\"version\":{version},\"address\":{space}{address}{space},\
                     \"protocol\":\"ttrpc\"}}{space}"
                )
                .into_bytes()
            }),
            (message(), 0..5u64, address(), message()).prop_map(|(before, version, address, after)| {
                let mut out = before;
                put_number(&mut out, 1, version);
                put_len(&mut out, 2, address.as_bytes());
                put_len(&mut out, 3, b"ttrpc");
                out.extend(after);
                out
            }),
        ]
    }

    /// Statistics of the first version with any of the rows that are looked at, others beside them, and devices.
    fn metrics() -> impl Strategy<Value = Metrics> {
        let figure = || prop_oneof![2 => Just(0), 1 => any::<u64>(), 1 => 1..200u64];
        let row = |ops: &'static str| {
            (ops, "[a-z/]{0,9}", figure()).prop_map(|(op, device, value)| BlkIOEntry {
                op,
                device,
                value,
                ..Default::default()
            })
        };
        let bytes = vec(row("(read|Write|rios|wios|dios|dbytes|)"), 0..6);
        let counts = prop_oneof![2 => Just(Vec::new()), 1 => vec(row("(read|write|rios)"), 1..3)];
        (vec(figure(), 7), bytes, counts).prop_map(|(n, bytes, counts)| {
            let memory = MemoryStat {
                inactive_anon: n[0],
                inactive_file: n[1],
                unevictable: n[2],
                total_inactive_file: n[3],
                total_active_file: n[4],
                usage: Some(MemoryEntry { usage: n[5], limit: n[6], ..Default::default() }).into(),
                ..Default::default()
            };
            let blkio = BlkIOStat {
                io_service_bytes_recursive: bytes,
                io_serviced_recursive: counts,
                ..Default::default()
            };
            Metrics { memory: Some(memory).into(), blkio: Some(blkio).into(), ..Default::default() }
        })
    }

    fn stats_answer(metrics: &Metrics) -> Vec<u8> {
        let mut any = Vec::new();
        put_len(&mut any, 1, b"io.containerd.cgroups.v1.Metrics");
        put_len(&mut any, 2, &metrics.write_to_bytes().unwrap());
        let body = len_field(2, len_field(1, any, 0), 0);
        let length = u32::try_from(body.len()).unwrap();
        [&Header { length, stream_id: 7, kind: Kind::Response, flags: 0 }.encode()[..], &body].concat()
    }

    /// The same on the decoded message.
    fn as_a_reader_would_mend(mut metrics: Metrics) -> Metrics {
        let memory = metrics.memory.as_mut().unwrap();
        if memory.total_inactive_file == 0 {
            memory.total_inactive_file = memory.inactive_file;
        }
        let blkio = metrics.blkio.as_mut().unwrap();
        if blkio.io_serviced_recursive.is_empty() {
            for mut row in std::mem::take(&mut blkio.io_service_bytes_recursive) {
                let name = match row.op.as_str() {
                    "rios" => "read",
                    "wios" => "write",
                    "dios" => "discard",
                    _ => {
                        blkio.io_service_bytes_recursive.push(row);
                        continue;
                    }
                };
                row.op = name.to_owned();
                blkio.io_serviced_recursive.push(row);
            }
        }
        metrics
    }

    fn as_edits(edits: &[(u32, Vec<u8>)]) -> Vec<Edit<'_>> {
        edits.iter().map(|(field, new)| Edit { field: *field, new }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn headers_round_trip(length in 0..=LENGTH_SANE, stream_id: u32, kind in 1..=3u8, flags: u8) {
            let header = Header { length, stream_id, kind: Kind::from_u8(kind).unwrap(), flags };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn varints_round_trip(value: u64, extra in 0..9usize) {
            let bytes = overlong(value, extra);
            prop_assert_eq!(varint(&bytes), Ok((value, bytes.len())));
        }

        #[test]
        fn generated_messages_are_messages(message in message()) {
            prop_assert!(fields(&message).all(|field| field.is_ok()));
        }

        #[test]
        fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
            invariants::frame(&bytes);
            invariants::messages(&bytes);
            invariants::rewrite(&bytes, &[Edit { field: 1, new: b"new" }]);
            invariants::mended(&bytes);
            invariants::bootstrap(&bytes);
        }

        #[test]
        fn any_mutation_of_a_frame(frame in mutated(mutated(whole_frame())), edits in edits()) {
            invariants::frame(&frame);
            invariants::messages(frame.get(10..).unwrap_or_default());
            invariants::rewrite(&frame, &as_edits(&edits));
        }

        #[test]
        fn any_mutation_of_an_answer(printed in mutated(mutated(printed()))) {
            invariants::bootstrap(&printed);
        }

        #[test]
        fn peeking_agrees_with_decoding(body in request_body(), broken in mutated(request_body())) {
            invariants::peek(&body);
            invariants::peek(&broken);
        }

        #[test]
        fn rewriting_keeps_every_other_byte(frame in whole_frame(), edits in edits()) {
            invariants::rewrite(&frame, &as_edits(&edits));
        }

        #[test]
        fn mending_changes_what_it_says_and_nothing_else(metrics in metrics(), broken in any::<(prop::sample::Index, u8)>()) {
            let mut frame = stats_answer(&metrics);
            let right = as_a_reader_would_mend(metrics.clone());
            match repair(&frame).unwrap() {
                Some(mended) => {
                    let view = ResponseView::decode(&mended[10..]).unwrap();
                    let answer = StatsAnswer::decode(view.payload).unwrap();
                    prop_assert_eq!(Metrics::parse_from_bytes(answer.value).unwrap(), right);
                }
                None => prop_assert_eq!(metrics, right),
            }
            invariants::mended(&frame);
            let at = broken.0.index(frame.len());
            frame[at] = broken.1;
            invariants::mended(&frame);
        }

        #[test]
        fn rewriting_back_restores_the_frame(
            id: u32, before in vec(any::<u8>(), 0..300), new in vec(any::<u8>(), 0..300), rest in message(),
        ) {
            // Field 12 occurs nowhere else, so that both directions mean the same one.
            let payload = [len_field(12, before.clone(), 0), rest].concat();
            prop_assume!(fields(&payload).skip(1).all(|field| field.unwrap().number != 12));
            let frame = request_frame(id, "s", "m", &payload, 7);
            let there = replace(&frame, &[Edit { field: 12, new: &new }]).unwrap();
            prop_assert_eq!(replace(&there, &[Edit { field: 12, new: &before }]).unwrap(), frame);
        }

        #[test]
        fn requests_round_trip(id: u32, service: String, method: String, payload: Vec<u8>, timeout_nano: i64) {
            let frame = request_frame(id, &service, &method, &payload, timeout_nano);
            let header = Header::decode(&frame).unwrap();
            prop_assert_eq!((header.kind, header.stream_id, header.flags), (Kind::Request, id, 0));
            prop_assert_eq!(usize::try_from(header.length).unwrap() + 10, frame.len());
            let view = RequestView { service: &service, method: &method, payload: &payload, timeout_nano };
            prop_assert_eq!(RequestView::decode(&frame[10..]), Ok(view));
        }

        #[test]
        fn statuses_round_trip(id: u32, code: u32, message: String) {
            let frame = status_frame(id, code, &message);
            let header = Header::decode(&frame).unwrap();
            prop_assert_eq!((header.kind, header.stream_id), (Kind::Response, id));
            let view = ResponseView { code, message: &message, payload: b"" };
            prop_assert_eq!(ResponseView::decode(&frame[10..]), Ok(view));
        }

        #[test]
        fn payloads_round_trip(id: String, exec_id: String, signal: u32, all: bool) {
            let kill = Kill { id: &id, exec_id: &exec_id, signal, all };
            let encoded = kill.encode();
            prop_assert_eq!(Kill::decode(&encoded), Ok(kill));
            let task = TaskRef { id: &id, exec_id: &exec_id };
            let encoded = task.encode();
            prop_assert_eq!(TaskRef::decode(Method::Wait, &encoded), Ok(task));
        }

        #[test]
        fn a_padded_path_in_create_changes_no_length(old in "/[a-z]{1,60}/[a-z]{1,60}", ours in "/r/[a-z]{1,100}") {
            let mut payload = Vec::new();
            put_len(&mut payload, 1, b"c1");
            put_len(&mut payload, 6, old.as_bytes());
            let frame = request_frame(1, TaskApi::V2.service(), "Create", &payload, 0);
            let Some(new) = pad_path(&ours, old.len()) else {
                prop_assert!(ours.len() > old.len());
                return Ok(());
            };
            prop_assert_eq!(new.len(), old.len());
            prop_assert_eq!(new.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>(), ours.split('/').skip(1).collect::<Vec<_>>());
            let rewritten = replace(&frame, &[Edit { field: 6, new: new.as_bytes() }]).unwrap();
            prop_assert_eq!(rewritten.len(), frame.len());
            let view = RequestView::decode(&rewritten[10..]).unwrap();
            prop_assert_eq!(Create::decode(view.payload).unwrap().stdout, new);
        }

        #[test]
        fn plain_answers_round_trip(address in "unix:///[a-z0-9/]{1,90}[a-z]", other in "[!-z]{1,200}") {
            let answer = Answer::parse(address.as_bytes()).unwrap();
            prop_assert_eq!((answer.form(), answer.unix_path()), (Form::Plain, address.strip_prefix("unix://")));
            prop_assert_eq!(answer.with_address(&other), other.as_bytes());
        }

        #[test]
        fn start_answers(printed in printed()) {
            invariants::bootstrap(&printed);
        }
    }
}

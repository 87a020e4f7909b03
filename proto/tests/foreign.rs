//! Somebody else's encoder on the other end: `containerd-shim-protos` and `ttrpc` (rust-protobuf).
//!
//! What they encode, we must read as they meant it; what we encode, they must read as we meant it. The frames are
//! also kept as golden files, so that a change of either side shows.

#[cfg(test)]
mod tests {
    use std::path::Path;

    use containerd_shim_protos::api::{
        ConnectRequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
        ExecProcessRequest, KillRequest, Mount, ShutdownRequest, StateRequest, StateResponse, StatsRequest,
        StatsResponse, Status as TaskStatus, WaitRequest, WaitResponse,
    };
    use containerd_shim_protos::bootstrap_api::BootstrapResult;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;
    use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
    use containerd_shim_protos::protobuf::{Message, MessageField};
    use containerd_shim_protos::ttrpc::proto::{
        Code as TheirCode, KeyValue, MessageHeader, Request, Response, Status,
    };

    use shimtap_proto::bootstrap::{Answer, Form};
    use shimtap_proto::ttrpc::rewrite::{Edit, pad_path, replace};
    use shimtap_proto::ttrpc::task::{
        Create, DeleteAnswer, Exec, ExitAnswer, Kill, PidAnswer, StateAnswer, StatsAnswer, TaskRef, field,
        status,
    };
    use shimtap_proto::ttrpc::{
        Code, HEADER_LEN, Header, Kind, Method, Peek, RequestView, ResponseView, TaskApi, peek_method,
        request_frame, status_frame,
    };

    const OUT: &str = "/run/containerd/fifo/1234567890/c1-stdout";
    const ERR: &str = "/run/containerd/fifo/1234567890/c1-stderr";

    fn any(type_url: &str, value: &[u8]) -> MessageField<Any> {
        MessageField::some(Any { type_url: type_url.to_owned(), value: value.to_vec(), ..Any::default() })
    }

    fn time(seconds: i64, nanos: i32) -> MessageField<Timestamp> {
        MessageField::some(Timestamp { seconds, nanos, ..Timestamp::default() })
    }

    fn request(id: u32, api: TaskApi, method: Method, message: &impl Message, timeout_nano: i64) -> Vec<u8> {
        let trace = KeyValue { key: "traceparent".into(), value: "00-1-2-01".into(), ..KeyValue::default() };
        let request = Request {
            service: api.service().into(),
            method: method.name().into(),
            payload: message.write_to_bytes().unwrap(),
            timeout_nano,
            metadata: if timeout_nano == 0 { vec![] } else { vec![trace] },
            ..Request::default()
        };
        let body = request.write_to_bytes().unwrap();
        let header = MessageHeader::new_request(id, u32::try_from(body.len()).unwrap());
        [Vec::from(header), body].concat()
    }

    fn response(id: u32, status: Option<(TheirCode, &str)>, payload: &[u8]) -> Vec<u8> {
        let status = status.map(|(code, message)| Status {
            code: code.into(),
            message: message.into(),
            ..Status::default()
        });
        let response = Response { status: status.into(), payload: payload.to_vec(), ..Response::default() };
        let body = response.write_to_bytes().unwrap();
        let header = MessageHeader::new_response(id, u32::try_from(body.len()).unwrap());
        [Vec::from(header), body].concat()
    }

    fn create() -> CreateTaskRequest {
        let mount = Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: vec!["index=off".into(), "workdir=/var/lib/w".into()],
            ..Mount::default()
        };
        CreateTaskRequest {
            id: "c1".into(),
            bundle: "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1".into(),
            rootfs: vec![mount],
            stdout: OUT.into(),
            stderr: ERR.into(),
            checkpoint: "/cp".into(),
            options: any("containerd.runc.v1.Options", b"\x52\x01x"),
            ..CreateTaskRequest::default()
        }
    }

    fn exec() -> ExecProcessRequest {
        ExecProcessRequest {
            id: "c1".into(),
            exec_id: "e1".into(),
            terminal: true,
            stdin: "/in".into(),
            stdout: OUT.into(),
            stderr: String::new(),
            spec: any("types.containerd.io/opencontainers/runtime-spec/1/Process", br#"{"args":["sh"]}"#),
            ..ExecProcessRequest::default()
        }
    }

    fn state() -> StateResponse {
        StateResponse {
            id: "c1".into(),
            bundle: "/b".into(),
            pid: 4242,
            status: TaskStatus::STOPPED.into(),
            stdin: String::new(),
            stdout: OUT.into(),
            stderr: ERR.into(),
            exit_status: 137,
            exited_at: time(1_700_000_000, 5),
            exec_id: "e1".into(),
            ..StateResponse::default()
        }
    }

    fn client() -> Vec<Vec<u8>> {
        use TaskApi::{V2, V3};
        let id = || "c1".to_owned();
        vec![
            request(1, V3, Method::Create, &create(), 0),
            request(3, V2, Method::Create, &create(), 0),
            request(5, V2, Method::Connect, &ConnectRequest { id: id(), ..Default::default() }, 0),
            request(7, V2, Method::Wait, &WaitRequest { id: id(), ..Default::default() }, 0),
            request(9, V2, Method::Exec, &exec(), 0),
            request(
                11,
                V2,
                Method::State,
                &StateRequest { id: id(), exec_id: "e1".into(), ..Default::default() },
                1_999_912_345,
            ),
            request(13, V2, Method::Stats, &StatsRequest { id: id(), ..Default::default() }, 0),
            request(
                15,
                V2,
                Method::Kill,
                &KillRequest { id: id(), signal: 9, all: true, ..Default::default() },
                0,
            ),
            request(17, V2, Method::Delete, &DeleteRequest { id: id(), ..Default::default() }, 0),
            request(
                19,
                V2,
                Method::Shutdown,
                &ShutdownRequest { id: id(), now: true, ..Default::default() },
                0,
            ),
        ]
    }

    fn server() -> Vec<Vec<u8>> {
        let bytes = |message: &dyn Fn() -> Vec<u8>| message();
        let pid = bytes(&|| CreateTaskResponse { pid: 4242, ..Default::default() }.write_to_bytes().unwrap());
        let wait = WaitResponse { exit_status: 137, exited_at: time(1_700_000_000, 5), ..Default::default() };
        let delete = DeleteResponse {
            pid: 4242,
            exit_status: 137,
            exited_at: time(1_700_000_000, 5),
            ..Default::default()
        };
        let stats = StatsResponse {
            stats: any("io.containerd.cgroups.v2.Metrics", b"\x0a\x02\x08\x01"),
            ..Default::default()
        };
        vec![
            response(1, Some((TheirCode::UNIMPLEMENTED, "service containerd.task.v3.Task")), b""),
            response(3, None, &pid),
            response(5, None, &pid),
            response(9, None, &Empty::default().write_to_bytes().unwrap()),
            response(11, None, &state().write_to_bytes().unwrap()),
            response(13, None, &stats.write_to_bytes().unwrap()),
            response(15, Some((TheirCode::NOT_FOUND, "process already finished")), b""),
            response(7, None, &wait.write_to_bytes().unwrap()),
            response(17, None, &delete.write_to_bytes().unwrap()),
            response(19, None, b""),
        ]
    }

    fn payload(frame: &[u8]) -> &[u8] {
        RequestView::decode(&frame[HEADER_LEN..]).unwrap().payload
    }

    fn answer(frame: &[u8]) -> &[u8] {
        ResponseView::decode(&frame[HEADER_LEN..]).unwrap().payload
    }

    #[test]
    fn golden_files_are_what_they_encode() {
        for (direction, frames) in [("client", client()), ("server", server())] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("tests/golden/containerd-shim-protos-0.12.{direction}.frames"));
            if std::env::var_os("SHIMTAP_WRITE_GOLDEN").is_some() {
                std::fs::write(&file, frames.concat()).unwrap();
            }
            assert_eq!(std::fs::read(&file).unwrap(), frames.concat(), "{}", file.display());
        }
    }

    #[test]
    fn we_read_their_requests() {
        let frames = client();
        let header = Header::decode(&frames[5]).unwrap();
        assert_eq!((header.kind, header.stream_id, header.flags), (Kind::Request, 11, 0));
        let body = &frames[5][HEADER_LEN..];
        assert_eq!(usize::try_from(header.length).unwrap(), body.len());
        assert_eq!(peek_method(body, body.len()), Peek::Task(TaskApi::V2, Method::State));
        assert_eq!(RequestView::decode(body).unwrap().timeout_nano, 1_999_912_345);
        assert_eq!(
            TaskRef::decode(Method::State, payload(&frames[5])).unwrap(),
            TaskRef { id: "c1", exec_id: "e1" }
        );
        let expected = create();
        assert_eq!(
            Create::decode(payload(&frames[0])).unwrap(),
            Create {
                id: "c1",
                bundle: &expected.bundle,
                terminal: false,
                stdin: "",
                stdout: OUT,
                stderr: ERR,
                options_type_url: "containerd.runc.v1.Options",
                options: b"\x52\x01x",
            }
        );
        let expected = exec();
        assert_eq!(
            Exec::decode(payload(&frames[4])).unwrap(),
            Exec {
                id: "c1",
                exec_id: "e1",
                terminal: true,
                stdin: "/in",
                stdout: OUT,
                stderr: "",
                spec_type_url: &expected.spec.type_url,
                spec: &expected.spec.value,
            }
        );
        assert_eq!(
            Kill::decode(payload(&frames[7])).unwrap(),
            Kill { id: "c1", exec_id: "", signal: 9, all: true }
        );
    }

    #[test]
    fn we_read_their_answers() {
        let frames = server();
        let refused = ResponseView::decode(&frames[0][HEADER_LEN..]).unwrap();
        assert_eq!((refused.code, refused.message), (Code::UNIMPLEMENTED, "service containerd.task.v3.Task"));
        assert_eq!(PidAnswer::decode(answer(&frames[1])).unwrap().pid, 4242);
        assert_eq!(
            StateAnswer::decode(answer(&frames[4])).unwrap(),
            StateAnswer {
                id: "c1",
                exec_id: "e1",
                bundle: "/b",
                pid: 4242,
                status: status::STOPPED,
                stdout: OUT,
                stderr: ERR,
                exit_status: 137,
                exited_at_ns: Some(1_700_000_000_000_000_005),
                ..StateAnswer::default()
            }
        );
        assert_eq!(
            StatsAnswer::decode(answer(&frames[5])).unwrap(),
            StatsAnswer { type_url: "io.containerd.cgroups.v2.Metrics", value: b"\x0a\x02\x08\x01" }
        );
        let exited_at_ns = Some(1_700_000_000_000_000_005);
        assert_eq!(
            ExitAnswer::decode(answer(&frames[7])).unwrap(),
            ExitAnswer { exit_status: 137, exited_at_ns }
        );
        assert_eq!(
            DeleteAnswer::decode(answer(&frames[8])).unwrap(),
            DeleteAnswer { pid: 4242, exit_status: 137, exited_at_ns }
        );
    }

    #[test]
    fn they_read_what_we_rewrote() {
        let ours = "/run/shimtap-shim/c/default/c1/1";
        let padded = pad_path(ours, OUT.len()).unwrap();
        let longer = format!("{ours}/{}", "x".repeat(200));
        for new in [padded.as_str(), ours, &longer, ""] {
            let mut expected = create();
            expected.stdout = new.to_owned();
            let edits = [Edit { field: field::CREATE_STDOUT, new: new.as_bytes() }];
            let rewritten = replace(&client()[1], &edits).unwrap();
            assert_eq!(CreateTaskRequest::parse_from_bytes(payload(&rewritten)).unwrap(), expected);
            // Not only the same message: the same bytes as if they had encoded it (they leave out what is empty).
            if !new.is_empty() {
                assert_eq!(rewritten, request(3, TaskApi::V2, Method::Create, &expected, 0));
            }

            let mut expected = state();
            expected.stdout = new.to_owned();
            let edits = [Edit { field: field::STATE_STDOUT, new: new.as_bytes() }];
            let rewritten = replace(&server()[4], &edits).unwrap();
            assert_eq!(StateResponse::parse_from_bytes(answer(&rewritten)).unwrap(), expected);

            let mut expected = exec();
            expected.stdout = new.to_owned();
            let edits = [Edit { field: field::EXEC_STDOUT, new: new.as_bytes() }];
            let rewritten = replace(&client()[4], &edits).unwrap();
            assert_eq!(ExecProcessRequest::parse_from_bytes(payload(&rewritten)).unwrap(), expected);
        }
    }

    #[test]
    fn they_read_what_we_built() {
        let kill = Kill { id: "c1", exec_id: "", signal: 9, all: true }.encode();
        let ours = request_frame(15, TaskApi::V2.service(), Method::Kill.name(), &kill, 0);
        assert_eq!(ours, client()[7]);
        let task = TaskRef { id: "c1", exec_id: "" }.encode();
        for (index, method) in [(2, Method::Connect), (6, Method::Stats), (8, Method::Delete)] {
            let frame = &client()[index];
            let id = Header::decode(frame).unwrap().stream_id;
            assert_eq!(&request_frame(id, TaskApi::V2.service(), method.name(), &task, 0), frame);
        }
        let timed = request_frame(1, "s", "m", &task, 2_000_000_000);
        let theirs = Request::parse_from_bytes(&timed[HEADER_LEN..]).unwrap();
        assert_eq!((theirs.timeout_nano, theirs.payload), (2_000_000_000, task));
        let ours = status_frame(15, Code::NOT_FOUND, "process already finished");
        assert_eq!(ours, server()[6]);
    }

    #[test]
    fn a_start_answer() {
        let theirs = |address: &str| {
            BootstrapResult {
                version: 3,
                address: address.into(),
                protocol: "ttrpc".into(),
                ..BootstrapResult::default()
            }
            .write_to_bytes()
            .unwrap()
        };
        let answer = Answer::parse(&theirs("unix:///run/containerd/s/inner")).unwrap();
        assert_eq!((answer.form(), answer.version(), answer.protocol()), (Form::Protobuf, 3, "ttrpc"));
        assert_eq!(answer.unix_path(), Some("/run/containerd/s/inner"));
        assert_eq!(
            answer.with_address("unix:///run/shimtap-shim/s/x"),
            theirs("unix:///run/shimtap-shim/s/x")
        );
    }
}

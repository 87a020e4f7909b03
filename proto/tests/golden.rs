//! Reads every golden file (`tests/golden/README.md` has their form) and holds the codecs to it.
//!
//! Must never pass because there was nothing to read.

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    use shimtap_proto::ttrpc::rewrite::replace;
    use shimtap_proto::ttrpc::task::{
        Create, DeleteAnswer, Exec, ExitAnswer, Kill, PidAnswer, StateAnswer, StatsAnswer, TaskRef,
    };
    use shimtap_proto::ttrpc::wire::fields;
    use shimtap_proto::ttrpc::{
        HEADER_LEN, Header, Kind, Method, Peek, RequestView, ResponseView, TaskApi, WireFault, peek_method,
    };

    fn files(suffix: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(suffix))
            .collect();
        files.sort();
        files
    }

    /// The frames of a file, with their headers.
    fn frames(bytes: &[u8]) -> Vec<(Header, &[u8])> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let header = Header::decode(rest).unwrap();
            let len = HEADER_LEN + usize::try_from(header.length).unwrap();
            let (frame, tail) = rest.split_at(len);
            assert_eq!(header.encode(), frame[..HEADER_LEN]);
            frames.push((header, frame));
            rest = tail;
        }
        frames
    }

    fn check_request(body: &[u8]) -> Option<Method> {
        let view = RequestView::decode(body).unwrap();
        let named = TaskApi::from_service(view.service).zip(Method::from_name(view.method));
        let expected = named.map_or(Peek::Other, |(api, method)| Peek::Task(api, method));
        for len in 0..=body.len() {
            let peek = peek_method(&body[..len], body.len());
            assert!(peek == expected || (peek == Peek::Incomplete && len < body.len()), "{len}: {peek:?}");
        }
        let (_, method) = named?;
        let task = TaskRef::decode(method, view.payload).unwrap();
        assert!(!task.id.is_empty(), "{method:?} is about a task");
        match method {
            Method::Create => {
                let create = Create::decode(view.payload).unwrap();
                assert_eq!(create.id, task.id);
                assert!(create.bundle.starts_with('/'), "{create:?}");
            }
            Method::Exec => {
                let exec = Exec::decode(view.payload).unwrap();
                assert_eq!((exec.id, exec.exec_id), (task.id, task.exec_id));
                assert!(!exec.spec.is_empty());
            }
            Method::Kill => {
                let kill = Kill::decode(view.payload).unwrap();
                assert_eq!((kill.id, kill.exec_id), (task.id, task.exec_id));
            }
            _ => {}
        }
        Some(method)
    }

    fn check_response(body: &[u8], method: Option<Method>) {
        let view = ResponseView::decode(body).unwrap();
        if view.code != 0 {
            return;
        }
        match method {
            Some(Method::Create | Method::Start) => assert!(PidAnswer::decode(view.payload).is_ok()),
            Some(Method::Wait) => assert!(ExitAnswer::decode(view.payload).unwrap().exited_at_ns.is_some()),
            Some(Method::Delete) => {
                assert!(DeleteAnswer::decode(view.payload).unwrap().exited_at_ns.is_some())
            }
            Some(Method::State) => {
                let state = StateAnswer::decode(view.payload).unwrap();
                assert!(!state.id.is_empty() && state.status <= 5, "{state:?}");
            }
            Some(Method::Stats) => assert!(!StatsAnswer::decode(view.payload).unwrap().type_url.is_empty()),
            _ => assert!(fields(view.payload).all(|field| field.is_ok())),
        }
    }

    fn check_rewrite(header: Header, frame: &[u8]) {
        let expected = match header.kind {
            Kind::Data => Err(WireFault::NotAFrame { len: frame.len() }),
            Kind::Request | Kind::Response => Ok(frame.to_vec()),
        };
        assert_eq!(replace(frame, &[]), expected);
    }

    /// Checks a client's file; the methods by stream id.
    fn check_client(bytes: &[u8]) -> HashMap<u32, Option<Method>> {
        let mut methods = HashMap::new();
        let mut last = None;
        for (header, frame) in frames(bytes) {
            check_rewrite(header, frame);
            assert_ne!(header.kind, Kind::Response, "a client does not answer");
            if header.kind == Kind::Request {
                assert!(
                    header.stream_id % 2 == 1 && last < Some(header.stream_id),
                    "{header:?} after {last:?}"
                );
                last = Some(header.stream_id);
                methods.insert(header.stream_id, check_request(&frame[HEADER_LEN..]));
            }
        }
        assert!(!methods.is_empty(), "no request at all");
        methods
    }

    #[test]
    fn every_client_file() {
        let files = files(".client.frames");
        assert!(!files.is_empty());
        for file in files {
            println!("{}", file.display());
            check_client(&fs::read(file).unwrap());
        }
    }

    #[test]
    fn every_server_file() {
        let files = files(".server.frames");
        assert!(!files.is_empty());
        for file in files {
            println!("{}", file.display());
            let client = file.to_str().unwrap().replace(".server.frames", ".client.frames");
            let methods = fs::read(client).map(|bytes| check_client(&bytes)).unwrap_or_default();
            for (header, frame) in frames(&fs::read(file).unwrap()) {
                check_rewrite(header, frame);
                assert_ne!(header.kind, Kind::Request, "a shim does not ask");
                if header.kind == Kind::Response {
                    check_response(&frame[HEADER_LEN..], methods.get(&header.stream_id).copied().flatten());
                }
            }
        }
    }

    #[test]
    fn every_file_says_its_direction() {
        for file in files(".frames") {
            let name = file.to_str().unwrap();
            assert!(name.ends_with(".client.frames") || name.ends_with(".server.frames"), "{name}");
        }
    }
}

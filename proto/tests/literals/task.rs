//! Payloads of the Task service.

use shimtap_proto::ttrpc::task::{
    ConnectAnswer, Create, DeleteAnswer, Exec, ExitAnswer, Kill, PidAnswer, StateAnswer, StatsAnswer,
    TaskRef, Update, status,
};
use shimtap_proto::ttrpc::{Method, WireFault};

#[test]
fn whom_a_request_is_about() {
    // Field 2 is an exec id for eight methods; bundle, path, resources or a bool for the others.
    for method in Method::ALL {
        use Method::{CloseIo, Delete, Exec, Kill, ResizePty, Start, State, Wait};
        let has = matches!(method, State | Start | Delete | Kill | Exec | ResizePty | CloseIo | Wait);
        let expected = TaskRef { id: "c", exec_id: if has { "e" } else { "" } };
        assert_eq!(TaskRef::decode(method, b"\x0a\x01c\x12\x01e"), Ok(expected), "{method:?}");
        assert_eq!(TaskRef::decode(method, b"\x0a\x01c"), Ok(TaskRef { id: "c", exec_id: "" }), "{method:?}");
    }
    // Shutdown.now is a number, and Update.resources need not be UTF-8.
    assert_eq!(TaskRef::decode(Method::Shutdown, b"\x0a\x01c\x10\x01").unwrap().id, "c");
    assert_eq!(TaskRef::decode(Method::Update, b"\x0a\x01c\x12\x01\xff").unwrap().id, "c");
    assert_eq!(TaskRef::decode(Method::Wait, b"\x0a\x01c\x12\x01\xff"), Err(WireFault::NotUtf8 { field: 2 }));
    assert_eq!(TaskRef::decode(Method::Wait, b"\x0a\x02c"), Err(WireFault::Truncated { at: 0 }));
}

#[test]
fn kill() {
    assert_eq!(
        Kill::decode(b"\x0a\x01c\x12\x01e\x18\x0f\x20\x01"),
        Ok(Kill { id: "c", exec_id: "e", signal: 15, all: true })
    );
    assert_eq!(
        Kill::decode(b"\x0a\x01c\x18\x09\x20\x00"),
        Ok(Kill { id: "c", signal: 9, ..Kill::default() })
    );
}

#[test]
fn create() {
    let payload = b"\x0a\x01c\x12\x02/b\x1a\x05\x0a\x03abc\x20\x01\x2a\x02/0\x32\x02/1\x3a\x02/2\x42\x02cp\
                    \x52\x08\x0a\x03t/u\x12\x01v";
    let expected = Create {
        id: "c",
        bundle: "/b",
        terminal: true,
        stdin: "/0",
        stdout: "/1",
        stderr: "/2",
        options_type_url: "t/u",
        options: b"v",
    };
    assert_eq!(Create::decode(payload), Ok(expected));
    assert_eq!(Create::decode(b""), Ok(Create::default()));
    // Options in two parts are merged.
    let merged = Create::decode(b"\x52\x05\x0a\x03t/u\x52\x03\x12\x01v").unwrap();
    assert_eq!((merged.options_type_url, merged.options), ("t/u", b"v".as_slice()));
    assert_eq!(Create::decode(b"\x32\x01\xff"), Err(WireFault::NotUtf8 { field: 6 }));
    assert_eq!(Create::decode(b"\x52\x02\x0a\x05"), Err(WireFault::Truncated { at: 0 }));
}

#[test]
fn exec() {
    let payload = b"\x0a\x01c\x12\x01e\x18\x01\x22\x02/0\x2a\x02/1\x32\x02/2\x3a\x07\x0a\x01t\x12\x02{}";
    let expected = Exec {
        id: "c",
        exec_id: "e",
        terminal: true,
        stdin: "/0",
        stdout: "/1",
        stderr: "/2",
        spec_type_url: "t",
        spec: b"{}",
    };
    assert_eq!(Exec::decode(payload), Ok(expected));
}

#[test]
fn update() {
    let payload = b"\x0a\x01c\x12\x07\x0a\x01t\x12\x02{}\x1a\x06\x0a\x01k\x12\x01v";
    let expected = Update { id: "c", resources_type_url: "t", resources: b"{}" };
    assert_eq!(Update::decode(payload), Ok(expected));
    assert_eq!(Update::decode(b""), Ok(Update::default()));
    assert_eq!(Update::decode(b"\x12\x02\x0a\x05"), Err(WireFault::Truncated { at: 0 }));
    assert_eq!(Update::decode(b"\x0a\x01\xff"), Err(WireFault::NotUtf8 { field: 1 }));
}

#[test]
fn pids() {
    assert_eq!(PidAnswer::decode(b"\x08\xac\x02"), Ok(PidAnswer { pid: 300 }));
    assert_eq!(PidAnswer::decode(b""), Ok(PidAnswer { pid: 0 }));
    // Numbers wider than the field: the low 32 bits, as in protobuf.
    assert_eq!(PidAnswer::decode(b"\x08\x81\x80\x80\x80\x10"), Ok(PidAnswer { pid: 1 }));
}

#[test]
fn connects() {
    assert_eq!(
        ConnectAnswer::decode(b"\x08\xac\x02\x10\x07\x1a\x013"),
        Ok(ConnectAnswer { shim_pid: 300, task_pid: 7 })
    );
    assert_eq!(ConnectAnswer::decode(b""), Ok(ConnectAnswer::default()));
}

#[test]
fn exits() {
    assert_eq!(
        ExitAnswer::decode(b"\x08\x89\x01\x12\x08\x08\x80\xe2\xcf\xaa\x06\x10\x05"),
        Ok(ExitAnswer { exit_status: 137, exited_at_ns: Some(1_700_000_000_000_000_005) })
    );
    assert_eq!(
        DeleteAnswer::decode(b"\x08\x07\x10\x89\x01\x1a\x08\x08\x80\xe2\xcf\xaa\x06\x10\x05"),
        Ok(DeleteAnswer { pid: 7, exit_status: 137, exited_at_ns: Some(1_700_000_000_000_000_005) })
    );
    assert_eq!(ExitAnswer::decode(b"\x08\x01"), Ok(ExitAnswer { exit_status: 1, exited_at_ns: None }));
    // The numbers of Wait and Delete differ: what one reads into the other means nothing.
    assert_ne!(ExitAnswer::decode(b"\x08\x07\x10\x01").unwrap().exit_status, 1);
}

#[test]
fn times() {
    let table: [(&[u8], Option<i64>); 8] = [
        // Present and empty says nothing.
        (b"\x12\x00", None),
        (b"\x12\x02\x10\x01", Some(1)),
        (b"\x12\x02\x08\x01", Some(1_000_000_000)),
        (b"\x12\x02\x08\x01\x12\x02\x10\x01", Some(1_000_000_001)),
        // Before the epoch.
        (b"\x12\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Some(-1_000_000_000)),
        // Go's zero time: not exited.
        (b"\x12\x0b\x08\x80\x92\xb8\xc3\x98\xfe\xff\xff\xff\x01", None),
        // More than 64 bits of nanoseconds.
        (b"\x12\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", None),
        (b"\x08\x00", None),
    ];
    for (payload, expected) in table {
        assert_eq!(ExitAnswer::decode(payload).unwrap().exited_at_ns, expected, "{payload:02x?}");
    }
    assert_eq!(ExitAnswer::decode(b"\x12\x02\x08\x80"), Err(WireFault::Truncated { at: 0 }));
}

#[test]
fn states() {
    let payload = b"\x0a\x01c\x12\x02/b\x18\x2a\x20\x03\x2a\x02/0\x32\x02/1\x3a\x02/2\x40\x01\x48\x03\
                    \x52\x02\x08\x01\x5a\x01e";
    let expected = StateAnswer {
        id: "c",
        exec_id: "e",
        bundle: "/b",
        pid: 42,
        status: status::STOPPED,
        stdin: "/0",
        stdout: "/1",
        stderr: "/2",
        terminal: true,
        exit_status: 3,
        exited_at_ns: Some(1_000_000_000),
    };
    assert_eq!(StateAnswer::decode(payload), Ok(expected));
}

#[test]
fn stats() {
    assert_eq!(
        StatsAnswer::decode(b"\x0a\x08\x0a\x03t.M\x12\x01v"),
        Ok(StatsAnswer { type_url: "t.M", value: b"v" })
    );
    assert_eq!(StatsAnswer::decode(b""), Ok(StatsAnswer::default()));
}

//! What must hold for any bytes at all.
//!
//! Shared by the fuzz targets and by the crate's property tests. Each function panics where its invariant is
//! broken, and never because its input is bad.

use std::ops::Range;

use shimtap_proto::bootstrap::{Answer, Form};
use shimtap_proto::ttrpc::repair::{repair, sender};
use shimtap_proto::ttrpc::rewrite::{Edit, replace};
use shimtap_proto::ttrpc::task::{
    ConnectAnswer, Create, DeleteAnswer, Exec, ExitAnswer, Kill, PidAnswer, StateAnswer, StatsAnswer, TaskRef,
};
use shimtap_proto::ttrpc::wire::{Field, Value, fields};
use shimtap_proto::ttrpc::{
    BODY_MAX, HEADER_LEN, Header, HeaderFault, Kind, LENGTH_SANE, Method, PEEK_MAX, Peek, RequestView,
    ResponseView, TaskApi, WireFault, peek_method,
};

/// A header encodes back to its bytes, and is refused for the right reason; then [`peek`] on what follows.
pub fn frame(bytes: &[u8]) {
    match Header::decode(bytes) {
        Ok(header) => {
            assert!(header.length <= LENGTH_SANE);
            assert_eq!(header.encode(), bytes[..HEADER_LEN]);
            let body = &bytes[HEADER_LEN..];
            peek(body);
            // Also where the header promises more than is there.
            let announced = usize::try_from(header.length).unwrap();
            if announced >= body.len() {
                let decided = peek_method(body, announced);
                assert!(decided != Peek::Incomplete || body.len() < announced.min(PEEK_MAX));
            }
        }
        Err(HeaderFault::Incomplete) => assert!(bytes.len() < HEADER_LEN),
        Err(HeaderFault::UnknownKind(kind)) => assert!(bytes[8] == kind && !(1..=3).contains(&kind)),
        Err(HeaderFault::Insane(length)) => {
            assert!(length > LENGTH_SANE && bytes[..4] == length.to_be_bytes());
        }
    }
}

/// Peeking at any part of `body` is undecided or says what a walk through its first fields says, and once it has
/// decided it does not change its mind.
pub fn peek(body: &[u8]) {
    let expected = peek_by_walking(body);
    let mut decided = false;
    for len in 0..=body.len().min(PEEK_MAX + 8) {
        let peeked = peek_method(&body[..len], body.len());
        if peeked == Peek::Incomplete {
            assert!(!decided && len < body.len().min(PEEK_MAX), "asks for more at {len} of {}", body.len());
        } else {
            decided = true;
            assert_eq!(peeked, expected, "at {len} of {}", body.len());
        }
    }
    assert_eq!(peek_method(body, body.len()), expected);
}

fn peek_by_walking(body: &[u8]) -> Peek {
    let (mut api, mut method) = (None, None);
    for field in fields(body) {
        let Ok(field) = field else { return Peek::Other };
        if field.range.end > PEEK_MAX {
            return Peek::Other;
        }
        let text = |value| std::str::from_utf8(value).ok();
        match (field.number, field.value) {
            (1, Value::Len(value)) => match text(value).and_then(TaskApi::from_service) {
                None => return Peek::Other,
                found => api = found,
            },
            (2, Value::Len(value)) => match text(value).and_then(Method::from_name) {
                None => return Peek::Other,
                found => method = found,
            },
            _ => {}
        }
        if let (Some(api), Some(method)) = (api, method) {
            return Peek::Task(api, method);
        }
    }
    Peek::Other
}

/// What was mended is a whole frame with the same header, and there is nothing left to mend in it.
pub fn mended(frame: &[u8]) {
    if let Ok(Some(mended)) = repair(frame) {
        let (before, after) = (Header::decode(frame).unwrap(), Header::decode(&mended).unwrap());
        assert_eq!(usize::try_from(after.length).unwrap() + HEADER_LEN, mended.len());
        assert_eq!(Header { length: before.length, ..after }, before);
        assert_eq!(repair(&mended), Ok(None), "once is enough");
    }
    if let Ok(view) = ResponseView::decode(frame.get(HEADER_LEN..).unwrap_or_default())
        && let Ok(answer) = StatsAnswer::decode(view.payload)
        && let Err(fault) = sender(&answer)
    {
        assert!(!fault.to_string().is_empty());
    }
}

/// The fields of a message tile it; every view decodes or refuses, and refuses whatever cannot be walked.
pub fn messages(bytes: &[u8]) {
    let walk: Result<Vec<_>, _> = fields(bytes).collect();
    if let Ok(walk) = &walk {
        let mut at = 0;
        for field in walk {
            assert!(field.range.start == at && at < field.tag_end && field.tag_end < field.range.end);
            at = field.range.end;
        }
        assert_eq!(at, bytes.len());
    }

    let request = RequestView::decode(bytes);
    if let (Ok(request), Ok(walk)) = (&request, &walk) {
        assert_eq!(request.service.as_bytes(), last_len(walk, 1));
        assert_eq!(request.method.as_bytes(), last_len(walk, 2));
        assert_eq!(request.payload, last_len(walk, 3));
    }
    let mut results = vec![
        request.map(drop),
        ResponseView::decode(bytes).map(drop),
        Create::decode(bytes).map(drop),
        Exec::decode(bytes).map(drop),
        Kill::decode(bytes).map(drop),
        PidAnswer::decode(bytes).map(drop),
        ConnectAnswer::decode(bytes).map(drop),
        ExitAnswer::decode(bytes).map(drop),
        DeleteAnswer::decode(bytes).map(drop),
        StateAnswer::decode(bytes).map(drop),
        StatsAnswer::decode(bytes).map(drop),
    ];
    results.extend(Method::ALL.map(|method| TaskRef::decode(method, bytes).map(drop)));
    assert!(walk.is_ok() || results.iter().all(Result::is_err));
    for fault in results.iter().filter_map(|result| result.err()) {
        assert!(!fault.to_string().is_empty());
    }

    if let Ok(kill) = Kill::decode(bytes) {
        assert_eq!(Kill::decode(&kill.encode()), Ok(kill));
    }
    if let Ok(task) = TaskRef::decode(Method::State, bytes) {
        assert_eq!(TaskRef::decode(Method::State, &task.encode()), Ok(task));
    }
}

fn last_len<'a>(walk: &[Field<'a>], number: u32) -> &'a [u8] {
    let mut values =
        walk.iter().rev().filter(|field| field.number == number).filter_map(|field| match field.value {
            Value::Len(value) => Some(value),
            _ => None,
        });
    values.next().unwrap_or_default()
}

/// Whatever comes back differs from `frame` in the edited values and in the lengths around them only; with no
/// edits, and with edits already made, in nothing.
pub fn rewrite(frame: &[u8], edits: &[Edit<'_>]) {
    if let Ok(same) = replace(frame, &[]) {
        assert_eq!(same, frame);
    }
    let new = match replace(frame, edits) {
        Ok(new) => new,
        Err(WireFault::TooLarge { len }) => return assert!(len > usize::try_from(BODY_MAX).unwrap()),
        Err(_) => return,
    };
    let (before, after) = (Header::decode(frame).unwrap(), Header::decode(&new).unwrap());
    assert_eq!(Header { length: before.length, ..after }, before);
    assert_eq!(HEADER_LEN + usize::try_from(after.length).unwrap(), new.len());
    let payload = if before.kind == Kind::Request { 3 } else { 2 };
    pairs(&frame[HEADER_LEN..], &new[HEADER_LEN..], |number, old, new| {
        if number == payload {
            pairs(old, new, |number, old, new| {
                let edit = edits.iter().find(|edit| edit.field == number);
                assert_eq!(new, edit.map_or(old, |edit| edit.new));
            });
        } else {
            assert_eq!(old, new);
        }
    });
    assert_eq!(replace(&new, edits).unwrap(), new);
}

/// Calls `values` with both values of each length-delimited field; everything else must be the same bytes.
fn pairs(old: &[u8], new: &[u8], values: impl Fn(u32, &[u8], &[u8])) {
    let walk = |message| fields(message).map(Result::unwrap).collect::<Vec<_>>();
    let (olds, news) = (walk(old), walk(new));
    assert_eq!(olds.len(), news.len());
    for (a, b) in olds.into_iter().zip(news) {
        let (tag_a, tag_b) = (&old[a.range.start..a.tag_end], &new[b.range.start..b.tag_end]);
        assert_eq!(tag_a, tag_b);
        match (a.value, b.value) {
            (Value::Len(x), Value::Len(y)) => {
                if x.len() == y.len() {
                    let len = |at: Range<usize>, value: &[u8]| at.start..at.end - value.len();
                    assert_eq!(old[len(a.tag_end..a.range.end, x)], new[len(b.tag_end..b.range.end, y)]);
                }
                values(a.number, x, y);
            }
            _ => assert_eq!(old[a.range], new[b.range]),
        }
    }
}

/// An answer with another address is the same answer otherwise: read again it says the same, and two addresses of
/// one length make answers that differ in the address only.
pub fn bootstrap(printed: &[u8]) {
    let Ok(answer) = Answer::parse(printed) else { return };
    assert_eq!(answer.raw(), printed);
    assert!(!answer.address().is_empty());
    if let Some(path) = answer.unix_path() {
        assert!(path.starts_with('/') && answer.address().ends_with(path));
        assert!(matches!(answer.version(), 2 | 3) && answer.protocol() == "ttrpc");
    }
    let (a, b) = ("unix:///run/aaaa", "unix:///run/bbbb");
    let (with_a, with_b) = (answer.with_address(a), answer.with_address(b));
    assert_eq!(with_a.len(), with_b.len());
    let differing = with_a.iter().zip(&with_b).filter(|(x, y)| x != y);
    let differing: Vec<_> = differing.map(|(&x, &y)| (x, y)).collect();
    assert!(!differing.is_empty() && differing.iter().all(|&pair| pair == (b'a', b'b')));
    assert_eq!(differing.len() % 4, 0);

    let again = Answer::parse(&with_a).unwrap();
    assert_eq!(
        (again.form(), again.version(), again.protocol(), again.address()),
        (answer.form(), answer.version(), answer.protocol(), a)
    );
    assert_eq!(again.with_address(a), with_a);
    assert_eq!(again.with_address(b), with_b);
    if answer.form() == Form::Plain {
        assert_eq!(answer.with_address(answer.address()), printed);
    }
}

//! Requests and answers, as they must be: each arrives once, as it was sent, in order; a Create with our FIFOs in it, a
//! State with containerd's; a Wait answer may be late, and never earlier than the last byte.

use shimtap_proto::ttrpc::{
    Code, HEADER_LEN, Header, Kind, Method, RequestView, TaskApi, request_frame, status_frame,
    task::Create,
    wire::{put_len, put_number},
};

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// On its way to the inner shim.
    Asked,
    /// With the inner shim.
    There,
    /// Its answer is on its way.
    Answered,
    /// containerd has it.
    Done,
}

/// One request.
pub struct Call {
    pub conn: usize,
    pub stream_id: u32,
    pub method: Method,
    /// Index of its task.
    pub task: usize,
    pub frame: Vec<u8>,
    /// What containerd is to get.
    pub answer: Vec<u8>,
    pub code: u32,
    pub stage: Stage,
    /// Answers of a connection leave in this order, but for those of Wait.
    pub answered_as: usize,
}

/// The payload of a Create.
pub fn create_payload(id: &str, stdout: &str, stderr: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    put_len(&mut payload, 1, id.as_bytes());
    put_len(&mut payload, 2, b"/bundle/of/it");
    put_len(&mut payload, 6, stdout.as_bytes());
    put_len(&mut payload, 7, stderr.as_bytes());
    put_number(&mut payload, 99, 7);
    payload
}

/// A request's frame; `filler` bytes of a field that nobody knows make it long.
pub fn frame_of(stream_id: u32, method: Method, mut payload: Vec<u8>, filler: usize) -> Vec<u8> {
    if filler > 0 {
        put_len(&mut payload, 90, &vec![b'f'; filler]);
    }
    request_frame(stream_id, TaskApi::V3.service(), method.name(), &payload, 0)
}

/// An answer's frame.
pub fn answer_frame(stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put_len(&mut body, 2, payload);
    let length = u32::try_from(body.len()).unwrap();
    let header = Header { length, stream_id, kind: Kind::Response, flags: 0 };
    [&header.encode()[..], &body].concat()
}

/// A refusal's.
pub fn refusal(stream_id: u32) -> Vec<u8> {
    status_frame(stream_id, Code::FAILED_PRECONDITION, "no")
}

/// The stream id of a whole frame.
pub fn stream_id_of(frame: &[u8]) -> u32 {
    Header::decode(frame).unwrap().stream_id
}

/// A Create as it arrived, against as it was sent: alike in all but its FIFOs, which are what is returned.
pub fn changed_create(sent: &[u8], arrived: &[u8]) -> [String; 2] {
    let fifos = |frame: &[u8]| {
        let view = RequestView::decode(&frame[HEADER_LEN..]).unwrap();
        let create = Create::decode(view.payload).unwrap();
        [create.stdout.to_owned(), create.stderr.to_owned()]
    };
    let (theirs, ours) = (fifos(sent), fifos(arrived));
    // Put back, it is what was sent, byte for byte.
    let text = String::from_utf8_lossy(arrived).into_owned();
    let back = theirs.iter().zip(&ours).fold(text, |text, (theirs, ours)| text.replace(ours, theirs));
    assert_eq!(ours[0].len(), theirs[0].len(), "of the same length");
    assert_eq!(back, String::from_utf8_lossy(sent), "a Create differs in more than its FIFOs");
    ours
}

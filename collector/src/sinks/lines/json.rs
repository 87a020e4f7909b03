//! A record as one line of JSON. The shape is documented in docs/configuration.md ("The line format").
//!
//! Lossless: a message that is not UTF-8 travels as base64 and says so. Every line of a node passes through here: what
//! the records of a stream or of a second have alike is made once and copied, and nothing is allocated per record.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{escape, put};
use crate::{
    event::{Body, Flags, Hole, Origin, Record, Stencil},
    time::write_rfc3339,
};

const NS_PER_SEC: u64 = 1_000_000_000;
/// More than a record takes beside its message and what its stream's records have alike.
const REST_MAX: usize = 256;

/// Writes records. It keeps the second it wrote last, because most records are of the same one.
#[derive(Clone, Debug)]
pub struct Encoder {
    second: u64,
    /// `{"time":"2026-11-21T02:12:41.`
    time: String,
    /// `Z","time_ns":1795227161`, the first digits of the number.
    time_ns: String,
    base64: String,
}

// === impl Encoder ===

impl Default for Encoder {
    fn default() -> Self {
        let mut encoder =
            Self { second: 0, time: String::new(), time_ns: String::new(), base64: String::new() };
        encoder.begin_second(0);
        encoder
    }
}

impl Encoder {
    /// Appends one record and its newline.
    pub fn record(&mut self, out: &mut Vec<u8>, origin: &Origin, record: &Record) {
        let stencil = origin.json.get_or_init(|| stencil(origin));
        let length = match &record.body {
            Body::Line(message) => message.len(),
            Body::Hole(_) => 0,
        };
        out.reserve(stencil.names.len() + stencil.id.len() + length + REST_MAX);
        self.time(out, record.time_ns);
        put(out, &stencil.names);
        let (mut from, mut to) = (itoa::Buffer::new(), itoa::Buffer::new());
        let from = from.format(record.from);
        put(out, from);
        put(out, ",\"to\":");
        put(out, to.format(record.to));
        put(out, &stencil.id);
        put(out, from);
        let utf8 = match &record.body {
            Body::Line(message) => self.message(out, message),
            Body::Hole(hole) => {
                gap(out, record, *hole);
                true
            }
        };
        flags(out, record.flags, utf8);
        put(out, "}\n");
    }

    fn time(&mut self, out: &mut Vec<u8>, time_ns: u64) {
        let (second, ns) = (time_ns / NS_PER_SEC, time_ns % NS_PER_SEC);
        if second != self.second {
            self.begin_second(second);
        }
        let mut digits = itoa::Buffer::new();
        // A one in front keeps the zeros.
        let digits = digits.format(ns.saturating_add(NS_PER_SEC)).get(1..).unwrap_or_default();
        put(out, &self.time);
        put(out, digits);
        put(out, &self.time_ns);
        // The number has no leading zeros; but for the first second of 1970 it ends in the same nine digits.
        let mut number = itoa::Buffer::new();
        put(out, if second == 0 { number.format(ns) } else { digits });
    }

    fn begin_second(&mut self, second: u64) {
        self.second = second;
        self.time.clear();
        self.time.push_str("{\"time\":\"");
        // Writing to a string cannot fail.
        let _ = write_rfc3339(&mut self.time, second.saturating_mul(NS_PER_SEC));
        // What follows the seconds is `.` and nine digits and `Z`.
        self.time.truncate(self.time.len().saturating_sub(10));
        self.time_ns.clear();
        self.time_ns.push_str("Z\",\"time_ns\":");
        if second != 0 {
            self.time_ns.push_str(itoa::Buffer::new().format(second));
        }
    }

    /// Appends the message; false where it is not UTF-8.
    fn message(&mut self, out: &mut Vec<u8>, message: &[u8]) -> bool {
        // Looked at as a whole first, without a way out, so that many bytes are compared at once: nearly every line
        // is ASCII with nothing to escape.
        if escape::is_plain_ascii(message) {
            put(out, "\",\"message\":\"");
            out.extend_from_slice(message);
        } else if let Ok(text) = std::str::from_utf8(message) {
            put(out, "\",\"message\":\"");
            escape::push(out, text);
        } else {
            put(out, "\",\"message_base64\":\"");
            self.base64.clear();
            STANDARD.encode_string(message, &mut self.base64);
            put(out, &self.base64);
            put(out, "\"");
            return false;
        }
        put(out, "\"");
        true
    }
}

/// What the records of a stream have alike.
fn stencil(origin: &Origin) -> Stencil {
    let (name, identity) = (&origin.name, &*origin.identity);
    let mut names = Vec::with_capacity(1024);
    names.push(b',');
    let mut member = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            put(&mut names, "\"");
            put(&mut names, key);
            put(&mut names, "\":\"");
            escape::push(&mut names, value);
            put(&mut names, "\",");
        }
    };
    member("namespace", identity.namespace.as_deref());
    member("pod", identity.pod.as_deref());
    member("container", identity.container.as_deref());
    member("image", identity.image.as_deref());
    member("container_id", Some(&name.container));
    member("pod_uid", identity.pod_uid.as_deref());
    member("sandbox_id", identity.sandbox_id.as_deref());
    member("containerd_namespace", Some(&name.namespace));
    member("incarnation", Some(&format!("{:016x}", name.incarnation)));
    member("process", Some(&name.process));
    member("stream", Some(name.stream.label()));
    put(&mut names, "\"offset\":{\"from\":");
    let mut id = b"},\"id\":\"".to_vec();
    escape::push(&mut id, &name.record_ids());
    Stencil { names, id }
}

/// Appends the end of the id, and the gap.
fn gap(out: &mut Vec<u8>, record: &Record, hole: Hole) {
    let (from, to) = (record.from, record.to);
    let (bytes, reason) = (to.saturating_sub(from), hole.reason.label());
    let lines = hole.lines.map_or(String::new(), |lines| format!(",\"lines\":{lines}"));
    let text = format!(
        "\",\"gap\":{{\"from\":{from},\"to\":{to},\"bytes\":{bytes}{lines},\"reason\":\"{reason}\"}}"
    );
    put(out, &text);
}

fn flags(out: &mut Vec<u8>, flags: Flags, utf8: bool) {
    if flags == Flags::NONE && utf8 {
        return;
    }
    let set = Flags::NAMES.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| *name);
    let names: Vec<_> = set.chain((!utf8).then_some("not_utf8")).collect();
    put(out, ",\"flags\":[\"");
    put(out, names.join("\",\""));
    put(out, "\"]");
}

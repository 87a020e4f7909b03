//! A record as one line of JSON. The shape is documented in docs/configuration.md ("The file").
//!
//! Lossless: a message that is not UTF-8 travels as base64 and says so.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    event::{Body, Flags, HoleReason, Origin, Record},
    time::write_rfc3339,
};

/// Writes records. It keeps the second it wrote last, because most records are of the same one.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    second: u64,
    /// That second as text, up to the point before its digits; empty = none yet.
    text: String,
}

// === impl Encoder ===

impl Encoder {
    /// Appends one record and its newline.
    pub(super) fn record(&mut self, out: &mut String, origin: &Origin, record: &Record) {
        let mut digits = itoa::Buffer::new();
        out.push_str("{\"time\":\"");
        self.time(out, record.time_ns);
        out.push_str("\",\"time_ns\":");
        out.push_str(digits.format(record.time_ns));
        out.push(',');
        out.push_str(origin.json.get_or_init(|| members(origin)));
        out.push_str("\"offset\":{\"from\":");
        out.push_str(digits.format(record.from));
        out.push_str(",\"to\":");
        out.push_str(digits.format(record.to));
        out.push_str("},\"id\":\"");
        // Writing to a string cannot fail.
        let _ = origin.name.write_id(&mut Escaped(out), record.from);
        out.push_str("\",");
        let utf8 = match &record.body {
            Body::Line(message) => push_message(out, message),
            Body::Hole(reason) => {
                push_gap(out, record, *reason);
                true
            }
        };
        push_flags(out, record.flags, utf8);
        out.push_str("}\n");
    }

    fn time(&mut self, out: &mut String, time_ns: u64) {
        let (second, ns) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text.clear();
            let _ = write_rfc3339(&mut self.text, time_ns);
            // What follows the seconds is `.` and nine digits and `Z`.
            self.text.truncate(self.text.len().saturating_sub(10));
        }
        out.push_str(&self.text);
        let mut digits = itoa::Buffer::new();
        // A one in front keeps the zeros.
        out.push_str(digits.format(ns.saturating_add(1_000_000_000)).get(1..).unwrap_or_default());
        out.push('Z');
    }
}

/// The members that every record of a stream has alike, with a comma at the end.
fn members(origin: &Origin) -> String {
    let (name, identity) = (&origin.name, &*origin.identity);
    let mut out = String::with_capacity(256);
    let mut member = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            out.push('"');
            out.push_str(key);
            out.push_str("\":");
            push_string(&mut out, value);
            out.push(',');
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
    out
}

fn push_gap(out: &mut String, record: &Record, reason: HoleReason) {
    let bytes = record.to.saturating_sub(record.from);
    let _ = write!(
        out,
        "\"gap\":{{\"from\":{},\"to\":{},\"bytes\":{bytes},\"reason\":\"{}\"}}",
        record.from,
        record.to,
        reason.label()
    );
}

/// Appends the message; false where it is not UTF-8.
fn push_message(out: &mut String, message: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(message) {
        out.push_str("\"message\":");
        push_string(out, text);
        true
    } else {
        out.push_str("\"message_base64\":\"");
        STANDARD.encode_string(message, out);
        out.push('"');
        false
    }
}

fn push_flags(out: &mut String, flags: Flags, utf8: bool) {
    if flags == Flags::NONE && utf8 {
        return;
    }
    let set = Flags::NAMES.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| *name);
    let names: Vec<_> = set.chain((!utf8).then_some("not_utf8")).collect();
    out.push_str(",\"flags\":[\"");
    out.push_str(&names.join("\",\""));
    out.push_str("\"]");
}

/// True for a byte that stands for itself in a JSON string.
const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// Appends a JSON string, quotes included.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    // Looked at as a whole first, without a way out, so that many bytes are compared at once: nearly every line
    // has nothing to escape.
    if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        out.push_str(text);
    } else {
        push_escaped(out, text);
    }
    out.push('"');
}

fn push_escaped(out: &mut String, text: &str) {
    // Pieces without anything to escape are copied whole.
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| !is_plain(*byte)) {
        out.push_str(text.get(plain..at).unwrap_or_default());
        plain = at.saturating_add(1);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out.push_str(text.get(plain..).unwrap_or_default());
}

/// Writes into the inside of a JSON string.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // An exec id is the only part that could hold anything to escape.
        push_escaped(self.0, text);
        Ok(())
    }
}

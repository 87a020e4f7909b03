//! A record as one line of JSON. The shape is documented in docs/configuration.md ("The file").
//!
//! Lossless: a message that is not UTF-8 travels as base64 and says so.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    event::{Body, Flags, Origin, Record},
    time::write_rfc3339,
};

/// The members of every record of one stream that do not change, with a comma at the end.
pub(super) fn prefix(origin: &Origin) -> String {
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

/// Appends one record and its newline.
pub(super) fn record(out: &mut String, prefix: &str, origin: &Origin, record: &Record) {
    out.push_str("{\"time\":\"");
    // Writing to a string cannot fail.
    let _ = write_rfc3339(out, record.time_ns);
    let _ = write!(out, "\",\"time_ns\":{},", record.time_ns);
    out.push_str(prefix);
    let _ = write!(out, "\"offset\":{{\"from\":{},\"to\":{}}},\"id\":\"", record.from, record.to);
    let mut id = Escaped(out);
    let _ = origin.name.write_id(&mut id, record.from);
    out.push_str("\",");
    let utf8 = match &record.body {
        Body::Line(message) => push_message(out, message),
        Body::Hole(reason) => {
            let _ = write!(
                out,
                "\"gap\":{{\"from\":{},\"to\":{},\"bytes\":{},\"reason\":\"{}\"}}",
                record.from,
                record.to,
                record.to.saturating_sub(record.from),
                reason.label()
            );
            true
        }
    };
    push_flags(out, record.flags, utf8);
    out.push_str("}\n");
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

/// Appends a JSON string, quotes included.
fn push_string(out: &mut String, text: &str) {
    // Pieces without anything to escape are copied whole; most lines are one such piece.
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(text.get(plain..at).unwrap_or_default());
        plain = at.saturating_add(1);
        let _ = match byte {
            b'"' => write!(out, "\\\""),
            b'\\' => write!(out, "\\\\"),
            b'\n' => write!(out, "\\n"),
            b'\r' => write!(out, "\\r"),
            b'\t' => write!(out, "\\t"),
            other => write!(out, "\\u{other:04x}"),
        };
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    out.push('"');
}

/// Writes into the inside of a JSON string.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // An exec id is the only part that could hold anything to escape.
        if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.0.push_str(text);
        } else {
            let mut quoted = String::new();
            push_string(&mut quoted, text);
            self.0.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
        }
        Ok(())
    }
}

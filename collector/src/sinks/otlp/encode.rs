//! Records as an `ExportLogsServiceRequest`.
//!
//! Every line of a node passes through here, so nothing is allocated per record: one `LogRecord` of upstream's type is
//! filled again and again and appended to the records of its container. The messages around them (request, resource,
//! scope) are closed when the request is complete, since only then their length is known.

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::{
    Compression,
    body::{Body, Builder},
    compress::Packer,
    resource::{self, attribute, text},
};
use crate::{
    config::Node,
    event::{Batch, Body as Content, Flags, Hole, Origin, Record},
    sinks::frame::Encode,
};

/// Field numbers of the messages that are closed by hand (opentelemetry/proto/logs/v1/logs.proto).
mod field {
    pub(super) const REQUEST_RESOURCE_LOGS: u32 = 1;
    pub(super) const RESOURCE_LOGS_RESOURCE: u32 = 1;
    pub(super) const RESOURCE_LOGS_SCOPE_LOGS: u32 = 2;
    pub(super) const SCOPE_LOGS_SCOPE: u32 = 1;
    pub(super) const SCOPE_LOGS_LOG_RECORDS: u32 = 2;
}

/// More than a record takes beside its text.
const RECORD_REST: usize = 320;
/// More than a container takes beside its records, names of usual length included.
const GROUP_REST: usize = 640;
/// Records of a container are encoded in pieces of this size.
const PIECE: usize = 32 << 10;
/// Attributes that every record has; those that only some have stand behind them.
const COMMON: usize = 4;

/// Makes requests.
#[derive(Clone)]
pub(super) struct Encoder {
    node: Arc<[KeyValue]>,
    /// An encoded InstrumentationScope.
    scope: Arc<[u8]>,
    packer: Packer,
    /// Whose records are being added, and what they have alike.
    origin: Option<Arc<Origin>>,
    ids: String,
    record: LogRecord,
}

/// A request: first records by container, then one body.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    groups: Vec<Group>,
    size: usize,
    body: Body,
    compression: Option<Compression>,
}

/// Records of one container, encoded; in pieces, so that no large one is made larger and copied for it.
#[derive(Debug)]
struct Group {
    /// One of its streams.
    origin: Arc<Origin>,
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

// === impl Parcel ===

impl Parcel {
    /// The request's body.
    pub(super) fn body(&self) -> Body {
        self.body.clone()
    }

    /// How it is compressed.
    pub(super) fn compression(&self) -> Compression {
        self.compression.unwrap_or(Compression::None)
    }

    /// The records of a container. Batches of one container often follow each other.
    fn group(&mut self, origin: &Arc<Origin>) -> &mut Group {
        let is_its = |group: &Group| Arc::ptr_eq(&group.origin.identity, &origin.identity);
        let known = self.groups.iter().rposition(is_its);
        let at = known.unwrap_or_else(|| {
            self.size = self.size.saturating_add(GROUP_REST);
            let origin = Arc::clone(origin);
            self.groups.push(Group { origin, full: Vec::new(), open: Vec::new() });
            self.groups.len().saturating_sub(1)
        });
        self.groups.get_mut(at).expect("it was found there, or put there just now")
    }
}

// === impl Group ===

impl Group {
    /// Where a record of at most that size (roughly) is to be appended.
    fn room_for(&mut self, size: usize) -> &mut Vec<u8> {
        if !self.open.is_empty() && self.open.len().saturating_add(size) > PIECE {
            self.full.push(std::mem::replace(&mut self.open, Vec::with_capacity(PIECE)));
        }
        &mut self.open
    }

    fn len(&self) -> usize {
        self.full.iter().map(Vec::len).sum::<usize>().saturating_add(self.open.len())
    }
}

// === impl Encoder ===

impl Encoder {
    pub(super) fn new(node: &Node, compression: Compression) -> Self {
        let scope = InstrumentationScope {
            name: "shimtap".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        Self {
            node: resource::node(node).into(),
            scope: scope.encode_to_vec().into(),
            packer: Packer::new(compression),
            origin: None,
            ids: String::new(),
            // Where each of them stands is known to `begin` and `fill`.
            record: LogRecord {
                attributes: vec![
                    text("log.iostream", ""),
                    text("log.record.uid", ""),
                    attribute("shimtap.offset.from", Value::IntValue(0)),
                    attribute("shimtap.offset.to", Value::IntValue(0)),
                ],
                ..LogRecord::default()
            },
        }
    }

    /// Sets what the records of a stream have alike.
    fn begin(&mut self, origin: &Arc<Origin>) {
        if self.origin.as_ref().is_some_and(|known| Arc::ptr_eq(known, origin)) {
            return;
        }
        self.ids = origin.name.record_ids();
        if let Some(Value::StringValue(stream)) = self.record.attributes.first_mut().and_then(value) {
            stream.replace_range(.., origin.name.stream.label());
        }
        self.origin = Some(Arc::clone(origin));
    }

    fn fill(&mut self, record: &Record) {
        let log = &mut self.record;
        log.time_unix_nano = record.time_ns;
        // The wrapper saw the line when it was written, as far as anybody can tell.
        log.observed_time_unix_nano = record.time_ns;
        log.attributes.truncate(COMMON);
        for (at, attribute) in log.attributes.iter_mut().enumerate() {
            match (at, value(attribute)) {
                (1, Some(Value::StringValue(uid))) => {
                    uid.clear();
                    uid.push_str(&self.ids);
                    uid.push_str(itoa::Buffer::new().format(record.from));
                }
                (2, Some(Value::IntValue(from))) => *from = signed(record.from),
                (3, Some(Value::IntValue(to))) => *to = signed(record.to),
                _ => {}
            }
        }
        if let Some(process) = self.origin.as_ref().map(|origin| &origin.name.process)
            && !process.is_empty()
        {
            log.attributes.push(text("shimtap.process", process));
        }
        if record.flags != Flags::NONE {
            for (_, name) in Flags::NAMES.iter().filter(|(flag, _)| record.flags.has(*flag)) {
                log.attributes.push(attribute(&format!("shimtap.{name}"), Value::BoolValue(true)));
            }
        }
        match &record.body {
            Content::Line(line) => {
                log.severity_number = SeverityNumber::Unspecified.into();
                log.severity_text.clear();
                set_body(log, line);
            }
            Content::Hole(hole) => gap(log, record, *hole),
        }
    }
}

fn value(attribute: &mut KeyValue) -> Option<&mut Value> {
    attribute.value.as_mut()?.value.as_mut()
}

/// The text, or the bytes where they are none. The memory of the last record's is used again.
fn set_body(log: &mut LogRecord, line: &[u8]) {
    let value = log.body.get_or_insert_default().value.get_or_insert(Value::StringValue(String::new()));
    match (std::str::from_utf8(line), value) {
        (Ok(line), Value::StringValue(body)) => {
            body.clear();
            body.push_str(line);
        }
        (Ok(line), other) => *other = Value::StringValue(line.to_owned()),
        (Err(_), other) => *other = Value::BytesValue(line.to_vec()),
    }
}

/// A hole is a record of its own, which a person or an alert can find.
fn gap(log: &mut LogRecord, record: &Record, hole: Hole) {
    let reason = hole.reason;
    let bytes = record.to.saturating_sub(record.from);
    log.severity_number = SeverityNumber::Warn.into();
    log.severity_text = "WARN".into();
    let body = format!("shimtap: {bytes} bytes of output are not here: {}", reason.label());
    log.body = Some(AnyValue { value: Some(Value::StringValue(body)) });
    log.attributes.push(text("shimtap.gap.reason", reason.label()));
    log.attributes.push(attribute("shimtap.gap.bytes", Value::IntValue(signed(bytes))));
    if let Some(lines) = hole.lines {
        log.attributes.push(attribute("shimtap.gap.lines", Value::IntValue(signed(lines))));
    }
}

impl Encode for Encoder {
    type Parcel = Parcel;

    fn weight(record: &Record) -> usize {
        RECORD_REST.saturating_add(match &record.body {
            Content::Line(line) => line.len(),
            Content::Hole(_) => 0,
        })
    }

    fn add(&mut self, parcel: &mut Parcel, batch: &Batch, record: &Record) {
        self.begin(&batch.origin);
        self.fill(record);
        let out = parcel.group(&batch.origin).room_for(Self::weight(record));
        let before = out.len();
        prost::encoding::message::encode(field::SCOPE_LOGS_LOG_RECORDS, &self.record, out);
        let added = out.len().saturating_sub(before);
        parcel.size = parcel.size.saturating_add(added);
    }

    fn size(&self, parcel: &Parcel) -> usize {
        parcel.size
    }

    fn seal(&mut self, parcel: &mut Parcel) {
        let mut body = Builder::default();
        for group in parcel.groups.drain(..) {
            let Origin { identity, resource, .. } = &*group.origin;
            let resource = resource.get_or_init(|| resource::of(&self.node, identity).encode_to_vec().into());
            let in_scope_logs = sized(field::SCOPE_LOGS_SCOPE, self.scope.len()).saturating_add(group.len());
            let in_resource_logs = sized(field::RESOURCE_LOGS_RESOURCE, resource.len())
                .saturating_add(sized(field::RESOURCE_LOGS_SCOPE_LOGS, in_scope_logs));
            let mut head = Vec::with_capacity(GROUP_REST);
            open(field::REQUEST_RESOURCE_LOGS, in_resource_logs, &mut head);
            open(field::RESOURCE_LOGS_RESOURCE, resource.len(), &mut head);
            head.extend_from_slice(resource);
            open(field::RESOURCE_LOGS_SCOPE_LOGS, in_scope_logs, &mut head);
            open(field::SCOPE_LOGS_SCOPE, self.scope.len(), &mut head);
            head.extend_from_slice(&self.scope);
            body.put(head);
            group.full.into_iter().chain([group.open]).for_each(|piece| body.put(piece));
        }
        let (body, compression) = self.packer.pack(body.body());
        parcel.body = body;
        parcel.compression = Some(compression);
        // A stream that ended should not be kept for the sake of its successor.
        self.origin = None;
    }

    fn clear(&mut self, parcel: &mut Parcel) {
        // Megabytes, on a node that is quiet again.
        *parcel = Parcel::default();
    }
}

/// Length of a message of `length` bytes as a field.
fn sized(field: u32, length: usize) -> usize {
    let length_len = encoded_len_varint(u64::try_from(length).unwrap_or(u64::MAX));
    key_len(field).saturating_add(length_len).saturating_add(length)
}

/// Key and length of a message; its bytes follow.
fn open(field: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(u64::try_from(length).unwrap_or(u64::MAX), out);
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

//! One stream of the table, as it travels in headers and announcements: protobuf's wire format, so that a later
//! release may add to it and this one leaves out what it does not know.

use std::sync::Arc;

use shimtap_proto::ttrpc::wire::{Value, fields, put_len, put_number};

use super::Damage;
use crate::{
    closed::Closed,
    enrich::{Identity, Role},
    event::{Ending, HoleReason, Origin, StreamKind, StreamName},
    process::Edge,
};

/// What the journal knows of a stream.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number in this journal, from 1; never used twice.
    pub id: u32,
    /// Its name, and whose it is.
    pub origin: Arc<Origin>,
    /// Every byte below this is in a record.
    pub end: u64,
    /// How the next record begins.
    pub edge: Edge,
    /// Time of the last record.
    pub last_ns: u64,
    /// Lines among its records.
    pub lines: u64,
    /// Raw bytes of them.
    pub bytes: u64,
    /// Its holes, by reason.
    pub holes: Vec<HoleSum>,
    /// How it ended; `None` while it has not.
    pub ending: Option<Ending>,
    /// Number behind its last entry.
    pub next_seq: u64,
    /// Ranges that the journal's other head has, in order.
    pub moved: Vec<(u64, u64)>,
}

/// The holes of one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoleSum {
    /// The reason.
    pub reason: HoleReason,
    /// Bytes of them.
    pub bytes: u64,
    /// How many they are.
    pub number: u64,
    /// Lines in those of which that is known; `None` where it is of none.
    pub lines: Option<u64>,
}

mod field {
    pub(super) const ID: u32 = 1;
    pub(super) const NAMESPACE: u32 = 2;
    pub(super) const CONTAINER: u32 = 3;
    pub(super) const INCARNATION: u32 = 4;
    pub(super) const PROCESS: u32 = 5;
    pub(super) const STREAM: u32 = 6;
    pub(super) const IDENTITY: u32 = 7;
    pub(super) const END: u32 = 8;
    pub(super) const WITHIN: u32 = 9;
    pub(super) const CUT: u32 = 10;
    pub(super) const LAST_NS: u32 = 11;
    pub(super) const LINES: u32 = 12;
    pub(super) const BYTES: u32 = 13;
    pub(super) const HOLE: u32 = 14;
    pub(super) const ENDING: u32 = 15;
    pub(super) const NEXT_SEQ: u32 = 16;
    pub(super) const MOVED: u32 = 17;
}

// === impl Row ===

impl Row {
    /// A stream that nothing is known of but its name.
    #[must_use]
    pub fn new(id: u32, origin: Arc<Origin>) -> Self {
        Self {
            id,
            origin,
            end: 0,
            edge: Edge::Line,
            last_ns: 0,
            lines: 0,
            bytes: 0,
            holes: Vec::new(),
            ending: None,
            next_seq: 0,
            moved: Vec::new(),
        }
    }

    /// Appends the row.
    pub fn put(&self, out: &mut Vec<u8>) {
        let name = &self.origin.name;
        put_number(out, field::ID, u64::from(self.id));
        put_len(out, field::NAMESPACE, name.namespace.as_bytes());
        put_len(out, field::CONTAINER, name.container.as_bytes());
        put_number(out, field::INCARNATION, name.incarnation);
        put_text(out, field::PROCESS, &name.process);
        put_text(out, field::STREAM, name.stream.label());
        let mut identity = Vec::new();
        put_identity(&mut identity, &self.origin.identity);
        put_len(out, field::IDENTITY, &identity);
        for (number, value) in [
            (field::END, self.end),
            (field::LAST_NS, self.last_ns),
            (field::LINES, self.lines),
            (field::BYTES, self.bytes),
            (field::NEXT_SEQ, self.next_seq),
        ] {
            put_known(out, number, value);
        }
        match self.edge {
            Edge::Line => {}
            // One more, because 0 is where many lines begin.
            Edge::Within(from) => put_number(out, field::WITHIN, from.saturating_add(1)),
            Edge::Cut => put_number(out, field::CUT, 1),
        }
        for HoleSum { reason, bytes, number, lines } in &self.holes {
            let mut hole = Vec::new();
            put_text(&mut hole, 1, reason.label());
            put_known(&mut hole, 2, *bytes);
            put_known(&mut hole, 3, *number);
            if let Some(lines) = lines {
                put_number(&mut hole, 4, *lines);
            }
            put_len(out, field::HOLE, &hole);
        }
        for (from, to) in &self.moved {
            let mut range = Vec::new();
            put_known(&mut range, 1, *from);
            put_known(&mut range, 2, *to);
            put_len(out, field::MOVED, &range);
        }
        if let Some(ending) = self.ending {
            put_text(out, field::ENDING, ending.label());
        }
    }

    /// Reads a row.
    pub fn take(bytes: &[u8]) -> Result<Self, Damage> {
        let mut name = StreamName {
            namespace: String::new(),
            container: String::new(),
            incarnation: 0,
            process: String::new(),
            stream: StreamKind::Stdout,
        };
        let mut identity = None;
        let mut row = Self::new(0, Arc::new(Origin::unknown()));
        for field in fields(bytes) {
            let field = field.map_err(|_| Damage::Payload)?;
            match (field.number, field.value) {
                (field::ID, Value::Varint(id)) => row.id = u32::try_from(id).map_err(|_| Damage::Payload)?,
                (field::NAMESPACE, Value::Len(text)) => name.namespace = string(text)?,
                (field::CONTAINER, Value::Len(text)) => name.container = string(text)?,
                (field::INCARNATION, Value::Varint(number)) => name.incarnation = number,
                (field::PROCESS, Value::Len(text)) => name.process = string(text)?,
                (field::STREAM, Value::Len(text)) => name.stream = known(text).ok_or(Damage::Payload)?,
                (field::IDENTITY, Value::Len(body)) => identity = Some(take_identity(body)?),
                (field::END, Value::Varint(end)) => row.end = end,
                (field::LAST_NS, Value::Varint(ns)) => row.last_ns = ns,
                (field::LINES, Value::Varint(lines)) => row.lines = lines,
                (field::BYTES, Value::Varint(bytes)) => row.bytes = bytes,
                (field::NEXT_SEQ, Value::Varint(seq)) => row.next_seq = seq,
                (field::WITHIN, Value::Varint(more)) => row.edge = Edge::Within(more.saturating_sub(1)),
                (field::CUT, Value::Varint(_)) => row.edge = Edge::Cut,
                (field::HOLE, Value::Len(hole)) => row.holes.push(take_hole(hole)?),
                (field::MOVED, Value::Len(range)) => row.moved.push(take_range(range)?),
                (field::ENDING, Value::Len(text)) => {
                    row.ending = Some(known(text).unwrap_or(Ending::Unknown));
                }
                _ => {}
            }
        }
        let identity = Arc::new(identity.ok_or(Damage::Payload)?);
        row.origin = Arc::new(Origin::new(name, identity));
        if row.id == 0 { Err(Damage::Payload) } else { Ok(row) }
    }
}

fn take_hole(bytes: &[u8]) -> Result<HoleSum, Damage> {
    let mut hole = HoleSum { reason: HoleReason::Unknown, bytes: 0, number: 0, lines: None };
    for field in fields(bytes) {
        let field = field.map_err(|_| Damage::Payload)?;
        match (field.number, field.value) {
            (1, Value::Len(text)) => hole.reason = known(text).unwrap_or(HoleReason::Unknown),
            (2, Value::Varint(bytes)) => hole.bytes = bytes,
            (3, Value::Varint(number)) => hole.number = number,
            (4, Value::Varint(lines)) => hole.lines = Some(lines),
            _ => {}
        }
    }
    Ok(hole)
}

fn take_range(bytes: &[u8]) -> Result<(u64, u64), Damage> {
    let (mut from, mut to) = (0, 0);
    for field in fields(bytes) {
        let field = field.map_err(|_| Damage::Payload)?;
        match (field.number, field.value) {
            (1, Value::Varint(offset)) => from = offset,
            (2, Value::Varint(offset)) => to = offset,
            _ => {}
        }
    }
    Ok((from, to))
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    put_text(out, 1, &identity.runtime_namespace);
    put_text(out, 2, &identity.container_id);
    put_text(out, 3, identity.role.label());
    for (number, text) in [
        (4, &identity.namespace),
        (5, &identity.pod),
        (6, &identity.pod_uid),
        (7, &identity.sandbox_id),
        (8, &identity.container),
        (9, &identity.image),
    ] {
        if let Some(text) = text {
            put_len(out, number, text.as_bytes());
        }
    }
    put_text(out, 10, &identity.name);
    put_text(out, 11, &identity.path);
    put_text(out, 12, &identity.shim);
    put_known(out, 13, u64::from(identity.host_visible));
}

fn take_identity(bytes: &[u8]) -> Result<Identity, Damage> {
    let mut identity = Identity::unknown();
    for field in fields(bytes) {
        let field = field.map_err(|_| Damage::Payload)?;
        let (number, text) = match (field.number, field.value) {
            (13, Value::Varint(visible)) => {
                identity.host_visible = visible != 0;
                continue;
            }
            (number, Value::Len(text)) => (number, text),
            _ => continue,
        };
        match number {
            1 => identity.runtime_namespace = string(text)?,
            2 => identity.container_id = string(text)?,
            3 => identity.role = known(text).unwrap_or(Role::Plain),
            4 => identity.namespace = Some(string(text)?),
            5 => identity.pod = Some(string(text)?),
            6 => identity.pod_uid = Some(string(text)?),
            7 => identity.sandbox_id = Some(string(text)?),
            8 => identity.container = Some(string(text)?),
            9 => identity.image = Some(string(text)?),
            10 => identity.name = string(text)?,
            11 => identity.path = string(text)?,
            12 => identity.shim = string(text)?,
            _ => {}
        }
    }
    Ok(identity)
}

/// A label of a closed list.
fn known<L: Closed>(text: &[u8]) -> Option<L> {
    L::ALL.iter().copied().find(|known| known.name().as_bytes() == text)
}

fn string(text: &[u8]) -> Result<String, Damage> {
    String::from_utf8(text.to_vec()).map_err(|_| Damage::Payload)
}

fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_len(out, number, text.as_bytes());
    }
}

fn put_known(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_number(out, number, value);
    }
}

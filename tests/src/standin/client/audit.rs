//! The judge of a relay: what was sent, what arrived, and how often.
//!
//! Compares the client's own record with the stand-in's journal; the thing in between is not asked.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{
    connection::{Connection, Sent},
    lab::Lab,
};
use crate::standin::journal::{Entry, Kind};

/// Methods of which a wrapper changes the body on purpose.
const REWRITTEN: [&str; 2] = ["Create", "Exec"];
/// What a wrapper may ask on a connection of its own.
const OWN: [&str; 3] = ["Connect", "Stats", "State"];

/// Says that every request of these connections reached the stand-in exactly once, in order, on a connection of
/// its own, with its bytes unchanged (Create and Exec apart), and that each was answered at most once.
///
/// # Errors
/// Names the first difference.
pub fn exactly_once(lab: &Lab, connections: &[&Connection]) -> Result<()> {
    let mut arrived: BTreeMap<(u32, u64), Vec<Entry>> = BTreeMap::new();
    for entry in lab.requests()? {
        ensure!(
            entry.kind != Kind::Odd && entry.kind != Kind::Oversize,
            "the shim was sent garbage: {entry:?}"
        );
        if entry.kind == Kind::Request {
            arrived.entry((entry.shim, entry.connection)).or_default().push(entry);
        }
    }
    for connection in connections {
        connection.check_single_answers()?;
        let sent = connection.sent();
        if sent.is_empty() {
            continue;
        }
        let found = arrived.iter().find(|(_, entries)| same(&sent, entries)).map(|(key, _)| *key);
        let key = found.with_context(|| format!("sent {}; arrived {}", told(&sent), listed(&arrived)))?;
        arrived.remove(&key);
    }
    for entries in arrived.values() {
        let foreign = entries.iter().find(|e| !OWN.contains(&e.method.as_str()));
        ensure!(foreign.is_none(), "nobody sent this: {foreign:?}");
    }
    Ok(())
}

fn same(sent: &[Sent], arrived: &[Entry]) -> bool {
    sent.len() == arrived.len()
        && sent.iter().zip(arrived).all(|(s, a)| {
            s.stream == a.stream
                && s.method == a.method
                && (s.hash == a.hash || REWRITTEN.contains(&s.method.as_str()))
        })
}

fn told(sent: &[Sent]) -> String {
    sent.iter().map(|s| format!("{}:{} ", s.stream, s.method)).collect()
}

fn listed(arrived: &BTreeMap<(u32, u64), Vec<Entry>>) -> String {
    let line = |((_, number), entries): (&(u32, u64), &Vec<Entry>)| {
        let list: String = entries.iter().map(|e| format!("{}:{} ", e.stream, e.method)).collect();
        format!("[connection {number}: {list}]")
    };
    arrived.iter().map(line).collect()
}

//! Frames of every size and cut, ttrpc streams, and connections that come and go.
//!
//! What is sent is noted by the connection and compared with the stand-in's journal at the end, by others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};

use super::lane::{Lane, PATIENCE};
use crate::{
    chaos::dice::Dice,
    standin::{
        client::{
            connection::Connection,
            frame::{Frame, LARGEST},
            pod,
        },
        serve::STREAMING,
    },
};

/// `DeadlineExceeded` of gRPC.
const DEADLINE_EXCEEDED: i32 = 4;
/// What `[stats] foreign_bound_ms` of `shim.toml` is by default.
const STATS_BOUND: Duration = Duration::from_secs(2);
/// Room that service, method and the rest of an envelope take.
const ENVELOPE: u64 = 1000;

/// Updates of all sizes, State and Stats, several at a time, on the pod's own connection.
///
/// # Errors
/// One is not answered, or not rightly.
pub fn talk(lane: &Lane<'_>, mut dice: Dice) -> Result<()> {
    let c = &lane.pod.connection;
    let id = &lane.pod.id;
    while lane.goes_on() {
        let size = match dice.roll(200) {
            0..140 => dice.roll(300),
            140..180 => dice.roll(20_000),
            180..199 => dice.roll(300_000),
            _ => u64::try_from(LARGEST)? - ENVELOPE - dice.roll(1_000_000),
        };
        let value = vec![u8::try_from(dice.roll(256))?; usize::try_from(size)?];
        let resources = Some(Any { value, ..Default::default() }).into();
        let update = api::UpdateTaskRequest { id: id.clone(), resources, ..Default::default() };
        let frame = c.prepare("Update", &update)?;
        let how = send(c, &frame, &mut dice)?;
        let state = c.send("State", &pod::state(id, ""))?;
        let asked = Instant::now();
        let stats = c.send("Stats", &pod::stats(id))?;
        lane.answer(c, frame.stream)?.message::<api::Empty>().context("Update")?;
        let state = lane.answer(c, state)?.message::<api::StateResponse>().context("State")?;
        let ours = state.stdout.starts_with(&lane.pod.lab.fifo_dir().display().to_string());
        ensure!(ours || lane.may_be_safe, "State: {}", state.stdout);
        let stats = lane.answer(c, stats)?;
        // Asked more than once a second, the wrapper answers for a shim that has not within this time, behind frames of
        // megabytes and on a machine without time too.
        let bounded = stats.code() == DEADLINE_EXCEEDED && asked.elapsed() >= STATS_BOUND;
        if !bounded {
            stats.message::<api::StatsResponse>().context("Stats")?;
        }
        lane.ledger.did(how);
        let mut tally = lane.ledger.tally();
        tally.bounded += u64::from(bounded);
        tally.largest = tally.largest.max(u64::try_from(frame.body.len())?);
    }
    Ok(())
}

/// Sends a frame whole or in pieces; says how.
fn send(c: &Connection, frame: &Frame, dice: &mut Dice) -> Result<&'static str> {
    let bytes = frame.bytes();
    let (how, sizes): (_, &[usize]) = match dice.roll(6) {
        0 if bytes.len() <= 2_000 => ("frames dribbled byte by byte", &[1]),
        1 => ("frames whose header is split", &[3, 4, 1, 9, 100_000]),
        2 => ("frames in pieces", &[3, 7, 4096, 100_000]),
        3 => ("frames whose header comes alone", &[10, 1 << 20]),
        _ if bytes.len() > 1 << 20 => ("frames of 3 to 4 MiB", &[usize::MAX]),
        _ => ("frames whole", &[usize::MAX]),
    };
    c.send_pieces(&bytes, sizes)?;
    Ok(how)
}

/// Connections that come, ask once, and go; some that only come and go; and some that carry a ttrpc stream.
///
/// # Errors
/// One is not served, or not to its end.
pub fn knock(lane: &Lane<'_>, mut dice: Dice) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    while lane.goes_on() {
        drop(lane.pod.connect()?);
        let c = lane.pod.connect()?;
        if dice.chance(10) {
            let step = if dice.chance(10) { 1_300_000 } else { 3_000 };
            let began = Instant::now();
            c.is_echoed(STREAMING, 4, step, PATIENCE).context("a ttrpc stream")?;
            lane.ledger.waited("a ttrpc stream, to its end", began.elapsed());
            lane.ledger.did("ttrpc streams of up to 3.9 MB");
        } else {
            let answer = lane.call(&c, "Connect", &pod::connect(&lane.pod.id))?;
            answer.message::<api::ConnectResponse>().context("a new connection")?;
            lane.ledger.did("connections that come and go");
        }
        c.shutdown_write()?;
        c.wait_end(PATIENCE)?;
        all.push(c);
    }
    Ok(all)
}

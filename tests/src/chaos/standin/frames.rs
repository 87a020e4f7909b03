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
const WHOLE: &str = "frames whole";
const DRIBBLED: &str = "frames dribbled byte by byte";
const SPLIT: &str = "frames whose header is split";
const ALONE: &str = "frames whose header comes alone";
const IN_PIECES: &str = "frames in pieces";
const LARGE: &str = "frames of 3 to 4 MiB";
const PAUSED: &str = "Pause, Resume and ResizePty";
const STREAMS: &str = "ttrpc streams of up to 3.9 MB";
const KNOCKS: &str = "connections that come and go";
/// All kinds of what is done here.
pub const KINDS: [&str; 9] = [WHOLE, DRIBBLED, SPLIT, ALONE, IN_PIECES, LARGE, PAUSED, STREAMS, KNOCKS];

/// What the frames of a stream may take, which are many and large, on a machine without time.
const TRANSFER: Duration = Duration::from_secs(10);
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
        if dice.chance(5) {
            pause(lane)?;
        }
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
        let stats = c.send("Stats", &pod::stats(id))?;
        let asked = Instant::now();
        lane.answer(c, frame.stream, asked)?.message::<api::Empty>().context("Update")?;
        let state = lane.answer(c, state, asked)?.message::<api::StateResponse>().context("State")?;
        let ours = state.stdout.starts_with(&lane.pod.lab.fifo_dir().display().to_string());
        ensure!(ours || lane.may_be_safe, "State: {}", state.stdout);
        let stats = lane.answer(c, stats, asked)?;
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

/// Pause, Resume and ResizePty, of which nothing is to be seen but that each arrives once.
fn pause(lane: &Lane<'_>) -> Result<()> {
    let (c, id) = (&lane.pod.connection, &lane.pod.id);
    let pause = api::PauseRequest { id: id.clone(), ..Default::default() };
    lane.call(c, "Pause", &pause)?.message::<api::Empty>().context("Pause")?;
    let resume = api::ResumeRequest { id: id.clone(), ..Default::default() };
    lane.call(c, "Resume", &resume)?.message::<api::Empty>().context("Resume")?;
    let resize = api::ResizePtyRequest { id: id.clone(), width: 80, height: 24, ..Default::default() };
    lane.call(c, "ResizePty", &resize)?.message::<api::Empty>().context("ResizePty")?;
    lane.ledger.did(PAUSED);
    Ok(())
}

/// Sends a frame whole or in pieces; says how.
fn send(c: &Connection, frame: &Frame, dice: &mut Dice) -> Result<&'static str> {
    let bytes = frame.bytes();
    let (how, sizes): (_, &[usize]) = match dice.roll(6) {
        0 if bytes.len() <= 2_000 => (DRIBBLED, &[1]),
        1 => (SPLIT, &[3, 4, 1, 9, 100_000]),
        2 => (IN_PIECES, &[3, 7, 4096, 100_000]),
        3 => (ALONE, &[10, 1 << 20]),
        _ if bytes.len() > 1 << 20 => (LARGE, &[usize::MAX]),
        _ => (WHOLE, &[usize::MAX]),
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
            let what = "a ttrpc stream, to its end";
            lane.ledger.waited(what, lane.hangs.in_time(what, began, TRANSFER + lane.slack)?);
            lane.ledger.did(STREAMS);
        } else {
            let answer = lane.call(&c, "Connect", &pod::connect(&lane.pod.id))?;
            answer.message::<api::ConnectResponse>().context("a new connection")?;
            lane.ledger.did(KNOCKS);
        }
        c.shutdown_write()?;
        c.wait_end(PATIENCE)?;
        all.push(c);
    }
    Ok(all)
}

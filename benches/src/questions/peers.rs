//! What does a node pay where others tail the files, and what with us? containerd, runc shims and a tailer on one node;
//! containerd, runc shims, wrappers and collector on the other; 100 containers with 100 lines/s each, all of it sent on: by OTLP over
//! HTTP, packed, to an endpoint that throws it away (rsyslog: bare bytes over TCP, which is less).
//!
//! Target: the node with us uses at most 0.85 of what it uses with a peer, CPU per line, turn by turn. The endpoint is not
//! counted. A peer that is not installed has no rows (`./dev peers`).

use anyhow::{Result, ensure};

use crate::arrivals::{Arrivals, Place};
use crate::bed::{Side, one_side};
use crate::fleet::{Fleet, Load, Window, column, show};
use crate::options::Options;
use crate::peer::{Kind, Peer};
use crate::report::Report;
use crate::spread::ratios;
use crate::witness::{Sink, Told, Witness};
use shimtap_tests::rig::patience::throughout;
use std::time::Duration;

/// A machine that is busy with a hundred pods takes its time to start one more, which must not run unwrapped for that.
const SHIM: &str = "[start]\nready_ms = 20000\n";

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("peers", options)?;
    let many = options.pick(10, 100);
    let load = Load { name: "slow", containers: many, rate: 10_000 / many };
    let mut plain = Fleet::on(one_side(options.version, Side::Plain, "")?)?;
    let mut wrapped = Fleet::on(one_side(options.version, Side::Wrapped, SHIM)?)?;
    for number in 0..many {
        for fleet in [&mut plain, &mut wrapped] {
            fleet.add(load, number, &[])?;
            fleet.pause()?;
        }
    }
    let kinds = [Kind::Filelog, Kind::Rsyslog].into_iter().filter(|kind| kind.program().is_some());
    let kinds: Vec<Kind> = kinds.collect();
    ensure!(!kinds.is_empty(), "no peer is installed: `sudo ./dev peers` does it");
    let secs = options.pick(4, 10);
    let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); kinds.len()]);
    for _ in 0..options.turns(1, 3) {
        for (kind, theirs) in kinds.iter().zip(&mut theirs) {
            theirs.push(with_peer(*kind, &plain, load, secs)?);
        }
        ours.push(with_us(&wrapped, load, secs)?);
    }
    report.heading(&format!("{} containers ask for {} lines/s", load.containers, load.asked()))?;
    show("with shimtap, OTLP", &ours, &mut report)?;
    for (kind, theirs) in kinds.iter().zip(&theirs) {
        // Its own share stands in the collector's row.
        show(&format!("with {}", kind.name()), theirs, &mut report)?;
        let ratio = ratios(&column(theirs, Window::per_line), &column(&ours, Window::per_line));
        let target = if *kind == Kind::Filelog { "<= 0.85" } else { "" };
        report.row(&format!("CPU per line, with shimtap / with {}", kind.name()), "", &ratio, target)?;
    }
    for mut fleet in [plain, wrapped] {
        fleet.clear("")?;
    }
    Ok(())
}

fn with_peer(kind: Kind, fleet: &Fleet, load: Load, secs: u64) -> Result<Window> {
    let arrivals = Arrivals::default();
    let place = match kind {
        Kind::Filelog => Place::endpoint(&arrivals)?,
        Kind::Rsyslog => Place::bytes(&arrivals)?,
    };
    let dir = fleet.node().dir().join("peer");
    let _ = std::fs::remove_dir_all(&dir);
    let mut peer = Peer::start(kind, &dir, &fleet.node().dir().join("logs"), place.port())?;
    // It finds the files before they grow.
    throughout(Duration::from_secs(3), "the peer's start", || peer.lives().map(|()| true))?;
    let parts = fleet.parts(&[peer.pid()])?;
    let window = windowed(fleet, load, &parts, secs, &arrivals)?;
    peer.lives()?;
    peer.stop()?;
    place.close()?;
    Ok(window)
}

fn with_us(fleet: &Fleet, load: Load, secs: u64) -> Result<Window> {
    let arrivals = Arrivals::default();
    let place = Place::endpoint(&arrivals)?;
    let _ = std::fs::remove_dir_all(fleet.node().dir().join("journal"));
    let told = Told::of(Sink::Otlp(place.url(), String::new()))?;
    let witness = Witness::start_at(fleet.node().dir(), &fleet.node().collector_socket(), &told)?;
    witness.await_wrappers(load.containers)?;
    let parts = fleet.parts(&[witness.pid()])?;
    let window = windowed(fleet, load, &parts, secs, &arrivals)?;
    witness.stop()?;
    place.close()?;
    Ok(window)
}

/// A window in which lines arrive.
fn windowed(
    fleet: &Fleet,
    load: Load,
    parts: &crate::fleet::Parts,
    secs: u64,
    arrivals: &Arrivals,
) -> Result<Window> {
    fleet.go()?;
    let before = arrivals.bytes();
    let window = fleet.window(load, parts, secs)?;
    ensure!(arrivals.bytes() > before, "nothing arrived at the endpoint");
    fleet.stop()?;
    Ok(window)
}

//! How long does a line take from its write(2) in a container to a sink, and what does being quick cost? Real pods, real
//! wrappers, a real collector; lines carry the time they were written at (`stamp.rs`), and are looked for in the file that the
//! collector writes and in requests that an endpoint takes (`arrivals.rs`).
//!
//! Asked of 100 containers with 100 lines/s each, of a container that writes two lines a second beside them and with all others
//! still, and of the first line of a container that has just begun.
//!
//! Targets: p50 at most 40 ms, p99 at most 150 ms, the first line of a new container the same; the collector uses at most 0.05
//! cores. The settings take turns on one node: `gather_ms` as it is by default and at 100, which costs a third of the messages.
//! `--against` asks another build of the collector the same.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use shimtap_tests::rig::patience::{eventually, throughout};
use shimtap_tests::rig::tools;

use crate::arrivals::{Arrivals, Place};
use crate::bed::{Side, one_side};
use crate::fleet::{Fleet, Load, Window, show};
use crate::options::Options;
use crate::report::Report;
use crate::spread::quantile;
use crate::stamp::Writer;
use crate::witness::{Sink, Told, Witness};

/// A machine that is busy with a hundred pods takes its time to start one more, which must not run unwrapped for that.
const SHIM: &str = "[start]\nready_ms = 20000\n";
/// Containers that begin, in each turn.
const NEW: usize = 5;
/// A line that has not come by then never comes.
const LOST: Duration = Duration::from_secs(20);

/// One way to run the collector.
#[derive(Debug, Clone)]
struct Setting {
    name: String,
    program: PathBuf,
    ingest: String,
}

/// Where lines are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    File,
    Http,
}

/// ms of what came in one turn, and what that cost.
#[derive(Debug, Default, Clone)]
struct Turn {
    window: Window,
    busy: Vec<f64>,
    quiet: Vec<f64>,
    new: Vec<f64>,
    alone: Vec<f64>,
}

/// The writers of a node.
struct Writers {
    fleet: Fleet,
    busy: Load,
    quiet: Load,
}

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("latency", options)?;
    let mut writers = Writers::start(options)?;
    let settings = settings(options)?;
    for (place, name) in [(Where::File, "file"), (Where::Http, "http")] {
        if !options.wants(name) {
            continue;
        }
        let mut turns = vec![Vec::new(); settings.len()];
        for _ in 0..options.turns(1, 3) {
            for (setting, turns) in settings.iter().zip(&mut turns) {
                turns.push(writers.turn(setting, place, options.pick(4, 8))?);
            }
        }
        for (setting, turns) in settings.iter().zip(&turns) {
            report.heading(&format!("{name}, {}", setting.name))?;
            tell(turns, &mut report)?;
        }
    }
    Ok(())
}

fn settings(options: &Options) -> Result<Vec<Setting>> {
    let mut all = Vec::new();
    for (build, program) in
        [(String::new(), Some(tools::collector()?)), ("the other: ".to_owned(), options.against.clone())]
    {
        let Some(program) = program else { continue };
        let with = |name: &str, ingest: &str| Setting {
            name: format!("{build}{name}"),
            program: program.clone(),
            ingest: ingest.to_owned(),
        };
        all.push(with("as it is by default", ""));
        all.push(with("gather_ms = 100", "gather_ms = 100\n"));
    }
    Ok(all)
}

fn tell(turns: &[Turn], report: &mut Report) -> Result<()> {
    let each = |percent| turns.iter().filter_map(|turn| quantile(&turn.busy, percent)).collect::<Vec<_>>();
    report.row("many: p50", "ms", &each(50), "<= 40")?;
    report.row("many: p90", "ms", &each(90), "")?;
    report.row("many: p99", "ms", &each(99), "<= 150")?;
    report.row("many: longest", "ms", &each(100), "")?;
    let mut list = |name: &str, all: Vec<f64>| -> Result<()> {
        report.row(name, "ms", &all, "median <= 40")?;
        report.figure(&format!("{name}: longest"), "ms", quantile(&all, 100).unwrap_or_default(), "<= 150")
    };
    list("first line of a new one", turns.iter().flat_map(|turn| turn.new.clone()).collect())?;
    list("one quiet, beside many", turns.iter().flat_map(|turn| turn.quiet.clone()).collect())?;
    list("one quiet, all others still", turns.iter().flat_map(|turn| turn.alone.clone()).collect())?;
    let windows: Vec<Window> = turns.iter().map(|turn| turn.window.clone()).collect();
    show("many", &windows, report)
}

// === impl Writers ===

impl Writers {
    fn start(options: &Options) -> Result<Writers> {
        let many = options.pick(10, 100);
        let busy = Load { name: "busy", containers: many, rate: 10_000 / many };
        let quiet = Load { name: "quiet", containers: 1, rate: 2 };
        let mut fleet = Fleet::on(one_side(options.version, Side::Wrapped, SHIM)?)?;
        for number in 0..busy.containers {
            fleet.add(busy, number, &["stamp=b"])?;
            fleet.pause()?;
        }
        fleet.add(quiet, 0, &["stamp=q"])?;
        fleet.pause()?;
        Ok(Writers { fleet, busy, quiet })
    }

    /// A fresh collector, and everything that is asked of it.
    fn turn(&mut self, setting: &Setting, to: Where, secs: u64) -> Result<Turn> {
        let dir = self.fleet.node().dir().to_owned();
        // What it kept of the turn before it would deliver first.
        let _ = std::fs::remove_dir_all(dir.join("journal"));
        let arrivals = Arrivals::default();
        let endpoint = (to == Where::Http).then(|| Place::endpoint(&arrivals)).transpose()?;
        let sink = match &endpoint {
            Some(endpoint) => Sink::Otlp(endpoint.url(), "compression = \"none\"\n".to_owned()),
            None => Sink::File(format!("rotate_bytes = {}\n", 1_u64 << 30)),
        };
        let told =
            Told { program: setting.program.clone(), ingest: setting.ingest.clone(), ..Told::of(sink)? };
        let witness = Witness::start_at(&dir, &self.fleet.node().collector_socket(), &told)?;
        witness.await_wrappers(self.busy.containers + self.quiet.containers)?;
        let place = match endpoint {
            Some(endpoint) => endpoint,
            None => Place::file(witness.file(), &arrivals)?,
        };
        let turn = self.ask(&witness, &arrivals, secs)?;
        witness.stop()?;
        place.close()?;
        Ok(turn)
    }

    fn ask(&mut self, witness: &Witness, arrivals: &Arrivals, secs: u64) -> Result<Turn> {
        let mut turn = Turn::default();
        let parts = self.fleet.parts(&[witness.pid()])?;
        self.fleet.go()?;
        arrivals.begin();
        turn.window = self.fleet.window(self.busy, &parts, secs)?;
        turn.busy = arrivals.end(Writer::Busy);
        turn.quiet = arrivals.end(Writer::Quiet);
        arrivals.begin();
        for number in 0..NEW {
            self.fleet.run(&format!("new{number}"), &["lines=1", "linger=60", "stamp=n"])?;
            eventually(LOST, "the first line of a new container", || {
                Ok((arrivals.count(Writer::New) > number).then_some(()))
            })
            .with_context(|| format!("container new{number}"))?;
        }
        turn.new = arrivals.end(Writer::New);
        self.fleet.clear("new")?;
        self.fleet.stop()?;
        self.fleet.go_on(self.quiet.name)?;
        arrivals.begin();
        throughout(Duration::from_secs(secs), "the window with one writer", || Ok(true))?;
        turn.alone = arrivals.end(Writer::Quiet);
        self.fleet.stop()?;
        Ok(turn)
    }
}

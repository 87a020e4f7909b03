//! What does the collector use per line, and how fast is it? A real collector on its real socket, fed by pretended
//! wrappers that cost little (`feed.rs`): no containerd, no container.
//!
//! `busy`: one container at full speed, messages of 64 KiB in lines of 216 bytes; `json`: the same with lines that
//! are JSON themselves; `steady`: 50 MB/s of it; `slow`: 100 containers with 100 lines/s each, ten to a message;
//! `many`: 100 containers at full speed, ten lines to a message. Each without a sink, with the file, and with OTLP to an
//! endpoint in this process that throws away what it gets, packed and not. A turn ends when the sink has everything.
//!
//! Targets: the file sink carries 50 MB/s with at most a quarter of a core; per line it costs less than serde_json
//! and a write of the same record; of its memory at most 30 MiB is in no file. `--against` asks another build of the collector the same, in turns.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use shimtap_proto::link::DATA_MAX;
use shimtap_tests::rig::{eventually, tools};

use super::exposition::anonymous;
use crate::arrivals::{Arrivals, Place};
use crate::feed::{Feed, Felt};
use crate::options::Options;
use crate::plain;
use crate::report::Report;
use crate::spread::{float, float64, ratios};
use crate::usage::Usage;
use crate::witness::{Sink, Told, Witness};

const WIDTH: usize = 216;
const GB: f64 = 1e9;
/// More than is written: a sink that falls behind loses nothing.
const ROOM: u64 = 8 << 30;
/// For what a sink is behind at full speed.
const LIMIT: Duration = Duration::from_secs(120);
/// USER_HZ, the same on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is sent, and how.
#[derive(Debug, Clone)]
struct Load {
    name: &'static str,
    /// Wrappers, each with one container.
    feeds: u32,
    /// One message.
    block: String,
    messages: usize,
    /// From one message (of any feed) to the next; zero = as fast as the windows allow.
    every: Duration,
}

/// Where the lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Nowhere,
    File,
    /// Packed so.
    Otlp(&'static str),
}

/// What one run cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    felt: Felt,
    used: Usage,
    /// In user mode, by the kernel's ticks.
    user_s: f64,
    took: Duration,
    /// Memory of the collector that no file has, when all was delivered, in bytes.
    anonymous: u64,
}

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("sink", options)?;
    let dir = std::env::temp_dir().join(format!("shimtap-sink-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut programs = vec![tools::collector()?];
    programs.extend(options.against.clone());
    for load in loads(options).iter().filter(|load| options.wants(load.name)) {
        for to in [To::Nowhere, To::File, To::Otlp("none"), To::Otlp("gzip"), To::Otlp("zstd")] {
            ask(load, to, &programs, &dir, options, &mut report)?;
        }
    }
    std::fs::remove_dir_all(&dir).context("remove the folder")
}

fn loads(options: &Options) -> [Load; 5] {
    let whole = |line: &dyn Fn(usize) -> String| (0..DATA_MAX / WIDTH).map(line).collect::<String>();
    let (plain, json) = (whole(&plain_line), whole(&json_line));
    let few: String = (0..10).map(plain_line).collect();
    let times = |full: usize| if options.quick { full / 8 } else { full };
    let steady = Duration::from_secs_f64(float(plain.len()) / 50e6);
    let unpaced = Duration::ZERO;
    [
        Load { name: "busy", feeds: 1, block: plain.clone(), messages: times(16_000), every: unpaced },
        Load { name: "json", feeds: 1, block: json, messages: times(8_000), every: unpaced },
        Load { name: "steady", feeds: 1, block: plain, messages: times(6_000), every: steady },
        Load {
            name: "slow",
            feeds: 100,
            block: few.clone(),
            messages: times(8_000),
            every: Duration::from_millis(1),
        },
        Load { name: "many", feeds: 100, block: few, messages: times(160_000), every: unpaced },
    ]
}

/// A line of a program that writes text: 215 bytes and a newline.
pub(super) fn plain_line(number: usize) -> String {
    let text = format!(
        "2026-11-21 02:12:41.{:06} INFO [worker-{}] handled a request of ",
        number % 1_000_000,
        number % 8
    );
    filled(&text, "client 10.1.2.3 in 12.5 ms, status 200, 5120 bytes sent; ", "\n")
}

/// A line of a program that writes JSON: a tenth of its bytes have to be escaped.
fn json_line(number: usize) -> String {
    let text = format!("{{\"level\":\"info\",\"worker\":\"w{}\",\"msg\":\"handled\",", number % 8);
    filled(&text, "\"client\":\"10.1.2.3\",\"took\":\"12.5ms\",\"status\":200,", "}\n")
}

fn filled(head: &str, filler: &str, tail: &str) -> String {
    let middle: String = filler.chars().cycle().take(WIDTH - head.len() - tail.len()).collect();
    format!("{head}{middle}{tail}")
}

fn ask(
    load: &Load,
    to: To,
    programs: &[PathBuf],
    dir: &Path,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut costs = vec![Vec::new(); programs.len()];
    let (mut cats, mut serdes) = (Vec::new(), Vec::new());
    for _ in 0..options.turns(1, 5) {
        for (program, costs) in programs.iter().zip(&mut costs) {
            costs.push(once(load, to, program, dir)?);
        }
        if to == To::File && load.every.is_zero() {
            let file = dir.join("plain");
            let gigabytes = float(load.block.len() * load.messages) / GB;
            cats.push(plain::cat(&file, load.block.as_bytes(), load.messages)? / gigabytes);
            serdes.push(plain::serde_json(&file, &load.block, load.messages)? / gigabytes);
        }
    }
    report.heading(&format!("{}, {}", load.name, to.name()))?;
    for (program, costs) in programs.iter().zip(&costs) {
        if programs.len() > 1 {
            report.note(&format!("{}", program.display()))?;
        }
        show(load, to, costs, report)?;
    }
    if let [ours, other] = costs.as_slice() {
        let cpu = |costs: &[Cost]| each(costs, Cost::cpu_per_gb);
        report.row("CPU per byte, this / the other, per turn", "", &ratios(&cpu(other), &cpu(ours)), "")?;
        let user = |costs: &[Cost]| each(costs, Cost::user_per_gb);
        report.row("of it outside the kernel, likewise", "", &ratios(&user(other), &user(ours)), "")?;
    }
    if let Some(ours) = costs.first().filter(|_| !cats.is_empty()) {
        let ours = each(ours, Cost::cpu_per_gb);
        report.row("CPU per byte, this / cat into a file", "", &ratios(&cats, &ours), "")?;
        report.row("CPU per byte, this / serde_json and a write", "", &ratios(&serdes, &ours), "< 1")?;
    }
    Ok(())
}

fn show(load: &Load, to: To, costs: &[Cost], report: &mut Report) -> Result<()> {
    report.row("CPU per GB", "s", &each(costs, Cost::cpu_per_gb), "")?;
    report.row("of it outside the kernel", "s", &each(costs, Cost::user_per_gb), "")?;
    report.row("CPU per million lines", "s", &each(costs, Cost::cpu_per_million), "")?;
    if load.every.is_zero() {
        report.row("speed", "MB/s", &each(costs, Cost::megabytes_per_second), "")?;
        report.row("speed per core", "MB/s", &each(costs, Cost::megabytes_per_core), "")?;
    } else {
        let target = if load.name == "steady" && to == To::File { "<= 0.25" } else { "" };
        report.row("CPU", "cores", &each(costs, Cost::cores), target)?;
        report.row(
            "share of messages that waited for the window",
            "",
            &each(costs, |c| c.felt.stalled()),
            "0",
        )?;
        report.row("collector's wake-ups per second", "", &each(costs, Cost::wakeups), "")?;
    }
    report.row("acknowledgements per message", "", &each(costs, |c| c.felt.acks_per_message()), "")?;
    report.row("collector's RssAnon at the end", "MiB", &each(costs, Cost::mebibytes), "<= 30")
}

fn each(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> Vec<f64> {
    costs.iter().map(of).collect()
}

/// One run against a fresh collector.
fn once(load: &Load, to: To, program: &Path, dir: &Path) -> Result<Cost> {
    let socket = dir.join("collector.sock");
    // What it kept of the turn before it would take for repeats.
    let _ = std::fs::remove_dir_all(dir.join("journal"));
    let arrivals = Arrivals::default();
    let endpoint = Place::endpoint(&arrivals)?;
    let sink = match to {
        To::Nowhere => Sink::None,
        To::File => Sink::File(String::new()),
        To::Otlp(packed) => Sink::Otlp(endpoint.url(), format!("compression = \"{packed}\"\n")),
    };
    let told = Told {
        program: program.to_owned(),
        journal_bytes: ROOM,
        // Its metrics are asked for the end of a turn.
        metrics: "page_age_ms = 100\n".to_owned(),
        ..Told::of(sink)?
    };
    let witness = Witness::start_at(dir, &socket, &told)?;
    let mut feeds = (0..load.feeds).map(|n| Feed::attach(&socket, n)).collect::<Result<Vec<_>>>()?;
    // What the first messages cost (allocations, a file's first pages) is no line's.
    send(&mut feeds, load, load.messages / 20, Duration::ZERO)?;
    feeds.iter_mut().try_for_each(Feed::settle)?;
    delivered(&witness, to)?;
    let (felt, used, start) = (Felt::of(&feeds), Usage::of(&[witness.pid()]), Instant::now());
    let user_s = user_seconds(witness.pid())?;
    send(&mut feeds, load, load.messages, load.every)?;
    feeds.iter_mut().try_for_each(Feed::close)?;
    feeds.iter_mut().try_for_each(Feed::settle)?;
    delivered(&witness, to)?;
    let took = start.elapsed();
    let cost = Cost {
        felt: Felt::of(&feeds).since(felt),
        used: Usage::of(&[witness.pid()]).since(used),
        user_s: user_seconds(witness.pid())? - user_s,
        took,
        anonymous: anonymous(witness.pid())?,
    };
    drop(feeds);
    witness.stop()?;
    endpoint.close()?;
    Ok(cost)
}

/// Waits until the sink has all that the journal has: what is acknowledged to wrappers is only in the journal.
fn delivered(witness: &Witness, to: To) -> Result<()> {
    if to == To::Nowhere {
        return Ok(());
    }
    eventually(LIMIT, "the sink to have everything", || {
        Ok((witness.sum("shimtap_sink_lag_bytes", &[])? < 1.0).then_some(()))
    })
}

/// Sends messages round and round.
fn send(feeds: &mut [Feed], load: &Load, messages: usize, every: Duration) -> Result<()> {
    let start = Instant::now();
    for number in 0..messages {
        let due = start + every.mul_f64(float(number));
        if let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
            std::thread::sleep(early);
        }
        let turn = number % feeds.len();
        if let Some(feed) = feeds.get_mut(turn) {
            feed.send(load.block.as_bytes(), now_ns())?;
        }
    }
    Ok(())
}

/// What a process has used in user mode: most of the rest is the kernel's writing of the file, which no code of ours
/// makes cheaper and which varies most.
fn user_seconds(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks =
        text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(11)?.parse::<u64>().ok());
    Ok(float64(ticks.with_context(|| format!("{path} has no utime"))?) / TICKS_PER_SECOND)
}

pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

// === impl To ===

impl To {
    fn name(self) -> String {
        match self {
            To::Nowhere => "without a sink".to_owned(),
            To::File => "with file".to_owned(),
            To::Otlp(packed) => format!("with OTLP, {packed}"),
        }
    }
}

// === impl Cost ===

impl Cost {
    fn cpu_s(&self) -> f64 {
        float64(self.used.cpu_ns) / 1e9
    }

    fn bytes(&self) -> f64 {
        float64(self.felt.bytes)
    }

    fn cpu_per_gb(&self) -> f64 {
        self.cpu_s() / self.bytes() * GB
    }

    fn user_per_gb(&self) -> f64 {
        self.user_s / self.bytes() * GB
    }

    fn cpu_per_million(&self) -> f64 {
        self.cpu_s() / (self.bytes() / float(WIDTH)) * 1e6
    }

    fn megabytes_per_second(&self) -> f64 {
        self.bytes() / 1e6 / self.took.as_secs_f64()
    }

    fn megabytes_per_core(&self) -> f64 {
        self.bytes() / 1e6 / self.cpu_s()
    }

    fn cores(&self) -> f64 {
        self.cpu_s() / self.took.as_secs_f64()
    }

    fn mebibytes(&self) -> f64 {
        float64(self.anonymous) / f64::from(1 << 20)
    }

    fn wakeups(&self) -> f64 {
        float64(self.used.wakeups) / self.took.as_secs_f64()
    }
}

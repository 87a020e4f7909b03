//! How fast is the journal written, read and opened, and what does it cost? A real collector, fed by a pretended wrapper
//! as in `sink`, without any sink.
//!
//! Then: how long does a start take that finds a journal of default size full of lines that do not repeat, after a kill?
//!
//! Peers: `dd`, which writes and reads the bare bytes (the floor), and fjall, an LSM tree whose batches are committed
//! with `PersistMode::Buffer`, which is what our acknowledgement stands for as well. fjall is a program of its own
//! (`benches/peers/fjall`, found as `fjall-peer` beside the bench or in SHIMTAP_BIN_DIR); without it its rows are absent.
//! Its figures are without a socket, lines to cut, or an acknowledgement per message: they flatter it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shimtap_proto::link::DATA_MAX;
use shimtap_tests::rig::tools;

use super::sink::{now_ns, plain_line};
use crate::feed::Feed;
use crate::options::Options;
use crate::report::Report;
use crate::spread::{float, float64};
use crate::usage::Usage;
use crate::witness::{Sink, Told, Witness};

/// Far more than is written: nothing is dropped.
const ROOM: u64 = 8 << 30;

/// One side's figures of a turn.
#[derive(Debug, Default)]
struct Turn {
    append: f64,
    append_cpu: f64,
    replay: f64,
    open_ms: f64,
    size: f64,
}

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("journal", options)?;
    let dir = std::env::temp_dir().join(format!("shimtap-journal-{}", std::process::id()));
    let block: String = (0..DATA_MAX / plain_line(0).len()).map(plain_line).collect();
    let messages = options.pick(500, 4_000);
    report.note(&format!(
        "{} MB of lines of 216 bytes, in {}",
        block.len() * messages / 1_000_000,
        dir.display()
    ))?;
    let fjall = tools::collector()?.with_file_name("fjall-peer");
    let (mut ours, mut dds, mut fjalls) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.turns(1, 5) {
        ours.push(fresh(&dir, |dir| journal(dir, &block, messages))?);
        dds.push(fresh(&dir, |dir| dd(dir, &block, messages))?);
        if fjall.exists() {
            fjalls.push(fresh(&dir, |dir| fjall_peer(&fjall, dir, &block, messages))?);
        }
    }
    let mut full = Vec::new();
    for _ in 0..options.turns(1, 5) {
        full.push(fresh(&dir, |dir| full_journal(dir, options.pick(500, 3_000)))?);
    }
    report.heading("a journal of default size (64 MiB), full of lines that do not repeat")?;
    let each = |of: fn(&Turn) -> f64| full.iter().map(of).collect::<Vec<_>>();
    report.row("append", "MB/s", &each(|turn| turn.append), "")?;
    report.row("CPU of it per GB", "s", &each(|turn| turn.append_cpu), "")?;
    report.row("open what is there, after a kill", "ms", &each(|turn| turn.open_ms), "")?;
    report.row("of it", "MB", &each(|turn| turn.size), "")?;
    for (name, turns) in [("journal", &ours), ("dd", &dds), ("fjall", &fjalls)] {
        if turns.is_empty() {
            report.note(&format!("{name}: not built, see benches/README.md"))?;
            continue;
        }
        report.heading(name)?;
        let each = |of: fn(&Turn) -> f64| turns.iter().map(of).collect::<Vec<_>>();
        report.row("append", "MB/s", &each(|turn| turn.append), "")?;
        report.row("CPU of it per GB", "s", &each(|turn| turn.append_cpu), "")?;
        report.row("replay", "MB/s", &each(|turn| turn.replay), "")?;
        report.row("open what is there, after a kill", "ms", &each(|turn| turn.open_ms), "")?;
        report.row("bytes on disk / bytes of lines", "", &each(|turn| turn.size), "")?;
    }
    Ok(())
}

fn fresh(dir: &Path, ask: impl Fn(&Path) -> Result<Turn>) -> Result<Turn> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let turn = ask(dir)?;
    fs::remove_dir_all(dir).context("remove the folder")?;
    Ok(turn)
}

fn journal(dir: &Path, block: &str, messages: usize) -> Result<Turn> {
    let (socket, program) = (dir.join("collector.sock"), tools::collector()?);
    let told = Told { journal_bytes: ROOM, ..Told::of(Sink::None)? };
    let start = || Witness::start_at(dir, &socket, &told);
    // What a start costs that finds nothing.
    let before = Instant::now();
    let witness = start()?;
    let empty_ms = before.elapsed().as_secs_f64() * 1e3;
    let mut feed = Feed::attach(&socket, 0)?;
    let (used, begun) = (Usage::of(&[witness.pid()]), Instant::now());
    for _ in 0..messages {
        feed.send(block.as_bytes(), now_ns())?;
    }
    feed.close()?;
    feed.settle()?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = Usage::of(&[witness.pid()]).since(used);
    let bytes = float(block.len() * messages);
    drop(feed);
    witness.kill()?;
    fs::remove_file(&socket).context("remove the dead collector's socket")?;
    let before = Instant::now();
    let witness = start()?;
    let open_ms = before.elapsed().as_secs_f64() * 1e3 - empty_ms;
    let before = Instant::now();
    let shown = Command::new(&program)
        .args(["logs", "-o", "cri", "--socket"])
        .arg(dir.join("col/control.sock"))
        .stdout(Stdio::null())
        .status()
        .context("run shimtap logs")?;
    ensure!(shown.success(), "shimtap logs ended with {shown}");
    let replay = bytes / 1e6 / before.elapsed().as_secs_f64();
    witness.stop()?;
    Ok(Turn {
        append: bytes / 1e6 / took,
        append_cpu: float64(cpu.cpu_ns) / bytes,
        replay,
        open_ms,
        size: size(&dir.join("journal"))? / bytes,
    })
}

/// Three times as much as fits, none of which packs; `size` is what is there then, in MB.
fn full_journal(dir: &Path, messages: usize) -> Result<Turn> {
    let socket = dir.join("collector.sock");
    let told = Told::of(Sink::None)?;
    let before = Instant::now();
    let witness = Witness::start_at(dir, &socket, &told)?;
    let empty_ms = before.elapsed().as_secs_f64() * 1e3;
    let mut feed = Feed::attach(&socket, 0)?;
    let (mut noise, mut bytes, mut took) = (Noise(1), 0, Duration::ZERO);
    let used = Usage::of(&[witness.pid()]);
    for _ in 0..messages {
        // Making them takes longer than keeping them, and is not in the time.
        let block = noise.lines(DATA_MAX);
        let begun = Instant::now();
        feed.send(block.as_bytes(), now_ns())?;
        took += begun.elapsed();
        bytes += block.len();
    }
    feed.close()?;
    feed.settle()?;
    let cpu = Usage::of(&[witness.pid()]).since(used);
    drop(feed);
    witness.kill()?;
    fs::remove_file(&socket).context("remove the dead collector's socket")?;
    let kept = size(&dir.join("journal"))?;
    let before = Instant::now();
    let witness = Witness::start_at(dir, &socket, &told)?;
    let open_ms = before.elapsed().as_secs_f64() * 1e3 - empty_ms;
    witness.stop()?;
    Ok(Turn {
        append: float(bytes) / 1e6 / took.as_secs_f64(),
        append_cpu: float64(cpu.cpu_ns) / float(bytes),
        open_ms,
        size: kept / 1e6,
        ..Turn::default()
    })
}

/// Text in which nothing repeats, the same in each run.
struct Noise(u64);

impl Noise {
    /// Whole lines of 216 bytes, at most `most` in all.
    fn lines(&mut self, most: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let width = plain_line(0).len();
        let mut text = String::with_capacity(most);
        for at in 0..most / width * width {
            // xorshift64: its lowest bits are not its best.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let letter = usize::try_from(self.0 >> 58).ok().and_then(|number| LETTERS.get(number));
            text.push(if (at + 1) % width == 0 { '\n' } else { char::from(*letter.unwrap_or(&b'A')) });
        }
        text
    }
}

/// The bare bytes, in pieces of a frame's size.
fn dd(dir: &Path, block: &str, messages: usize) -> Result<Turn> {
    let (from, to) = (dir.join("from"), dir.join("to"));
    fs::write(&from, block.repeat(messages)).context("write what dd reads")?;
    let bytes = float(block.len() * messages);
    let copy = |from: &Path, to: &Path| -> Result<f64> {
        let before = Instant::now();
        let status = Command::new("dd")
            .arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display()))
            .args(["bs=64k", "status=none"])
            .status()
            .context("run dd")?;
        ensure!(status.success(), "dd ended with {status}");
        Ok(bytes / 1e6 / before.elapsed().as_secs_f64())
    };
    let append = copy(&from, &to)?;
    let replay = copy(&to, Path::new("/dev/null"))?;
    Ok(Turn { append, replay, size: 1.0, ..Turn::default() })
}

fn fjall_peer(program: &Path, dir: &Path, block: &str, messages: usize) -> Result<Turn> {
    let bytes = float(block.len() * messages);
    let ask = |what: &str, more: &[&str]| -> Result<(f64, f64)> {
        let said = Command::new(program)
            .arg(what)
            .arg(dir.join("fjall"))
            .args(more)
            .output()
            .context("run fjall")?;
        ensure!(said.status.success(), "fjall: {}", String::from_utf8_lossy(&said.stderr));
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut numbers = text.split_whitespace().map(str::parse::<f64>);
        let mut number = || numbers.next().context("a number")?.context("a number");
        let (seconds, _bytes, cpu) = (number()?, number()?, number()?);
        Ok((seconds, cpu))
    };
    let (append, cpu) = ask("append", &[&messages.to_string(), plain_line(0).trim_end()])?;
    let (open, _) = ask("open", &[])?;
    let (replay, _) = ask("replay", &[])?;
    Ok(Turn {
        append: bytes / 1e6 / append,
        append_cpu: cpu / bytes * 1e9,
        replay: bytes / 1e6 / replay,
        open_ms: open * 1e3,
        size: size(&dir.join("fjall"))? / bytes,
    })
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> Result<f64> {
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    let mut sum = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry.context("list a folder")?;
            let meta = entry.metadata().context("look at a file")?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                sum += meta.len();
            }
        }
    }
    Ok(float64(sum))
}

//! What does it cost to show the metrics of 250 containers, and how large is that? A real collector, fed by pretended wrappers
//! (`feed.rs`), each with one container of CRI and its sandbox under systemd's long cgroup names and a full first-version Stats
//! answer: no containerd, no container. Their processes are real and sleep (`sleepers.rs`), each in a cgroup of its own and the
//! sandboxes' in a network of its own, so that what this host's kernel gives is there too. What only pods in VMs have is not.
//!
//! Targets: ≤ 500 B and ≤ 120 gzip bytes per series; p99 ≤ 50 ms from the copy; ≤ 1 % of a core where both endpoints are
//! scraped every 15 s, compression included; `profile=minimal` ≤ 2.5 MB and ≤ 600 KB gzip; ≤ 20 KiB of memory per container;
//! all of it with twenty scrapers at once and with some that do not read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use shimtap_proto::link;
use shimtap_tests::rig::eventually;

use crate::feed::Feed;
use crate::options::Options;
use crate::questions::sink::now_ns;
use crate::report::Report;
use crate::sleepers::Sleepers;
use crate::spread::{float, float64, quantile};
use crate::usage::{Usage, field};
use crate::witness::{Sink, Told, Witness};

const CONTAINERS: u32 = 250;
/// Of a family that each pod has.
const SERIES: usize = 250;
/// What a wrapper counts of itself, by its names: those that nobody knows are one counter with the collector. Not that of unwrapped pods, of which it would tell.
const COUNTERS: [&str; 28] = [
    "frames",
    "frames_rewritten",
    "frames_unparsed",
    "frames_oversize",
    "raw_connections",
    "table_overflow",
    "synthetic_answers",
    "wait_held",
    "wait_hold_expired",
    "events_dropped",
    "config_faults",
    "not_captured",
    "link_reconnects",
    "accepts_delayed",
    "discarded_after_kill_bytes",
    "evicted_bytes",
    "spool_bytes",
    "spool_writers",
    "spool_full",
    "spool_refused_space",
    "spool_refused_access",
    "spool_refused_io",
    "spool_refused_other",
    "spool_unsafe",
    "discarded_logger_gone_bytes",
    "stats_repaired",
    "stats_unrepaired",
    "evicted_tasks",
];
/// Until this host was looked at.
const SHOWN: Duration = Duration::from_secs(60);
/// A copy is good for a second.
const STALE: Duration = Duration::from_millis(1_050);
const SCRAPE_SECS: f64 = 15.0;
const PAGES: [&str; 3] =
    ["/metrics/cadvisor?scope=all", "/metrics/cadvisor?scope=all&profile=minimal", "/metrics"];

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("exposition", options)?;
    let dir = std::env::temp_dir().join(format!("shimtap-exposition-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let socket = dir.join("collector.sock");
    let witness = Witness::start_at(&dir, &socket, &Told::of(Sink::None)?)?;
    let before = anonymous(witness.pid())?;
    let sleepers = Sleepers::start(CONTAINERS)?;
    let attach = |number| Feed::attach_as(&socket, number, sleepers.pids(number)?);
    let mut feeds = (0..CONTAINERS).map(attach).collect::<Result<Vec<_>>>()?;
    let attached = anonymous(witness.pid())?;
    for (number, feed) in feeds.iter_mut().enumerate() {
        feed.sample(u64::try_from(number)?, now_ns())?;
        feed.report(report_of(u64::try_from(number)?))?;
        feed.send(b"one line\nand another\n", now_ns())?;
    }
    feeds.iter_mut().try_for_each(Feed::settle)?;
    let address = witness.address().to_owned();
    for family in ["container_processes{", "container_network_receive_bytes_total{"] {
        eventually(SHOWN, &format!("{family} of all pods"), || {
            // As Prometheus asks: a plain page takes ten times the memory, and is for people.
            let packed = ask(&address, PAGES[0], GZIP)?;
            let mut page = String::new();
            GzDecoder::new(&packed[..]).read_to_string(&mut page).context("unpack the page")?;
            let rows = page.lines().filter(|row| row.starts_with(family)).count();
            Ok((rows >= SERIES).then_some(()))
        })?;
    }
    let fed = anonymous(witness.pid())?;
    for page in [PAGES[0], PAGES[2]] {
        ask(&address, page, GZIP)?;
    }
    let scraped = anonymous(witness.pid())?;
    report.heading("anonymous memory per container, its sandbox and its connection included")?;
    let each = |held: u64| float64(held.saturating_sub(before)) / 1024.0 / f64::from(CONTAINERS);
    report.figure("attached and announced", "KiB", each(attached), "")?;
    report.figure("and with statistics and output", "KiB", each(fed), "<= 20")?;
    report.figure("and scraped", "KiB", each(scraped), "<= 20")?;
    sizes(&address, &mut report)?;
    report.figure("memory once somebody asked for plain text", "KiB", each(anonymous(witness.pid())?), "")?;
    times(&address, witness.pid(), options.turns(5, 30), &mut report)?;
    crowd(&address, &mut report)?;
    drop(feeds);
    witness.stop()?;
    std::fs::remove_dir_all(&dir).context("remove the folder")
}

/// As large as a wrapper's of a quiet pod: all of its counters, and the methods that anybody has called.
fn report_of(number: u64) -> link::Report {
    let count = |name: &str| link::Count { name: name.to_owned(), value: number, ..Default::default() };
    let methods = ["State", "Create", "Start", "Wait", "Stats", "Connect"];
    let method = |name: &str| link::MethodReport {
        method: name.to_owned(),
        count: number,
        sum_ns: number * 1_000_000,
        buckets: vec![number; link::BUCKETS_NS.len() + 1],
        ..Default::default()
    };
    link::Report {
        counts: COUNTERS.map(count).into(),
        methods: methods.map(method).into(),
        connections: 2,
        generation: 1,
        ..Default::default()
    }
}

fn sizes(address: &str, report: &mut Report) -> Result<()> {
    for page in PAGES {
        let plain = ask(address, page, "")?;
        let packed = ask(address, page, GZIP)?;
        let series = plain
            .split(|byte| *byte == b'\n')
            .filter(|row| !row.is_empty() && row.first() != Some(&b'#'))
            .count();
        ensure!(series > 0, "{page} shows nothing");
        report.heading(page)?;
        report.figure("series", "", float(series), "")?;
        let (plain, packed) = (float(plain.len()), float(packed.len()));
        let minimal = page.contains("minimal");
        report.figure("text", "MB", plain / 1e6, if minimal { "<= 2.5" } else { "" })?;
        report.figure("compressed", "MB", packed / 1e6, if minimal { "<= 0.6" } else { "" })?;
        report.figure("text per series", "B", plain / float(series), "<= 500")?;
        report.figure("compressed per series", "B", packed / float(series), "<= 120")?;
    }
    Ok(())
}

fn times(address: &str, pid: i32, turns: usize, report: &mut Report) -> Result<()> {
    report.heading("one scraper, compressed")?;
    let (mut made, mut copied) = (Vec::new(), Vec::new());
    let mut used = 0;
    for _ in 0..turns {
        std::thread::sleep(STALE);
        let before = Usage::of(&[pid]);
        for page in [PAGES[0], PAGES[2]] {
            made.push(timed(address, page)?);
        }
        used += Usage::of(&[pid]).since(before).cpu_ns;
        for _ in 0..20 {
            copied.push(timed(address, PAGES[0])?);
        }
    }
    report.row("an exposition that has to be made", "ms", &made, "")?;
    report.row("one that was made a moment ago", "ms", &copied, "")?;
    report.figure(
        "of these the 99th of a hundred",
        "ms",
        quantile(&copied, 99).unwrap_or_default(),
        "<= 50",
    )?;
    let per_scrape = float64(used) / 1e9 / float(turns);
    report.figure(
        "CPU for both endpoints every 15 s",
        "% of a core",
        per_scrape / SCRAPE_SECS * 100.0,
        "<= 1",
    )
}

/// Twenty at once for three seconds, beside five that ask and do not read.
fn crowd(address: &str, report: &mut Report) -> Result<()> {
    report.heading("twenty scrapers at once, and five that do not read")?;
    let mut idle = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).context("connect a scraper that does not read")?;
        stream.write_all(request(PAGES[0], "").as_bytes()).context("ask and do not read")?;
        idle.push(stream);
    }
    let until = Instant::now() + Duration::from_secs(3);
    let scrape = || -> Result<Vec<f64>> {
        let mut took = Vec::new();
        while Instant::now() < until {
            took.push(timed(address, PAGES[0])?);
        }
        Ok(took)
    };
    let each = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let scrapers: Vec<_> = (0..20).map(|_| scope.spawn(scrape)).collect();
        let mut all = Vec::new();
        for scraper in scrapers {
            let took = scraper.join().map_err(|_| anyhow::anyhow!("a scraper panicked"))?;
            all.extend(took?);
        }
        Ok(all)
    })?;
    report.row("each answer", "ms", &each, "")?;
    report.figure(
        "of these the 99th of a hundred",
        "ms",
        quantile(&each, 99).unwrap_or_default(),
        "<= 50",
    )?;
    drop(idle);
    Ok(())
}

const GZIP: &str = "Accept-Encoding: gzip\r\n";

fn request(page: &str, header: &str) -> String {
    // Of 1.0, so that the answer comes in one piece and the connection ends with it.
    format!("GET {page} HTTP/1.0\r\nHost: bench\r\n{header}\r\n")
}

/// From connecting to the last byte, in ms.
fn timed(address: &str, page: &str) -> Result<f64> {
    let start = Instant::now();
    ask(address, page, GZIP)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The body of an answer.
fn ask(address: &str, page: &str, header: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).context("connect to the metrics")?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).context("set a limit")?;
    stream.write_all(request(page, header).as_bytes()).context("ask")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    ensure!(answer.starts_with(b"HTTP/1.0 200"), "GET {page} was refused");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
    Ok(answer.split_off(head + 4))
}

/// Memory of a process that no file has, in bytes.
pub(super) fn anonymous(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(field(&status, "RssAnon:").with_context(|| format!("{path} has no RssAnon"))? * 1024)
}

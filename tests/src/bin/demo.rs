//! What `./dev demo` shows: a private containerd, a collector, three containers through the wrapper; their lines as they
//! come into the collector's file, what `shimtap ps` says of them, and their metrics as Prometheus would scrape them.
//!
//! Leaves nothing behind, however it ends: by itself (`--once`), by Ctrl-C, or by a failure, which is one
//! sentence on stderr.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::run::Running;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

/// How long anything of the demonstration may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the last sample of a container may take to come; by then it is known that there is none.
const UNSAMPLED: Duration = Duration::from_secs(3);
/// How often the table is shown while it goes on.
const TABLE: Duration = Duration::from_secs(10);

const CHATTY: &str =
    "i=0; while true; do i=$((i+1)); echo \"line $i of a chatty container\"; sleep 0.2; done";
const SHORT: &str = "echo 'I live for 50 ms'; usleep 50000";
const FAILING: &str = "echo 'something went wrong' >&2; exit 3";

const ALL: [&str; 3] = ["chatty", "short", "failing"];

/// The families of the table, with their units.
const FAMILIES: [(&str, &str); 3] = [
    ("container_cpu_usage_seconds_total", "s"),
    ("container_memory_working_set_bytes", "bytes"),
    ("container_threads", ""),
];

fn main() -> ExitCode {
    let once = std::env::args().nth(1).is_some_and(|word| word == "--once");
    match demo(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("demo: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(once: bool) -> Result<()> {
    let interrupted = watch_signals()?;
    let version = if Version::Pinned.tools().is_ok() { Version::Pinned } else { Version::Packaged };
    let node = Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().start()?;
    let address = node.collector(|collector| Ok(collector.address().to_owned()))?;
    println!(
        "containerd {} in {}, its runtime {}",
        node.tools().release,
        node.dir().display(),
        node.wrapper().display()
    );

    let mut chatty = node.run_beside("chatty", &["--rm"], &["sh", "-c", CHATTY])?;
    let mut lines = Lines::default();
    let short = node.run("short", &["sh", "-c", SHORT])?;
    let failing = node.run("failing", &["sh", "-c", FAILING])?;
    ensure!((short.code, failing.code) == (0, 3), "exit statuses {} and {}", short.code, failing.code);

    println!("\nthree containers, and what they write, read from the collector's file:\n");
    await_all(&node, &mut chatty, &mut lines, &interrupted)?;
    println!("\nthe first of these, as the file holds it:\n{}", lines.first);
    print!("shimtap ps:\n{}", node.collector(|collector| collector.ps_with(&[]))?);
    show_table(&node)?;
    if !once {
        println!(
            "to scrape: http://{address}/metrics/cadvisor?scope=all (containers), http://{address}/metrics (ours)"
        );
        println!("it goes on until Ctrl-C\n");
        go_on(&node, &mut lines, &interrupted)?;
    }
    end(node, chatty)
}

/// A line and a sample of each container, except that one which ended at once on a busy machine may have ended unsampled.
fn await_all(node: &Node, chatty: &mut Running, lines: &mut Lines, interrupted: &AtomicBool) -> Result<()> {
    let began = Instant::now();
    eventually(LIMIT, "a line of each container and a sample of the one that runs", || {
        ensure!(chatty.is_running()?, "the chatty container has ended: {}", chatty.stderr_so_far());
        lines.show_new(node)?;
        let rows = table(node)?;
        let heard = ALL.iter().all(|name| lines.seen.contains_key(*name));
        let sampled = ALL.iter().filter(|name| rows.contains_key(**name)).count();
        let enough =
            heard && (sampled == ALL.len() || began.elapsed() > UNSAMPLED && rows.contains_key("chatty"));
        Ok((enough || interrupted.load(Ordering::Relaxed)).then_some(()))
    })
}

/// True from SIGINT or SIGTERM on.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        (interrupt, signal(SignalKind::terminate()).context("watch for SIGTERM")?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                // Both only say that a signal came; nothing is lost when the other wins.
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        seen.store(true, Ordering::Relaxed);
    });
    Ok(flag)
}

/// The file sink, read from where the last look ended.
#[derive(Default)]
struct Lines {
    position: usize,
    /// The first record, whole.
    first: String,
    /// Lines by container.
    seen: BTreeMap<String, u64>,
}

impl Lines {
    /// Prints the lines that are new.
    fn show_new(&mut self, node: &Node) -> Result<()> {
        let file = node.collector(|collector| Ok(collector.file()))?;
        // It is there from the first record on.
        let text = std::fs::read(&file).unwrap_or_default();
        let mut out = std::io::stdout().lock();
        for record in text.get(self.position..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            if !record.ends_with(b"\n") {
                break;
            }
            self.position += record.len();
            if self.first.is_empty() {
                self.first = String::from_utf8_lossy(record).into_owned();
            }
            let record: serde_json::Value = serde_json::from_slice(record).context("read a record")?;
            let field = |name: &str| record.get(name).and_then(serde_json::Value::as_str).unwrap_or("?");
            // Of `2026-01-02T03:04:05.678901234Z` the time of day, in ms.
            let time = field("time").get(11..23).unwrap_or_default();
            let name = field("container_id");
            writeln!(out, "{time}  {name:<8} {:<7} {}", field("stream"), field("message"))
                .context("print")?;
            *self.seen.entry(name.to_owned()).or_default() += 1;
        }
        out.flush().context("print")
    }
}

/// What the metrics endpoint says: by container, then by family.
fn table(node: &Node) -> Result<BTreeMap<String, BTreeMap<&'static str, f64>>> {
    let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
    let mut rows: BTreeMap<String, BTreeMap<&'static str, f64>> = BTreeMap::new();
    for line in text.lines() {
        let Some((family, rest)) = line.split_once('{') else { continue };
        let Some((family, _)) = FAMILIES.iter().find(|(name, _)| *name == family) else { continue };
        let name = rest.split_once("name=\"").and_then(|(_, rest)| rest.split('"').next());
        let value = rest.rsplit_once("} ").and_then(|(_, rest)| rest.split(' ').next());
        if let (Some(name), Some(Ok(value))) = (name, value.map(str::parse)) {
            rows.entry(name.to_owned()).or_default().insert(family, value);
        }
    }
    Ok(rows)
}

fn show_table(node: &Node) -> Result<()> {
    let [names, units] = [FAMILIES.map(|(name, _)| name), FAMILIES.map(|(_, unit)| unit)];
    println!("\nof /metrics/cadvisor:\n{:<10}{}", "", names.map(|name| format!("  {name}")).concat());
    for (container, values) in table(node)? {
        let cells = names.iter().zip(units).map(|(name, unit)| {
            // Unknown is not zero: gauges of an ended container are gone.
            let value =
                values.get(name).map(|value| format!("{value:.*} {unit}", usize::from(unit == "s") * 4));
            format!("  {:>width$}", value.unwrap_or_else(|| "-".to_owned()), width = name.len())
        });
        println!("{container:<10}{}", cells.collect::<String>().trim_end());
    }
    println!();
    Ok(())
}

fn go_on(node: &Node, lines: &mut Lines, interrupted: &AtomicBool) -> Result<()> {
    let mut shown = Instant::now();
    eventually(Duration::MAX, "Ctrl-C", || {
        lines.show_new(node)?;
        if shown.elapsed() >= TABLE {
            show_table(node)?;
            shown = Instant::now();
        }
        Ok(interrupted.load(Ordering::Relaxed).then_some(()))
    })
}

fn end(node: Node, chatty: Running) -> Result<()> {
    println!("ending, and leaving nothing behind");
    node.kill("chatty", "SIGKILL")?.ok().context("kill the chatty container")?;
    let said = chatty.finish(LIMIT)?;
    ensure!(said.code == 137, "the chatty container ended with {}", said.code);
    node.finish()
}

//! What `./dev demo` shows: a private containerd, a collector, three containers through the wrapper; their
//! lines as the collector's file holds them, and their metrics as Prometheus would scrape them.
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
/// How often the table is shown while it goes on.
const TABLE: Duration = Duration::from_secs(10);

const CHATTY: &str =
    "i=0; while true; do i=$((i+1)); echo \"line $i of a chatty container\"; sleep 0.2; done";
const SHORT: &str = "echo 'I live for 50 ms'; usleep 50000";
const FAILING: &str = "echo 'something went wrong' >&2; exit 3";

/// The families of the table, with their heads.
const FAMILIES: [(&str, &str); 4] = [
    ("container_cpu_usage_seconds_total", "CPU SECONDS"),
    ("container_memory_working_set_bytes", "WORKING SET"),
    ("container_memory_rss", "RSS"),
    ("container_threads", "THREADS"),
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
        "containerd {} in {}, containers through {}\n",
        node.tools().release,
        node.dir().display(),
        node.wrapper().display()
    );

    let chatty = node.run_beside("chatty", &["--rm"], &["sh", "-c", CHATTY])?;
    let mut lines = Lines::default();
    let short = node.run("short", &["sh", "-c", SHORT])?;
    let failing = node.run("failing", &["sh", "-c", FAILING])?;
    ensure!((short.code, failing.code) == (0, 3), "exit statuses {} and {}", short.code, failing.code);

    println!("their lines, as the file sink holds them:");
    let all = ["chatty", "short", "failing"];
    eventually(LIMIT, "a line and a sample of each container", || {
        lines.show_new(&node)?;
        let rows = table(&node)?;
        let complete = all.iter().all(|name| lines.seen.contains_key(*name) && rows.contains_key(*name));
        Ok((complete || interrupted.load(Ordering::Relaxed)).then_some(()))
    })?;
    show_table(&node, &address)?;
    if !once {
        println!("it goes on until Ctrl-C\n");
        go_on(&node, &address, &mut lines, &interrupted)?;
    }
    end(node, chatty)
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
    /// Lines by container.
    seen: BTreeMap<String, u64>,
}

impl Lines {
    /// Prints the records that are new.
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
            out.write_all(record).context("print")?;
            let record: serde_json::Value = serde_json::from_slice(record).context("read a record")?;
            let name = record.get("container_id").and_then(serde_json::Value::as_str).unwrap_or("?");
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

fn show_table(node: &Node, address: &str) -> Result<()> {
    println!(
        "\n{:<12} {:>14} {:>14} {:>14} {:>10}",
        "CONTAINER", FAMILIES[0].1, FAMILIES[1].1, FAMILIES[2].1, FAMILIES[3].1
    );
    for (name, values) in table(node)? {
        // Unknown is not zero: gauges of an ended container are gone.
        let cell = |family: &str, digits: usize| {
            values.get(family).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{name:<12} {:>14} {:>14} {:>14} {:>10}",
            cell(FAMILIES[0].0, 4),
            cell(FAMILIES[1].0, 0),
            cell(FAMILIES[2].0, 0),
            cell(FAMILIES[3].0, 0)
        );
    }
    println!(
        "\nto scrape: http://{address}/metrics/cadvisor?scope=all (containers), http://{address}/metrics (ours)\n"
    );
    Ok(())
}

fn go_on(node: &Node, address: &str, lines: &mut Lines, interrupted: &AtomicBool) -> Result<()> {
    let mut shown = Instant::now();
    eventually(Duration::MAX, "Ctrl-C", || {
        lines.show_new(node)?;
        if shown.elapsed() >= TABLE {
            show_table(node, address)?;
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

//! What a bench says: rows on stdout for people, JSON lines in `target/benches/<bench>.jsonl` for machines.
//!
//! A row that has a target names it; whether it is met is for the reader to see.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::options::Options;
use crate::spread::Spread;

/// The report of one run of one bench.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    file: fs::File,
}

impl Report {
    /// Starts one: heading, machine, and a fresh file.
    pub fn start(bench: &'static str, options: &Options) -> Result<Report> {
        let dir = dir();
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join(format!("{bench}.jsonl"));
        let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut report = Report { bench, file };
        let release = options.version.tools()?.release.to_string();
        let machine = machine();
        println!("{bench}: containerd {release}, {machine}{}", if options.quick { ", quick" } else { "" });
        println!("{:<54} {:>5} {:>10} {:>10} {:>10}  target", "", "n", "quarter", "median", "quarter");
        let line = json!({"bench": bench, "containerd": release, "machine": machine, "quick": options.quick});
        report.line(&line)?;
        Ok(report)
    }

    /// A row with a spread.
    pub fn row(&mut self, name: &str, unit: &str, samples: &[f64], target: &str) -> Result<()> {
        let Some(spread) = Spread::of(samples) else {
            println!("{name:<54} {:>5}", 0);
            return Ok(());
        };
        let Spread { count, lower, median, upper } = spread;
        let label = if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") };
        println!("{label:<54} {count:>5} {lower:>10.3} {median:>10.3} {upper:>10.3}  {target}");
        let line = json!({
            "bench": self.bench, "row": name, "unit": unit, "target": target,
            "n": count, "lower": lower, "median": median, "upper": upper, "samples": samples,
        });
        self.line(&line)
    }

    /// One figure that was measured once.
    pub fn figure(&mut self, name: &str, unit: &str, value: f64, target: &str) -> Result<()> {
        self.row(name, unit, &[value], target)
    }

    /// A remark that belongs to the figures.
    pub fn note(&mut self, text: &str) -> Result<()> {
        println!("  {text}");
        let line = json!({"bench": self.bench, "note": text});
        self.line(&line)
    }

    /// A heading between rows.
    pub fn heading(&mut self, text: &str) -> Result<()> {
        println!("-- {text}");
        let line = json!({"bench": self.bench, "heading": text});
        self.line(&line)
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}").context("write the JSON line")
    }
}

/// `target/benches`, beside the folder that the running bench was built into.
fn dir() -> PathBuf {
    let exe = std::env::current_exe().ok();
    let target = exe.as_deref().and_then(|exe| exe.ancestors().nth(2)).map(Path::to_owned);
    target.unwrap_or_else(|| PathBuf::from("target")).join("benches")
}

/// Kernel, cores and load: what a figure means depends on them.
fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cores} cores, load {load}", kernel.trim())
}

//! A Prometheus beside a test: told what to scrape, asked as Grafana asks it, and gone when it is dropped.
//!
//! It is the distribution's own (package prometheus); nothing here knows what our metrics mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::collector::{free_address, get};
use crate::rig::eventually;
use crate::rig::run::Running;

/// A patience: in an emulated machine on a busy host its start alone takes minutes.
const LIMIT: Duration = Duration::from_secs(300);

/// Labels of a row, without the family's name where the query left it out.
pub type Labels = BTreeMap<String, String>;

/// A Prometheus that runs.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    running: Running,
}

impl Prometheus {
    /// Starts one that keeps its files in `dir` under `name` and has this configuration (YAML); waits until it answers.
    pub fn start(dir: &Path, name: &str, config: &str) -> Result<Self> {
        let file = dir.join(format!("{name}.yml"));
        fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        let address = free_address()?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join(format!("{name}-data")).display()));
        command.arg(format!("--web.listen-address={address}"));
        let mut running = Running::start(command).context("is prometheus installed (package prometheus)?")?;
        eventually(LIMIT, "Prometheus to answer", || {
            anyhow::ensure!(running.is_running()?, "it ended");
            Ok(get(&address, "/-/ready").ok())
        })
        .with_context(|| running.stderr_so_far())?;
        Ok(Self { address, running })
    }

    /// What it has said so far, for a message.
    pub fn said(&self) -> String {
        self.running.stderr_so_far()
    }

    /// A query's rows at this moment.
    pub fn ask(&self, query: &str) -> Result<Vec<(Labels, f64)>> {
        let rows = self.rows(&format!("/api/v1/query?query={}", coded(query)))?;
        let row = |row: &Value| Ok((labels(row)?, value(row.get("value").context("a value")?)?));
        rows.iter().map(row).collect()
    }

    /// What its clock says: Unix time in seconds.
    pub fn now(&self) -> Result<f64> {
        Ok(self.ask("time()")?.first().context("no time")?.1)
    }

    /// As [`Prometheus::ask`], for each second since `from` (Unix time in seconds).
    pub fn ask_since(&self, query: &str, from: f64) -> Result<Vec<(Labels, Vec<f64>)>> {
        let (now, query) = (self.now()?, coded(query));
        let rows = self.rows(&format!("/api/v1/query_range?query={query}&start={from}&end={now}&step=1"))?;
        let row = |row: &Value| {
            let values = row.get("values").and_then(Value::as_array).context("values")?;
            Ok((labels(row)?, values.iter().map(value).collect::<Result<_>>()?))
        };
        rows.iter().map(row).collect()
    }

    /// The values that a label has in the series of a selector.
    pub fn values_of(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", coded(selector));
        let answer: Value = serde_json::from_str(&get(&self.address, &path)?)?;
        let values = answer.get("data").and_then(Value::as_array).context("no values")?;
        values.iter().map(|value| Ok(value.as_str().context("a text")?.to_owned())).collect()
    }

    fn rows(&self, path: &str) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&get(&self.address, path)?)?;
        let rows = match answer.pointer("/data/result") {
            // A scalar stands there as it is.
            Some(Value::Array(one)) if answer.pointer("/data/resultType") == Some(&"scalar".into()) => {
                vec![serde_json::json!({ "metric": {}, "value": one })]
            }
            Some(Value::Array(rows)) => rows.clone(),
            _ => anyhow::bail!("no result: {answer}"),
        };
        Ok(rows)
    }
}

fn labels(row: &Value) -> Result<Labels> {
    let labels = row.get("metric").and_then(Value::as_object).context("no labels")?;
    labels
        .iter()
        .map(|(key, value)| Ok((key.clone(), value.as_str().context("a text")?.to_owned())))
        .collect()
}

/// The number of a pair of a time and a text.
fn value(pair: &Value) -> Result<f64> {
    pair.get(1).and_then(Value::as_str).context("a number's text")?.parse().context("a number")
}

fn coded(query: &str) -> String {
    query.bytes().fold(String::new(), |mut coded, byte| {
        // Writing to a string cannot fail.
        let _ = write!(coded, "%{byte:02X}");
        coded
    })
}

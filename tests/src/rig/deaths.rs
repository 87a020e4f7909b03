//! What a collector tells of the deaths of its wrappers' own processes: in `shimtap ps`, in its log and in its metrics.
//!
//! It only asks; who died of what is known to the test that killed.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{collector::Collector, eventually};

/// A wrapper tells when it is connected again, and counts in its next report.
const LIMIT: Duration = Duration::from_secs(60);

/// A worker or keeper that was replaced, as `shimtap ps --json` tells.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Death {
    /// `worker` or `keeper`.
    pub process: String,
    /// As in `shimtap_wrapper_restarts_total`.
    pub reason: String,
    /// Its process id.
    pub pid: Option<i32>,
    /// By name.
    pub signal: Option<String>,
    /// Of one that ended by itself.
    pub exit_status: Option<u32>,
}

/// The last deaths of the only wrapper, newest first; none while it is not connected.
///
/// # Errors
/// `ps` does not say.
pub fn deaths(collector: &Collector) -> Result<Vec<Death>> {
    let ps = collector.ps()?;
    let wrappers = ps.get("wrappers").and_then(|wrappers| wrappers.as_array()).context("wrappers")?;
    let [wrapper] = wrappers.as_slice() else { return Ok(Vec::new()) };
    let deaths = wrapper.get("deaths").cloned().context("deaths of a wrapper")?;
    serde_json::from_value(deaths).context("the deaths that ps tells")
}

/// Waits until the death of `pid` is told, and demands that it is told everywhere with this reason: in `shimtap ps`, in the log and
/// in the metrics. Gives what `ps` says.
///
/// # Errors
/// It is not told, or with another reason.
pub fn told(collector: &Collector, pid: i32, reason: &str) -> Result<Death> {
    let is_it = |death: &Death| death.pid == Some(pid);
    let mut last = Vec::new();
    let death = eventually(LIMIT, &format!("the death of {pid} to be told"), || {
        last = deaths(collector)?;
        Ok(last.iter().find(|death| is_it(death)).cloned())
    });
    let death = death.with_context(|| format!("told: {last:?}"))?;
    ensure!(death.reason == reason, "{reason} was expected: {death:?}");
    let series = format!("shimtap_wrapper_restarts_total{{reason=\"{reason}\"}} ");
    eventually(LIMIT, &series, || {
        let page = collector.get("/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok());
        Ok(value.filter(|n| *n > 0))
    })?;
    let log = fs::read_to_string(collector.log()).context("its log")?;
    let names = |line: &&str| line.contains(&format!("pid={pid}"));
    let line = log.lines().find(names).with_context(|| format!("a line of {pid} in its log:\n{log}"))?;
    let says = |word: &str| line.contains(word);
    let replaced = reason == "replaced" && says("has begun anew");
    ensure!(replaced || says(&format!("reason=\"{reason}\"")), "{line}");
    if let Some(signal) = &death.signal {
        ensure!(says(&format!("signal=\"{signal}\"")), "{signal} in {line}");
    }
    Ok(death)
}

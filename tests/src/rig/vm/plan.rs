//! What the guest shall run, and what it says about it: the only words that host and guest exchange.
//!
//! The plan is a JSON file on the payload. The report is the programs' own output, as libtest writes it, with one line
//! before and one after each suite. A suite without an end line did not end: the guest died in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Where the guest sees the payload.
pub const PAYLOAD: &str = "/opt/shimtap";
/// The plan's file on the payload.
pub const PLAN: &str = "plan.json";
/// The containers' image on the payload.
pub const IMAGE: &str = "rig/image.tar";

/// A package of this build on the payload.
pub const DEB: &str = "packages/shimtap.deb";
/// One of the next release.
pub const NEXT_DEB: &str = "packages/next.deb";
/// The suite that installs packages; the payload has them where it is in the plan.
pub const SHIPPED: &str = "shipped";
/// The suite that steps the machine's clock.
pub const CLOCK: &str = "clock";
/// The suite of an image with the package in it.
pub const BAKED: &str = "baked";

const BEGIN: &str = "=== begin ";
const END: &str = "=== end ";
const NODE: &str = "=== node ";

/// What the guest shall run, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The suites.
    pub suites: Vec<Suite>,
}

/// One program that prints results as libtest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// Its name in the report.
    pub name: String,
    /// Which program.
    pub program: Program,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// It is killed after that time.
    pub limit_secs: u64,
}

/// A program of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// An integration test of this workspace, by its name.
    Test(String),
    /// What `guest` does when it is told this word: checks, which need a node that they may do anything to.
    Guest(String),
}

/// What came of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The guest about itself: kernel and cgroup version.
    pub node: String,
    suites: BTreeMap<String, Outcome>,
}

/// What came of one suite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status as a shell shows it; none where it did not end.
    pub status: Option<i32>,
    /// How long it took in the guest.
    pub secs: u64,
    /// Everything that it wrote.
    pub output: String,
}

// === impl Plan ===

impl Plan {
    /// The integration tests that it needs.
    pub fn tests(&self) -> Vec<&str> {
        let tests = self.suites.iter().filter_map(|suite| match &suite.program {
            Program::Test(name) => Some(name.as_str()),
            Program::Guest(_) => None,
        });
        let mut names: Vec<&str> = tests.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Reads the plan of the payload mounted at `payload`.
    pub fn read(payload: &Path) -> Result<Plan> {
        let path = payload.join(PLAN);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no plan", path.display()))
    }
}

// === impl Suite ===

impl Suite {
    /// The guest's own checks, under that name.
    pub fn checks(name: &str, limit: Duration) -> Suite {
        Suite::guest(name, "check", Vec::new(), limit)
    }

    /// Those that need a fresh node and a package: all of them, or those whose name contains `filter`.
    pub fn shipped(filter: Option<&str>, limit: Duration) -> Suite {
        Suite::guest(SHIPPED, SHIPPED, filter.map(str::to_owned).into_iter().collect(), limit)
    }

    /// Those of a node that was booted from an image with the package in it.
    pub fn baked(limit: Duration) -> Suite {
        Suite::guest(BAKED, BAKED, Vec::new(), limit)
    }

    /// The judge's case in which the clock goes forward and back, by this seed.
    pub fn clock(seed: u64, limit: Duration) -> Suite {
        Suite::guest(CLOCK, CLOCK, vec![seed.to_string()], limit)
    }

    /// A boot before or after a power cut: see [`super::power`].
    pub fn power(name: &str, arguments: Vec<String>, limit: Duration) -> Suite {
        Suite::guest(name, "power", arguments, limit)
    }

    fn guest(name: &str, word: &str, arguments: Vec<String>, limit: Duration) -> Suite {
        let program = Program::Guest(word.to_owned());
        Suite { name: name.to_owned(), program, arguments, limit_secs: limit.as_secs() }
    }

    /// An integration test of this workspace: all of its tests, or those whose name contains `filter`. Where the
    /// guest has no pinned containerd ([`super::pinned`]), its tests are left out.
    pub fn of_test(test: &str, filter: Option<&str>, limit: Duration) -> Suite {
        // One at a time: two daemons that start side by side on an emulated machine are late for everybody's patience.
        let mut arguments: Vec<String> = ["--include-ignored", "--test-threads=1"].map(str::to_owned).into();
        arguments.extend(filter.map(str::to_owned));
        if super::pinned().is_none() {
            arguments.extend(["--skip", "pinned::"].map(str::to_owned));
        }
        let name = filter.map_or_else(|| test.to_owned(), |filter| format!("{test}:{filter}"));
        Suite { name, program: Program::Test(test.to_owned()), arguments, limit_secs: limit.as_secs() }
    }

    /// The line that goes before its output.
    pub fn begins(&self) -> String {
        format!("{BEGIN}{}", self.name)
    }

    /// The line that goes behind its output.
    pub fn ends(&self, status: i32, secs: u64) -> String {
        format!("{END}{} {status} {secs}", self.name)
    }
}

/// The line by which the guest says what it is.
pub fn node_line(what: &str) -> String {
    format!("{NODE}{what}")
}

// === impl Report ===

impl Report {
    /// Reads what a guest wrote, however far it came.
    pub fn parse(text: &str) -> Result<Report> {
        let mut report = Report::default();
        let mut open = None;
        for line in text.lines() {
            if let Some(what) = line.strip_prefix(NODE) {
                what.clone_into(&mut report.node);
            } else if let Some(name) = line.strip_prefix(BEGIN) {
                report.suites.insert(name.to_owned(), Outcome::default());
                open = Some(name.to_owned());
            } else if let Some(end) = line.strip_prefix(END) {
                let words: Vec<&str> = end.split(' ').collect();
                let [name, status, secs] = words.as_slice() else { bail!("no end of a suite: {line:?}") };
                let outcome = report.suites.get_mut(*name).with_context(|| format!("{name} ends twice"))?;
                outcome.status = Some(status.parse().with_context(|| format!("a status: {line:?}"))?);
                outcome.secs = secs.parse().with_context(|| format!("seconds: {line:?}"))?;
                open = None;
            } else if let Some(outcome) = open.as_ref().and_then(|name| report.suites.get_mut(name)) {
                outcome.output.push_str(line);
                outcome.output.push('\n');
            }
        }
        Ok(report)
    }

    /// Demands that a suite was run to its end, that it ran at least one test, and that none failed.
    pub fn passed(&self, suite: &str) -> Result<&Outcome> {
        let outcome = self.suites.get(suite).with_context(|| {
            format!("the guest never came to {suite}; it came to {:?}", self.suites.keys())
        })?;
        let status = outcome
            .status
            .with_context(|| format!("the guest never came to the end of {suite}:\n{}", outcome.output))?;
        ensure!(status == 0, "{suite} ended with {status} in the guest:\n{}", outcome.output);
        ensure!(outcome.tests() > 0, "{suite} ran no test in the guest:\n{}", outcome.output);
        Ok(outcome)
    }
}

// === impl Outcome ===

impl Outcome {
    /// Tests that passed.
    pub fn tests(&self) -> u64 {
        let results = self.output.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
        results.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str) -> Suite {
        Suite::checks(name, Duration::from_secs(1))
    }

    fn said(lines: &[&str]) -> Report {
        Report::parse(&lines.join("\n")).expect("a report")
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_suite_that_ran_tests_and_ended_with_0_has_passed() {
        let one = suite("one");
        let report = said(&[&node_line("Linux 6.1"), &one.begins(), "test a ... ok", OK, &one.ends(0, 7)]);
        let outcome = report.passed("one").expect("it passed");
        assert_eq!((outcome.tests(), outcome.secs, report.node.as_str()), (3, 7, "Linux 6.1"));
    }

    #[test]
    fn nothing_else_has_passed() {
        let one = suite("one");
        let (begin, good, bad) = (one.begins(), one.ends(0, 1), one.ends(101, 1));
        for lines in [
            vec![],
            vec![begin.as_str(), OK],
            vec![begin.as_str(), OK, bad.as_str()],
            vec![begin.as_str(), good.as_str()],
        ] {
            assert!(said(&lines).passed("one").is_err(), "{lines:?}");
        }
    }
}

//! Where cargo has put the integration tests of this workspace, so that they can be run elsewhere.
//!
//! cargo alone knows which of the files in its folder belongs to the present sources, so it is asked, and builds what is
//! missing. With the workspace's features, as `./dev test` builds them, which has asked it already and hands its answer on: cargo may
//! be at something else for minutes by then.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::run::run;

/// Where it has to build everything anew, on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Names a list of the programs: a line for each, with name, package's folder and path between tabs (`tests/dev/suites.sh`).
const SUITES: &str = "SHIMTAP_SUITES";

/// Name and path of each of these integration tests' programs.
pub fn test_programs(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(list) = std::env::var_os(SUITES) {
        return listed(Path::new(&list), names);
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--no-run", "--workspace", "--message-format=json", "--quiet"]);
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.args(names.iter().flat_map(|name| ["--test", name]));
    let said = run(command, LIMIT)?.ok().context("build the tests")?.text();
    let artifacts: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |name: &str| {
        let mine = artifacts.iter().find(|artifact| {
            artifact.pointer("/target/name").and_then(Value::as_str) == Some(name)
                && artifact.pointer("/target/kind/0").and_then(Value::as_str) == Some("test")
        });
        let path = mine.and_then(|artifact| artifact.get("executable")).and_then(Value::as_str);
        path.map(PathBuf::from).with_context(|| format!("cargo names no program for the test {name}"))
    };
    names.iter().map(|name| Ok(((*name).to_owned(), program(name)?))).collect()
}

fn listed(list: &Path, names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let text = std::fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    let program = |name: &str| {
        let mut rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let path =
            rows.find_map(|row| (row.first() == Some(&name)).then(|| row.get(2).map(PathBuf::from))?);
        path.with_context(|| format!("{} names no program for the test {name}", list.display()))
    };
    names.iter().map(|name| Ok(((*name).to_owned(), program(name)?))).collect()
}

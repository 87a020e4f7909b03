//! Where cargo has put the integration tests of this workspace, so that they can be run elsewhere.
//!
//! cargo alone knows which of the files in its folder belongs to the present sources, so it is asked, and builds what is
//! missing. With the workspace's features, as `./dev test` builds them: there it has nothing to do.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::run::run;

/// Where it has to build everything anew, on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Name and path of each of these integration tests' programs.
pub fn test_programs(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    if names.is_empty() {
        return Ok(Vec::new());
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

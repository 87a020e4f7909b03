//! The direction of dependencies, and how many packages each part may cost. Read from `cargo metadata`, so
//! that a convenient import cannot turn it round unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shimtap_tests::rig::run::run;

/// Packages that the wrapper may consist of, itself included: one runs beside every pod.
const WRAPPER_PACKAGES: usize = 50;
/// Packages in the whole lock file.
const LOCKED_PACKAGES: usize = 300;

/// Who may use whom, of our own crates. A crate that is not here fails the test.
const MAY_USE: [(&str, &[&str]); 5] = [
    ("shimtap-proto", &[]),
    ("containerd-shim-tap", &["shimtap-proto"]),
    ("shimtap", &["shimtap-proto"]),
    ("shimtap-tests", &["shimtap-proto"]),
    ("shimtap-next", &["shimtap-proto"]),
];
/// Crates that see everything and that nobody may use.
const SEE_ALL: [&str; 1] = ["shimtap-benches"];

fn metadata() -> Result<Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--offline", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    command.args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)]);
    let said = run(command, Duration::from_secs(60))?.ok().context("cargo metadata")?;
    serde_json::from_slice(&said.stdout).context("it is no JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[test]
fn dependencies_have_one_direction() -> Result<()> {
    let metadata = metadata()?;
    let members: BTreeSet<&str> =
        list(&metadata, "/workspace_members").iter().filter_map(Value::as_str).collect();
    let ours: Vec<&Value> =
        list(&metadata, "/packages").iter().filter(|package| members.contains(text(package, "id"))).collect();
    let names: BTreeSet<&str> = ours.iter().map(|package| text(package, "name")).collect();
    ensure!(names.len() >= MAY_USE.len(), "the workspace has lost a member: {names:?}");
    let may_use = BTreeMap::from(MAY_USE);
    for package in ours {
        let name = text(package, "name");
        let uses = list(package, "/dependencies").iter().map(|dependency| text(dependency, "name"));
        let uses: BTreeSet<&str> = uses.filter(|used| names.contains(used)).collect();
        if SEE_ALL.contains(&name) {
            continue;
        }
        let allowed =
            may_use.get(name).with_context(|| format!("{name} is new: say here whom it may use"))?;
        for used in uses {
            ensure!(
                allowed.contains(&used),
                "{name} uses {used}; it may use {allowed:?} and nothing else of ours"
            );
        }
    }
    Ok(())
}

#[test]
fn the_wrapper_stays_within_its_budget() -> Result<()> {
    let metadata = metadata()?;
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata, "/resolve/nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let start =
        list(&metadata, "/packages").iter().find(|package| text(package, "name") == "containerd-shim-tap");
    let mut open = vec![text(start.context("the wrapper is no member")?, "id")];
    let mut tree = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !tree.insert(id) {
            continue;
        }
        for dependency in list(nodes.get(id).context("an unknown package")?, "/deps") {
            // A dependency without a kind is a normal one; build and dev are not linked.
            let is_normal =
                list(dependency, "/dep_kinds").iter().any(|kind| kind.get("kind") == Some(&Value::Null));
            if is_normal {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    ensure!(tree.len() > 1, "the wrapper has no dependency at all: this test reads the wrong thing");
    ensure!(tree.len() < WRAPPER_PACKAGES, "{} packages: {tree:#?}", tree.len());
    Ok(())
}

#[test]
fn the_lock_stays_within_its_budget() -> Result<()> {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = std::fs::read_to_string(&lock).context("read Cargo.lock")?;
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    ensure!(count > MAY_USE.len(), "the lock is empty: this test reads the wrong thing");
    ensure!(count <= LOCKED_PACKAGES, "{count} packages are locked");
    Ok(())
}

//! What tests of an installation do again and again: a plain node, its pods, the command, and every file that it may touch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Node, Setup, Shim, Version, tools};

pub const LIMIT: Duration = Duration::from_secs(60);

/// A node without us whose wrappers, once there are some, are demanded to be gone at the end.
pub fn on_a_plain_node(version: Version, scenario: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    Setup::new(version, Shim::Unwrapped).run(scenario)
}

pub fn restart(node: &Node) -> Result<()> {
    node.restart()?;
    node.cri()?.await_ready()
}

pub struct Running {
    pub pod: Pod,
    pub container: String,
}

pub fn run_pod(node: &Node, name: &str) -> Result<Running> {
    let cri = node.cri()?;
    let pod = cri.run_pod(name)?;
    let container = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
    Ok(Running { pod, container })
}

pub fn answers(node: &Node, running: &Running) -> Result<()> {
    let said = node.cri()?.exec(&running.container, &["echo", "here"], 10)?;
    ensure!(said.stdout == b"here\n", "exec said {said:?}");
    Ok(())
}

/// How many pods are wrapped now.
pub fn is_wrapped(node: &Node, pods: usize) -> Result<()> {
    let keepers = node.wrappers("tap-keeper")?;
    ensure!(keepers.len() == pods, "wrapped are {keepers:?}, not {pods}");
    Ok(())
}

pub fn shimtap(node: &Node, verb: &str, args: &[&str]) -> Result<Finished> {
    run(command(node, verb, args)?, LIMIT)
}

/// The command on this node, to be started.
pub fn command(node: &Node, verb: &str, args: &[&str]) -> Result<Command> {
    command_of(node, &node.dir().join("containerd.toml"), verb, args)
}

/// The command for the containerd that reads this file.
pub fn command_of(node: &Node, main: &Path, verb: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(tools::collector()?);
    command.arg(verb).args(args).arg("--state-dir").arg(node.dir().join("state"));
    command.arg("--containerd").arg(&node.tools().containerd);
    command.arg("--containerd-config").arg(main);
    if verb == "install" {
        command.arg("--shim-config").arg(node.dir().join("shim.toml"));
    }
    Ok(command)
}

/// A file as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    pub path: PathBuf,
    /// Mode, owner, group; of a link its own.
    pub guard: (u32, u32, u32),
    /// Of a link where it leads.
    pub content: Vec<u8>,
}

/// Every file that an installation may touch.
pub fn files(dir: &Path) -> Result<Vec<Held>> {
    let mut found = Vec::new();
    let places = ["", "opt/bin", "conf.d", "config-v3.toml.d", "shimtap.d", "kata", "state", "state/hooks"];
    for place in places {
        let Ok(entries) = fs::read_dir(dir.join(place)) else { continue };
        for entry in entries {
            let entry = entry.context("read a folder")?;
            let path = entry.path();
            let about = entry.metadata().context("look at a file")?;
            let content = if about.is_symlink() {
                fs::read_link(&path).context("read a link")?.into_os_string().into_encoded_bytes()
            } else if about.is_file() && path.extension().is_none_or(|kind| kind != "log") {
                fs::read(&path).with_context(|| format!("read {}", path.display()))?
            } else {
                continue;
            };
            found.push(Held { path, guard: (about.mode(), about.uid(), about.gid()), content });
        }
    }
    found.sort();
    Ok(found)
}

pub fn same(before: &[Held], after: &[Held]) -> Result<()> {
    let names = |of: &[Held]| of.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    ensure!(names(before) == names(after), "files were {:?}, are {:?}", names(before), names(after));
    let differs = before.iter().zip(after).find(|(before, after)| before != after);
    ensure!(differs.is_none(), "differs: {differs:?}");
    Ok(())
}

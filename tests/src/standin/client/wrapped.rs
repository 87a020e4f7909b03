//! The wrapper before a stand-in: what is under test, ready to be asked.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use shimtap_proto::control::Ask;

use super::{
    PATIENCE,
    lab::Lab,
    launch::{Flavour, Shim},
    pod::Pod,
    upgrade::Control,
};
use crate::standin::{procs, script::Script};

/// The wrapper under its own name.
pub const WRAPPER: &str = "containerd-shim-tap-v2";
/// The stand-in under its own name.
pub const STANDIN: &str = "containerd-shim-standin-v2";

/// A lab in which the wrapper stands before a stand-in with these versions of the task service and this form of
/// answer; and the wrapper itself.
///
/// # Errors
/// One of the two was not built.
pub fn wrapping(flavour: Flavour, api: &str, answer: &str) -> Result<(Lab, Shim)> {
    let mut lab = Lab::new()?;
    lab.wrap(WRAPPER, &binary(STANDIN)?)?;
    lab.env.push(("STANDIN_API".to_owned(), api.to_owned()));
    lab.env.push(("STANDIN_ANSWER".to_owned(), answer.to_owned()));
    Ok((lab, Shim { binary: binary(WRAPPER)?, flavour }))
}

/// A wrapped stand-in of the v2 service, ready for its first Create; its task is called `task`.
///
/// # Errors
/// `start` failed, or handed out the stand-in's own address.
pub fn wrapped(script: &Script) -> Result<Pod> {
    wrapped_in(script, |_| Ok(()))
}

/// The same, in a lab that was prepared.
///
/// # Errors
/// As [`wrapped`], and where the preparation failed.
pub fn wrapped_in(script: &Script, prepare: impl FnOnce(&mut Lab) -> Result<()>) -> Result<Pod> {
    wrapped_as("task", script, prepare)
}

/// The same with another name for the task.
///
/// # Errors
/// As [`wrapped_in`].
pub fn wrapped_as(id: &str, script: &Script, prepare: impl FnOnce(&mut Lab) -> Result<()>) -> Result<Pod> {
    let (mut lab, shim) = wrapping(Flavour::V1_6, "2", "plain")?;
    prepare(&mut lab)?;
    let pod = Pod::start(lab, shim, id, script)?;
    pod.keeper()?;
    Ok(pod)
}

/// A pod whose wrapper has no place for its files, in a lab that was prepared: the stand-in runs, and nobody stands before it.
///
/// # Errors
/// `start` failed, or there is a wrapper all the same.
pub fn unwrapped_in(script: &Script, prepare: impl FnOnce(&mut Lab)) -> Result<Pod> {
    let (mut lab, shim) = wrapping(Flavour::V1_6, "2", "plain")?;
    prepare(&mut lab);
    // No folder can be made there.
    lab.env.push(("SHIMTAP_RUN_DIR".to_owned(), "/proc/no-such-folder".to_owned()));
    let pod = Pod::start(lab, shim, "task", script)?;
    let keepers = procs::keepers(pod.lab.namespace())?;
    ensure!(keepers.is_empty(), "it has a wrapper: {keepers:?}");
    Ok(pod)
}

/// The same where five faults mean safe mode, as they do by default.
///
/// # Errors
/// As [`wrapped`].
pub fn faulty(script: &Script) -> Result<Pod> {
    wrapped_in(script, |lab| lab.reconfigure("deaths = 0", "deaths = 5"))
}

/// Five faults of workers in ten seconds: safe mode, in such a lab. On a machine that takes longer for them, as many more as it takes.
///
/// # Errors
/// One of them had no successor, or no five came soon enough.
pub fn five_faults(pod: &Pod) -> Result<()> {
    let mut began = Vec::new();
    while began.len() < 40 {
        began.push(Instant::now());
        let keeper = pod.keeper()?.pid;
        let worker = pod.worker()?;
        kill(worker.pid, Signal::SIGSEGV).context("a fault")?;
        procs::next_worker(keeper, Some(worker.pid), PATIENCE)?;
        let Some(first) = began.iter().rev().nth(4) else { continue };
        // By the keeper's clock they may have come in time all the same.
        if first.elapsed() < Duration::from_secs(10) || Control::open(pod)?.ask(Ask::Who, None)?.safe_mode {
            return Ok(());
        }
    }
    bail!("no five of {} faults came within ten seconds", began.len())
}

/// A program of this workspace: beside the running test's own, or in `SHIMTAP_BIN_DIR`.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("SHIMTAP_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        // Binaries lie in target/<profile>, tests in deps below it.
        None => {
            let own = env::current_exe().context("own executable")?;
            let dir = own.parent().context("target directory")?;
            let above = if dir.ends_with("deps") { dir.parent() } else { Some(dir) };
            above.context("target directory")?.to_owned()
        }
    };
    let path = dir.join(name);
    ensure!(path.is_file(), "{} is missing: cargo build --workspace makes it", path.display());
    Ok(path)
}

/// The memory block of a pod's wrapper.
///
/// # Errors
/// There is no wrapper, or it has none.
pub fn block_of(pod: &Pod) -> Result<File> {
    let fds = PathBuf::from(format!("/proc/{}/fd", pod.keeper()?.pid));
    let is_it = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.display().to_string().contains("memfd:shimtap-block"))
    };
    let path = fs::read_dir(&fds)?.filter_map(|e| Some(e.ok()?.path())).find(is_it).context("its block")?;
    File::options().read(true).write(true).open(path).context("opening its block")
}

/// Runs the body against a fresh wrapped pod and says that its worker lived through it: a panic that the keeper
/// has repaired is a failure too.
///
/// # Errors
/// The body failed, or the worker died.
pub fn unharmed(script: &Script, body: impl FnOnce(&Pod) -> Result<()>) -> Result<()> {
    let pod = wrapped(script)?;
    let before = pod.worker()?;
    body(&pod)?;
    ensure!(before.alive(), "the worker died of it");
    Ok(())
}

//! Core dumps that take their time. The pattern of core files is one for the whole machine, so this may only be tried in a
//! machine of its own.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::node::{LIMIT, start_collector, start_containerd};
use crate::rig::cri::Wanted;
use crate::rig::{Version, eventually};
use crate::standin::procs;

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
/// A handler that does not read keeps who dumps waiting until it ends.
const SLEEPS: &str = "|/bin/sleep 60";
/// The emulated machine is slow, and far from that slow.
const SOON: Duration = Duration::from_secs(10);

/// Puts back what was there, whatever happened.
struct Pattern(Vec<u8>);

impl Drop for Pattern {
    fn drop(&mut self) {
        // The machine ends with its checks.
        let _ = fs::write(PATTERN, &self.0);
    }
}

/// The handlers that have a core to wait for.
fn sleeping() -> Result<Vec<procs::Process>> {
    let mut all = procs::with("/bin/sleep")?;
    all.retain(|process| process.argv == ["/bin/sleep", "60"]);
    Ok(all)
}

/// The machine hands cores to a program that sleeps: who faults is dead only when it has slept. A worker is not dumped, so
/// its successor does not wait for it.
pub fn a_slow_handler_delays_no_successor() -> Result<()> {
    start_collector()?;
    let cri = start_containerd(Version::Packaged)?;
    let pod = cri.run_pod("cores")?;
    let command = ["speaker", "lines=2000", "rate=100", "width=100", "exit=5"];
    let id = cri.run(&pod, &Wanted { name: "cores", command: &command, ..Wanted::default() })?;
    let _before = Pattern(fs::read(PATTERN).context("read the pattern")?);
    fs::write(PATTERN, SLEEPS).context("set the pattern")?;

    // That it would: a program that may be dumped.
    let mut plain = Command::new("/bin/sleep").arg("1000").spawn()?;
    kill(Pid::from_raw(i32::try_from(plain.id())?), Signal::SIGSEGV)?;
    let since = Instant::now();
    eventually(LIMIT, "the handler", || Ok((!sleeping()?.is_empty()).then_some(())))?;

    let keepers = procs::keepers("k8s.io")?;
    let keeper = keepers.first().context("the pod has no keeper")?.pid;
    let worker = procs::worker(keeper)?.pid;
    let killed = Instant::now();
    kill(worker, Signal::SIGSEGV)?;
    procs::next_worker(keeper, Some(worker), SOON)?;
    println!("the successor came after {:?}", killed.elapsed());
    ensure!(plain.try_wait()?.is_none(), "a plain fault did not wait for the handler: {:?}", since.elapsed());

    ensure!(cri.await_exit(&id)?.exit_code == 5, "its exit status is lost");
    cri.remove_pod(&pod)?;
    // Nobody has to wait for the rest of its sleep.
    sleeping()?.iter().try_for_each(|handler| procs::kill(handler.pid))?;
    plain.wait().context("the plain program, whose handler has ended")?;
    Ok(())
}

//! What we take of the pipe budget, which all containers of a node share.
//!
//! The kernel books the pages of every pipe and FIFO on its user (`fs.pipe-user-pages-soft`, 16384 pages by default, for
//! all that root has made); a container's `pipe()` gets two pages instead of sixteen once they are used up. So 200 streams,
//! all of them stuck at once, must leave room, and what they have borrowed must come back.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use shimtap_tests::standin::{
    census,
    client::{
        PATIENCE,
        lab::Lab,
        launch::{Flavour, Shim},
        pod::{self, Fifos, Pod},
        wrapped::{STANDIN, binary, wrapped},
    },
    procs,
    script::{Output, Script},
};

const TASKS: usize = 100;
const STREAMS: usize = 2 * TASKS;
/// The tap, two free pipes of the pool, and the link thread's wake-up and prod.
const STANDING: usize = 5;
/// A pipe of default size.
const WHOLE: u64 = 64 << 10;
/// More pipes than the default account has room for.
const PROBE: u64 = 1_100;
/// Room for what others on the machine may open meanwhile, in pipes.
const OTHERS: u64 = 64;

/// More than fits anywhere on the way.
fn flood() -> Script {
    let output = Output { lines_per_write: 50, ..Output::lines(6_000, 80) };
    Script { stdout: output.clone(), stderr: output, exit_status: 5, ..Script::default() }
}

/// Bytes of pipes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Booked {
    /// containerd's FIFOs.
    outer: u64,
    /// Those we put before them.
    inner: u64,
    /// Pipes without a name.
    pipes: u64,
}

impl Booked {
    fn of(pod: &Pod, wrapped: bool) -> Result<Self> {
        let mut pids = pod.lab.inner_pids()?;
        if wrapped {
            pids.extend([pod.keeper()?.pid, pod.worker()?.pid]);
        }
        let (outer, inner) = (pod.lab.fifo_dir(), pod.lab.run_dir());
        let mut booked = Self::default();
        let found: BTreeMap<String, u64> = census::pipes(&pids)?;
        for (name, size) in found {
            match name {
                n if n.starts_with(&*outer.to_string_lossy()) => booked.outer += size,
                n if n.starts_with(&*inner.to_string_lossy()) => booked.inner += size,
                _ => booked.pipes += size,
            }
        }
        Ok(booked)
    }

    /// All together, as a number of pipes of default size.
    fn whole(self) -> u64 {
        (self.outer + self.inner + self.pipes).div_ceil(WHOLE)
    }
}

/// A hundred tasks that write into FIFOs that nobody reads.
fn fill(pod: &Pod) -> Result<Vec<Fifos>> {
    let tasks = (0..TASKS).map(|n| {
        let id = format!("stuck-{n}");
        let bundle = pod.lab.bundle(&id, Some(&pod.id), &flood())?;
        let fifos = Fifos::create_stalled(&pod.lab.fifo_dir(), &id)?;
        let create = pod::create_request(&id, &bundle, &fifos);
        pod.connection.call("Create", &create)?.message::<api::CreateTaskResponse>().context("Create")?;
        pod.connection
            .call("Start", &pod::start(&id, ""))?
            .message::<api::StartResponse>()
            .context("Start")?;
        Ok(fifos)
    });
    tasks.collect()
}

/// Waits until what is booked is so.
fn becomes(pod: &Pod, what: &str, is: impl Fn(&Booked) -> bool) -> Result<Booked> {
    let mut last = Booked::default();
    let look = || {
        last = Booked::of(pod, true).ok()?;
        is(&last).then_some(last)
    };
    let found = procs::wait(PATIENCE, || what.to_owned(), look);
    found.with_context(|| format!("{last:?}"))
}

/// How many whole pipes a root container gets now: uid 0 without CAP_SYS_ADMIN and CAP_SYS_RESOURCE.
fn whole_pipes_of_a_container(most: u64) -> Result<u64> {
    let ran = Command::new("prlimit")
        .args(["--nofile=4096:4096", "setpriv", "--bounding-set=-sys_admin,-sys_resource", "--inh-caps=-all"])
        .arg(binary("speaker")?)
        .arg(format!("pipes={most}"))
        .output()
        .context("running the speaker as a container would (prlimit, setpriv of util-linux)")?;
    let (said, fault) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    said.trim().parse().with_context(|| format!("the speaker said {said:?}, {fault}"))
}

#[test]
fn two_hundred_stuck_streams_leave_containers_their_whole_pipes() -> Result<()> {
    let room = whole_pipes_of_a_container(PROBE)?;
    let unwrapped = {
        let shim = Shim { binary: binary(STANDIN)?, flavour: Flavour::V1_6 };
        let pod = Pod::start(Lab::new()?, shim, "task", &Script::stayer())?;
        let _fifos = fill(&pod)?;
        Booked::of(&pod, false)?
    };
    ensure!(unwrapped.outer == WHOLE * u64::try_from(STREAMS)?, "unwrapped: {unwrapped:?}");

    let pod = wrapped(&Script::stayer())?;
    let before = Booked::of(&pod, true)?;
    let fifos = fill(&pod)?;
    let (streams, standing) = (u64::try_from(STREAMS)?, u64::try_from(STANDING)?);
    // One pipe per stuck stream, and what is always there.
    let stuck = becomes(&pod, "all streams are stuck", |b| b.pipes >= WHOLE * streams)?;
    let left = whole_pipes_of_a_container(PROBE)?;
    println!("unwrapped {unwrapped:?}, wrapped and idle {before:?}, stuck {stuck:?}");
    println!("whole pipes of a root container: {room} before, {left} while stuck");
    ensure!(stuck.outer == unwrapped.outer && stuck.inner == unwrapped.outer, "one FIFO for one: {stuck:?}");
    ensure!(
        stuck.pipes - unwrapped.pipes <= WHOLE * (streams + standing),
        "more than one pipe per stream: {stuck:?}"
    );
    if room > stuck.whole() + OTHERS {
        ensure!(left > 0, "a root container gets less than 64 KiB");
    } else {
        println!("others use so much of the account that our part cannot be told by its effect");
    }

    // Quiet: the readers read, and what was borrowed is given back.
    for (n, fifos) in fifos.iter().enumerate() {
        fifos.stdout.resume();
        fifos.stderr.resume();
        fifos.check(&flood()).with_context(|| format!("task {n}"))?;
    }
    let quiet = becomes(&pod, "pipes are given back", |b| b.pipes <= unwrapped.pipes + WHOLE * standing)?;
    for n in 0..TASKS {
        let delete = pod::delete(&format!("stuck-{n}"), "");
        pod.connection.call("Delete", &delete)?.message::<api::DeleteResponse>().context("Delete")?;
    }
    let over = becomes(&pod, "FIFOs are closed", |b| b.inner == 0 && b.outer == 0)?;
    println!("quiet {quiet:?}, deleted {over:?}");
    Ok(())
}

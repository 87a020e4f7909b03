//! How much more than a bare tee does a wrapper use? Stand-in shims write 100 lines/s each into FIFOs; before 100 of them stands a
//! wrapper with its collector, before 100 others each `floor`, which does nothing but splice, tee and one write to a socket
//! (`bin/floor.rs`): once for each line as it comes, as `tee` would, and once as patient as the wrapper, which moves at the same ticks
//! and sends at the same intervals.
//!
//! The stand-in and the reader at the other end are the same on all sides, and neither is counted; nor is the collector.
//! No containerd, no container: their caches would be cold as well.
//!
//! Target: wrappers at most 1.3 times the bare program. Beside the patient one is seen what keeping, offsets and a second thread
//! cost.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shimtap_tests::rig::patience::{eventually, throughout};
use shimtap_tests::standin::client::fifo::FifoReader;
use shimtap_tests::standin::client::lab::Lab;
use shimtap_tests::standin::client::launch::{Flavour, Shim};
use shimtap_tests::standin::client::pod::{Fifos, Pod, create_request, start};
use shimtap_tests::standin::client::wrapped::{STANDIN, WRAPPER, binary};
use shimtap_tests::standin::script::{Output, Script};

use crate::options::Options;
use crate::report::Report;
use crate::spread::{float, float64, ratios};
use crate::usage::Usage;
use crate::witness::{Sink, Told, Witness};

const WIDTH: usize = 216;
const RATE: u64 = 100;
/// As wrappers move by default, and send: with each move of a busy stream.
const COALESCE_MS: u64 = 40;
const GATHER_MS: u64 = 40;
/// Processes start and die within.
const LIMIT: Duration = Duration::from_secs(60);

/// A stand-in that writes, and who reads it at the other end.
struct Writer {
    pod: Pod,
    fifos: Fifos,
    /// The reader of what the floor passes on.
    far: Option<FifoReader>,
    /// Who stands between.
    between: Vec<i32>,
}

/// How long a bare program waits for more; 0 = not at all.
#[derive(Clone, Copy)]
struct Pace {
    moves_ms: u64,
    messages_ms: u64,
}

/// Bare programs, ended with their owner.
struct Floors(Vec<Child>);

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("floor", options)?;
    let dir = std::env::temp_dir().join(format!("shimtap-floor-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let many = options.pick(10, 100);
    let witness = Witness::start_at(&dir, &dir.join("collector.sock"), &Told::of(Sink::None)?)?;
    let (bare, bare_floors) = floors(&dir, "b", many, Pace { moves_ms: 0, messages_ms: 0 })?;
    let patience = Pace { moves_ms: COALESCE_MS, messages_ms: GATHER_MS };
    let (patient, patient_floors) = floors(&dir, "p", many, patience)?;
    let wrapped = wrapped(&dir, many)?;
    witness.await_wrappers(many)?;
    let (mut each, mut least, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    let secs = options.pick(4, 8);
    for _ in 0..options.turns(1, 5) {
        each.push(window(&bare, secs)?);
        least.push(window(&patient, secs)?);
        ours.push(window(&wrapped, secs)?);
    }
    report.heading(&format!(
        "{many} writers of {RATE} lines/s, moves at {COALESCE_MS} ms, messages at {GATHER_MS} ms"
    ))?;
    report.row("bare tee and splice, one process each", "µs per line", &each, "")?;
    report.row("the same, as patient as wrappers", "µs per line", &least, "")?;
    report.row("wrappers, keeper and worker", "µs per line", &ours, "")?;
    report.row("wrappers / bare, per turn", "", &ratios(&each, &ours), "<= 1.3")?;
    report.row("wrappers / patient, per turn", "", &ratios(&least, &ours), "")?;
    for writer in bare.iter().chain(&patient).chain(&wrapped) {
        signal(std::slice::from_ref(writer), Signal::SIGCONT)?;
        writer.pod.end()?;
        writer.pod.lab.end()?;
    }
    drop((bare_floors, patient_floors));
    witness.stop()?;
    std::fs::remove_dir_all(&dir).context("remove the folder")
}

/// µs of CPU time per line that whoever stands between uses.
fn window(writers: &[Writer], secs: u64) -> Result<f64> {
    signal(writers, Signal::SIGCONT)?;
    throughout(Duration::from_secs(2), "the load before the window", || Ok(true))?;
    let pids: Vec<i32> = writers.iter().flat_map(|writer| writer.between.iter().copied()).collect();
    let (used, lines, begun) = (Usage::of(&pids), lines(writers), Instant::now());
    throughout(Duration::from_secs(secs), "the window", || Ok(true))?;
    let (used, lines) = (Usage::of(&pids).since(used), self::lines(writers) - lines);
    let asked = float64(RATE) * float(writers.len()) * begun.elapsed().as_secs_f64();
    signal(writers, Signal::SIGSTOP)?;
    throughout(Duration::from_secs(1), "what is still on its way", || Ok(true))?;
    ensure!(float(lines) > asked / 2.0, "of {asked} lines {lines} came: the machine is too busy to say");
    Ok(float64(used.cpu_ns) / 1e3 / float(lines))
}

/// Lines that have come out at the other end.
fn lines(writers: &[Writer]) -> usize {
    let far = |writer: &Writer| writer.far.as_ref().unwrap_or(&writer.fifos.stdout).len_so_far();
    writers.iter().map(far).sum::<usize>() / WIDTH
}

fn signal(writers: &[Writer], with: Signal) -> Result<()> {
    for writer in writers {
        for pid in writer.pod.lab.inner_pids()? {
            kill(pid, with).with_context(|| format!("signal {pid}"))?;
        }
    }
    Ok(())
}

/// Writes as fast as asked until it is killed.
fn script() -> Script {
    let stdout = Output { pause_us: 1_000_000 / RATE, ..Output::lines(1 << 40, WIDTH) };
    Script { stdout, until_killed: true, ..Script::default() }
}

fn wrapped(dir: &Path, many: usize) -> Result<Vec<Writer>> {
    let one = |number: usize| -> Result<Writer> {
        let mut lab = lab()?;
        lab.wrap(WRAPPER, &binary(STANDIN)?)?;
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), dir.join("collector.sock").display().to_string()));
        let shim = Shim { binary: binary(WRAPPER)?, flavour: Flavour::V1_6 };
        let pod = Pod::start(lab, shim, &format!("w{number}"), &script())?;
        let fifos = pod.run()?;
        let between = vec![pod.keeper()?.pid.as_raw(), pod.worker()?.pid.as_raw()];
        still(Writer { pod, fifos, far: None, between })
    };
    (0..many).map(one).collect()
}

/// Stand-ins named `name`, a bare program before each.
fn floors(dir: &Path, name: &str, many: usize, pace: Pace) -> Result<(Vec<Writer>, Floors)> {
    let dir = &dir.join(name);
    std::fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
    let listener = UnixListener::bind(dir.join("copies.sock")).context("listen for copies")?;
    std::thread::spawn(move || {
        for mut copies in listener.incoming().flatten() {
            // As a collector would: read, and done with. It ends with the program at the other end.
            std::thread::spawn(move || {
                let mut block = vec![0; 64 << 10];
                while copies.read(&mut block).is_ok_and(|count| count > 0) {}
            });
        }
    });
    let program = shimtap_tests::rig::tools::collector()?.with_file_name("floor");
    let (mut writers, mut floors) = (Vec::new(), Floors(Vec::new()));
    for number in 0..many {
        let (near, far) = (dir.join(format!("{number}.in")), dir.join(format!("{number}.out")));
        mkfifo(&near, Mode::S_IRWXU).with_context(|| format!("make {}", near.display()))?;
        let far = FifoReader::create(&far)?;
        let mut command = Command::new(&program);
        command.arg(dir).args([number.to_string(), "1".to_owned()]);
        command.args([pace.moves_ms, pace.messages_ms].map(|ms| ms.to_string()));
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let pid = i32::try_from(child.id()).context("a pid")?;
        floors.0.push(child);
        eventually(LIMIT, "the bare program to open its FIFO", || Ok(holds(pid, &near).then_some(())))?;
        let shim = Shim { binary: binary(STANDIN)?, flavour: Flavour::V1_6 };
        let pod = Pod::start(lab()?, shim, &format!("{name}{number}"), &script())?;
        let fifos = pod.fifos(&pod.id)?;
        let mut request = create_request(&pod.id, &pod.bundle, &fifos);
        request.stdout = near.display().to_string();
        pod.connection.call("Create", &request)?.message::<api::CreateTaskResponse>()?;
        pod.connection.call("Start", &start(&pod.id, ""))?.message::<api::StartResponse>()?;
        writers.push(still(Writer { pod, fifos, far: Some(far), between: vec![pid] })?);
    }
    Ok((writers, floors))
}

fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.env.push(("STANDIN_API".to_owned(), "2".to_owned()));
    lab.env.push(("STANDIN_ANSWER".to_owned(), "plain".to_owned()));
    Ok(lab)
}

/// Waits for its first line and stops it, so that the next one starts on a quiet machine.
fn still(writer: Writer) -> Result<Writer> {
    let one = std::slice::from_ref(&writer);
    eventually(LIMIT, "the first lines", || Ok((lines(one) > 0).then_some(())))?;
    signal(one, Signal::SIGSTOP)?;
    Ok(writer)
}

fn holds(pid: i32, path: &PathBuf) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| target == *path)
}

// === impl Floors ===

impl Drop for Floors {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

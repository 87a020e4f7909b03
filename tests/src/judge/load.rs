//! What runs on a case's node: containers whose every byte can be computed from what they were told, and from how far they say
//! they came.
//!
//! All of it goes on while trouble comes, and ends by itself; nothing here knows of trouble.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::site::{LIMIT, Site};
use super::spoken::Spoken;
use crate::chaos::dice::Dice;
use crate::line::{Marked, line, noise};
use crate::rig::cri::{ContainerState, Cri, Pod, Wanted};
use crate::rig::eventually;

/// Longest part of a marked line that differs from line to line.
const WIDTH: usize = 160;
/// Lines per write(2).
const BATCH: u64 = 4;
/// What the endless ones end with.
const STATUS: i32 = 3;
/// CRI's exit status of a container whose own nobody knows.
const UNKNOWN_EXIT: i32 = 255;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many containers in one pod write so many lines a second each, on both outputs, until all trouble is over.
    Steady {
        /// Containers.
        containers: u32,
        /// Lines a second on each output of each.
        rate: u32,
    },
    /// Containers that live some ten milliseconds, one after the other, until all trouble is over.
    Brief,
    /// So many containers that are all there before the first writes, and then all write at once.
    Crowd {
        /// Containers.
        containers: u32,
    },
    /// A line of so many bytes.
    Long {
        /// Bytes.
        bytes: usize,
    },
    /// So many bytes that are no text.
    Noise {
        /// Bytes.
        bytes: usize,
    },
}

/// The work of a case.
#[derive(Debug)]
pub struct Load<'a> {
    site: &'a Site<'a>,
    seed: u64,
    over: AtomicBool,
    spoken: Mutex<Vec<Spoken>>,
    names: AtomicU32,
    containerd: RwLock<()>,
    containerd_died: AtomicBool,
}

impl<'a> Load<'a> {
    /// Nobody works yet.
    #[must_use]
    pub fn new(site: &'a Site<'a>, seed: u64) -> Self {
        Self {
            site,
            seed,
            over: AtomicBool::new(false),
            spoken: Mutex::default(),
            names: AtomicU32::new(0),
            containerd: RwLock::default(),
            containerd_died: AtomicBool::new(false),
        }
    }

    /// Does all of `works` while `trouble` comes; gives what was written when everything has ended. Trouble begins when the
    /// steady ones write.
    pub fn run(&self, works: &[Work], trouble: impl FnOnce(&Self) -> Result<()>) -> Result<Vec<Spoken>> {
        thread::scope(|scope| {
            let at_work: Vec<_> = works.iter().map(|work| scope.spawn(move || self.work(*work))).collect();
            let steady: u32 = works.iter().map(|work| work.steady()).sum();
            let speaks = |n: u32| fs::read(self.host(&format!("{}.count", steady_name(n)))).is_ok();
            let result = eventually(LIMIT, "the steady containers to write", || {
                ensure!(!self.is_over(), "some work ended before");
                Ok((0..steady).all(speaks).then_some(()))
            });
            let result = result.and_then(|()| trouble(self));
            self.over.store(true, Ordering::Relaxed);
            let told = fs::write(self.host("enough"), "").context("tell the containers to end");
            let mut faults: Vec<String> = [result, told].into_iter().filter_map(said).collect();
            for work in at_work {
                faults.extend(said(
                    work.join().map_err(|_| anyhow!("a thread panicked")).and_then(|done| done),
                ));
            }
            ensure!(faults.is_empty(), "{}", faults.join("; and "));
            Ok(std::mem::take(&mut *self.spoken.lock().unwrap_or_else(PoisonError::into_inner)))
        })
    }

    /// A name that nothing else of this case has.
    pub fn fresh(&self, kind: &str) -> String {
        format!("{kind}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Bytes that the steady ones have written by now, about.
    pub fn steady_bytes(&self) -> u64 {
        // Two outputs; on the average a line has a head of 54 bytes and half of its width.
        const LINES: u64 = 2 * (54 + 80);
        let counts =
            (0..).map_while(|n| fs::read_to_string(self.host(&format!("{}.count", steady_name(n)))).ok());
        counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>() * LINES
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn work(&self, work: Work) -> Result<()> {
        let done = match work {
            Work::Steady { containers, rate } => self.steady(containers, rate),
            Work::Brief => self.brief(),
            Work::Crowd { containers } => self.crowd(containers),
            Work::Long { bytes } => {
                let width = format!("width={bytes}");
                self.once("long", &["speaker", "lines=1", "seed=5", &width], line(5, 0, bytes))
            }
            Work::Noise { bytes } => {
                let noise_word = format!("noise={bytes}");
                self.once("noise", &["speaker", "seed=6", &noise_word], noise(6, bytes))
            }
        };
        done.inspect_err(|_| self.over.store(true, Ordering::Relaxed)).with_context(|| format!("{work:?}"))
    }

    fn steady(&self, containers: u32, rate: u32) -> Result<()> {
        let pod = self.ask(|cri| cri.run_pod("steady"))?;
        let mut ids = Vec::new();
        for n in 0..containers {
            let name = steady_name(n);
            let words = [
                "speaker".to_owned(),
                "lines=100000000".to_owned(),
                format!("rate={rate}"),
                format!("batch={BATCH}"),
                "to=both".to_owned(),
                format!("mark={name}"),
                format!("width={WIDTH}"),
                format!("count=/host/{name}.count"),
                "until=/host/enough".to_owned(),
                format!("exit={STATUS}"),
            ];
            ids.push((self.begin(&pod, &name, &words)?, name));
        }
        for (id, name) in ids {
            let status = self.exit(&id, Duration::from_secs(3600))?;
            ensure!(status == STATUS, "{name} ended with {status}");
            let count = fs::read_to_string(self.host(&format!("{name}.count"))).context("read its count")?;
            let count = count.trim().parse().context("its count")?;
            self.note_marked(&pod, &id, &name, count);
        }
        self.ask(|cri| cri.remove_pod(&pod))
    }

    /// The same name never twice: containerd keeps a log per name.
    fn brief(&self) -> Result<()> {
        let pod = self.ask(|cri| cri.run_pod("brief"))?;
        let mut dice = Dice::new(self.seed, "brief");
        loop {
            self.some_briefs(&pod, &mut dice, 1)?;
            if self.is_over() {
                return self.ask(|cri| cri.remove_pod(&pod));
            }
        }
    }

    /// So many containers that write a little and end, one after the other; gives their ids.
    pub fn some_briefs(&self, pod: &Pod, dice: &mut Dice, count: u32) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let name = self.fresh("brief");
            let lines = 1 + dice.roll(60);
            let words = marked(&name, lines);
            let id = self.begin(pod, &name, &words)?;
            let status = self.exit(&id, LIMIT)?;
            // A containerd that is killed between taking the exit from the shim and noting it does not know it any more.
            let forgotten = status == UNKNOWN_EXIT && self.containerd_died.load(Ordering::Relaxed);
            ensure!(status == 0 || forgotten, "{name} ended with {status}");
            self.note_marked(pod, &id, &name, lines);
            self.ask(|cri| cri.remove(&id))?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// In pods of ten: as many shims as a node may have.
    fn crowd(&self, containers: u32) -> Result<()> {
        const IN_A_POD: u32 = 10;
        let pods = containers.div_ceil(IN_A_POD);
        let next = AtomicU32::new(0);
        let started = Mutex::new(Vec::new());
        let start = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pods {
                    return Ok(());
                }
                let pod = self.ask(|cri| cri.run_pod(&format!("crowd-{number}")))?;
                for n in 0..IN_A_POD.min(containers - number * IN_A_POD) {
                    let name = format!("crowd-{number}-{n}");
                    let mut words = marked(&name, 100);
                    words.push("from=/host/go".to_owned());
                    let id = self.begin(&pod, &name, &words)?;
                    started.lock().unwrap_or_else(PoisonError::into_inner).push((pod.clone(), id, name));
                }
            }
        };
        thread::scope(|scope| {
            let starters: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            let mut all = starters.into_iter().map(|s| s.join().map_err(|_| anyhow!("a thread panicked"))?);
            all.try_for_each(|result| result)
        })?;
        fs::write(self.host("go"), "").context("let the crowd begin")?;
        let started = started.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (pod, id, name) in &started {
            let status = self.exit(id, LIMIT)?;
            ensure!(status == 0, "{name} ended with {status}");
            self.note_marked(pod, id, name, 100);
        }
        let mut pods: Vec<Pod> = started.into_iter().map(|(pod, ..)| pod).collect();
        pods.sort_by(|a, b| a.id.cmp(&b.id));
        pods.dedup_by(|a, b| a.id == b.id);
        pods.iter().try_for_each(|pod| self.ask(|cri| cri.remove_pod(pod)))
    }

    /// One container that writes to its stdout and ends.
    fn once(&self, name: &str, words: &[&str], stdout: Vec<u8>) -> Result<()> {
        let pod = self.ask(|cri| cri.run_pod(name))?;
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let id = self.begin(&pod, name, &words)?;
        let status = self.exit(&id, LIMIT)?;
        ensure!(status == 0, "it ended with {status}");
        let log = self.site.cri.log_path(&pod, name);
        let what = name.to_owned();
        self.note(Spoken { container: id, what, log, stdout, stderr: Vec::new(), paced: false });
        self.ask(|cri| cri.remove_pod(&pod))
    }

    fn begin(&self, pod: &Pod, name: &str, words: &[String]) -> Result<String> {
        let host = self.site.node.host_dir();
        let command: Vec<&str> = words.iter().map(String::as_str).collect();
        let wanted = Wanted { name, command: &command, host: Some(&host), ..Wanted::default() };
        self.ask(|cri| cri.run(pod, &wanted))
    }

    /// Asks containerd, which is not killed meanwhile: what a call that was cut off has done nobody knows.
    fn ask<T>(&self, ask: impl FnOnce(&Cri) -> Result<T>) -> Result<T> {
        let _lives = self.containerd.read().unwrap_or_else(PoisonError::into_inner);
        ask(self.site.cri)
    }

    /// Lets containerd die while nobody asks it anything.
    pub fn containerd_dies<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let _alone = self.containerd.write().unwrap_or_else(PoisonError::into_inner);
        self.containerd_died.store(true, Ordering::Relaxed);
        what()
    }

    fn exit(&self, id: &str, limit: Duration) -> Result<i32> {
        eventually(limit, &format!("{id} to exit"), || {
            let status = self.ask(|cri| cri.status(id))?;
            Ok(match status.state {
                ContainerState::Exited => Some(status.exit_code),
                ContainerState::Unknown if self.has_lost_its_fifos(id) => Some(UNKNOWN_EXIT),
                _ => None,
            })
        })
    }

    /// Was containerd killed between removing the FIFOs of a container that had ended and having its task deleted? The next one cannot
    /// load it then, and never knows how it ended, whatever its shim says (seen with 1.6.20).
    fn has_lost_its_fifos(&self, id: &str) -> bool {
        let says_so = |line: &str| {
            line.contains(id)
                && line.contains("Failed to load container status")
                && line.contains("error creating fifo")
        };
        self.site.node.log().lines().any(says_so)
    }

    fn note_marked(&self, pod: &Pod, id: &str, name: &str, lines: u64) {
        let tape = |stream| Marked { mark: name, stream, width: WIDTH }.tape(lines);
        let log = self.site.cri.log_path(pod, name);
        let (stdout, stderr) = (tape("stdout"), tape("stderr"));
        self.note(Spoken {
            container: id.to_owned(),
            what: name.to_owned(),
            log,
            stdout,
            stderr,
            paced: true,
        });
    }

    fn note(&self, spoken: Spoken) {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).push(spoken);
    }

    fn host(&self, name: &str) -> PathBuf {
        self.site.node.host_dir().join(name)
    }
}

impl Work {
    fn steady(self) -> u32 {
        match self {
            Self::Steady { containers, .. } => containers,
            _ => 0,
        }
    }
}

fn steady_name(n: u32) -> String {
    format!("steady-{n}")
}

fn marked(name: &str, lines: u64) -> Vec<String> {
    [
        "speaker".to_owned(),
        format!("lines={lines}"),
        "to=both".to_owned(),
        format!("mark={name}"),
        format!("width={WIDTH}"),
    ]
    .to_vec()
}

/// What went wrong, as text.
fn said(result: Result<()>) -> Option<String> {
    result.err().map(|fault| format!("{fault:#}"))
}

//! A scripted process: opens its FIFOs as the runc shim does, writes its lines, ends.
//!
//! FIFO rules kept here (they are the contract that a wrapper in between must serve): a blocking open for
//! writing, then one for reading that keeps the FIFO alive over a restart of containerd; both closed at the end
//! of output and never before; bytes leave in order, and their number is written to the journal.

use std::{
    fs::OpenOptions,
    os::fd::OwnedFd,
    process::Child,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::{
    net::unix::pipe,
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    journal::{Entry, Journal, Kind},
    kata::household,
    logger::{self, Logger},
    script::{Output, Script},
};

/// The limit of the runc shim for opening all of a process's FIFOs.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// The stdio a Create or Exec asked for, word for word.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// Path of stdin.
    pub stdin: String,
    /// Path or URI of stdout.
    pub stdout: String,
    /// Path or URI of stderr.
    pub stderr: String,
    /// Whether there is a terminal: stdout only, whatever stderr says.
    pub terminal: bool,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Create or Exec was answered.
    Created,
    /// Start was answered.
    Running,
    /// It has ended, with this status.
    Stopped(u32),
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Wrote {
    bytes: u64,
    /// The longest time from before one write to behind the next.
    pause: Duration,
}

/// One end of a FIFO pair held for a stream.
#[derive(Debug)]
struct Fifo {
    writer: pipe::Sender,
    /// None of a logger's: its container hears of its end.
    _keeps_alive: Option<OwnedFd>,
}

impl Fifo {
    fn of_logger(end: OwnedFd) -> Result<Self> {
        let flags = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        fcntl(&end, flags).context("a logger's pipe")?;
        let writer = pipe::Sender::from_owned_fd(end).context("a logger's pipe")?;
        Ok(Self { writer, _keeps_alive: None })
    }
}

/// A process of a task: init or an exec.
#[derive(Debug)]
pub struct Process {
    /// Task id.
    pub id: String,
    /// Exec id; empty for init.
    pub exec_id: String,
    /// A number beyond every kernel's pid_max: nobody can mistake it for a living process.
    pub pid: u32,
    /// As asked for.
    pub stdio: Stdio,
    /// What it does.
    pub script: Script,
    /// How often its statistics were asked for.
    pub stats_asked: AtomicU64,
    fifos: Mutex<(Option<Fifo>, Option<Fifo>)>,
    logger: Mutex<Option<Child>>,
    began: OnceLock<Instant>,
    phase: watch::Sender<Phase>,
    killed: watch::Sender<Option<u32>>,
    drained: watch::Sender<bool>,
}

impl Process {
    /// A process that has been created and not yet opened anything.
    #[must_use]
    pub fn new(id: &str, exec_id: &str, pid: u32, stdio: Stdio, script: Script) -> Self {
        Self {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            stdio,
            script,
            stats_asked: AtomicU64::new(0),
            fifos: Mutex::new((None, None)),
            logger: Mutex::new(None),
            began: OnceLock::new(),
            phase: watch::Sender::new(Phase::Created),
            killed: watch::Sender::new(None),
            drained: watch::Sender::new(false),
        }
    }

    /// Opens stdout and then stderr, as the runc shim does at Create (init) or Start (exec).
    ///
    /// # Errors
    /// A FIFO cannot be opened, or nobody reads it within 30 s.
    pub async fn open(&self) -> Result<()> {
        let mut fifos = self.fifos.lock().await;
        if logger::is_named_by(&self.stdio.stdout) {
            let (uri, id) = (self.stdio.stdout.clone(), self.id.clone());
            let Logger { child, ends } = spawn_blocking(move || logger::start(&uri, &id)).await??;
            *self.logger.lock().await = Some(child);
            *fifos = (Some(Fifo::of_logger(ends.0)?), Some(Fifo::of_logger(ends.1)?));
            return Ok(());
        }
        fifos.0 = open_fifo(&self.stdio.stdout).await?;
        if !self.stdio.terminal {
            fifos.1 = open_fifo(&self.stdio.stderr).await?;
        }
        Ok(())
    }

    /// Closes whatever [`Process::open`] opened.
    pub async fn close(&self) {
        *self.fifos.lock().await = (None, None);
        self.logger_ends().await;
    }

    /// Nobody writes to its logger any more, so it ends; the runc shim gives it 12 s.
    async fn logger_ends(&self) {
        if let Some(mut child) = self.logger.lock().await.take() {
            let _ = spawn_blocking(move || child.wait()).await;
        }
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves at the exit, whether or not output is still on its way.
    pub async fn exited(&self) -> u32 {
        let mut rx = self.phase.subscribe();
        loop {
            if let Phase::Stopped(status) = *rx.borrow_and_update() {
                return status;
            }
            if rx.changed().await.is_err() {
                return 255;
            }
        }
    }

    /// Resolves once the last byte is out and the FIFOs are closed.
    pub async fn drained(&self) {
        let mut rx = self.drained.subscribe();
        while !*rx.borrow_and_update() {
            if rx.changed().await.is_err() {
                return;
            }
        }
    }

    /// Delivers a signal. Only those that end an unprepared process do anything.
    pub fn kill(&self, signal: u32) {
        if matches!(signal, 2 | 9 | 15) {
            self.killed.send_if_modified(|k| k.replace(signal).is_none());
        }
    }

    /// Runs the script to its end. Called once, by Start.
    pub fn run(self: Arc<Self>, journal: Arc<Journal>) {
        self.began.get_or_init(Instant::now);
        self.phase.send_replace(Phase::Running);
        tokio::spawn(async move {
            let (out, err) = std::mem::take(&mut *self.fifos.lock().await);
            let body = (watch::Sender::new(false), watch::Sender::new(false));
            let (ends, own) = (&body, &self);
            let streams = async move {
                let wrote = tokio::join!(
                    own.write(out.as_ref(), &own.script.stdout, "stdout", &ends.0),
                    own.write(err.as_ref(), &own.script.stderr, "stderr", &ends.1),
                );
                // Closed here, or with the rest at the end.
                (wrote, (!own.script.closes_early).then_some((out, err)))
            };
            let life = async {
                let status = self.live(&body.0, &body.1).await;
                self.phase.send_replace(Phase::Stopped(status));
            };
            let ((wrote, kept), ()) = tokio::join!(streams, life);
            let mut entry = Entry::new(Kind::Wrote, 0);
            entry.id.clone_from(&self.id);
            entry.exec_id.clone_from(&self.exec_id);
            let (out, err) = wrote;
            entry.stdout = out.bytes.to_string();
            entry.stderr = err.bytes.to_string();
            entry.pause_us = u64::try_from(out.pause.max(err.pause).as_micros()).unwrap_or(u64::MAX);
            if let Err(e) = journal.append(&entry) {
                super::serve::give_up(&e);
            }
            sleep(Duration::from_millis(self.script.hold_open_ms)).await;
            drop(kept);
            self.logger_ends().await;
            self.drained.send_replace(true);
        });
    }

    /// Lasts as long as the process is alive; gives its status.
    async fn live(&self, out: &watch::Sender<bool>, err: &watch::Sender<bool>) -> u32 {
        let written = async || {
            for body in [out, err] {
                let mut rx = body.subscribe();
                while !*rx.borrow_and_update() && rx.changed().await.is_ok() {}
            }
        };
        let by_itself = async {
            written().await;
            if self.script.ends_with_vm {
                while household::is_there(self.pid) {
                    sleep(household::LOOK).await;
                }
                return;
            }
            if self.script.until_killed {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(self.script.exit_delay_ms)).await;
        };
        tokio::select! {
            () = by_itself => self.script.exit_status,
            signal = self.dead() => {
                if self.script.written_first {
                    written().await;
                }
                128 + signal
            }
        }
    }

    /// Resolves with the deadly signal.
    async fn dead(&self) -> u32 {
        let mut rx = self.killed.subscribe();
        loop {
            if let Some(signal) = *rx.borrow_and_update() {
                return signal;
            }
            if rx.changed().await.is_err() {
                return 9;
            }
        }
    }

    /// Writes a stream until its end or until the process is killed.
    async fn write(&self, to: Option<&Fifo>, out: &Output, name: &str, body: &watch::Sender<bool>) -> Wrote {
        let mut all = Wrote::default();
        let mut n: u64 = 0;
        let mut since = Instant::now();
        while n < out.lines {
            let Some(fifo) = to else { break };
            if n + out.lines_after_exit >= out.lines {
                body.send_replace(true);
            }
            let upto = out.lines.min(n + out.lines_per_write.max(1));
            let chunk: Vec<u8> = (n..upto).flat_map(|k| out.line(name, k)).collect();
            n = upto;
            let began = Instant::now();
            let (wrote, whole) = self.write_chunk(&fifo.writer, &chunk).await;
            all.bytes += wrote;
            all.pause = all.pause.max(since.elapsed());
            since = began;
            if !whole {
                break;
            }
            if out.pause_us > 0 {
                sleep(Duration::from_micros(out.pause_us)).await;
            }
        }
        body.send_replace(true);
        all
    }

    /// Writes `chunk`; says how much went and whether that was all of it.
    async fn write_chunk(&self, to: &pipe::Sender, chunk: &[u8]) -> (u64, bool) {
        let mut sent: usize = 0;
        while let Some(rest) = chunk.get(sent..).filter(|r| !r.is_empty()) {
            // A killed process takes its unwritten bytes with it; what it has written is in the journal.
            tokio::select! {
                ready = to.writable() => if ready.is_err() { break },
                _ = self.dead(), if !self.script.written_first => break,
            }
            match to.try_write(rest) {
                Ok(k) => sent += k,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        (u64::try_from(sent).unwrap_or(u64::MAX), sent == chunk.len())
    }
}

/// Opens `path` as the runc shim's copier does. URIs other than `fifo://` are not opened at all.
async fn open_fifo(path: &str) -> Result<Option<Fifo>> {
    let path = path.strip_prefix("fifo://").unwrap_or(path).to_owned();
    if path.is_empty() || path.contains("://") {
        return Ok(None);
    }
    let name = path.clone();
    let opened = spawn_blocking(move || -> std::io::Result<(OwnedFd, OwnedFd)> {
        let writer = OpenOptions::new().write(true).open(&path)?;
        let reader = OpenOptions::new().read(true).open(&path)?;
        Ok((writer.into(), reader.into()))
    });
    let (writer, reader) = match timeout(OPEN_LIMIT, opened).await {
        Ok(done) => done.context("opener thread")?.with_context(|| format!("opening {name}"))?,
        Err(_) => bail!("nobody reads {name}"),
    };
    let writer = pipe::Sender::from_owned_fd(writer).with_context(|| format!("{name} as a FIFO"))?;
    Ok(Some(Fifo { writer, _keeps_alive: Some(reader) }))
}

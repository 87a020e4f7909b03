//! Running a program to its end, or beside the test, always with a limit.
//!
//! Output is read while the program runs, so that it never blocks on us, and a program that is over its
//! limit is killed by pid and reported with what it has said so far.

use std::io::{PipeReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::rig::eventually;

/// Who says nothing for so long behind a program that has ended says nothing more.
const QUIET: Duration = Duration::from_secs(2);
/// However much somebody else says.
const LONGEST: Duration = Duration::from_secs(60);

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit status as a shell shows it: 128 + signal for a killed one.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, as text.
    pub stderr: String,
    /// From spawn to exit.
    pub took: Duration,
}

impl Finished {
    /// Itself where the program ended with 0, else an error with what it wrote.
    pub fn ok(self) -> Result<Finished> {
        if self.code != 0 {
            bail!("ended with {}: {} {}", self.code, self.stderr.trim(), self.text().trim());
        }
        Ok(self)
    }

    /// stdout as text; what is not UTF-8 shows as replacement characters.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A program that runs beside the test. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Reader,
    stderr: Reader,
    started: Instant,
}

impl Running {
    /// Starts `command` with pipes for its three streams.
    pub fn start(mut command: Command) -> Result<Running> {
        let what = format!("{command:?}");
        let what = what.chars().take(400).collect::<String>();
        let started = Instant::now();
        // Ctrl-C at a terminal is for us; we end it.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {what}"))?;
        let stdout = Reader::start(child.stdout.take());
        let stderr = Reader::start(child.stderr.take());
        Ok(Running { what, stdin: child.stdin.take(), child, stdout, stderr, started })
    }

    /// Starts `command` with a stdout that nobody reads until the caller does, and hands out its reader.
    pub fn start_unread(mut command: Command) -> Result<(Running, PipeReader)> {
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let what = format!("{command:?}").chars().take(400).collect::<String>();
        let started = Instant::now();
        let child =
            command.process_group(0).stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("start {what}"))?;
        // The command holds the writer until it is dropped: the reader would never see its end.
        drop(command);
        let stderr = Reader::start(child.stderr.take());
        let stdout = Reader::start(None::<PipeReader>);
        Ok((Running { what, stdin: child.stdin.take(), child, stdout, stderr, started }, reader))
    }

    /// Its pid, good until it is finished or dropped.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids fit in 22 bits")
    }

    /// Writes to its stdin.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its stdin is closed already")?;
        stdin.write_all(bytes).with_context(|| format!("write to stdin of {}", self.what))?;
        stdin.flush().context("flush stdin")
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has written to stdout so far.
    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    /// What it has written to stderr so far, as text.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("ask for its exit")?.is_none())
    }

    /// Waits for its end, `limit` at most; stdin is closed only when the program has ended.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let child = &mut self.child;
        let ended = eventually(limit, "its end", || child.try_wait().context("ask for its exit"));
        let took = self.started.elapsed();
        let status = match ended {
            Ok(status) => status,
            Err(late) => {
                let said = String::from_utf8_lossy(&self.stdout.so_far()).into_owned();
                let complained = self.stderr_so_far();
                return Err(late.context(format!("{}\nstdout: {said}\nstderr: {complained}", self.what)));
            }
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let stdout = self.stdout.finish();
        let stderr = String::from_utf8_lossy(&self.stderr.finish()).into_owned();
        Ok(Finished { code, stdout, stderr, took })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the program has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, `limit` at most, with an empty stdin.
pub fn run(command: Command, limit: Duration) -> Result<Finished> {
    let mut running = Running::start(command)?;
    running.close_stdin();
    running.finish(limit)
}

/// Collects a stream in a thread.
#[derive(Debug)]
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start<R: Read + Send + 'static>(source: Option<R>) -> Reader {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = source.map(|mut source| {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count) = source.read(&mut buffer) {
                    let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
                    sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
                }
            })
        });
        Reader { bytes, thread }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the stream. One that somebody else keeps open would block here, so it is over as well when nothing has
    /// come for two seconds.
    fn finish(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            let mut last = (self.so_far().len(), Instant::now());
            let done = || {
                let now = self.so_far().len();
                if now != last.0 {
                    last = (now, Instant::now());
                }
                Ok((thread.is_finished() || last.1.elapsed() >= QUIET).then_some(()))
            };
            let _ = eventually(LONGEST, "the end of its output", done);
        }
        self.so_far()
    }
}

//! The collector beside a private containerd: started, stopped, killed, stopped in its tracks, and read.
//!
//! Knows the collector from outside only: its command line, its configuration file, its sockets, its file.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::oracle::{Tapes, moved, one_tape, sink};
use crate::rig::process::{self, MARK};
use crate::rig::run::run;
use crate::rig::{Node, eventually, tools};

const LIMIT: Duration = Duration::from_secs(60);
/// What an answer over HTTP may take: in an emulated machine on a busy one a Prometheus has taken more than 20 s.
const ANSWER: Duration = Duration::from_secs(120);

/// What a collector is told beside where its sockets are.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// More lines of `[ingest]`.
    pub ingest: String,
    /// More lines of `[journal]`.
    pub journal: String,
    /// Lines of a `[journal.disk]`, whose folder is `kept/disk/journal`; none, and there is no such section.
    pub journal_disk: Option<String>,
    /// Sections of sinks, instead of the file's.
    pub sinks: Option<String>,
    /// A file sink as well, where other sinks are named.
    pub file_too: bool,
    /// More lines of `[spool]`.
    pub spool: String,
    /// More lines of `[containerd]`.
    pub containerd: String,
    /// More lines of `[metrics]`.
    pub metrics: String,
    /// Sections of anything else.
    pub sections: String,
    /// The collector of the next release.
    pub next: bool,
}

impl Settings {
    /// Wrappers have statistics asked for once a second.
    pub fn each_second() -> Settings {
        Settings { sections: "[stats]\ninterval_secs = 1\n".to_owned(), ..Settings::default() }
    }
}

/// A collector that runs, or that ran: its folder and its file stay.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    dir: PathBuf,
    spool: PathBuf,
    address: String,
    /// What its configuration says before anything was appended.
    text: String,
}

impl Collector {
    /// Starts it in `dir`: sockets in `dir/col`, what it keeps in `dir/kept`; containerd's is `dir/c.sock`, where one runs. Its sink is the file, where no other
    /// section is given.
    pub fn start(dir: &Path, mark: &str, settings: &Settings) -> Result<Collector> {
        for folder in ["col", "kept"] {
            fs::create_dir_all(dir.join(folder)).with_context(|| format!("create {folder}"))?;
        }
        let address = free_address()?;
        let here = dir.display();
        let spool_dir = spool_dir(mark);
        let files = spool_dir.display();
        let Settings { ingest, journal, journal_disk, sinks, file_too, spool, .. } = settings;
        let Settings { containerd, metrics, sections, next, .. } = settings;
        let mut text = format!(
            "[ingest]\nsocket = \"{here}/col/collector.sock\"\n{ingest}\
             [control]\nsocket = \"{here}/col/control.sock\"\n\
             [spool]\ndisk_dir = \"{files}/disk\"\nmemory_dir = \"{files}/memory\"\n{spool}\
             [journal]\ndir = \"{here}/kept/journal\"\nreserve_percent = 0\nreserve_bytes = 0\n{journal}\
             [containerd]\nsocket = \"{here}/c.sock\"\n{containerd}\
             [metrics]\nlisten = \"{address}\"\npage_age_ms = 0\n{metrics}"
        );
        if let Some(disk) = journal_disk {
            text += &format!(
                "[journal.disk]\ndir = \"{here}/kept/disk/journal\"\nreserve_percent = 0\nreserve_bytes = 0\n{disk}"
            );
        }
        if sinks.is_none() || *file_too {
            text += &format!("[file]\npath = \"{here}/kept/lines.jsonl\"\nrotate_bytes = 1073741824\n");
        }
        text += sinks.as_deref().unwrap_or_default();
        text += sections;
        let config = dir.join("collector.toml");
        fs::write(&config, &text).context("write collector.toml")?;
        let log = fs::File::options().create(true).append(true).open(dir.join("collector.log"));
        let log = log.context("open collector.log")?;
        let mut command = Command::new(if *next { tools::next_collector()? } else { tools::collector()? });
        command.args(["collector", "--config"]).arg(&config).env(MARK, mark);
        // Ctrl-C at a terminal is for us; we end it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let child = command.spawn().context("start the collector")?;
        let mut collector = Collector { child, dir: dir.to_owned(), spool: spool_dir, address, text };
        collector.await_ready()?;
        Ok(collector)
    }

    fn await_ready(&mut self) -> Result<()> {
        let log = self.dir.join("collector.log");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        eventually(LIMIT, "the collector to listen", || {
            let ended = self.child.try_wait().context("ask for its exit")?;
            ensure!(ended.is_none(), "the collector ended with {ended:?}\n{}", said());
            let listens =
                UnixStream::connect(self.socket()).is_ok() && TcpStream::connect(&self.address).is_ok();
            Ok(listens.then_some(()))
        })
        .with_context(said)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids fit in 22 bits")
    }

    /// Where wrappers connect.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("col/collector.sock")
    }

    /// Where `shimtap ps` asks.
    pub fn control(&self) -> PathBuf {
        self.dir.join("col/control.sock")
    }

    /// Where its metrics are, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it looks for spool files.
    pub fn spool_dir(&self) -> &Path {
        &self.spool
    }

    /// What it has said, and those before it in this folder.
    pub fn log(&self) -> PathBuf {
        self.dir.join("collector.log")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("collector.toml")
    }

    /// Appends to what its configuration said at first; whether it reads that is another matter.
    pub fn configure(&self, more: &str) -> Result<()> {
        fs::write(self.config(), format!("{}{more}", self.text)).context("write collector.toml")
    }

    /// What `shimtap WORDS --socket ITS` prints; an error with what it says where it fails.
    pub fn shimtap(&self, words: &[&str]) -> Result<String> {
        let socket = self.dir.join("col/control.sock");
        let ran = Command::new(tools::collector()?).args(words).arg("--socket").arg(socket).output();
        let ran = ran.context("run shimtap")?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "shimtap {} ended with {}: {said}", words.join(" "), ran.status);
        String::from_utf8(ran.stdout).context("it prints text")
    }

    /// What its file holds.
    pub fn sink(&self) -> Result<Tapes> {
        sink(&self.file())
    }

    /// The folder of its journal.
    pub fn journal_dir(&self) -> PathBuf {
        self.dir.join("kept/journal")
    }

    /// The file that it writes.
    pub fn file(&self) -> PathBuf {
        self.dir.join("kept/lines.jsonl")
    }

    /// Body of `GET path`; an error where the answer is not 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let page = get(&self.address, path)?;
        if path.starts_with("/metrics") {
            moved::note(&page);
        }
        Ok(page)
    }

    /// Everything that `/metrics` counts and that is not 0, for whoever has to find out why a wait was in vain.
    pub fn counted(&self) -> String {
        let text = self.get("/metrics").unwrap_or_else(|fault| format!("/metrics: {fault:#}"));
        let rows = text.lines().filter(|row| !row.starts_with('#') && !row.ends_with(" 0"));
        rows.filter(|row| !row.contains("_bucket{")).collect::<Vec<_>>().join("\n")
    }

    /// What `shimtap ps` prints, with these options.
    pub fn ps_with(&self, options: &[&str]) -> Result<String> {
        let mut command = Command::new(tools::collector()?);
        command.args(["ps", "--socket"]).arg(self.dir.join("col/control.sock")).args(options);
        Ok(run(command, LIMIT)?.ok().context("ask shimtap ps")?.text())
    }

    /// The same as JSON.
    pub fn ps(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.ps_with(&["--json"])?).context("read what shimtap ps says")
    }

    /// Ends it with `signal` and waits for its end; its file stays.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        process::signal(self.pid(), signal)?;
        let child = &mut self.child;
        eventually(LIMIT, "the collector to end", || child.try_wait().context("ask for its exit")).map(drop)
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        if self.child.try_wait().context("ask for its exit")?.is_none() {
            if moved::is_asked_for() {
                // What its test had happen, looked at or not.
                let _ = self.get("/metrics").and_then(|_| self.get("/metrics/cadvisor"));
            }
            self.end(Signal::SIGTERM)?;
        }
        Ok(())
    }
}

impl Node {
    /// Waits until the sink has all of a stream, and demands that nothing of it is missing.
    pub fn whole_in_sink(&self, container: &str, stream: &str, written: &[u8]) -> Result<()> {
        let end = u64::try_from(written.len())?;
        let judgement = eventually(3 * LIMIT, &format!("{container}'s {stream} in the sink"), || {
            let tapes = self.collector(|collector| collector.sink())?;
            let tape = one_tape(&tapes, container, stream)?;
            tape.filter(|tape| tape.end() >= end).map(|tape| tape.judge(written)).transpose()
        })?;
        let whole = judgement.delivered == end && judgement.gaps.is_empty();
        ensure!(whole, "{container}'s {stream}: {judgement:?}");
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Both fail only where it has ended already. SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the wrappers and the collector of that mark keep spool files, disk and memory alike: in memory, which is what the
/// second has to be, and free of what else fills the disk of a machine that compiles.
pub fn spool_dir(mark: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("{mark}-spool"))
}

/// Body of `GET path` at `address` (`host:port`); an error where the answer is not 200.
pub fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connect to the metrics")?;
    stream.set_read_timeout(Some(ANSWER)).context("set a limit")?;
    // Of 1.0, so that the answer comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: rig\r\n\r\n");
    stream.write_all(request.as_bytes()).context("ask for the metrics")?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    read.with_context(|| format!("read GET {path} of {address}, for {ANSWER:?} at most"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "GET {path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// An address of this machine that nobody listens on at the moment.
pub fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("its address")?.to_string())
}

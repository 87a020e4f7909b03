//! A collector beside a node, with or without its file, that comes and goes while containers run.
//!
//! The rig's own always has a file; what a collector costs without one is a question of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use shimtap_tests::rig::collector::get;
use shimtap_tests::rig::{Node, eventually, process, tools};

const LIMIT: Duration = Duration::from_secs(30);
/// The journal's size where nothing else is asked for: its default.
pub const JOURNAL: u64 = 64 << 20;

/// Where it delivers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere: lines end in its journal.
    #[default]
    None,
    /// A file, and more options of that section.
    File(String),
    /// An endpoint of OTLP, and more options of that section.
    Otlp(String, String),
}

/// What one is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Which build of the collector.
    pub program: PathBuf,
    /// Where it delivers to.
    pub sink: Sink,
    /// The journal's size.
    pub journal_bytes: u64,
    /// More options of `[ingest]`, a line each.
    pub ingest: String,
    /// More options of `[metrics]`, likewise.
    pub metrics: String,
}

impl Told {
    /// The build beside this bench, with the default journal.
    ///
    /// # Errors
    /// It is not built.
    pub fn of(sink: Sink) -> Result<Told> {
        Ok(Told {
            program: tools::collector()?,
            sink,
            journal_bytes: JOURNAL,
            ingest: String::new(),
            metrics: String::new(),
        })
    }

    /// Its configuration, the journal's section left out.
    fn text(&self, dir: &Path, socket: &Path, address: &str, file: &Path) -> String {
        let sink = match &self.sink {
            Sink::None => String::new(),
            Sink::File(more) => format!("[file]\npath = \"{}\"\nkeep = 1\n{more}", file.display()),
            Sink::Otlp(url, more) => format!("[otlp]\nendpoint = \"{url}\"\n{more}"),
        };
        format!(
            "[ingest]\nsocket = \"{}\"\n{}[control]\nsocket = \"{}\"\n[metrics]\nlisten = \"{address}\"\n{}{sink}",
            socket.display(),
            self.ingest,
            dir.join("col/control.sock").display(),
            self.metrics,
        )
    }
}

/// A collector that runs.
#[derive(Debug)]
pub struct Witness {
    child: Child,
    address: String,
    file: PathBuf,
}

impl Witness {
    /// Starts one where the node's wrappers look for it, and waits until it listens.
    pub fn start(node: &Node, with_file: bool) -> Result<Witness> {
        let sink = if with_file { Sink::File(String::new()) } else { Sink::None };
        Witness::start_at(node.dir(), &node.collector_socket(), &Told::of(sink)?)
    }

    /// Starts one that keeps everything in `dir` and listens on `socket`. Builds without a journal do without `journal_bytes`.
    pub fn start_at(dir: &Path, socket: &Path, told: &Told) -> Result<Witness> {
        for folder in ["col", "kept"] {
            fs::create_dir_all(dir.join(folder)).with_context(|| format!("create {folder}"))?;
        }
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = address.context("find a free port")?.to_string();
        let file = dir.join("kept/lines.jsonl");
        let text = told.text(dir, socket, &address, &file);
        let (program, journal_bytes) = (&told.program, told.journal_bytes);
        let config = dir.join("witness.toml");
        let journal = format!(
            "[journal]\ndir = \"{}\"\nmax_bytes = {journal_bytes}\nreserve_percent = 0\nreserve_bytes = 0\n",
            dir.join("journal").display()
        );
        fs::write(&config, format!("{text}{journal}")).context("write the collector's configuration")?;
        let check = Command::new(program).args(["check", "--config"]).arg(&config).output();
        if !check.context("check the configuration")?.status.success() {
            // An earlier build, which keeps no journal.
            fs::write(&config, text).context("write the collector's configuration")?;
        }
        let log = fs::File::create(dir.join("witness.log")).context("open the collector's log")?;
        let mut command = Command::new(program);
        command.args(["collector", "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let child = command.spawn().context("start the collector")?;
        let mut witness = Witness { child, address, file };
        let log = dir.join("witness.log");
        eventually(LIMIT, "the collector to listen", || {
            let ended = witness.child.try_wait().context("ask for its exit")?;
            if let Some(status) = ended {
                bail!("the collector ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            Ok((socket.exists() && TcpStream::connect(&witness.address).is_ok()).then_some(()))
        })?;
        Ok(witness)
    }

    /// The file that it writes, where it has one.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where its metrics are, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// The sum of a family's samples whose labels contain all of `labels`; 0 where there is none.
    pub fn sum(&self, family: &str, labels: &[&str]) -> Result<f64> {
        let body = get(&self.address, "/metrics")?;
        let samples = body.lines().filter(|line| {
            let rest = line.strip_prefix(family);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|l| line.contains(l))
        });
        let values = samples.filter_map(|line| {
            line.rsplit_once('}').map_or(line, |(_, v)| v).split_whitespace().next_back()?.parse::<f64>().ok()
        });
        Ok(values.sum())
    }

    /// Waits until `count` wrappers are attached.
    pub fn await_wrappers(&self, count: usize) -> Result<()> {
        let wanted = crate::spread::float(count);
        eventually(Duration::from_secs(90), &format!("{count} wrappers to attach"), || {
            Ok((self.sum("shimtap_wrappers", &[])? >= wanted).then_some(()))
        })
    }

    /// Ends it at once; its journal stays.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the collector")?;
        self.child.wait().context("wait for its end").map(drop)
    }

    /// Ends it; the wrappers go on without it.
    pub fn stop(mut self) -> Result<()> {
        process::signal(self.pid(), Signal::SIGTERM)?;
        let child = &mut self.child;
        eventually(LIMIT, "the collector to end", || child.try_wait().context("ask for its exit"))?;
        for file in [self.file.clone(), self.file.with_extension("jsonl.1")] {
            // Absent where there was no file sink.
            let _ = fs::remove_file(file);
        }
        Ok(())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Log backends that others wrote, for the OTLP sink to deliver to: an OpenTelemetry Collector built by its own builder,
//! and VictoriaLogs.
//!
//! Known from outside only: their command lines, their HTTP interfaces, their files. They run beside the node, not as part
//! of it, and are ended by pid.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::oracle::{Tapes, otlp_file, victoria_logs};
use crate::rig::collector::{free_address, get};
use crate::rig::{eventually, process, tools};

const LIMIT: Duration = Duration::from_secs(60);

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The OpenTelemetry Collector, writing what it got into a file.
    OpenTelemetry,
    /// VictoriaLogs.
    VictoriaLogs,
}

/// A backend that runs, or that ran: its folder stays.
#[derive(Debug)]
pub struct Backend {
    kind: Kind,
    child: Option<Child>,
    dir: PathBuf,
    address: String,
}

impl Backend {
    /// Starts one that keeps its files in `dir`.
    pub fn start(kind: Kind, dir: &Path) -> Result<Backend> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut backend = Backend { kind, child: None, dir: dir.to_owned(), address: free_address()? };
        backend.resume()?;
        Ok(backend)
    }

    /// Starts it again where it was.
    pub fn resume(&mut self) -> Result<()> {
        let log =
            fs::File::options().create(true).append(true).open(self.dir.join("log")).context("its log")?;
        let mut command = match self.kind {
            Kind::OpenTelemetry => self.opentelemetry()?,
            Kind::VictoriaLogs => self.victoria_logs()?,
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        self.child = Some(command.spawn().context("start the backend")?);
        let said = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let child = self.child.as_mut().context("it was started")?;
        eventually(LIMIT, "the backend to listen", || {
            let ended = child.try_wait().context("ask for its exit")?;
            ensure!(ended.is_none(), "it ended with {ended:?}");
            Ok(TcpStream::connect(&self.address).is_ok().then_some(()))
        })
        .with_context(said)
    }

    fn opentelemetry(&self) -> Result<Command> {
        let config = self.dir.join("config.yaml");
        let text = format!(
            "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: {}\n\
             exporters:\n  file:\n    path: {}\n    append: true\n    flush_interval: 100ms\n\
             service:\n  telemetry:\n    metrics:\n      level: none\n\
             \x20 pipelines:\n    logs:\n      receivers: [otlp]\n      exporters: [file]\n",
            self.address,
            self.file().display()
        );
        fs::write(&config, text).context("write its configuration")?;
        let mut command = Command::new(tools::otelcol()?);
        command.arg(format!("--config=file:{}", config.display()));
        Ok(command)
    }

    fn victoria_logs(&self) -> Result<Command> {
        let mut command = Command::new(tools::victoria_logs()?);
        command.arg(format!("-storageDataPath={}", self.dir.join("data").display()));
        command.arg(format!("-httpListenAddr={}", self.address)).arg("-memory.allowedBytes=256MiB");
        Ok(command)
    }

    /// What `[otlp] endpoint` has to be.
    pub fn endpoint(&self) -> String {
        match self.kind {
            Kind::OpenTelemetry => format!("http://{}", self.address),
            Kind::VictoriaLogs => format!("http://{}/insert/opentelemetry", self.address),
        }
    }

    /// The file that the OpenTelemetry Collector writes.
    pub fn file(&self) -> PathBuf {
        self.dir.join("logs.json")
    }

    /// What it holds.
    pub fn tapes(&self) -> Result<Tapes> {
        match self.kind {
            Kind::OpenTelemetry => otlp_file(&self.file()),
            Kind::VictoriaLogs => victoria_logs(&self.query("*")?),
        }
    }

    /// What VictoriaLogs answers to a query: a JSON object per line.
    pub fn query(&self, query: &str) -> Result<String> {
        get(&self.address, "/internal/force_flush")?;
        get(&self.address, &format!("/select/logsql/query?query={query}"))
    }

    /// Ends it and waits for its end; what it took is kept.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        process::signal(i32::try_from(child.id()).context("a pid")?, Signal::SIGTERM)?;
        eventually(LIMIT, "the backend to end", || child.try_wait().context("ask for its exit")).map(drop)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

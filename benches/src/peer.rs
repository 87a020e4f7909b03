//! Others that bring a node's container logs elsewhere, by tailing the files that containerd writes.
//!
//! Each runs as its own documentation says for this purpose, from the end of what is there on, without a store of its own.
//! One that is not installed is absent, never replaced (`./dev peers`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::rig::{eventually, process, tools};

const LIMIT: Duration = Duration::from_secs(30);

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The OpenTelemetry Collector: receiver filelog with its container parser, processor batch, exporter otlphttp.
    Filelog,
    /// rsyslogd: imfile by inotify, and bytes over TCP.
    Rsyslog,
}

/// One that runs.
#[derive(Debug)]
pub struct Peer {
    child: Child,
}

impl Kind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Filelog => "OpenTelemetry Collector, filelog",
            Kind::Rsyslog => "rsyslog, imfile",
        }
    }

    /// Its program, where it is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Kind::Filelog => tools::otelcol_filelog(),
            Kind::Rsyslog => {
                let sbin = Path::new("/usr/sbin/rsyslogd");
                tools::in_path("rsyslogd").or_else(|| sbin.is_file().then(|| sbin.to_owned()))
            }
        }
    }

    /// Its configuration, for logs below `logs` and a receiver on this port of this machine.
    fn config(self, dir: &Path, logs: &Path, port: u16) -> String {
        let (dir, logs) = (dir.display(), logs.display());
        match self {
            Kind::Filelog => format!(
                "receivers:\n  filelog:\n    include: [\"{logs}/*/*.log\"]\n    start_at: end\n\
                 \x20   include_file_path: true\n    operators:\n      - type: container\n\
                 \x20       add_metadata_from_filepath: false\n\
                 processors:\n  batch: {{}}\n\
                 exporters:\n  otlphttp:\n    endpoint: http://127.0.0.1:{port}\n\
                 service:\n  telemetry:\n    metrics:\n      level: none\n\
                 \x20 pipelines:\n    logs:\n      receivers: [filelog]\n      processors: [batch]\n\
                 \x20     exporters: [otlphttp]\n"
            ),
            Kind::Rsyslog => format!(
                "global(workDirectory=\"{dir}\")\nmodule(load=\"imfile\" mode=\"inotify\")\n\
                 input(type=\"imfile\" File=\"{logs}/*/*.log\" Tag=\"container\" freshStartTail=\"on\" ruleset=\"away\")\n\
                 ruleset(name=\"away\") {{\n  action(type=\"omfwd\" target=\"127.0.0.1\" port=\"{port}\" protocol=\"tcp\")\n}}\n"
            ),
        }
    }
}

// === impl Peer ===

impl Peer {
    /// Starts one that tails what containerd writes below `logs`, with its own files in `dir`.
    ///
    /// # Errors
    /// It is not installed, or ends at once.
    pub fn start(kind: Kind, dir: &Path, logs: &Path, port: u16) -> Result<Peer> {
        let program = kind.program().with_context(|| format!("{} is not there: ./dev peers", kind.name()))?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let config = dir.join("config");
        fs::write(&config, kind.config(dir, logs, port)).context("write a peer's configuration")?;
        let log = fs::File::create(dir.join("log")).context("open a peer's log")?;
        let mut command = Command::new(program);
        match kind {
            Kind::Filelog => command.arg(format!("--config=file:{}", config.display())),
            Kind::Rsyslog => command.arg("-n").arg("-f").arg(&config).arg("-i").arg(dir.join("pid")),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", kind.name()))?;
        Ok(Peer { child })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Demands that it still runs.
    ///
    /// # Errors
    /// It has ended.
    pub fn lives(&mut self) -> Result<()> {
        let ended = self.child.try_wait().context("ask for its exit")?;
        ensure!(ended.is_none(), "a peer ended with {ended:?}");
        Ok(())
    }

    /// Ends it and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<()> {
        process::signal(self.pid(), Signal::SIGTERM)?;
        let child = &mut self.child;
        eventually(LIMIT, "a peer to end", || child.try_wait().context("ask for its exit")).map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

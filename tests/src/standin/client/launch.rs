//! Runs a shim binary's verbs with the argv, environment, stdin and pipes that containerd gives them.

use std::{
    io::{Read, Write, pipe},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim_protos::{
    bootstrap_api::{BootstrapParams, BootstrapResult},
    protobuf::{Message, well_known_types::any::Any},
};
use serde::Deserialize;

use super::{PATIENCE, lab::Lab};

/// The address of its API that this containerd names.
const GRPC: &str = "/run/containerd/containerd.sock";
/// The binary that this containerd names for publishing events.
const PUBLISH: &str = "/usr/bin/containerd";

/// Which containerd is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// 1.6: an Any (or nothing) on stdin, takes a plain address.
    V1_6,
    /// 2.3: BootstrapParams on stdin, takes protobuf, JSON or a plain address.
    V2_3,
}

/// What containerd reads out of the answer to `start`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// Version of the task service.
    pub version: u32,
    /// `unix://…` or another address.
    pub address: String,
    /// `ttrpc` or `grpc`.
    pub protocol: String,
}

impl Endpoint {
    /// The path of a unix socket.
    ///
    /// # Errors
    /// The address is of another kind.
    pub fn path(&self) -> Result<PathBuf> {
        let path = self.address.strip_prefix("unix://").context("address is no unix socket path")?;
        Ok(PathBuf::from(path))
    }

    /// The name of the task service of that version.
    #[must_use]
    pub fn service(&self) -> String {
        format!("containerd.task.v{}.Task", self.version)
    }
}

/// What a verb left behind.
#[derive(Debug)]
pub struct Ran {
    /// How it exited.
    pub status: ExitStatus,
    /// For `start`: stdout and stderr, which are one pipe. Otherwise stdout.
    pub stdout: Vec<u8>,
    /// Empty for `start`.
    pub stderr: Vec<u8>,
    /// Until exit and end of the pipe.
    pub took: Duration,
}

/// A shim binary as one containerd knows it.
#[derive(Clone, Debug)]
pub struct Shim {
    /// The binary.
    pub binary: PathBuf,
    /// Who runs it.
    pub flavour: Flavour,
}

impl Shim {
    /// The command line of `start` and `delete`.
    fn command(&self, lab: &Lab, id: &str, bundle: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["-namespace", lab.namespace(), "-address", GRPC, "-publish-binary", PUBLISH, "-id", id])
            .current_dir(bundle)
            .process_group(0)
            .env("TTRPC_ADDRESS", format!("{GRPC}.ttrpc"))
            .env("GOMAXPROCS", "2");
        if self.flavour == Flavour::V2_3 {
            command.env("MAX_SHIM_VERSION", "2").env("GRPC_ADDRESS", GRPC).env("NAMESPACE", lab.namespace());
        }
        command.envs(lab.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// What this containerd writes to stdin of `start`.
    ///
    /// # Errors
    /// It does not encode.
    pub fn start_input(&self, lab: &Lab, id: &str) -> Result<Vec<u8>> {
        Ok(match self.flavour {
            Flavour::V1_6 => Any {
                type_url: "containerd.runc.v1.Options".to_owned(),
                value: vec![0x4a, 0],
                ..Default::default()
            }
            .write_to_bytes()?,
            Flavour::V2_3 => BootstrapParams {
                instance_id: id.to_owned(),
                namespace: lab.namespace().to_owned(),
                containerd_version: "2.3.4".to_owned(),
                containerd_ttrpc_address: format!("{GRPC}.ttrpc"),
                containerd_grpc_address: GRPC.to_owned(),
                containerd_binary: PUBLISH.to_owned(),
                ..Default::default()
            }
            .write_to_bytes()?,
        })
    }

    /// Runs `start` in the bundle: stdout and stderr are one pipe, read until every holder has closed it.
    ///
    /// # Errors
    /// It cannot be run, or somebody still holds the pipe when the patience ends.
    pub fn start(&self, lab: &Lab, id: &str, bundle: &Path) -> Result<Ran> {
        let began = Instant::now();
        let (mut reader, writer) = pipe().context("pipe")?;
        let mut command = self.command(lab, id, bundle);
        command.arg("start").stdin(Stdio::piped());
        command
            .stdout(Stdio::from(OwnedFd::from(writer.try_clone()?)))
            .stderr(Stdio::from(OwnedFd::from(writer)));
        let mut child =
            command.spawn().with_context(|| format!("running {} start", self.binary.display()))?;
        // The command holds our copies of the pipe's writing end.
        drop(command);
        let input = self.start_input(lab, id)?;
        // A shim that does not read its stdin is none of our business.
        let _unread = child.stdin.take().map(|mut s| s.write_all(&input));
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let mut output = Vec::new();
            let read = reader.read_to_end(&mut output).map(|_| output);
            // Whoever waited may have given up.
            let _ = done.send(read);
        });
        let stdout = match ended.recv_timeout(PATIENCE) {
            Ok(output) => output.context("output of start")?,
            Err(_) => bail!("somebody holds the pipe of start (pid {})", child.id()),
        };
        let status = child.wait().context("start")?;
        Ok(Ran { status, stdout, stderr: Vec::new(), took: began.elapsed() })
    }

    /// Runs `delete` in the bundle, stdout and stderr apart.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn delete(&self, lab: &Lab, id: &str, bundle: &Path) -> Result<Ran> {
        let mut command = self.command(lab, id, bundle);
        command.arg("-bundle").arg(bundle).arg("delete");
        self.output(command)
    }

    /// Runs the binary with these arguments and nothing on stdin.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn plain(&self, lab: &Lab, args: &[&str]) -> Result<Ran> {
        let mut command = Command::new(&self.binary);
        command.args(args).envs(lab.env.iter().map(|(k, v)| (k, v)));
        self.output(command)
    }

    fn output(&self, mut command: Command) -> Result<Ran> {
        let began = Instant::now();
        let out = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", self.binary.display()))?;
        Ok(Ran { status: out.status, stdout: out.stdout, stderr: out.stderr, took: began.elapsed() })
    }

    /// Reads the answer to `start` as this containerd does.
    ///
    /// # Errors
    /// This containerd would fail the container.
    pub fn parse(&self, answer: &[u8]) -> Result<Endpoint> {
        let plain = || -> Result<Endpoint> {
            let text = std::str::from_utf8(answer).context("answer is not text")?.trim();
            ensure!(!text.is_empty(), "empty answer");
            Ok(Endpoint { version: 2, address: text.to_owned(), protocol: "ttrpc".to_owned() })
        };
        if self.flavour == Flavour::V1_6 {
            return plain();
        }
        if let Ok(result) = BootstrapResult::parse_from_bytes(answer) {
            let protocol = result.protocol;
            ensure!(protocol == "ttrpc" || protocol == "grpc", "unexpected protocol {protocol:?}");
            return Ok(Endpoint {
                version: u32::try_from(result.version)?,
                address: result.address,
                protocol,
            });
        }
        match serde_json::from_slice::<Endpoint>(answer) {
            Ok(endpoint) if endpoint.version >= 2 => Ok(endpoint),
            _ => plain(),
        }
    }
}

//! A started shim with a connection to it, and tasks in it: what a test of one container needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, protobuf::well_known_types::any::Any};
use nix::unistd::Pid;
use serde_json::Value;

use super::{
    PATIENCE,
    connection::Connection,
    fifo::FifoReader,
    lab::Lab,
    launch::{Endpoint, Shim},
};
use crate::standin::{
    procs::{self, Process},
    script::{KEY, Output, Script},
};

/// A shim that has been started.
#[derive(Debug)]
pub struct Pod {
    /// Its place; holds the counts.
    pub lab: Lab,
    /// How it was started.
    pub shim: Shim,
    /// What `start` said.
    pub endpoint: Endpoint,
    /// The connection of the first task.
    pub connection: Connection,
    /// Id of the first task.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
}

impl Pod {
    /// Runs `start` for a task with this script and dials the address.
    ///
    /// # Errors
    /// Where containerd would fail too.
    pub fn start(lab: Lab, shim: Shim, id: &str, script: &Script) -> Result<Self> {
        let bundle = lab.bundle(id, Some(id), script)?;
        let ran = shim.start(&lab, id, &bundle)?;
        ensure!(ran.status.success(), "start: {}: {}", ran.status, String::from_utf8_lossy(&ran.stdout));
        let endpoint = shim.parse(&ran.stdout)?;
        let connection = Connection::open(&endpoint.path()?, &endpoint.service())?;
        Ok(Self { lab, shim, endpoint, connection, id: id.to_owned(), bundle })
    }

    /// The wrapper's keeper.
    ///
    /// # Errors
    /// There is none: the shim runs unwrapped; or there are several.
    pub fn keeper(&self) -> Result<Process> {
        let mut keepers = procs::keepers(self.lab.namespace())?;
        ensure!(keepers.len() == 1, "one keeper expected: {keepers:?}");
        keepers.pop().context("one keeper")
    }

    /// The wrapper's worker, once it is there.
    ///
    /// # Errors
    /// As [`Pod::keeper`], or none came in time.
    pub fn worker(&self) -> Result<Process> {
        procs::next_worker(self.keeper()?.pid, None, PATIENCE)
    }

    /// The keeper that is not `before`, once it is there.
    ///
    /// # Errors
    /// None came in time.
    pub fn next_keeper(&self, before: Pid) -> Result<Process> {
        let next = || self.keeper().ok().filter(|keeper| keeper.pid != before);
        procs::wait(PATIENCE, || format!("a keeper after {before}"), next)
    }

    /// Another connection, as containerd opens one per task.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(&self.endpoint.path()?, &self.endpoint.service())
    }

    /// A connection to the stand-in itself, past whoever stands before it.
    ///
    /// # Errors
    /// The stand-in is gone, or there are several.
    pub fn connect_inner(&self) -> Result<Connection> {
        let mut sockets = self.lab.inner_sockets();
        let socket = sockets.pop().context("the stand-in has no socket")?;
        ensure!(sockets.is_empty(), "there are several stand-ins: {sockets:?}");
        Connection::open(&socket, &self.endpoint.service())
    }

    /// Makes the FIFOs of a process.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn fifos(&self, name: &str) -> Result<Fifos> {
        Fifos::create(&self.lab.fifo_dir(), name)
    }

    /// The Create of the first task.
    #[must_use]
    pub fn create_request(&self, fifos: &Fifos) -> api::CreateTaskRequest {
        create_request(&self.id, &self.bundle, fifos)
    }

    /// Puts a member into the bundle's OCI spec, in place of one of that name; before [`Pod::run`].
    ///
    /// # Errors
    /// The spec cannot be read or written, or is no object.
    pub fn specify(&self, member: &str, value: Value) -> Result<()> {
        specify(&self.bundle, member, value)
    }

    /// Create and Start of another container in this pod, with this script and these members of its spec; gives its FIFOs.
    ///
    /// # Errors
    /// One of the two was refused.
    pub fn run_beside(&self, id: &str, script: &Script, spec: &[(&str, Value)]) -> Result<Fifos> {
        let bundle = self.lab.bundle(id, Some(&self.id), script)?;
        for (member, value) in spec {
            specify(&bundle, member, value.clone())?;
        }
        let fifos = self.fifos(id)?;
        let create = create_request(id, &bundle, &fifos);
        self.connection.call("Create", &create)?.message::<api::CreateTaskResponse>()?;
        self.connection.call("Start", &start(id, ""))?.message::<api::StartResponse>()?;
        Ok(fifos)
    }

    /// An exec in the first task, from its request to its removal: its exit and its lines are right.
    ///
    /// # Errors
    /// They are not, or one of the calls was refused.
    pub fn exec(&self, id: &str) -> Result<()> {
        let script = Script { stdout: Output::lines(20, 77), exit_status: 7, ..Script::default() };
        let fifos = self.fifos(id)?;
        let c = &self.connection;
        let request = exec_request(&self.id, id, &script, &fifos);
        c.call("Exec", &request)?.message::<api::Empty>().context("Exec")?;
        let waiting = c.send("Wait", &wait(&self.id, id))?;
        c.call("Start", &start(&self.id, id))?.message::<api::StartResponse>().context("Start")?;
        let exit = c.answer(waiting, PATIENCE)?.message::<api::WaitResponse>().context("Wait")?;
        ensure!(exit.exit_status == 7, "{id} ended with {}", exit.exit_status);
        fifos.check(&script).with_context(|| id.to_owned())?;
        c.call("Delete", &delete(&self.id, id))?.message::<api::DeleteResponse>().context("Delete").map(drop)
    }

    /// Says that the shim still answers on the first connection.
    ///
    /// # Errors
    /// It does not.
    pub fn answers(&self) -> Result<()> {
        let request = connect(&self.id);
        self.connection
            .call("Connect", &request)?
            .message::<api::ConnectResponse>()
            .context("still there?")?;
        Ok(())
    }

    /// The pod answers on the first connection and on a new one, and the output of its first task goes on.
    ///
    /// # Errors
    /// One of these is not so.
    pub fn is_well(&self, fifos: &Fifos) -> Result<()> {
        self.answers().context("the old connection")?;
        let fresh = self.connect()?.call("Connect", &connect(&self.id)).context("a new connection")?;
        fresh.message::<api::ConnectResponse>().context("a new connection")?;
        let before = fifos.stdout.len_so_far();
        fifos.stdout.wait_len(before + 4000, PATIENCE).context("output goes on")
    }

    /// Create and Start of the first task; gives its FIFOs.
    ///
    /// # Errors
    /// One of the two was refused.
    pub fn run(&self) -> Result<Fifos> {
        let fifos = self.fifos(&self.id)?;
        self.connection.call("Create", &self.create_request(&fifos))?.message::<api::CreateTaskResponse>()?;
        self.connection.call("Start", &start(&self.id, ""))?.message::<api::StartResponse>()?;
        Ok(fifos)
    }

    /// Waits for the exit; gives the status.
    ///
    /// # Errors
    /// Wait was refused or not answered.
    pub fn wait(&self) -> Result<u32> {
        let answer = self.connection.call("Wait", &wait(&self.id, ""))?;
        Ok(answer.message::<api::WaitResponse>()?.exit_status)
    }

    /// Kills the task and does what containerd does at its end.
    ///
    /// # Errors
    /// One of the calls was refused.
    pub fn end(&self) -> Result<()> {
        self.connection.call("Kill", &kill(&self.id, "", 9))?.message::<api::Empty>()?;
        self.wait()?;
        self.finish()
    }

    /// Kills a container beside the first task and does what containerd does at its end.
    ///
    /// # Errors
    /// One of the calls was refused.
    pub fn end_beside(&self, id: &str) -> Result<()> {
        let c = &self.connection;
        let waiting = c.send("Wait", &wait(id, ""))?;
        c.call("Kill", &kill(id, "", 9))?.message::<api::Empty>()?;
        c.answer(waiting, PATIENCE)?.message::<api::WaitResponse>()?;
        c.call("Delete", &delete(id, ""))?.message::<api::DeleteResponse>().map(drop)
    }

    /// Kills the task, which writes this to stdout until then, and does what containerd does at its end: every line that it came to
    /// is in its place.
    ///
    /// # Errors
    /// One is not, or one of the calls was refused.
    pub fn end_whole(&self, fifos: &Fifos, output: &Output) -> Result<()> {
        self.connection.call("Kill", &kill(&self.id, "", 9))?.message::<api::Empty>()?;
        ensure!(self.wait()? == 137, "exit status");
        let out = fifos.stdout.to_end(PATIENCE)?;
        let lines = u64::try_from(out.len() / output.line_bytes)? + 1;
        let mut want = Output { lines, ..output.clone() }.bytes("stdout");
        want.truncate(out.len());
        ensure!(out == want, "{} bytes, not all in their place", out.len());
        self.finish()
    }

    /// Delete and Shutdown, as containerd does at the end of a task.
    ///
    /// # Errors
    /// Delete was refused.
    pub fn finish(&self) -> Result<()> {
        self.connection.call("Delete", &delete(&self.id, ""))?.message::<api::DeleteResponse>()?;
        let down = api::ShutdownRequest { id: self.id.clone(), ..Default::default() };
        // Its answer may be lost with the shim; containerd does not mind either.
        let stream = self.connection.send("Shutdown", &down)?;
        let _answered_or_closed = self.connection.answer(stream, PATIENCE);
        Ok(())
    }
}

/// The FIFOs of one process, both being read.
#[derive(Debug)]
pub struct Fifos {
    /// Reader of stdout.
    pub stdout: FifoReader,
    /// Reader of stderr.
    pub stderr: FifoReader,
}

impl Fifos {
    /// Makes `<name>-stdout` and `<name>-stderr` in `dir`.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            stdout: FifoReader::create(&dir.join(format!("{name}-stdout")))?,
            stderr: FifoReader::create(&dir.join(format!("{name}-stderr")))?,
        })
    }

    /// As [`Fifos::create`], but nothing is read for now.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn create_stalled(dir: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            stdout: FifoReader::create_stalled(&dir.join(format!("{name}-stdout")))?,
            stderr: FifoReader::create_stalled(&dir.join(format!("{name}-stderr")))?,
        })
    }

    /// Says that both streams carried exactly what the script wrote, and ended.
    ///
    /// # Errors
    /// Names the stream and the first byte that differs.
    pub fn check(&self, script: &Script) -> Result<()> {
        for (name, reader, output) in
            [("stdout", &self.stdout, &script.stdout), ("stderr", &self.stderr, &script.stderr)]
        {
            let (have, want) = (reader.to_end(PATIENCE)?, output.bytes(name));
            let differs = have.iter().zip(&want).position(|(a, b)| a != b);
            ensure!(
                have == want,
                "{name}: {} bytes of {}, first difference at {:?}",
                have.len(),
                want.len(),
                differs.unwrap_or(have.len().min(want.len()))
            );
        }
        Ok(())
    }
}

fn specify(bundle: &Path, member: &str, value: Value) -> Result<()> {
    let path = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path).context("config.json")?)?;
    spec.as_object_mut().context("config.json is no object")?.insert(member.to_owned(), value);
    fs::write(&path, spec.to_string()).context("config.json")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A Create with FIFOs.
#[must_use]
pub fn create_request(id: &str, bundle: &Path, fifos: &Fifos) -> api::CreateTaskRequest {
    api::CreateTaskRequest {
        id: id.to_owned(),
        bundle: text(bundle),
        stdout: text(fifos.stdout.path()),
        stderr: text(fifos.stderr.path()),
        ..Default::default()
    }
}

/// An Exec whose spec carries the script.
#[must_use]
pub fn exec_request(id: &str, exec_id: &str, script: &Script, fifos: &Fifos) -> api::ExecProcessRequest {
    let spec = serde_json::json!({"args": ["scripted"], KEY: script});
    let spec = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
        value: spec.to_string().into_bytes(),
        ..Default::default()
    };
    api::ExecProcessRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        stdout: text(fifos.stdout.path()),
        stderr: text(fifos.stderr.path()),
        spec: Some(spec).into(),
        ..Default::default()
    }
}

/// A Connect.
#[must_use]
pub fn connect(id: &str) -> api::ConnectRequest {
    api::ConnectRequest { id: id.to_owned(), ..Default::default() }
}

/// A Start.
#[must_use]
pub fn start(id: &str, exec_id: &str) -> api::StartRequest {
    api::StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() }
}

/// A Wait.
#[must_use]
pub fn wait(id: &str, exec_id: &str) -> api::WaitRequest {
    api::WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() }
}

/// A State.
#[must_use]
pub fn state(id: &str, exec_id: &str) -> api::StateRequest {
    api::StateRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() }
}

/// A Kill.
#[must_use]
pub fn kill(id: &str, exec_id: &str, signal: u32) -> api::KillRequest {
    api::KillRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), signal, ..Default::default() }
}

/// A Delete.
#[must_use]
pub fn delete(id: &str, exec_id: &str) -> api::DeleteRequest {
    api::DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() }
}

/// A Stats.
#[must_use]
pub fn stats(id: &str) -> api::StatsRequest {
    api::StatsRequest { id: id.to_owned(), ..Default::default() }
}

//! `ctr`, containerd's own client: runs containers the way the node's shim asks for.
//!
//! Every call has a limit. Containers live in the node's namespace, in cgroups below its mark.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::image::IMAGE;
use crate::rig::run::{Finished, Running, run};
use crate::rig::{Hook, Node, Shim, eventually};

/// How long one call may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

impl Node {
    /// A `ctr` in the node's namespace, for what the methods below do not cover.
    pub fn ctr_command(&self, arguments: &[&str]) -> Command {
        self.command_in(self.namespace(), arguments)
    }

    fn command_in(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.tools().ctr);
        command.arg("-a").arg(self.socket()).args(["-n", namespace]).args(arguments);
        command
    }

    /// Runs `ctr` with `arguments` to its end.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.ctr_command(arguments), LIMIT)
    }

    /// The same in another containerd namespace (`k8s.io` is CRI's).
    pub fn ctr_in(&self, namespace: &str, arguments: &[&str]) -> Result<Finished> {
        run(self.command_in(namespace, arguments), LIMIT)
    }

    /// `ctr run FLAGS IMAGE id COMMAND` with the node's shim, not started yet.
    pub fn run_command(&self, id: &str, flags: &[&str], command: &[&str]) -> Command {
        self.note(self.namespace(), id);
        let fifos = self.dir().join("fifo");
        let host = format!("type=bind,src={},dst=/host,options=rbind:rw", self.host_dir().display());
        let mut ctr = self.ctr_command(&["run", "--fifo-dir"]);
        ctr.arg(fifos).args(["--mount", &host, "--cgroup", &format!("/{}/{id}", self.mark())]);
        match self.shim() {
            shim if self.foreign().is_some() => {
                ctr.arg("--runtime").args(self.foreign().map(|foreign| foreign.runtime(shim)))
            }
            Shim::Wrapped(Hook::Path) => ctr.arg("--runtime").arg(self.wrapper()),
            Shim::Wrapped(Hook::Name) => ctr.args(["--runtime", "io.containerd.tap-runc.v2"]),
            Shim::Unwrapped | Shim::Wrapped(Hook::Opt) => ctr.args(["--runtime", "io.containerd.runc.v2"]),
        };
        ctr.args(flags).args([IMAGE, id]).args(command);
        ctr
    }

    /// `ctr run --rm`: a container in the foreground, to its end.
    pub fn run(&self, id: &str, command: &[&str]) -> Result<Finished> {
        run(self.run_command(id, &["--rm"], command), LIMIT)
    }

    /// The same beside the test.
    pub fn run_beside(&self, id: &str, flags: &[&str], command: &[&str]) -> Result<Running> {
        Running::start(self.run_command(id, flags, command))
    }

    /// `ctr run --detach`: a container that nobody reads from.
    pub fn run_detached(&self, id: &str, command: &[&str]) -> Result<()> {
        let mut flags = vec!["--detach"];
        // Without a reader the client would leave FIFOs that fill up: its output is not wanted.
        flags.push("--null-io");
        run(self.run_command(id, &flags, command), LIMIT)?.ok().with_context(|| format!("run {id}"))?;
        Ok(())
    }

    /// `ctr tasks exec`: another process in a container, to its end.
    pub fn exec(&self, id: &str, command: &[&str]) -> Result<Finished> {
        run(self.exec_command(id, &[], command), LIMIT)
    }

    /// The same, not started yet.
    pub fn exec_command(&self, id: &str, flags: &[&str], command: &[&str]) -> Command {
        let exec_id = format!("x{}", crate::rig::node::number());
        let fifos = self.dir().join("fifo");
        let mut ctr = self.ctr_command(&["tasks", "exec", "--exec-id", &exec_id, "--fifo-dir"]);
        ctr.arg(fifos).args(flags).arg(id).args(command);
        ctr
    }

    /// Sends a signal to a container's init process.
    pub fn kill(&self, id: &str, signal: &str) -> Result<Finished> {
        self.ctr(&["tasks", "kill", "--signal", signal, id])
    }

    /// Status of a task as `ctr tasks ls` shows it (RUNNING, STOPPED …); none where there is no such task.
    pub fn task_status(&self, id: &str) -> Result<Option<String>> {
        let list = self.ctr(&["tasks", "ls"])?.ok().context("list the tasks")?.text();
        let row = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut rows = row.filter(|row| row.first() == Some(&id));
        Ok(rows.next().and_then(|row| row.get(2).map(|status| (*status).to_owned())))
    }

    /// Waits until a task has `status`.
    pub fn await_status(&self, id: &str, status: &str) -> Result<()> {
        eventually(LIMIT, &format!("task {id} to be {status}"), || {
            Ok((self.task_status(id)?.as_deref() == Some(status)).then_some(()))
        })
    }

    /// Kills a container if it runs, deletes its task and itself, and waits until it is gone.
    pub fn remove(&self, id: &str) -> Result<()> {
        if self.task_status(id)?.is_some() {
            // Fails where it has ended by itself, which is what is wanted.
            let _ = self.kill(id, "SIGKILL")?;
            self.await_status(id, "STOPPED")?;
            self.ctr(&["tasks", "delete", id])?.ok().with_context(|| format!("delete task {id}"))?;
        }
        self.ctr(&["containers", "delete", id])?.ok().with_context(|| format!("delete container {id}"))?;
        Ok(())
    }
}

//! What of a node lives, and its end: first the proof that containers left nothing behind, then the removal
//! of everything, whatever the proof says.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Node, locked};
use crate::rig::process::{self, Process};
use crate::rig::{eventually, leftovers};

/// How long processes may take to vanish after their containers were deleted.
const SETTLE: Duration = Duration::from_secs(60);

impl Node {
    /// All living processes of this node.
    pub fn processes(&self) -> Result<Vec<Process>> {
        // The wrappers' folder may lie elsewhere; their lock is open for as long as they live.
        process::marked(&self.mark, [&self.dir, &self.run_dir()])
    }

    /// The wrapper's processes of that role (`tap-keeper`, `tap-worker`).
    pub fn wrappers(&self, role: &str) -> Result<Vec<Process>> {
        Ok(self.processes()?.into_iter().filter(|process| process.is_role(role)).collect())
    }

    /// The real shims of this node.
    pub fn inner_shims(&self) -> Result<Vec<Process>> {
        let real = self.foreign().map(|foreign| (foreign.file(""), foreign.program.file_name()));
        let is_inner = |process: &Process| {
            let program = process.program();
            let is_real = match &real {
                // It may call itself by its link's name or by its own.
                Some((link, file)) => program == link || file.is_some_and(|file| file == program),
                None => program == "containerd-shim-runc-v2",
            };
            is_real && !process.is_role("tap-keeper") && !process.is_role("tap-worker")
        };
        Ok(self.processes()?.into_iter().filter(is_inner).collect())
    }

    /// Demands that nothing is left, stops everything, and demands it again.
    pub fn finish(self) -> Result<()> {
        let wanted = "its containers' processes to be gone";
        let others =
            || self.processes().map(|all| all.into_iter().filter(|p| !self.is_own(p)).collect::<Vec<_>>());
        let settled = eventually(SETTLE, wanted, || Ok(others()?.is_empty().then_some(())));
        settled.with_context(|| format!("left: {:#?}\n{}", others().unwrap_or_default(), self.log_tail()))?;
        let mounts = leftovers::mounts_below(&self.dir)?;
        ensure!(mounts.is_empty(), "mounts are left: {mounts:#?}\n{}", self.log_tail());
        self.stop_daemon(Signal::SIGTERM)?;
        let collector = locked(&self.collector).take();
        if let Some(collector) = collector {
            collector.stop()?;
        }
        let processes = self.processes()?;
        ensure!(processes.is_empty(), "processes are left: {processes:#?}");
        if self.is_wrapped() {
            let mut files = leftovers::live_files(&self.run_dir())?;
            files.extend(self.shim_sockets().into_iter().filter(|socket| socket.exists()));
            ensure!(files.is_empty(), "files are left: {files:#?}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The rig's own processes: the daemon, and the collector where there is one.
    fn is_own(&self, process: &Process) -> bool {
        let daemon = locked(&self.daemon).as_ref().map(|child| child.id());
        let collector = locked(&self.collector).as_ref().map(|collector| collector.pid());
        i32::try_from(daemon.unwrap_or(0)).is_ok_and(|pid| pid == process.pid)
            || collector.is_some_and(|pid| pid == process.pid)
    }

    /// Where the inner shims of this node listen.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let dir = if self.tools.is_v2() { self.dir.join("s") } else { PathBuf::from("/run/containerd/s") };
        let ids = locked(&self.ids);
        ids.iter().map(|(ns, id)| dir.join(leftovers::socket_name(&self.socket(), ns, id))).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Everything of this node, by pid; nothing here may hide the failure that brought us here.
        let gone = eventually(SETTLE, "the end of all of the node's processes", || {
            let all = self.processes()?;
            for process in &all {
                let _ = process::signal(process.pid, Signal::SIGKILL);
            }
            if let Some(child) = locked(&self.daemon).as_mut() {
                let _ = child.try_wait();
            }
            Ok(all.is_empty().then_some(()))
        });
        if let Err(fault) = gone {
            eprintln!("rig: {fault:#}");
        }
        for socket in self.shim_sockets() {
            let _ = fs::remove_file(socket);
        }
        leftovers::unmount_below(&self.dir);
        leftovers::remove_cgroups(&self.mark);
        let _ = fs::remove_dir_all(self.spool_dir());
        if let Err(fault) = fs::remove_dir_all(&self.dir) {
            eprintln!("rig: {} stays: {fault}", self.dir.display());
        }
    }
}

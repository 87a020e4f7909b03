//! A Kata sandbox with all that it has on its host: a wrapped stand-in of one of Kata's shims where kata-deploy installs it, with its household
//! and what it keeps below /run ([`household`], [`run_files`]), and a cgroup of its own.
//!
//! Kata's folder and the cgroups are the machine's: everything goes with the sandbox, also where a test fails.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    PATIENCE,
    pod::{self, Fifos, Pod},
    spooled::gone,
    wrapped::{STANDIN, WRAPPER, binary, wrapped_as},
};
use crate::{
    oracle::cgroup,
    rig::eventually,
    standin::{
        journal::Kind,
        kata::{
            Profile,
            guest::{Cgroup, Guest},
            household, run_files,
        },
        script::Script,
    },
};

/// A pod and what it left on this machine, which goes with it.
#[derive(Debug)]
pub struct Sandbox {
    /// The pod.
    pub pod: Pod,
    _fifos: Fifos,
    profile: Profile,
    cgroup: Option<String>,
}

/// How a sandbox is set up.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// How its id begins.
    pub name: &'a str,
    /// What its shim says that it is.
    pub release: &'a str,
    /// Whose shim it is.
    pub profile: Profile,
    /// `qemu`, `cloud-hypervisor` or `firecracker`.
    pub hypervisor: &'a str,
    /// The network namespace (a file) that its hypervisor is in; none = the host's.
    pub network: Option<&'a Path>,
    /// The host may not look into its guest.
    pub confidential: bool,
    /// What its container does.
    pub script: Script,
    /// More of its container's specification, by key.
    pub spec: Vec<(&'static str, Value)>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self {
            name: "s",
            release: "4.1.0",
            profile: Profile::Rust,
            hypervisor: "qemu",
            network: None,
            confidential: false,
            spec: Vec::new(),
            script: Script { guest: Some(Guest::worked(Cgroup::V2)), ..Script::stayer() },
        }
    }
}

impl Wanted<'_> {
    /// Its id. Kata's folder is the machine's: one that no other test has.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.name, std::process::id())
    }

    /// Runs it; its wrapper attaches to the collector at `collector`.
    ///
    /// # Errors
    /// A file, a process or a request did not come to what it should.
    pub fn run(&self, collector: &Path) -> Result<Sandbox> {
        let id = self.id();
        let pod = wrapped_as(&id, &self.script, |lab| {
            let below =
                if self.profile == Profile::Rust { "opt/kata/runtime-rs/bin" } else { "opt/kata/bin" };
            let dir = lab.dir().join(below);
            fs::create_dir_all(&dir).context("a folder for the shim")?;
            let path = dir.join("containerd-shim-kata-v2");
            household::linked(&binary(STANDIN)?, &path)?;
            fs::write(dir.join("release"), self.release).context("a release")?;
            lab.wrap(WRAPPER, &path)?;
            lab.env.push((Profile::KEY.to_owned(), self.profile.word().to_owned()));
            lab.env.push((household::KEY.to_owned(), self.hypervisor.to_owned()));
            if self.confidential {
                lab.env.push((run_files::CONFIDENTIAL.to_owned(), "1".to_owned()));
            }
            if let Some(network) = self.network {
                lab.env.push((household::NETWORK.to_owned(), network.display().to_string()));
            }
            lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), collector.display().to_string()));
            Ok(())
        })?;
        for (key, value) in &self.spec {
            pod.specify(key, value.clone())?;
        }
        let fifos = pod.run()?;
        // containerd asks that at every Create.
        pod.answers()?;
        Ok(Sandbox { pod, _fifos: fifos, profile: self.profile, cgroup: None })
    }
}

impl Sandbox {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.pod.id
    }

    /// Processes of its household by the name of their program.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&self, name: &str) -> Result<Vec<i32>> {
        let path = self.pod.lab.inner_dir().join("kata-bin").join(name);
        let all = fs::read_dir("/proc").context("/proc")?.flatten();
        let is_it = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path);
        Ok(all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_it).collect())
    }

    /// Puts hypervisor and virtiofsd where the Rust shim would: into one cgroup that bears the sandbox's id; gives its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn confine(&mut self, hypervisor: &str) -> Result<String> {
        // A process has its program's name only when it runs that.
        let pids = eventually(PATIENCE, "hypervisor and virtiofsd", || {
            let (vmm, files) = (self.processes(hypervisor)?, self.processes("virtiofsd")?);
            Ok((vmm.len() == 1 && files.len() == 2).then(|| [vmm, files].concat()))
        })?;
        let path = format!("shimtap/{}", self.id());
        self.cgroup = Some(path.clone());
        for root in cgroup_roots() {
            let dir = root.join(&path);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            if cgroup::is_v2() {
                for dir in [&root, &root.join("shimtap")] {
                    fs::write(dir.join("cgroup.subtree_control"), "+memory +cpu +pids +io")
                        .context("controllers")?;
                }
            }
            for pid in &pids {
                fs::write(dir.join("cgroup.procs"), pid.to_string()).context("moving a process")?;
            }
        }
        Ok(path)
    }

    /// What came to its shim-monitor, to QMP and to the console, which are nobody's to use: `socket: request`, one by one.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn touched(&self) -> Result<Vec<String>> {
        let all = self.pod.lab.requests()?.into_iter().filter(|entry| entry.kind == Kind::Touched);
        Ok(all.map(|entry| format!("{}: {}", entry.service, entry.method)).collect())
    }

    /// Its shim-monitor.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        let below = if self.profile == Profile::Rust { "/run/kata" } else { "/run/vc/sbs" };
        Path::new(below).join(self.id()).join("shim-monitor.sock")
    }

    /// Ends it, and takes away what it left. Nobody may have come to what is its shim's alone.
    ///
    /// # Errors
    /// A request failed, or somebody came.
    pub fn end(mut self) -> Result<()> {
        let touched = self.touched()?;
        ensure!(touched.is_empty(), "somebody came to what is the shim's alone: {touched:?}");
        self.pod.connection.call("Kill", &pod::kill(&self.pod.id, "", 9))?.message::<api::Empty>()?;
        self.pod.wait()?;
        self.pod.finish()?;
        // Its lab ends a wrapper that is still there, and then nobody would have told the collector of its end.
        gone(&self.pod)?;
        self.clear();
        Ok(())
    }

    /// Takes away what it left.
    pub fn clear(&mut self) {
        run_files::remove(self.id(), self.profile);
        for name in ["qemu-system-x86_64", "cloud-hypervisor", "firecracker", "virtiofsd"] {
            for pid in self.processes(name).unwrap_or_default() {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for shared in ["/run/kata", "/run/vc/sbs", "/run/vc/vm", "/run/vc"] {
            let _used = fs::remove_dir(shared);
        }
        let Some(path) = self.cgroup.take() else { return };
        for root in cgroup_roots() {
            // A cgroup can be removed when the last of its processes was waited for.
            let removed = eventually(PATIENCE, "an empty cgroup", || {
                let _busy = fs::remove_dir(root.join(&path));
                Ok((!root.join(&path).exists()).then_some(()))
            });
            if let Err(why) = removed {
                eprintln!("{path} stays: {why:#}");
            }
            let _shared = fs::remove_dir(root.join("shimtap"));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.clear();
    }
}

fn cgroup_roots() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let v1 = ["memory", "cpuacct", "cpu", "pids", "blkio"];
    if cgroup::is_v2() {
        vec![root.to_owned()]
    } else {
        v1.iter().map(|controller| root.join(controller)).collect()
    }
}

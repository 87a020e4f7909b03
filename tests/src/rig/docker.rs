//! A private dockerd and a nerdctl on a node's containerd: their containers run through the node's default runtime.
//!
//! dockerd has folders, a socket and a containerd namespace of its own and touches no network of the machine's: no bridge, no
//! iptables. Both are foreign programs that `./dev` puts below the rig's cache; neither is installed on the machine.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::run::{Finished, run};
use crate::rig::{Node, eventually, image, process, tools};

const LIMIT: Duration = Duration::from_secs(90);

/// What containers of both are made of: the rig's own image, by the name that dockerd gives what it imports.
pub const IMAGE: &str = "shimtap/rig:1";

/// A dockerd that runs.
#[derive(Debug)]
pub struct Docker<'a> {
    node: &'a Node,
    daemon: Child,
    dir: PathBuf,
}

impl Node {
    /// Starts a dockerd on this node's containerd, with the rig's image.
    pub fn docker(&self) -> Result<Docker<'_>> {
        let dir = self.dir().join("docker");
        fs::create_dir_all(&dir).context("create dockerd's folder")?;
        fs::write(dir.join("daemon.json"), "{}").context("write daemon.json")?;
        let log = fs::File::create(dir.join("log")).context("create its log")?;
        let mut command = Command::new(tools::dockerd()?);
        self.environment(&mut command);
        for (flag, path) in [
            ("--config-file", dir.join("daemon.json")),
            ("--containerd", self.socket()),
            ("--data-root", dir.join("root")),
            ("--exec-root", dir.join("exec")),
            ("--pidfile", dir.join("pid")),
        ] {
            command.arg(flag).arg(path);
        }
        command.arg("--host").arg(format!("unix://{}", dir.join("d.sock").display()));
        command.args(["--containerd-namespace", self.namespace()]);
        command.arg(format!("--containerd-plugins-namespace={}-plugins", self.namespace()));
        command.arg(format!("--cgroup-parent=/{}", self.mark()));
        command.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
        command.args(["--bridge=none", "--storage-driver=vfs", "--oom-score-adjust=0", "--group=root"]);
        command.process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let daemon = command.spawn().context("start dockerd")?;
        let mut docker = Docker { node: self, daemon, dir };
        docker.await_ready()?;
        docker.import_image()?;
        Ok(docker)
    }

    /// Runs `nerdctl` with `arguments` on this node to its end.
    pub fn nerdctl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(tools::nerdctl()?);
        self.environment(&mut command);
        command.arg("--address").arg(self.socket()).args(["--namespace", self.namespace()]);
        command.arg("--data-root").arg(self.dir().join("nerdctl"));
        command.arg("--cni-netconfpath").arg(self.dir().join("nerdctl-cni"));
        command.args(["--cni-path", "/usr/lib/cni", "--cgroup-manager", "cgroupfs"]).args(arguments);
        run(command, LIMIT)
    }

    /// The same for `run FLAGS IMAGE COMMAND`, in the node's cgroup and without a network; the container's id, where it is
    /// detached.
    pub fn nerdctl_run(&self, flags: &[&str], command: &[&str]) -> Result<Finished> {
        let parent = format!("/{}", self.mark());
        let fixed = ["run", "--net", "none", "--cgroup-parent", &parent];
        let said = self.nerdctl(&[&fixed[..], flags, &[image::IMAGE], command].concat())?;
        self.note_printed(&said);
        Ok(said)
    }

    /// A client that starts a container detached prints its id.
    fn note_printed(&self, said: &Finished) {
        let text = said.text();
        let id = text.lines().last().unwrap_or_default();
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            self.note(self.namespace(), id);
        }
    }
}

impl Docker<'_> {
    fn await_ready(&mut self) -> Result<()> {
        let log = self.dir.join("log");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        eventually(LIMIT, "dockerd to answer", || {
            let ended = self.daemon.try_wait().context("ask for its exit")?;
            ensure!(ended.is_none(), "dockerd ended with {ended:?}");
            Ok(self.client(&["version"]).is_ok_and(|said| said.code == 0).then_some(()))
        })
        .with_context(said)
    }

    /// dockerd of that age loads no OCI layout, but takes the one layer that the rig's image has.
    fn import_image(&self) -> Result<()> {
        let layer = self.dir.join("layer.tar");
        let index: Value = serde_json::from_slice(&from_archive("index.json")?).context("read the index")?;
        let manifest: Value =
            serde_json::from_slice(&from_archive(&blob(index.pointer("/manifests/0/digest"))?)?)
                .context("read the manifest")?;
        let bytes = from_archive(&blob(manifest.pointer("/layers/0/digest"))?)?;
        fs::write(&layer, bytes).context("write the layer")?;
        let layer_path = layer.to_str().context("the layer's path is no UTF-8")?;
        self.client(&["import", "--change", "ENV PATH=/bin", layer_path, IMAGE])?
            .ok()
            .context("import the image")?;
        fs::remove_file(&layer).context("remove the layer")
    }

    /// Runs `docker` with `arguments` to its end.
    pub fn client(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(tools::docker()?);
        // The caller's own settings are none of ours.
        command.env("DOCKER_CONFIG", self.dir.join("client"));
        command.arg("--host").arg(format!("unix://{}", self.dir.join("d.sock").display())).args(arguments);
        let said = run(command, LIMIT)?;
        self.node.note_printed(&said);
        Ok(said)
    }

    /// `docker run FLAGS IMAGE COMMAND` without a network.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Result<Finished> {
        self.client(&[&["run", "--network", "none"], flags, &[IMAGE], command].concat())
    }

    /// Ends it and waits for its end; what it runs is to be gone before.
    pub fn stop(mut self) -> Result<()> {
        process::signal(i32::try_from(self.daemon.id()).context("a pid")?, Signal::SIGTERM)?;
        eventually(LIMIT, "dockerd to end", || self.daemon.try_wait().context("ask for its exit"))?;
        Ok(())
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // Both fail only where it has ended already; what it leaves carries the node's mark.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The place of a blob in the image's archive.
fn blob(digest: Option<&Value>) -> Result<String> {
    let digest = digest.and_then(Value::as_str).context("no digest")?;
    let hex =
        digest.strip_prefix("sha256:").with_context(|| format!("a digest of another kind: {digest}"))?;
    Ok(format!("blobs/sha256/{hex}"))
}

/// One file of the image's archive.
fn from_archive(name: &str) -> Result<Vec<u8>> {
    let archive: &Path = &image::archive()?;
    let mut tar = Command::new("tar");
    // It may or may not have a leading `./`.
    tar.arg("-xOf").arg(archive).args(["--wildcards", &format!("*{name}")]);
    Ok(run(tar, LIMIT)?.ok().with_context(|| format!("take {name} from the image"))?.stdout)
}

//! What the process of a containerd says and its files do not: its command line, its unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use shimtap_tests::oracle::cgroup;
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Node, Version, eventually};

use super::ways::{Held, LIMIT, command_of, files, on_a_plain_node, same, shimtap};

mod packaged {
    #[test]
    #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
    fn bundles_are_where_the_command_line_says() -> anyhow::Result<()> {
        super::bundles_are_where_the_command_line_says(super::Version::Packaged)
    }
}

/// As k0s and MicroK8s start theirs: bundles lie where the command line says. A link that one of them names is not taken away.
fn bundles_are_where_the_command_line_says(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let other = Other::start(node)?;
        let before = files(node.dir())?;
        other.shimtap("install", &["--yes", "--hook", "opt"])?.ok()?;
        let link = node.dir().join("opt/bin/containerd-shim-runc-v2");
        let bundle = node.dir().join("elsewhere/io.containerd.runtime.v2.task/k8s.io/lives");
        fs::create_dir_all(&bundle).context("a container's bundle")?;
        fs::write(bundle.join("shim-binary-path"), link.as_os_str().as_encoded_bytes())
            .context("its shim")?;
        let said = other.shimtap("uninstall", &["--yes"])?.ok()?.text();
        ensure!(said.contains("stays while containers run"), "it said {said}");
        ensure!(link.is_symlink(), "the link that a bundle names is gone");
        fs::remove_dir_all(&bundle).context("the container ends")?;
        other.shimtap("uninstall", &["--yes"])?.ok()?;
        same(&before, &files(node.dir())?)
    })
}

mod pinned {
    #[test]
    #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
    fn a_restart_that_fails_takes_back_one_installation() -> anyhow::Result<()> {
        super::a_restart_that_fails_takes_back_one_installation(super::Version::Pinned)
    }
}

/// A containerd in a unit that systemd does not know cannot be restarted, as one that does not come up. What was installed before
/// holds as before, with a record that knows the way back from there; but a link that a living container came by stays.
fn a_restart_that_fails_takes_back_one_installation(version: Version) -> Result<()> {
    let unit = Unit::make()?;
    on_a_plain_node(version, |node| {
        unit.take(node)?;
        let main = node.dir().join("containerd.toml");
        let handler = format!(
            "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.other]\n\
             runtime_type = \"io.containerd.runc.v2\"\nruntime_path = {:?}\n",
            node.tools().runc_shim
        );
        let plain = fs::read_to_string(&main).context("read the main file")?;
        fs::write(&main, format!("{plain}{handler}")).context("add a handler")?;
        let before = files(node.dir())?;
        shimtap(node, "install", &["--yes", "runc"])?.ok()?;
        let first = files(node.dir())?;
        ensure!(before != first, "nothing was installed");
        let fails = || -> Result<()> {
            let said = shimtap(node, "install", &["--yes", "--restart", "other"])?;
            let is_why = said.stderr.contains("everything was put back");
            ensure!(said.code == 1 && is_why && said.stderr.contains(&unit.name), "it said {said:?}");
            Ok(())
        };
        fails()?;
        same(&first, &files(node.dir())?)?;

        let link = node.dir().join("state/hooks/containerd-shim-tap-other-v2");
        let bundle = node.dir().join("state/io.containerd.runtime.v2.task/k8s.io/lives");
        fs::create_dir_all(&bundle).context("a container's bundle")?;
        fs::write(bundle.join("shim-binary-path"), link.as_os_str().as_encoded_bytes())
            .context("its shim")?;
        fails()?;
        ensure!(link.is_symlink(), "the link that a bundle names is gone");
        let is_containerd_s = |file: &Held| file.path == main || file.path.ends_with("zz-shimtap.toml");
        let of_containerd = |all: &[Held]| -> Vec<Held> {
            all.iter().filter(|file| is_containerd_s(file)).cloned().collect()
        };
        same(&of_containerd(&first), &of_containerd(&files(node.dir())?))?;
        fs::remove_dir_all(&bundle).context("the container ends")?;
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        same(&before, &files(node.dir())?)
    })
}

/// A cgroup by whose name its processes are in a unit. It goes with it.
struct Unit {
    name: String,
    cgroup: PathBuf,
}

impl Unit {
    fn make() -> Result<Self> {
        let name = format!("shimtap-test-{}.service", std::process::id());
        let cgroup =
            Path::new("/sys/fs/cgroup").join(if cgroup::is_v2() { "" } else { "freezer" }).join(&name);
        fs::create_dir(&cgroup).context("make a cgroup")?;
        Ok(Self { name, cgroup })
    }

    /// Takes a node's containerd in.
    fn take(&self, node: &Node) -> Result<()> {
        let all = node.processes()?;
        let daemon = all.iter().find(|process| process.program() == "containerd").context("no containerd")?;
        fs::write(self.cgroup.join("cgroup.procs"), daemon.pid.to_string()).context("move it there")?;
        let says = fs::read_to_string(format!("/proc/{}/cgroup", daemon.pid)).context("where it is")?;
        let other = says.lines().find(|line| line.contains(".service") && !line.ends_with(&self.name));
        // That one would be restarted.
        ensure!(other.is_none(), "these tests run in a unit of cgroup v1: {other:?}");
        Ok(())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Empty by then, unless the node is left, which says so itself.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// A second containerd beside a node's own, which has its state's folder by its command line alone.
struct Other<'a> {
    node: &'a Node,
    daemon: Child,
}

impl<'a> Other<'a> {
    fn start(node: &'a Node) -> Result<Self> {
        let dir = node.dir();
        let text = fs::read_to_string(dir.join("containerd.toml")).context("read the main file")?;
        let of = |folder: &str| format!("{:?}", dir.join(folder));
        let text = text
            .replace(&format!("state = {}\n", of("state")), "")
            .replace(&of("root"), &of("other-root"))
            .replace("c.sock", "other.sock");
        ensure!(!text.contains("state = "), "its file names a state: {text}");
        let main = dir.join("other.toml");
        fs::write(&main, text).context("write its main file")?;
        let mut command = Command::new(&node.tools().containerd);
        command.arg("--config").arg(main).arg("--state").arg(dir.join("elsewhere"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let other = Self { node, daemon: command.spawn().context("start it")? };
        // Whose tasks it has looked for by then.
        let socket = dir.join("other.sock");
        eventually(LIMIT, "the other containerd", || Ok(socket.exists().then_some(())))?;
        Ok(other)
    }

    fn shimtap(&self, verb: &str, args: &[&str]) -> Result<Finished> {
        run(command_of(self.node, &self.node.dir().join("other.toml"), verb, args)?, LIMIT)
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has said by then.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

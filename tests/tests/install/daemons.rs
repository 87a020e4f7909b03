//! What the process of a containerd says and its files do not: its command line, its unit.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::oracle::cgroup;
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Node, Version, eventually, process};

use super::ways::{Held, LIMIT, command_of, files, on_a_plain_node, same, shimtap};

mod packaged {
    #[test]
    #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
    fn bundles_are_where_the_command_line_says() -> anyhow::Result<()> {
        super::bundles_are_where_the_command_line_says(super::Version::Packaged)
    }

    #[test]
    #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
    fn one_in_a_container_is_none_of_the_node() -> anyhow::Result<()> {
        super::one_in_a_container_is_none_of_the_node(super::Version::Packaged)
    }
}

/// As k0s and MicroK8s start theirs: bundles lie where the command line says. A link that one of them names is not taken away.
fn bundles_are_where_the_command_line_says(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let text = fs::read_to_string(node.dir().join("containerd.toml")).context("read the main file")?;
        let of_file = format!("state = {:?}\n", node.dir().join("state"));
        ensure!(text.contains(&of_file), "no {of_file} in {text}");
        let main = node.dir().join("other.toml");
        fs::write(&main, text.replace(&of_file, "").replace("c.sock", "other.sock"))
            .context("write its main file")?;
        let other = Other::start(node, &main, &[])?;
        let before = files(node.dir())?;
        other.shimtap("install", &["--yes", "--hook", "opt"])?.ok()?;
        let link = node.dir().join("opt/bin/containerd-shim-runc-v2");
        let bundle = node.dir().join("elsewhere/io.containerd.runtime.v2.task/k8s.io/lives");
        fs::create_dir_all(&bundle).context("a container's bundle")?;
        fs::write(bundle.join("shim-binary-path"), link.as_os_str().as_encoded_bytes())
            .context("its shim")?;
        // As an earlier release has noted it, which looked at the files alone.
        let path = node.dir().join("state/install.json");
        let record = fs::read_to_string(&path).context("the record")?;
        let [own, noted] =
            ["elsewhere", "state"].map(|dir| format!("\"bundles\": {:?}", node.dir().join(dir)));
        ensure!(record.contains(&own), "no {own} in {record}");
        fs::write(&path, record.replace(&own, &noted)).context("an older record")?;
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
        let fails = || -> Result<()> {
            let said = shimtap(node, "install", &["--yes", "--restart", "other"])?;
            let is_why = said.stderr.contains("everything was put back");
            ensure!(said.code == 1 && is_why && said.stderr.contains(&unit.name), "it said {said:?}");
            Ok(())
        };
        fails()?;
        same(&before, &files(node.dir())?).context("the first of all")?;
        shimtap(node, "install", &["--yes", "runc"])?.ok()?;
        let first = files(node.dir())?;
        ensure!(before != first, "nothing was installed");
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

/// As with kind: one that reads a file of the same path in a container is not the node's. Where two of the node do, neither is taken.
fn one_in_a_container_is_none_of_the_node(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let main = node.dir().join("containerd.toml");
        let text = fs::read_to_string(&main).context("read the main file")?;
        let [before, after] = text.split("[ttrpc]\n").collect::<Vec<_>>()[..] else {
            bail!("no ttrpc: {text}")
        };
        // So that it is derived from the other's address.
        let after = after.split_once('\n').context("its address")?.1;
        fs::write(&main, format!("{before}{after}")).context("write the main file")?;
        let beside = Other::start(node, &main, &[])?;
        let said = beside.shimtap("install", &["--yes"])?;
        ensure!(said.code == 1 && said.stderr.contains("cannot be told"), "two of the node: {said:?}");
        drop(beside);
        let inside = Other::start(node, &main, &["unshare", "--pid", "--fork"])?;
        inside.shimtap("install", &["--yes"])?.ok()?;
        let record = fs::read_to_string(node.dir().join("state/install.json")).context("the record")?;
        let own = format!("\"bundles\": {:?}", node.dir().join("state"));
        ensure!(record.contains(&own), "no {own} in {record}");
        inside.shimtap("uninstall", &["--yes"])?.ok().map(drop)
    })
}

/// A second containerd beside a node's own, whose folders its command line names.
struct Other<'a> {
    node: &'a Node,
    main: PathBuf,
    daemon: Child,
    /// It is the child of what was started.
    inside: bool,
}

impl<'a> Other<'a> {
    /// That reads `main`, started by way of `words`.
    fn start(node: &'a Node, main: &Path, words: &[&str]) -> Result<Self> {
        let (dir, socket) = (node.dir(), node.dir().join("other.sock"));
        fs::remove_file(&socket).or_else(|fault| match fault.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(fault),
        })?;
        let daemon = node.tools().containerd.as_os_str();
        let mut all = words.iter().map(OsStr::new).chain([daemon]);
        let mut command = Command::new(all.next().context("a program")?);
        command.args(all).arg("--config").arg(main).arg("--address").arg(&socket);
        command.arg("--state").arg(dir.join("elsewhere")).arg("--root").arg(dir.join("other-root"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().context("start it")?;
        let other = Self { node, main: main.to_owned(), daemon, inside: !words.is_empty() };
        // Whose tasks it has looked for by then.
        eventually(LIMIT, "the other containerd", || Ok(socket.exists().then_some(())))?;
        Ok(other)
    }

    fn shimtap(&self, verb: &str, args: &[&str]) -> Result<Finished> {
        run(command_of(self.node, &self.main, verb, args)?, LIMIT)
    }

    /// By signal, and what it was started by ends with it.
    fn end_inside(&self) {
        let pid = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended by itself.
            let _ = process::signal(child, Signal::SIGKILL);
        }
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        if self.inside {
            self.end_inside();
        } else {
            // It may have ended by itself.
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

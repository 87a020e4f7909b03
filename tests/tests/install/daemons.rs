//! What the process of a containerd says and its files do not: its command line, its unit.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Node, Version, eventually};

use super::ways::{LIMIT, command_of, files, on_a_plain_node, same};

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

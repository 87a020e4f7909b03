//! Nodes with handlers of Kata's: written into the main file, as kata-deploy does on 1.x, or left to a file of its own that the main
//! file imports, as it does on 2.x; and what its upgrades and its removal do to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Node, Version, tools};

use super::ways::{files, is_wrapped, on_a_plain_node, restart, same, shimtap};

on_each_containerd!(a_handler_with_a_shim_of_its_own_keeps_it);

/// How a node's main file comes to kata-deploy's.
#[derive(Clone, Copy)]
enum Left {
    /// By its path at the end of the imports, behind a folder of drop-ins: containerd with its own default configuration.
    Appended,
    /// Beside other drop-ins, in a folder whose pattern is imported: k0s, k3s.
    Among,
}

/// Releases of 1.x do not merge drop-ins, and kata-deploy writes none there.
mod pinned_only {
    use super::{
        Left, Version, kata_deploy_leaves_a_node, one_file_of_version_2, undone_when_containerd_differs,
    };

    #[test]
    #[ignore = "needs root and containerd 2.3, which ./dev test builds"]
    fn pinned_kata_deploy_appends_its_file_to_the_imports() -> anyhow::Result<()> {
        kata_deploy_leaves_a_node(Version::Pinned, Left::Appended)
    }

    #[test]
    #[ignore = "needs root and containerd 2.3, which ./dev test builds"]
    fn pinned_kata_deploy_puts_its_file_among_others() -> anyhow::Result<()> {
        kata_deploy_leaves_a_node(Version::Pinned, Left::Among)
    }

    #[test]
    #[ignore = "needs root and containerd 2.3, which ./dev test builds"]
    fn pinned_a_main_file_of_version_2_gets_a_drop_in_of_version_2() -> anyhow::Result<()> {
        one_file_of_version_2(Version::Pinned)
    }

    #[test]
    #[ignore = "needs root and containerd 2.3, which ./dev test builds"]
    fn pinned_everything_is_put_back_where_containerd_says_something_else() -> anyhow::Result<()> {
        undone_when_containerd_differs(Version::Pinned)
    }
}

#[test]
#[ignore = "needs root and containerd 1.7, which ./dev test builds"]
fn one_seven_keeps_a_shim_of_its_own() {
    a_handler_with_a_shim_of_its_own_keeps_it(Version::OneSeven).unwrap();
}

/// As kata-deploy leaves a node: a handler with its own `runtime_path` and options. Then the main file comes anew, as with an
/// upgrade of it or of the node's image, and names a shim at another place: the next install covers it again.
fn a_handler_with_a_shim_of_its_own_keeps_it(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let kata = Kata::put(node, "kata-1")?;
        let main = node.dir().join("containerd.toml");
        let plain = fs::read_to_string(&main).context("read the main file")?;
        fs::write(&main, format!("{plain}{}", kata.handler(node))).context("add the handler")?;
        restart(node)?;
        let before = files(node.dir())?;
        let said = shimtap(node, "install", &["--yes", "kata"])?.ok()?.text();
        ensure!(said.contains("wrap        kata") && !said.contains("runc:"), "it said {said}");
        restart(node)?;
        kata.runs(node, "one")?;
        if node.tools().honours_runtime_path() {
            let next = Kata::put(node, "kata-2")?;
            fs::write(&main, format!("{plain}{}", next.handler(node))).context("write it anew")?;
            // The old one goes with the upgrade; nothing may need it afterwards.
            fs::remove_dir_all(kata.shim.parent().context("a folder")?).context("remove the old one")?;
            let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
            ensure!(said.contains("wrap        kata") && said.contains("wrap        runc"), "it said {said}");
            restart(node)?;
            next.runs(node, "two")?;
            let finds = doctor(node)?;
            ensure!(!finds.contains("inner_") && !finds.contains("handler_not"), "doctor finds {finds}");
            let upgraded = format!("{plain}{}", next.handler(node));
            shimtap(node, "uninstall", &["--yes"])?.ok()?;
            let left = fs::read_to_string(&main).context("read the main file")?;
            ensure!(left == upgraded, "left: {left}");
            return Ok(());
        }
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        same(&before, &files(node.dir())?)
    })
}

/// From the first installation beside kata-deploy's file over its upgrades to its removal: each `install` comes to what holds then, and
/// `uninstall` to what would hold without us.
fn kata_deploy_leaves_a_node(version: Version, left: Left) -> Result<()> {
    on_a_plain_node(version, |node| {
        let deploy = Deploy::on(node, left)?;
        let kata = Kata::put(node, "kata-1")?;
        deploy.install(&kata)?;
        let before = files(node.dir())?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains("wrap        kata") && said.contains("wrap        runc"), "it said {said}");
        restart(node)?;
        kata.runs(node, "one")?;

        // It moves its shim and leaves the imports alone: our file goes on to win, with a shim that is gone.
        let next = Kata::put(node, "kata-2")?;
        fs::write(&deploy.file, deploy.text(&next)).context("write it anew")?;
        fs::remove_dir_all(kata.shim.parent().context("a folder")?).context("remove the old one")?;
        // Which is its own to do.
        restart(node)?;
        let finds = doctor(node)?;
        ensure!(finds.contains("inner_stale") && finds.contains("inner_missing"), "doctor finds {finds}");
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        let anew = said.contains("wrap        kata") && said.contains("is wrapped  runc");
        ensure!(anew && said.contains("need not be restarted"), "it said {said}");
        next.runs(node, "two")?;
        let finds = doctor(node)?;
        ensure!(!finds.contains("inner_") && !finds.contains("handler_not"), "doctor finds {finds}");
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains("is wrapped  kata") && said.contains("nothing to do"), "again it said {said}");

        // An upgrade by helm: it takes itself out and puts itself to the end again.
        let last = Kata::put(node, "kata-3")?;
        deploy.remove()?;
        deploy.install(&last)?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains("wrap        kata") && said.contains("is wrapped  runc"), "it said {said}");
        restart(node)?;
        last.runs(node, "three")?;

        // It goes: nothing of its handler may be left, and least of all by us.
        deploy.remove()?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains("take out    kata") && said.contains("is wrapped  runc"), "it said {said}");
        ensure!(!dump(node)?.contains("runtimes.kata"), "containerd still has it: {}", dump(node)?);
        deploy.install(&last)?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains("wrap        kata"), "it said {said}");
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        fs::write(&deploy.file, deploy.text(&kata)).context("as it was at first")?;
        for of in [kata, next, last] {
            fs::remove_dir_all(of.shim.parent().context("a folder")?).or_else(|fault| {
                if fault.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(fault) }
            })?;
        }
        same(&before, &files(node.dir())?)
    })
}

/// A node whose containerd was upgraded from 1.x with its file: 2.3 refuses to start with a drop-in of a higher version.
fn one_file_of_version_2(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let main = node.dir().join("containerd.toml");
        let text = fs::read_to_string(&main).context("read the main file")?;
        // One section of that version is two of the next.
        let [one, runtime] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"]
            .map(|name| format!("[plugins.{name:?}]\n"));
        let (rest, of_one) = text.split_once(&one).context("CRI's own section")?;
        let old = rest
            .replacen("version = 3", "version = 2", 1)
            .replacen(&runtime, &format!("{one}{of_one}"), 1)
            .replace("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri");
        fs::write(&main, old).context("write the main file")?;
        restart(node)?;
        let before = files(node.dir())?;
        shimtap(node, "install", &["--yes"])?.ok()?;
        restart(node)?;
        let pod = node.cri()?.run_pod("one")?;
        is_wrapped(node, 1)?;
        node.cri()?.remove_pod(&pod)?;
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        same(&before, &files(node.dir())?)
    })
}

/// containerd itself has another word for it, which only its own answer shows: an import of an import is read after ours.
fn undone_when_containerd_differs(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let kata = Kata::put(node, "kata-1")?;
        let deploy = Deploy::on(node, Left::Appended)?;
        deploy.install(&kata)?;
        let late = node.dir().join("kata/late.toml");
        fs::write(&late, deploy.text(&kata)).context("what is read last")?;
        fs::write(&deploy.file, format!("imports = [{late:?}]\n")).context("what imports it")?;
        let before = files(node.dir())?;
        let said = shimtap(node, "install", &["--yes"])?;
        let refused = said.code == 1 && said.stderr.contains("everything is as it was before");
        ensure!(refused && said.stderr.contains("runtimes.kata.runtime_path"), "it said {said:?}");
        same(&before, &files(node.dir())?)
    })
}

/// kata-deploy as it leaves a node of 2.x: a file without a version, with handlers, and the main file that imports it.
struct Deploy<'a> {
    node: &'a Node,
    left: Left,
    file: PathBuf,
    main: PathBuf,
    /// The main file without it.
    plain: String,
}

impl<'a> Deploy<'a> {
    fn on(node: &'a Node, left: Left) -> Result<Self> {
        let (main, conf_d) = (node.dir().join("containerd.toml"), node.dir().join("conf.d"));
        let folder = match left {
            Left::Appended => node.dir().join("kata"),
            Left::Among => conf_d.clone(),
        };
        for folder in [&folder, &conf_d] {
            fs::create_dir_all(folder).context("create a folder of drop-ins")?;
        }
        // A distribution's own, so that the folder means something.
        let cri = "plugins.\"io.containerd.cri.v1.runtime\"";
        fs::write(
            conf_d.join("10-own.toml"),
            format!("version = 3\n[{cri}]\nmax_container_log_line_size = 8192\n"),
        )
        .context("write a drop-in")?;
        let plain = fs::read_to_string(&main).context("read the main file")?;
        let mut deploy = Self { node, left, file: folder.join("kata-deploy.toml"), main, plain };
        deploy.plain = format!("imports = [{:?}]\n{}", conf_d.join("*.toml"), deploy.plain);
        fs::write(&deploy.main, &deploy.plain).context("write the main file")?;
        Ok(deploy)
    }

    fn text(&self, kata: &Kata) -> String {
        kata.handler(self.node)
    }

    /// Its file, and the end of the imports where these are its to edit.
    fn install(&self, kata: &Kata) -> Result<()> {
        fs::write(&self.file, self.text(kata)).context("write its file")?;
        self.edit(|line, file| line.replacen(']', &format!(", {file}]"), 1))
    }

    /// Out of the imports; where it has no place there, its file goes.
    fn remove(&self) -> Result<()> {
        match self.left {
            Left::Appended => self.edit(|line, file| line.replace(&format!(", {file}"), "")),
            Left::Among => fs::remove_file(&self.file).context("remove its file"),
        }
    }

    fn edit(&self, with: impl Fn(&str, &str) -> String) -> Result<()> {
        if matches!(self.left, Left::Among) {
            return Ok(());
        }
        let text = fs::read_to_string(&self.main).context("read the main file")?;
        let (first, rest) = text.split_once('\n').context("a first line")?;
        ensure!(first.starts_with("imports = ["), "the first line is {first}");
        let line = with(first, &format!("{:?}", self.file));
        fs::write(&self.main, format!("{line}\n{rest}")).context("write the main file")
    }
}

/// What `shimtap doctor` finds, whatever else it may.
fn doctor(node: &Node) -> Result<String> {
    let mut command = Command::new(tools::collector()?);
    command.args(["doctor", "--json"]).arg("--state-dir").arg(node.dir().join("state"));
    command.arg("--containerd").arg(&node.tools().containerd);
    command.arg("--containerd-config").arg(node.dir().join("containerd.toml"));
    command.arg("--shim-config").arg(node.dir().join("shim.toml"));
    command.arg("--run-dir").arg(node.run_dir()).arg("--socket").arg(node.dir().join("none.sock"));
    Ok(run(command, Duration::from_secs(60))?.text())
}

/// What containerd makes of all its files.
fn dump(node: &Node) -> Result<String> {
    let mut command = Command::new(&node.tools().containerd);
    command.arg("--config").arg(node.dir().join("containerd.toml")).args(["config", "dump"]);
    Ok(run(command, Duration::from_secs(60))?.ok()?.text())
}

/// A shim that stands where Kata's would, by its name: the runc shim, which runs everywhere.
struct Kata {
    shim: PathBuf,
    runc: PathBuf,
}

impl Kata {
    fn put(node: &Node, name: &str) -> Result<Kata> {
        let in_path = !node.tools().honours_runtime_path();
        let dir = node.dir().join(if in_path { "bin" } else { name });
        fs::create_dir_all(&dir).context("create its folder")?;
        let shim = dir.join("containerd-shim-kata-v2");
        fs::copy(&node.tools().runc_shim, &shim).context("put the shim")?;
        // Says that the handler's options came through: only they name it.
        let runc = dir.join("runc");
        let real = tools::in_path("runc").context("runc is not in PATH")?;
        let text = format!("#!/bin/sh\n: >\"$0.was-here\"\nexec {} \"$@\"\n", real.display());
        fs::write(&runc, text).context("put its runtime")?;
        fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        Ok(Kata { shim, runc })
    }

    /// Its handler. Releases that do nothing with `runtime_path` find the shim by its name, and give options of a type that the
    /// runc shim does not take.
    fn handler(&self, node: &Node) -> String {
        let cri =
            if node.tools().is_v2() { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
        let table = format!("plugins.\"{cri}\".containerd.runtimes.kata");
        if !node.tools().honours_runtime_path() {
            return format!("[{table}]\nruntime_type = \"io.containerd.kata.v2\"\n");
        }
        format!(
            "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\nruntime_path = {:?}\n\
             privileged_without_host_devices = true\n[{table}.options]\nBinaryName = {:?}\n",
            self.shim, self.runc
        )
    }

    /// A pod of it is wrapped, by this very shim, with the handler's options.
    fn runs(&self, node: &Node, name: &str) -> Result<()> {
        let pod = node.cri()?.run_pod_of_handler(name, "kata")?;
        is_wrapped(node, 1)?;
        let all = node.processes()?;
        let exe = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let inside = all.iter().any(|process| exe(process.pid).as_ref() == Some(&self.shim));
        ensure!(inside, "{} is not inside: {all:#?}", self.shim.display());
        if node.tools().honours_runtime_path() {
            let mark = self.runc.with_extension("was-here");
            ensure!(mark.is_file(), "its options did not reach it: no {}", mark.display());
        }
        node.cri()?.remove_pod(&pod)
    }
}

//! `shimtap install` and `uninstall` on real containerds with pods: new pods are wrapped by the hook that works for the release,
//! running ones live on, and every file is as it was to the byte afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::{Node, Setup, Shim, Version, tools};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    pods_are_wrapped_and_unwrapped_again,
    what_somebody_changed_since_stays,
    a_pilot_wraps_only_who_asks,
    nothing_is_done_where_it_cannot_work,
    a_handler_with_a_shim_of_its_own_keeps_it,
);

#[test]
#[ignore = "needs root and containerd 1.7, which ./dev test builds"]
fn one_seven_is_installed_by_editing_its_main_file() {
    pods_are_wrapped_and_unwrapped_again(Version::OneSeven).unwrap();
    what_somebody_changed_since_stays(Version::OneSeven).unwrap();
}

#[test]
#[ignore = "needs root and containerd 1.7, which ./dev test builds"]
fn one_seven_gets_a_pilot_beside_its_handler() {
    a_pilot_wraps_only_who_asks(Version::OneSeven).unwrap();
}

#[test]
#[ignore = "needs root and containerd 1.7, which ./dev test builds"]
fn one_seven_keeps_a_shim_of_its_own() {
    a_handler_with_a_shim_of_its_own_keeps_it(Version::OneSeven).unwrap();
}

fn pods_are_wrapped_and_unwrapped_again(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let before = files(node.dir())?;
        let early = run_pod(node, "early")?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(
            said.contains("containerd confirms it") && said.contains("wrap        runc"),
            "it said {said}"
        );
        is_wrapped(node, 0)?;
        restart(node)?;
        let wrapped = run_pod(node, "wrapped")?;
        is_wrapped(node, 1)?;
        let again = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(
            again.contains("is wrapped  runc") && again.contains("nothing to do"),
            "again it said {again}"
        );
        // With pods of both kinds.
        let said = shimtap(node, "uninstall", &["--yes"])?.ok()?.text();
        let (main, drop_ins) = (node.dir().join("containerd.toml"), node.dir().join("conf.d"));
        let is_containerd_s = |path: &Path| *path == main || path.starts_with(&drop_ins);
        let of_containerd = |all: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
            all.into_iter().filter(|(path, _)| is_containerd_s(path)).collect()
        };
        same(&of_containerd(before.clone()), &of_containerd(files(node.dir())?))?;
        answers(node, &wrapped)?;
        restart(node)?;
        answers(node, &early)?;
        answers(node, &wrapped)?;
        let late = run_pod(node, "late")?;
        is_wrapped(node, 1)?;
        for pod in [early, wrapped, late] {
            node.cri()?.remove_pod(&pod.pod)?;
        }
        // A link that a living bundle named had to stay until now.
        if said.contains("stays while") {
            shimtap(node, "uninstall", &["--yes"])?.ok()?;
        }
        same(&before, &files(node.dir())?)?;
        let gone = shimtap(node, "uninstall", &["--yes"])?;
        ensure!(gone.code == 1 && gone.stderr.contains("not been installed"), "twice: {gone:?}");
        Ok(())
    })
}

/// The same with `--restart` is not to be had here: no private containerd is a unit. The node VM has one.
fn what_somebody_changed_since_stays(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let main = node.dir().join("containerd.toml");
        let plain = fs::read_to_string(&main).context("read the main file")?;
        let theirs = format!("# kept by hand\n{plain}");
        fs::write(&main, &theirs).context("write the main file")?;
        shimtap(node, "install", &["--yes"])?.ok()?;
        let added = "[plugins.\"io.containerd.internal.v1.tracing\"]\n";
        let installed = fs::read_to_string(&main).context("read the main file")?;
        ensure!(installed.starts_with("# kept by hand\n"), "the comment is lost: {installed}");
        fs::write(&main, format!("{installed}{added}")).context("write the main file")?;
        let said = shimtap(node, "uninstall", &["--yes"])?.ok()?.text();
        let left = fs::read_to_string(&main).context("read the main file")?;
        if installed == theirs {
            // The hook is a link: the file was never ours to change.
            ensure!(!said.contains("containerd.toml"), "it said {said}");
        } else {
            ensure!(said.contains("only shimtap's keys taken out"), "it said {said}");
        }
        ensure!(left == format!("{theirs}{added}"), "left: {left}");
        Ok(())
    })
}

fn a_pilot_wraps_only_who_asks(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let before = files(node.dir())?;
        let said = shimtap(node, "install", &["--yes", "--pilot", "runc"])?;
        if !version.tools()?.honours_runtime_path() {
            ensure!(said.code == 1 && said.stderr.contains("does nothing with it"), "it said {said:?}");
            return same(&before, &files(node.dir())?);
        }
        let said = said.ok()?.text();
        ensure!(said.contains("kind: RuntimeClass") && said.contains("handler: runc-tap"), "it said {said}");
        restart(node)?;
        let plain = run_pod(node, "plain")?;
        is_wrapped(node, 0)?;
        let cri = node.cri()?;
        let asks = cri.run_pod_of_handler("asks", "runc-tap")?;
        is_wrapped(node, 1)?;
        cri.remove_pod(&asks)?;
        cri.remove_pod(&plain.pod)?;
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        same(&before, &files(node.dir())?)
    })
}

fn nothing_is_done_where_it_cannot_work(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let before = files(node.dir())?;
        let refused = |args: &[&str], why: &str| -> Result<()> {
            let said = shimtap(node, "install", args)?;
            ensure!(said.code == 1 && said.stderr.contains(why), "{args:?}: {said:?}");
            same(&before, &files(node.dir())?)
        };
        refused(&["--yes", "nosuch"], "has no handler nosuch; it has runc")?;
        refused(&["--yes", "--wrapper", "/nowhere/tap"], "/nowhere/tap")?;
        refused(&[], "--yes does it")?;
        if !version.tools()?.honours_runtime_path() {
            refused(&["--yes", "--hook", "runtime-path"], "does nothing with it")?;
        }
        let shown = shimtap(node, "install", &["--dry-run"])?.ok()?.text();
        ensure!(shown.contains("wrap        runc"), "it said {shown}");
        same(&before, &files(node.dir())?)?;
        // What is there under the name of the link is somebody's.
        let in_the_way = node.dir().join("opt/bin/containerd-shim-runc-v2");
        fs::write(&in_the_way, "theirs").context("put something in the way")?;
        let said = shimtap(node, "install", &["--yes", "--hook", "opt"])?;
        ensure!(said.code == 1 && said.stderr.contains("not shimtap's"), "in the way: {said:?}");
        fs::remove_file(&in_the_way).context("take it away")?;
        same(&before, &files(node.dir())?)?;
        // A main file that containerd itself cannot read is not touched.
        let main = node.dir().join("containerd.toml");
        let sound = fs::read_to_string(&main).context("read the main file")?;
        fs::write(&main, format!("{sound}\n[broken")).context("break the main file")?;
        let said = shimtap(node, "install", &["--yes"])?;
        ensure!(said.code == 1 && said.stderr.contains("is its configuration sound"), "broken: {said:?}");
        fs::write(&main, sound).context("mend the main file")?;
        same(&before, &files(node.dir())?)
    })
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

/// A node without us whose wrappers, once there are some, are demanded to be gone at the end.
fn on_a_plain_node(version: Version, scenario: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    Setup::new(version, Shim::Unwrapped).run(scenario)
}

fn restart(node: &Node) -> Result<()> {
    node.restart()?;
    node.cri()?.await_ready()
}

struct Running {
    pod: Pod,
    container: String,
}

fn run_pod(node: &Node, name: &str) -> Result<Running> {
    let cri = node.cri()?;
    let pod = cri.run_pod(name)?;
    let container = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
    Ok(Running { pod, container })
}

fn answers(node: &Node, running: &Running) -> Result<()> {
    let said = node.cri()?.exec(&running.container, &["echo", "here"], 10)?;
    ensure!(said.stdout == b"here\n", "exec said {said:?}");
    Ok(())
}

/// How many pods are wrapped now.
fn is_wrapped(node: &Node, pods: usize) -> Result<()> {
    let keepers = node.wrappers("tap-keeper")?;
    ensure!(keepers.len() == pods, "wrapped are {keepers:?}, not {pods}");
    Ok(())
}

fn shimtap(node: &Node, verb: &str, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(tools::collector()?);
    command.arg(verb).args(args).arg("--state-dir").arg(node.dir().join("state"));
    command.arg("--containerd").arg(&node.tools().containerd);
    command.arg("--containerd-config").arg(node.dir().join("containerd.toml"));
    if verb == "install" {
        command.arg("--shim-config").arg(node.dir().join("shim.toml"));
    }
    run(command, LIMIT)
}

/// Every file that an installation may touch, with its content; a link with where it leads.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let places =
        [dir.to_owned(), dir.join("opt/bin"), dir.join("conf.d"), dir.join("state"), dir.join("state/hooks")];
    for place in places {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries {
            let entry = entry.context("read a folder")?;
            let path = entry.path();
            let kind = entry.file_type().context("look at a file")?;
            if kind.is_symlink() {
                let target = fs::read_link(&path).context("read a link")?;
                found.push((path, target.into_os_string().into_encoded_bytes()));
            } else if kind.is_file() && path.extension().is_none_or(|kind| kind != "log") {
                let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                found.push((path, content));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn same(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    let names = |of: &[(PathBuf, Vec<u8>)]| of.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    ensure!(names(before) == names(after), "files were {:?}, are {:?}", names(before), names(after));
    let differs = before.iter().zip(after).find(|(before, after)| before != after);
    ensure!(differs.is_none(), "differs: {differs:?}");
    Ok(())
}

//! `shimtap install` and `uninstall` on real containerds with pods: new pods are wrapped by the hook that works for the release,
//! running ones live on, and every file is as it was to the byte afterwards.

mod daemons;
mod kata;
mod layouts;
mod ways;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Context, Result, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::Version;
use shimtap_tests::rig::pty::Terminal;

use ways::{
    Held, LIMIT, answers, command, files, is_wrapped, on_a_plain_node, restart, run_pod, same, shimtap,
};

on_each_containerd!(
    pods_are_wrapped_and_unwrapped_again,
    what_somebody_changed_since_stays,
    a_pilot_wraps_only_who_asks,
    nothing_is_done_where_it_cannot_work,
    a_person_is_asked_and_what_they_say_is_done,
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

fn pods_are_wrapped_and_unwrapped_again(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        // As whoever keeps it may have it.
        let main = node.dir().join("containerd.toml");
        fs::set_permissions(&main, fs::Permissions::from_mode(0o640)).context("have a mode of its own")?;
        chown(&main, Some(1), Some(2)).context("have owners of its own")?;
        let before = files(node.dir())?;
        let early = run_pod(node, "early")?;
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(
            said.contains("containerd confirms it") && said.contains("wrap        runc"),
            "it said {said}"
        );
        is_wrapped(node, 0)?;
        // It holds the whole main file, and that may hold passwords.
        let record = fs::metadata(node.dir().join("state/install.json")).context("the record")?;
        let mode = record.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "the record's mode is {mode:o}");
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
        let drop_ins = node.dir().join("shimtap.d");
        let is_containerd_s = |file: &Held| file.path == main || file.path.starts_with(&drop_ins);
        let of_containerd =
            |all: Vec<Held>| -> Vec<Held> { all.into_iter().filter(is_containerd_s).collect() };
        same(&of_containerd(before.clone()), &of_containerd(files(node.dir())?))?;
        answers(node, &wrapped)?;
        // Whoever changes their mind while these pods run.
        shimtap(node, "install", &["--yes"])?.ok()?;
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
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
        // Where CRI is switched off, as Docker's own package has it, a link is the only way.
        fs::write(&main, without_cri(&sound)?).context("switch CRI off")?;
        let said = shimtap(node, "install", &["--yes", "--hook", "runtime-path"])?;
        let is_why = |why| said.stderr.contains(why);
        ensure!(
            said.code == 1 && (is_why("CRI is switched off") || is_why("does nothing with it")),
            "a path without CRI: {said:?}"
        );
        let said = shimtap(node, "install", &["--yes"])?.ok()?.text();
        ensure!(said.contains(&in_the_way.display().to_string()), "without CRI: {said}");
        ensure!(fs::symlink_metadata(&in_the_way).is_ok(), "without CRI there is no link: {said}");
        shimtap(node, "uninstall", &["--yes"])?.ok()?;
        fs::write(&main, sound).context("mend the main file")?;
        same(&before, &files(node.dir())?)
    })
}

/// A main file with CRI's plugins among those that are switched off.
fn without_cri(sound: &str) -> Result<String> {
    let off = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", ";
    ensure!(sound.contains("disabled_plugins = ["), "the rig's file switches nothing off: {sound}");
    Ok(sound.replacen("disabled_plugins = [", off, 1))
}

/// At a terminal: what is not a yes is a no, and a no changes nothing.
fn a_person_is_asked_and_what_they_say_is_done(version: Version) -> Result<()> {
    on_a_plain_node(version, |node| {
        let before = files(node.dir())?;
        let asked = |verb: &str, keys: &str| -> Result<(i32, String)> {
            let mut terminal = Terminal::start(command(node, verb, &[])?, 50, 200)?;
            let question = |lines: &[String]| lines.iter().any(|line| line.contains("[y/N]")).then_some(());
            terminal.await_screen(LIMIT, "the question", question)?;
            terminal.press(keys)?;
            Ok((terminal.finish(LIMIT)?, terminal.screen().join("\n")))
        };
        for no in ["n\n", "\n", "yep\n", "\u{4}"] {
            let (code, screen) = asked("install", no)?;
            ensure!(code == 1 && screen.contains("wrap        runc"), "{no:?}: {code} {screen}");
            same(&before, &files(node.dir())?)?;
        }
        let (code, screen) = asked("install", "y\n")?;
        ensure!(code == 0 && screen.contains("containerd confirms it"), "yes: {code} {screen}");
        let installed = files(node.dir())?;
        ensure!(installed != before, "nothing was installed: {screen}");
        let (code, screen) = asked("uninstall", "n\n")?;
        ensure!(code == 1, "no: {code} {screen}");
        same(&installed, &files(node.dir())?)?;
        let (code, screen) = asked("uninstall", "yes\n")?;
        ensure!(code == 0, "yes: {code} {screen}");
        same(&before, &files(node.dir())?)
    })
}

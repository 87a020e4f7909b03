//! Loggers (`binary://`), as `nerdctl run -d` uses them: with the wrapper they get the bytes, descriptors, environment, parent and
//! end that they get without it, a container hears of the end of its logger, and the collector has what was written. And files
//! (`file://`), to which the runc shim itself would write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::logger::logger;
use shimtap_tests::rig::process::{end, wait_gone};
use shimtap_tests::rig::run::Finished;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually, same_with_and_without};

const LIMIT: Duration = Duration::from_secs(60);
/// Deaths that a container with a logger lives through at least.
const DEATHS: u32 = 6;

on_each_containerd!(
    a_logger_has_what_it_has_without_us,
    a_logger_that_stops_when_it_is_told_has_everything_by_then,
    a_container_hears_of_the_end_of_its_logger,
    what_cannot_be_run_fails_the_create_as_without_us,
    the_collector_has_what_the_logger_has,
    deaths_while_a_logger_runs,
    a_file_has_what_it_has_without_us,
    what_cannot_be_written_to_fails_the_create_as_without_us,
    deaths_while_a_file_is_written_to,
);

/// Writes down what it finds, then both streams to their ends.
const KEEPS_ALL: &str = r#"
trap 'echo TERM >>"$2/signals"' TERM
echo "$1" >"$2/first"
env | cut -d= -f1 | sort >"$2/environment"
echo "$CONTAINER_ID" >"$2/id"
cat /proc/$PPID/comm >"$2/parent"
for n in 3 4 5; do readlink /proc/$$/fd/$n | cut -d: -f1; done >"$2/kinds"
grep -h flags /proc/$$/fdinfo/3 /proc/$$/fdinfo/4 >"$2/flags"
for n in 0 1 2 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo $n; done >"$2/descriptors"
grep -h '^SigIgn' /proc/$$/status >"$2/dispositions"
cat <&3 >"$2/out" 3<&- 4<&- 5>&- &
out=$!
cat <&4 >"$2/err" 3<&- 4<&- 5>&- &
err=$!
exec 3<&- 4<&- 5>&-
while kill -0 $out 2>/dev/null || kill -0 $err 2>/dev/null; do wait; done
echo done >"$2/end"
"#;

/// Takes one line and goes.
const GOES: &str = r#"
exec 5>&-
head -n 1 <&3 >"$2/out"
"#;

/// Reads nothing until it is told to end, and then once, what is there at that moment.
const STOPS: &str = r#"
trap 'dd bs=65536 count=1 iflag=nonblock <&3 >"$2/out" 2>"$2/dd"; echo TERM >"$2/end"; kill $!; exit 0' TERM
exec 5>&-
while :; do sleep 1 3<&- 4<&- & wait; done
"#;

fn run(node: &Node, id: &str, uri: &str, command: &[&str]) -> Result<Finished> {
    let ctr = node.run_command(id, &["--rm", "--log-uri", uri], command);
    shimtap_tests::rig::run::run(ctr, LIMIT)
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}

fn a_logger_has_what_it_has_without_us(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let (dir, uri) = logger(node, "log", KEEPS_ALL)?;
        let command = ["speaker", "lines=20000", "to=both", "batch=11", "width=90", "exit=3"];
        let said = run(node, "a", &uri, &command)?;
        let whole = tape(1, 20_000, 90);
        for name in ["out", "err"] {
            let got = fs::read(dir.join(name)).unwrap_or_default();
            ensure!(got == whole, "{name}: {} of {} bytes", got.len(), whole.len());
        }
        let names =
            ["first", "environment", "id", "parent", "kinds", "flags", "descriptors", "dispositions", "end"];
        Ok((said.code, names.map(|name| (name, read(&dir, name)))))
    })?;
    assert_eq!(answer.0, 3);
    Ok(())
}

/// containerd's Delete sends SIGTERM at once: what init has written can be read by then, without waiting for it.
fn a_logger_that_stops_when_it_is_told_has_everything_by_then(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        for turn in 0..5 {
            let (dir, uri) = logger(node, &format!("log{turn}"), STOPS)?;
            // One write, which a pipe has room for.
            let command = ["speaker", "lines=500", "width=100", "batch=500"];
            let said = run(node, &format!("t{turn}"), &uri, &command)?;
            let out = fs::read(dir.join("out")).unwrap_or_default();
            ensure!(said.code == 0 && out == tape(1, 500, 100), "{} bytes, {said:?}", out.len());
            ensure!(read(&dir, "end") == "TERM\n", "it was not told to end");
        }
        Ok(())
    })
}

fn a_container_hears_of_the_end_of_its_logger(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Path, |node| {
        let (dir, uri) = logger(node, "log", GOES)?;
        let busy = run(node, "busy", &uri, &["sh", "-c", "yes first; exit 9"])?;
        // One that writes only long after it.
        let script = "echo first; while ! test -e /host/go; do usleep 10000; done; yes later; exit 9";
        let late = node.run_beside("late", &["--rm", "--log-uri", &uri], &["sh", "-c", script])?;
        eventually(LIMIT, "its logger to have ended", || {
            Ok((read(&dir, "out") == "first\n" && !has_process(&dir)?).then_some(()))
        })?;
        fs::write(node.host_dir().join("go"), "").context("let it go on")?;
        Ok((busy.code, late.finish(LIMIT)?.code))
    })?;
    assert_eq!(answer, (9, 9), "`yes` was killed by SIGPIPE, and its shell went on");
    Ok(())
}

/// Does a logger of this folder run?
fn has_process(dir: &Path) -> Result<bool> {
    let needle = dir.join("logger");
    for entry in fs::read_dir("/proc").context("list the processes")? {
        let line = fs::read(entry.context("a process")?.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).split('\0').any(|word| Path::new(word) == needle) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn what_cannot_be_run_fails_the_create_as_without_us(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        let (dir, _) = logger(node, "log", KEEPS_ALL)?;
        let files = [
            ("no-mode", "#!/bin/sh\n", 0o644),
            ("no-format", "nothing\n", 0o755),
            ("no-sh", "#!/no/sh\n", 0o755),
        ];
        let mut answers = Vec::new();
        for (n, (name, text, mode)) in files.into_iter().chain([("none", "", 0)]).enumerate() {
            let path = dir.join(name);
            if mode != 0 {
                fs::write(&path, text).context("write it")?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("set its mode")?;
            }
            let said = run(node, &format!("n{n}"), &format!("binary://{}", path.display()), &["true"])?;
            let why = said.stderr.split("failed to start binary process").nth(1).map(str::to_owned);
            ensure!(why.is_some(), "{name}: {said:?}");
            // The folder has the node's name.
            let why = why.unwrap_or_default().replace(&dir.display().to_string(), "");
            answers.push((said.code, why));
        }
        Ok(answers)
    })
    .map(drop)
}

fn the_collector_has_what_the_logger_has(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run(|node| {
        let (dir, uri) = logger(node, "log", KEEPS_ALL)?;
        run(node, "c", &uri, &["speaker", "lines=5000", "rate=5000", "to=both", "width=80"])?.ok()?;
        let whole = tape(1, 5000, 80);
        ensure!(fs::read(dir.join("out")).unwrap_or_default() == whole, "the logger's stdout");
        node.whole_in_sink("c", "stdout", &whole)?;
        node.whole_in_sink("c", "stderr", &whole)
    })
}

/// The worker, the keeper, and so on, at any moment: while the logger is handed over, while it reads, while it ends.
fn deaths_while_a_logger_runs(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run(|node| {
        let (dir, uri) = logger(node, "log", KEEPS_ALL)?;
        let whole = deaths_beside(node, &uri, "both")?;
        for name in ["out", "err"] {
            let got = fs::read(dir.join(name)).unwrap_or_default();
            ensure!(got == whole, "{name}: {} of {} bytes", got.len(), whole.len());
        }
        node.whole_in_sink("d", "stdout", &whole)?;
        node.whole_in_sink("d", "stderr", &whole)
    })
}

fn deaths_while_a_file_is_written_to(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run(|node| {
        let file = node.dir().join("log");
        let whole = deaths_beside(node, &format!("file://{}", file.display()), "out")?;
        let got = fs::read(&file).unwrap_or_default();
        ensure!(got == whole, "{} of {} bytes", got.len(), whole.len());
        node.whole_in_sink("d", "stdout", &whole)
    })
}

/// A container that writes to these of its streams, `DEATHS` of its wrapper's processes meanwhile; what it wrote.
fn deaths_beside(node: &Node, uri: &str, to: &str) -> Result<Vec<u8>> {
    let script = format!(
        "speaker lines=3000 rate=2000 to={to} width=80; \
         speaker from=/host/go seed=2 lines=3000 rate=2000 to={to} width=80 exit=3"
    );
    let mut client = node.run_beside("d", &["--rm", "--log-uri", uri], &["sh", "-c", &script])?;
    let mut deaths = 0;
    while client.is_running()? {
        if deaths == DEATHS {
            // However slow the machine is: its second half comes after so many.
            fs::write(node.host_dir().join("go"), "").context("let it go on")?;
        }
        let role = if deaths % 2 == 0 { "tap-worker" } else { "tap-keeper" };
        // Both at once would be the pod's end: the next one when there are two again.
        let alone = node.wrappers("tap-worker")?.len() != 1 || node.wrappers("tap-keeper")?.len() != 1;
        if let (false, Some(victim)) = (alone, node.wrappers(role)?.first()) {
            if end(victim.pid).is_ok() {
                wait_gone(victim.pid, LIMIT)?;
                deaths += 1;
            }
            eventually(LIMIT, "a successor, or the end", || {
                let both = node.wrappers("tap-worker")?.len() == 1 && node.wrappers("tap-keeper")?.len() == 1;
                Ok((both || !client.is_running()?).then_some(()))
            })?;
        }
    }
    let said = client.finish(LIMIT)?;
    ensure!(said.code == 3 && deaths >= DEATHS, "{deaths} deaths, {said:?}");
    Ok([tape(1, 3000, 80), tape(2, 3000, 80)].concat())
}

/// Two containers, one after the other, the second on its stderr: the file is made with its folders, and what was in it stays.
fn a_file_has_what_it_has_without_us(version: Version) -> Result<()> {
    let write = |node: &Node| -> Result<_> {
        let file = node.dir().join("made/by/it/log one");
        let uri = format!("file://{}", file.display().to_string().replace(' ', "%20"));
        let first = run(node, "one", &uri, &["speaker", "lines=5000", "rate=5000", "width=90", "exit=3"])?;
        let second =
            run(node, "two", &uri, &["speaker", "seed=2", "to=err", "lines=3000", "rate=5000", "width=90"])?;
        let got = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let (one, two) = (tape(1, 5000, 90), tape(2, 3000, 90));
        ensure!(got == [&one[..], &two[..]].concat(), "{} of {} bytes", got.len(), one.len() + two.len());
        let modes = file.ancestors().take(3).map(|path| Ok(fs::metadata(path)?.permissions().mode()));
        Ok((first.code, second.code, modes.collect::<Result<Vec<_>>>()?, (one, two)))
    };
    same_with_and_without(version, Hook::Path, |node| {
        write(node).map(|(one, two, modes, _)| (one, two, modes))
    })?;
    Setup::new(version, Shim::Wrapped(Hook::Path)).with_collector().run(|node| {
        let (_, _, _, (one, two)) = write(node)?;
        node.whole_in_sink("one", "stdout", &one)?;
        node.whole_in_sink("two", "stderr", &two)
    })
}

fn what_cannot_be_written_to_fails_the_create_as_without_us(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Path, |node| {
        let blocked = node.dir().join("blocked");
        fs::write(&blocked, "no folder").context("put something in the way")?;
        let mut answers = Vec::new();
        for (n, path) in
            ["/proc/none/log".into(), blocked.join("log"), node.dir().to_owned()].iter().enumerate()
        {
            let said = run(node, &format!("n{n}"), &format!("file://{}", path.display()), &["true"])?;
            ensure!(said.code != 0, "{}: {said:?}", path.display());
            let why = said.stderr.split("ctr: ").nth(1).map(str::to_owned);
            ensure!(why.is_some(), "{}: {said:?}", path.display());
            // The folder has the node's name.
            answers.push((said.code, why.unwrap_or_default().replace(&node.dir().display().to_string(), "")));
        }
        Ok(answers)
    })
    .map(drop)
}

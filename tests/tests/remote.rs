//! What `kubectl attach` and `kubectl exec -it` do: streams over containerd's streaming server. The same with and without the
//! wrapper, and complete.

use std::time::Duration;

use anyhow::{Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cri_log;
use shimtap_tests::rig::cri::{Cri, Pod, Remote, Wanted};
use shimtap_tests::rig::{Hook, Version, eventually, same_with_and_without};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    attach_with_stdin,
    attach_to_a_terminal,
    attach_again_after_hanging_up,
    exec_with_a_terminal,
    exec_with_much_output_and_a_status,
);

/// A shell loop that answers each line, on both streams, until it is told to go. It is told once all has come: containerd
/// 1.6 may cut an attached client off at the exit, with and without us.
const ECHO: &str = "while read line; do [ \"$line\" = bye ] && exit 7; \
                    echo \"out $line\"; echo \"err $line\" >&2; done";

fn echo(cri: &Cri, pod: &Pod) -> Result<String> {
    let command = ["sh", "-c", ECHO];
    cri.run(pod, &Wanted { name: "c", command: &command, stdin: true, ..Wanted::default() })
}

fn attach_with_stdin(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = echo(cri, &pod)?;
        let mut remote = Remote::open(&cri.attach_url(&id, false)?)?;
        remote.say(b"one\n")?;
        remote.hear_until("out one\n")?;
        remote.say(b"two\nend\n")?;
        remote.hear_until("out end\n")?;
        remote.hear_until("err end\n")?;
        remote.say(b"bye\n")?;
        remote.hear_out()?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        ensure!(log.stdout == b"out one\nout two\nout end\n", "containerd's log has it all: {log:?}");
        ensure!(log.stderr == b"err one\nerr two\nerr end\n", "containerd's log has it all: {log:?}");
        cri.remove_pod(&pod)?;
        Ok((status.exit_code, remote.text(), String::from_utf8_lossy(&remote.stderr).into_owned()))
    })?;
    let said = |word: &str| format!("{word} one\n{word} two\n{word} end\n");
    assert_eq!(answer, (7, said("out"), said("err")));
    Ok(())
}

fn attach_to_a_terminal(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        // The size travels by itself: it may come after what was typed.
        let resized = "until [ \"$(stty size)\" = '17 91' ]; do :; done; stty size";
        let script = format!("stty -echo; echo ready; read x; {resized}; echo got $x; exit 3");
        let command = ["sh", "-c", &script];
        let wanted = Wanted { name: "c", command: &command, tty: true, stdin: true, ..Wanted::default() };
        let id = cri.create(&pod, &wanted)?;
        cri.start(&id)?;
        let log = cri.log_path(&pod, "c");
        eventually(LIMIT, "its first line", || Ok((!cri_log(&log)?.stdout.is_empty()).then_some(())))?;
        let mut remote = Remote::open(&cri.attach_url(&id, true)?)?;
        remote.resize(91, 17)?;
        remote.say(b"typed\n")?;
        remote.hear_out()?;
        let status = cri.await_exit(&id)?;
        let whole = String::from_utf8_lossy(&cri_log(&log)?.stdout).into_owned();
        cri.remove_pod(&pod)?;
        let said = ["17 91", "got typed"].map(|word| (remote.text().contains(word), whole.contains(word)));
        Ok((status.exit_code, said))
    })?;
    assert_eq!(answer, (3, [(true, true); 2]));
    Ok(())
}

/// Who hangs up takes nothing with him: the container lives on, and the next one sees what comes from then on.
fn attach_again_after_hanging_up(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = echo(cri, &pod)?;
        for turn in 0..3 {
            let mut remote = Remote::open(&cri.attach_url(&id, false)?)?;
            remote.say(format!("turn {turn}\n").as_bytes())?;
            remote.hear_until(&format!("out turn {turn}\n"))?;
        }
        let mut last = Remote::open(&cri.attach_url(&id, false)?)?;
        last.say(b"end\n")?;
        last.hear_until("out end\n")?;
        last.say(b"bye\n")?;
        last.hear_out()?;
        let status = cri.await_exit(&id)?;
        let log = cri_log(&cri.log_path(&pod, "c"))?;
        cri.remove_pod(&pod)?;
        Ok((status.exit_code, String::from_utf8_lossy(&log.stdout).into_owned(), last.text()))
    })?;
    let whole = "out turn 0\nout turn 1\nout turn 2\nout end\n".to_owned();
    assert_eq!(answer, (7, whole, "out end\n".to_owned()));
    Ok(())
}

fn exec_with_a_terminal(version: Version) -> Result<()> {
    let answer = same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let command =
            ["sh", "-c", "test -t 0 && test -t 1 && stty -echo && echo ready; read x; echo got $x; exit 9"];
        let mut remote = Remote::open(&cri.exec_url(&id, &command, true)?)?;
        remote.hear_until("ready")?;
        remote.say(b"typed\n")?;
        remote.hear_out()?;
        cri.remove_pod(&pod)?;
        Ok((remote.text(), remote.verdict()?))
    })?;
    assert_eq!(answer.0, "ready\r\ngot typed\r\n");
    assert_eq!(answer.1, ("Failure".to_owned(), Some("9".to_owned())));
    Ok(())
}

fn exec_with_much_output_and_a_status(version: Version) -> Result<()> {
    same_with_and_without(version, Hook::Opt, |node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let command = ["speaker", "lines=20000", "batch=10", "to=both", "exit=0"];
        let mut remote = Remote::open(&cri.exec_url(&id, &command, false)?)?;
        remote.hear_out()?;
        let (out, err) = (remote.stdout.len(), remote.stderr.len());
        let expected = tape(1, 20_000, 64);
        ensure!(remote.stdout == expected && remote.stderr == expected, "{out} and {err} bytes came");
        cri.remove_pod(&pod)?;
        remote.verdict()
    })
    .map(drop)
}

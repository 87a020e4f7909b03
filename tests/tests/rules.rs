//! Collection rules on real containers: what is dropped is admitted, what is secret is not kept, containerd's own log has
//! everything, and rules change while containers run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::line::tape;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::{Piece, Tape, cri_log, one_tape};
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    rules_decide_what_is_kept,
    the_end_of_a_line_that_takes_too_long_to_search_is_not_kept,
    a_pod_narrows_by_its_annotations,
    rules_change_while_a_container_runs,
);

const RULES: &str = r#"
[[rule]]
name = "secrets"
redact = ["email", 'card=(?P<secret>\d+)']
[[rule]]
name = "noise"
container = "loud"
image = "docker.io/shimtap/*"
lines_per_sec = 50
burst_lines = 100
[[rule]]
name = "nobody reads this"
namespace = "rig"
container = ["quiet", "mute"]
collect = false
[[rule]]
name = "for the node only"
container = "here"
sinks = []
"#;

fn wrapped(version: Version) -> Setup {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector()
}

fn sh<'a>(name: &'a str, command: &'a [&'a str; 3]) -> Wanted<'a> {
    Wanted { name, command, ..Wanted::default() }
}

/// Waits until the sink has `end` bytes of a container's stdout.
fn kept(node: &Node, container: &str, end: usize) -> Result<Tape> {
    let end = u64::try_from(end)?;
    eventually(LIMIT, &format!("all of {container} in the sink"), || {
        let tapes = node.collector(|collector| collector.sink())?;
        Ok(one_tape(&tapes, container, "stdout")?.filter(|tape| tape.end() >= end).cloned())
    })
    .with_context(|| node.collector(|collector| Ok(collector.counted())).unwrap_or_default())
}

fn lines(tape: &Tape) -> Vec<String> {
    let shown = |piece: &Piece| match piece {
        Piece::Line(line) => String::from_utf8_lossy(line).into_owned(),
        Piece::Gap(reason) => format!("-{reason}"),
    };
    tape.pieces().map(shown).collect()
}

fn rules_decide_what_is_kept(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        node.collector(|collector| {
            collector.configure(RULES)?;
            collector.shimtap(&["reload"])
        })?;
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let said = "to joe@example.org\ncard=4711 ok\nnothing\n";
        let secret = cri
            .run(&pod, &sh("app", &["/bin/sh", "-c", &format!("printf '{}'", said.replace('\n', "\\n"))]))?;
        let quiet = cri.run(&pod, &sh("quiet", &["/bin/sh", "-c", "echo one; echo two"]))?;
        let here = cri.run(&pod, &sh("here", &["/bin/sh", "-c", "echo stays"]))?;
        let command = ["speaker", "lines=5000", "seed=3", "width=80"];
        let loud = cri.run(&pod, &Wanted { name: "loud", command: &command, ..Wanted::default() })?;
        for id in [&secret, &quiet, &here, &loud] {
            cri.await_exit(id)?;
        }

        let tape_of_app = kept(node, &secret, said.len())?;
        ensure!(
            lines(&tape_of_app) == ["to [redacted:email]", "card=[redacted:pattern] ok", "nothing"],
            "{tape_of_app:?}"
        );
        ensure!(
            cri_log(&cri.log_path(&pod, "app"))?.stdout == said.as_bytes(),
            "containerd's own log is not ours"
        );

        let quiet_tape = kept(node, &quiet, "one\ntwo\n".len())?;
        ensure!(lines(&quiet_tape) == ["-rule_drop"], "{quiet_tape:?}");
        ensure!(
            cri_log(&cri.log_path(&pod, "quiet"))?.stdout == b"one\ntwo\n",
            "it is not ours to keep it from containerd"
        );

        let elsewhere = "shimtap_sink_elsewhere_bytes_total{sink=\"file\"} 6\n";
        eventually(LIMIT, "what the file is not to have to be passed over", || {
            Ok(node.collector(|collector| collector.get("/metrics"))?.contains(elsewhere).then_some(()))
        })?;
        let tapes = node.collector(|collector| collector.sink())?;
        ensure!(one_tape(&tapes, &here, "stdout")?.is_none(), "the file has what is not for it");
        let logs = node.collector(|collector| collector.shimtap(&["logs", "--container", "here"]))?;
        ensure!(logs.contains("stays"), "the journal lacks it: {logs}");
        let asked = |pod: &str| {
            let words = ["logs", "--namespace", "rig", "--pod", pod, "--stream", "stdout", "--grep", "card="];
            node.collector(|collector| collector.shimtap(&words))
        };
        let logs = asked("p")?;
        // A hole is shown whatever was asked for: what is not there may have been it.
        let found: Vec<&str> =
            logs.lines().filter(|line| !line.contains(" bytes are missing here: ")).collect();
        ensure!(
            matches!(found[..], [line] if line.ends_with(" rig/p/app stdout card=[redacted:pattern] ok")),
            "of the pod: {logs}"
        );
        ensure!(asked("q")?.is_empty(), "there is no such pod");
        let explained = node.collector(|collector| collector.shimtap(&["explain", "rig/p/here"]))?;
        ensure!(explained.contains("goes to    journal only: rule \"for the node only\""), "{explained}");

        let written = tape(3, 5000, 80);
        let judged = kept(node, &loud, written.len())?.judge(&written)?;
        ensure!(judged.accounted() == u64::try_from(written.len())?, "{judged:?}");
        ensure!(judged.gaps.keys().all(|reason| reason == "rate_limit"), "{judged:?}");
        // At once 100 lines, then 50 per second: far from all 5000, which take a second or so.
        let delivered = judged.delivered / 80;
        ensure!((100..2500).contains(&delivered), "{delivered} lines of 5000 came through");

        let explained = node.collector(|collector| collector.shimtap(&["explain", "rig/p/loud"]))?;
        for part in [
            "rig/p/loud",
            "collected  yes",
            "50 lines/s, 100 at once: rule \"noise\"",
            "email: rule \"secrets\"",
        ] {
            ensure!(explained.contains(part), "explain lacks {part:?}:\n{explained}");
        }
        let all = node.collector(|collector| collector.shimtap(&["explain", "rig/p"]))?;
        ensure!(all.contains("collected  no: rule \"nobody reads this\""), "{all}");
        let metrics = node.collector(|collector| collector.get("/metrics"))?;
        ensure!(metrics.contains("shimtap_log_redactions_total 2\n"), "{metrics}");
        cri.remove_pod(&pod)
    })
}

/// Each find of this pattern is one digit, and behind each all others are looked at.
fn the_end_of_a_line_that_takes_too_long_to_search_is_not_kept(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        node.collector(|collector| {
            collector.configure("[[rule]]\nredact = \"[0-9]+x|[0-9]\"\n")?;
            collector.shimtap(&["reload"])
        })?;
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let command = "head -c 200000 /dev/zero | tr '\\0' 7; echo; echo 7 of 9";
        let id = cri.run(&pod, &sh("digits", &["/bin/sh", "-c", command]))?;
        cri.await_exit(&id)?;
        let tape = kept(node, &id, 200_001 + "7 of 9\n".len())?;
        let [long, short] = &lines(&tape)[..] else { anyhow::bail!("two lines: {tape:?}") };
        ensure!(long.starts_with("[redacted:pattern]") && !long.contains('7'), "{long}");
        ensure!(long.ends_with("[redacted:the rest, which takes too long to search]"), "{long}");
        ensure!(
            short == "[redacted:pattern] of [redacted:pattern]",
            "the next line has its own time: {short}"
        );
        let page = node.collector(|collector| collector.get("/metrics"))?;
        ensure!(page.contains("shimtap_log_redacted_unsearched_total 1\n"), "{page}");
        cri.remove_pod(&pod)
    })
}

fn a_pod_narrows_by_its_annotations(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let asked = [("shimtap.io/redact", "email"), ("shimtap.io/collect", "maybe")];
        let open = cri.run_pod_with_annotations("open", &asked)?;
        let closed = cri.run_pod_with_annotations("closed", &[("shimtap.io/collect", "false")])?;
        let command = ["/bin/sh", "-c", "echo me@example.org"];
        let seen = cri.run(&open, &sh("app", &command))?;
        let unseen = cri.run(&closed, &sh("app", &command))?;
        for id in [&seen, &unseen] {
            cri.await_exit(id)?;
        }
        let length = "me@example.org\n".len();
        ensure!(lines(&kept(node, &seen, length)?) == ["[redacted:email]"]);
        ensure!(lines(&kept(node, &unseen, length)?) == ["-rule_drop"]);
        let explained = node.collector(|collector| collector.shimtap(&["explain", "rig/open/app"]))?;
        ensure!(explained.contains("not followed: \"maybe\" is neither true nor false"), "{explained}");
        cri.remove_pod(&open)?;
        cri.remove_pod(&closed)
    })
}

fn rules_change_while_a_container_runs(version: Version) -> Result<()> {
    let off = "[[rule]]\nname = \"off\"\ncollect = false\n";
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let host = node.host_dir();
        // A line whenever it is asked for one, so that each comes at a known time.
        let command = [
            "/bin/sh",
            "-c",
            "n=0; while :; do n=$((n+1)); until [ -e /host/$n ]; do usleep 5000; done; echo line $n; done",
        ];
        let wanted = Wanted { name: "app", command: &command, host: Some(&host), ..Wanted::default() };
        let id = cri.run(&pod, &wanted)?;
        let say = |n: usize| fs::write(host.join(n.to_string()), "").context("ask for a line");
        let until_logged = |n: usize| {
            eventually(LIMIT, "containerd to have the line", || {
                let log = cri_log(&cri.log_path(&pod, "app"))?;
                Ok(log.stdout.ends_with(format!("line {n}\n").as_bytes()).then_some(()))
            })
        };
        let reload = |more: &str| {
            node.collector(|collector| {
                collector.configure(more)?;
                collector.shimtap(&["reload"])
            })
        };
        say(1)?;
        kept(node, &id, 7)?;

        ensure!(reload(off)? == "the configuration holds: rules 1\n");
        // The wrapper takes note of it in its own time; a line that is on its way until then is a hole like the others.
        say(2)?;
        until_logged(2)?;
        let wrong = reload("[[rule]]\nredact = \"no_such\"\n").expect_err("it cannot be used").to_string();
        ensure!(wrong.contains("nothing was changed") && wrong.contains("rule.redact"), "{wrong}");
        let restart = reload("[stats]\ninterval_secs = 3\n").expect_err("it needs a restart").to_string();
        ensure!(restart.contains("[stats] changed, which needs a restart"), "{restart}");
        say(3)?;
        until_logged(3)?;
        let explained = node.collector(|collector| collector.shimtap(&["explain", "rig/p/app"]))?;
        ensure!(
            explained.contains("collected  no: rule \"off\""),
            "what could not be taken changed nothing: {explained}"
        );

        reload("")?;
        // Lines that come before the wrapper knows are not collected; the first that is ends the hole.
        let mut n = 3;
        let tape = eventually(LIMIT, "a line to be collected again", || {
            n += 1;
            say(n)?;
            until_logged(n)?;
            let tapes = node.collector(|collector| collector.sink())?;
            let tape = one_tape(&tapes, &id, "stdout")?.cloned();
            Ok(tape.filter(|tape| {
                lines(tape).last().is_some_and(|last| last.starts_with("line") && last != "line 1")
            }))
        })?;
        let shown = lines(&tape);
        ensure!(shown.first().is_some_and(|line| line == "line 1"), "{shown:?}");
        ensure!(shown.iter().any(|piece| piece == "-rule_drop"), "{shown:?}");
        ensure!(!shown.iter().any(|piece| piece == "line 2" || piece == "line 3"), "{shown:?}");
        let written: String = (1..=n).map(|n| format!("line {n}\n")).collect();
        let judged = tape.judge(written.as_bytes())?;
        ensure!(judged.gaps.keys().all(|reason| reason == "rule_drop"), "{judged:?}");
        cri.remove_pod(&pod)
    })
}

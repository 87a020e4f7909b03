//! Whoever wants lines: a plain containerd, `ctr`, and an OTLP receiver. What a container of a blink has written is there within
//! a second; a collector that is killed while another writes costs nothing; `shimtap doctor` has nothing to say.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::fresh::Fresh;
use super::package::{install, purge, shimtap, sweep};
use super::patiently;
use crate::guest::node::{LIMIT, SOCKET, import, property, systemctl, write};
use crate::line::tape;
use crate::oracle::{Tape, one_tape};
use crate::rig::endpoint::Endpoint;
use crate::rig::image::IMAGE;
use crate::rig::run::{Running, run};
use crate::rig::tools::Tools;
use crate::rig::vm::plan::DEB;
use crate::rig::{Version, now_and_then, process};

/// What the lines of a short container may take from its end.
const SOON: Duration = Duration::from_secs(1);
/// How many of them there are; one has to keep to it.
const SHORT: usize = 5;
const LINES: u64 = 1500;
/// How often their lines are looked for, while the time runs.
const LOOK: Duration = Duration::from_millis(50);

/// The whole of it.
pub fn a_user_who_wants_lines() -> Result<()> {
    sweep()?;
    let node = Fresh::start(Version::Packaged)?;
    let endpoint = Endpoint::start()?;
    install(DEB)?;
    write("/etc/shimtap/collector.toml", &endpoint.section("retry_most_secs = 1\n"))?;
    systemctl(&["restart", "shimtap.service"])?;
    shimtap(&["install", "--yes", "--restart"])?.ok()?;
    node.cri.await_ready()?;
    import(&node.tools, "default")?;

    are_soon(&node.tools, &endpoint)?;
    tiles_whatever_becomes_of_the_collector(&node.tools, &endpoint)?;
    is_healthy(&node.tools)?;

    shimtap(&["uninstall", "--yes", "--restart"])?.ok()?;
    purge()?;
    node.end()
}

fn ctr(tools: &Tools, words: &[&str]) -> Command {
    let mut command = Command::new(&tools.ctr);
    command.args(["-a", SOCKET]).args(words);
    command
}

/// What short containers write is at the receiver within a second of their end. Here that is demanded of one: a host that is busy holds up
/// an emulated machine for seconds, and what came late by itself would be late with all of them.
fn are_soon(tools: &Tools, endpoint: &Endpoint) -> Result<()> {
    let events = Running::start(ctr(tools, &["events"]))?;
    patiently("`ctr events` to listen", || {
        run(ctr(tools, &["namespaces", "label", "default", "heard=yes"]), LIMIT)?.ok()?;
        Ok((!events.stdout_so_far().is_empty()).then_some(()))
    })?;
    let mut late = Vec::new();
    for number in 0..SHORT {
        late.push(arrives(tools, endpoint, &events, &format!("short-{number}"))?);
    }
    let kept = late.iter().filter(|late| **late <= SOON).count();
    println!(
        "lines of containers of 50 ms were at the receiver {late:?} after their end: {kept} within {SOON:?}"
    );
    ensure!(kept > 0, "none of them within {SOON:?}: {late:?}");
    Ok(())
}

/// A container that lives for 50 ms: how long after its end the receiver has all of its lines. Both are looked for while `ctr` still
/// runs, which takes its time on an emulated machine.
fn arrives(tools: &Tools, endpoint: &Endpoint, events: &Running, id: &str) -> Result<Duration> {
    let script = "echo begins; echo complains >&2; sleep 0.05; echo ends";
    let running = Running::start(ctr(tools, &["run", "--rm", IMAGE, id, "sh", "-c", script]))?;
    let written: [(&str, &[u8]); 2] = [("stdout", b"begins\nends\n"), ("stderr", b"complains\n")];
    let tapes = now_and_then(LOOK, LIMIT, &format!("all of {id}'s lines"), || {
        let tapes = endpoint.tapes()?;
        for (stream, written) in written {
            let end = one_tape(&tapes, id, stream)?.map_or(0, Tape::end);
            if end < u64::try_from(written.len())? {
                return Ok(None);
            }
        }
        Ok(Some(tapes))
    })?;
    let arrived = since_midnight()?;
    let ran = running.finish(LIMIT)?.ok()?;
    ensure!(ran.text() == "begins\nends\n", "ctr got {:?}", ran.text());
    for (stream, written) in written {
        let judgement = one_tape(&tapes, id, stream)?.context("it was there")?.judge(written)?;
        ensure!(judgement.gaps.is_empty(), "{id}'s {stream}: {judgement:?}");
    }
    let ended = patiently(&format!("containerd's word on the end of {id}"), || {
        ended(&String::from_utf8_lossy(&events.stdout_so_far()), id)
    })?;
    // Lines that come before their container's end is known are not late, and neither are those of the minute of midnight.
    Ok(if arrived < ended { Duration::ZERO } else { arrived.saturating_sub(ended) })
}

/// When a container ended, after midnight (UTC), by containerd's events as `ctr events` prints them.
fn ended(events: &str, id: &str) -> Result<Option<Duration>> {
    let named = format!("\"container_id\":\"{id}\"");
    let Some(event) = events.lines().find(|line| line.contains("/tasks/exit ") && line.contains(&named))
    else {
        return Ok(None);
    };
    let (_, rest) = event.split_once("\"exited_at\":\"").with_context(|| format!("no end in {event}"))?;
    let clock = rest.split_once('T').and_then(|(_, rest)| Some(rest.split_once('Z')?.0));
    let clock = clock.with_context(|| format!("no time in {event}"))?;
    let mut seconds = 0.0;
    for part in clock.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().with_context(|| format!("no time in {event}"))?;
    }
    Ok(Some(Duration::try_from_secs_f64(seconds).context("a time of day")?))
}

fn since_midnight() -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    Ok(Duration::new(now.as_secs() % (24 * 3600), now.subsec_nanos()))
}

/// The collector is killed twice while a container writes. systemd starts it again.
fn tiles_whatever_becomes_of_the_collector(tools: &Tools, endpoint: &Endpoint) -> Result<()> {
    let lines = format!("lines={LINES}");
    let words = ["run", "--rm", IMAGE, "long", "speaker", &lines, "rate=150", "width=100"];
    let long = Running::start(ctr(tools, &words))?;
    for kill in 1..3_u64 {
        let so_far =
            || Ok::<_, anyhow::Error>(one_tape(&endpoint.tapes()?, "long", "stdout")?.map_or(0, |t| t.end()));
        patiently("some of its lines", || Ok((so_far()? > kill * 10_000).then_some(())))?;
        let pid: i32 = property("shimtap.service", "MainPID")?.parse().context("the collector's pid")?;
        process::signal(pid, Signal::SIGKILL)?;
        patiently("systemd to start it again", || {
            let now: i32 = property("shimtap.service", "MainPID")?.parse().context("the collector's pid")?;
            Ok((now != 0 && now != pid).then_some(()))
        })?;
    }
    long.finish(LIMIT)?.ok().context("the container's end")?;
    let written = tape(1, LINES, 100);
    let end = u64::try_from(written.len())?;
    let whole = patiently("all of its lines", || {
        Ok(one_tape(&endpoint.tapes()?, "long", "stdout")?.filter(|tape| tape.end() >= end).cloned())
    })?;
    let judgement = whole.judge(&written)?;
    ensure!(judgement.gaps.is_empty() && judgement.delivered == end, "{judgement:?} of {end} bytes");
    Ok(())
}

/// With a container that runs, the doctor has nothing but notes.
fn is_healthy(tools: &Tools) -> Result<()> {
    run(ctr(tools, &["run", "--detach", "--null-io", IMAGE, "stays", "sleep", "1000"]), LIMIT)?.ok()?;
    let mut said = String::new();
    let well = patiently("the doctor to be content", || {
        let came = shimtap(&["doctor"])?;
        said = format!("{}{}", came.text(), came.stderr);
        Ok((came.code == 0).then_some(()))
    });
    well.with_context(|| said.clone())?;
    ensure!(said.contains("1 of 1 containers are wrapped"), "the doctor says {said}");
    run(ctr(tools, &["tasks", "kill", "--signal", "SIGKILL", "stays"]), LIMIT)?.ok()?;
    patiently("it to be gone", || {
        // 1.6 ends with 0 and says how the container did; others end as it did.
        let came = run(ctr(tools, &["tasks", "delete", "stays"]), LIMIT)?;
        let status = came.code == 137 || (came.code == 0 && came.stderr.contains("exit code 137"));
        ensure!(status || came.code != 0, "not the status of a killed container: {came:?}");
        Ok(status.then_some(()))
    })?;
    run(ctr(tools, &["containers", "delete", "stays"]), LIMIT)?.ok()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_that_of_its_own_container() {
        let said = "2026-11-21 09:00:00.1 +0000 UTC default /tasks/exit {\"container_id\":\"other\",\"exited_at\":\"2026-11-21T09:00:00Z\"}\n\
                    2026-11-21 10:02:04.9 +0000 UTC default /tasks/exit {\"container_id\":\"short-1\",\"id\":\"short-1\",\"pid\":7,\
                    \"exited_at\":\"2026-11-21T10:02:03.25Z\"}\n";
        let seconds = Duration::from_millis(36_123_250);
        assert_eq!(ended(said, "short-1").expect("a time"), Some(seconds));
        assert_eq!(ended(said, "short-2").expect("no fault"), None);
        assert!(ended(&said.replace("T10", "X10"), "short-1").is_err());
    }
}

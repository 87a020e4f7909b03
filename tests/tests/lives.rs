//! How containers live and end, in numbers that nobody else has, and what containerd's own records add to them: taken from
//! real pods, and without containerd's API as well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::exposition::{family, of_label};
use shimtap_tests::rig::collector::Settings;
use shimtap_tests::rig::cri::{Cri, Pod, Wanted};
use shimtap_tests::rig::node::PATIENT;
use shimtap_tests::rig::patience::quickly;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};
use shimtap_tests::standin::client::kata::{for_containerd, wrapped_as_kata};
use shimtap_tests::standin::client::lab::Lab;
use shimtap_tests::standin::kata::guest::{Cgroup, Guest};
use shimtap_tests::standin::kata::{Profile, oom};
use shimtap_tests::standin::script::{Output, Script};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    every_end_is_counted_once_under_its_class_and_code,
    records_of_containerd_name_what_annotations_do_not,
    a_containerd_that_is_away_takes_no_name_from_anybody,
    a_containerd_that_stands_still_holds_up_nothing_and_is_told_of,
    a_vms_kill_for_want_of_memory_is_told_by_containerds_event,
    a_large_record_is_one_like_any_other,
);

fn wrapped(version: Version) -> Setup {
    let told = Settings { containerd: "pod_labels = [\"app\"]\n".to_owned(), ..Settings::default() };
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told)
}

fn own(node: &Node) -> Result<String> {
    node.collector(|collector| collector.get("/metrics"))
}

/// The sum over the rows of a family that have all of these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> Result<f64> {
    let rows = family(text, name)?;
    let chosen =
        rows.iter().filter(|(row, _)| labels.iter().all(|label| row.split(',').any(|l| l == *label)));
    Ok(chosen.map(|(_, value)| value).sum())
}

/// Waits until those sums are what they have to be.
fn await_sums(node: &Node, wanted: &[(&str, &[&str], f64)]) -> Result<()> {
    let mut seen = Vec::new();
    eventually(LIMIT, "what was done to be counted", || {
        let text = own(node)?;
        seen = wanted.iter().map(|(name, labels, _)| sum(&text, name, labels)).collect::<Result<Vec<_>>>()?;
        Ok(wanted.iter().zip(&seen).all(|((_, _, wanted), seen)| (wanted - seen).abs() < 0.1).then_some(()))
    })
    .with_context(|| format!("wanted {wanted:?}, seen {seen:?}"))
}

fn run(cri: &Cri, pod: &Pod, name: &str, command: &[&str]) -> Result<String> {
    cri.run(pod, &Wanted { name, command, ..Wanted::default() })
}

fn every_end_is_counted_once_under_its_class_and_code(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        // A kill for want of memory may be known from containerd's event alone, which is not told twice.
        await_sums(node, &[("shimtap_containerd_state", &["state=\"up\""], 1.0)])?;
        let pod = cri.run_pod("p")?;
        let burns = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exit 3";
        cri.await_exit(&run(cri, &pod, "burns", &["sh", "-c", burns])?)?;
        cri.stop(&run(cri, &pod, "killed", &["sleep", "1000"])?, 0)?;
        let fat = Wanted {
            name: "fat",
            command: &["speaker", "eat=256"],
            memory_limit_bytes: 32 << 20,
            ..Wanted::default()
        };
        cri.await_exit(&cri.run(&pod, &fat)?)?;
        let missing = Wanted { name: "missing", command: &["/no/such/program"], ..Wanted::default() };
        ensure!(cri.start(&cri.create(&pod, &missing)?).is_err(), "there is no such program");
        let lives = run(cri, &pod, "lives", &["sleep", "1000"])?;
        for (command, code) in [("true", 0), ("sleep 0.2", 0), ("exit 7", 7)] {
            ensure!(cri.exec(&lives, &["sh", "-c", command], 0)?.exit_code == code, "{command}");
        }
        let exits = "shimtap_container_exits_total";
        await_sums(
            node,
            &[
                (exits, &["class=\"normal\"", "code=\"3\"", "shim=\"host\""], 1.0),
                (exits, &["class=\"signal\"", "code=\"137\""], 1.0),
                (exits, &["class=\"oom\"", "code=\"137\""], 1.0),
                (exits, &["class=\"start_failure\"", "code=\"\""], 1.0),
                (exits, &[], 4.0),
                // The pause container's, and four that were made.
                ("shimtap_container_create_seconds_count", &["shim=\"host\""], 5.0),
                ("shimtap_container_start_seconds_count", &[], 5.0),
                ("shimtap_execs_total", &["outcome=\"success\""], 2.0),
                ("shimtap_execs_total", &["outcome=\"failure\""], 1.0),
            ],
        )?;
        // How long is the machine's business, and how much of it was before the answer to Start; it is not known where the end
        // was told before the beginning.
        let timed = sum(&own(node)?, "shimtap_exec_seconds_count", &[])?;
        ensure!((1.0..=3.0).contains(&timed), "{timed} of three execs were timed");
        let slept = sum(&own(node)?, "shimtap_exec_seconds_sum", &[])?;
        ensure!(slept > 0.0, "{slept} s for {timed} execs");
        used_cpu_stays(node, cri, &pod)
    })
}

/// What a container used is still in its namespace's sum when containerd has long forgotten the container.
fn used_cpu_stays(node: &Node, cri: &Cri, pod: &Pod) -> Result<()> {
    let cpu = |node: &Node| {
        let row = ["runtime_namespace=\"k8s.io\"", "namespace=\"rig\""];
        sum(&own(node)?, "shimtap_namespace_cpu_seconds_total", &row)
    };
    let before = cpu(node)?;
    ensure!(before > 0.0, "a loop of 100000 rounds uses some");
    cri.remove_pod(pod)?;
    eventually(LIMIT, "the collector to learn that all are gone", || {
        let ps = node.collector(|collector| collector.ps())?;
        let containers = ps.get("containers").and_then(|all| all.as_array()).context("containers")?;
        Ok(containers.iter().all(|one| one["state"] == "deleted").then_some(()))
    })?;
    let after = cpu(node)?;
    ensure!(after >= before, "{after} s are less than {before}");
    Ok(())
}

fn a_large_record_is_one_like_any_other(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        await_sums(node, &[("shimtap_containerd_state", &["state=\"up\""], 1.0)])?;
        // One may have ended while containerd came up; none may after that.
        let ended = |text: &str| sum(text, "shimtap_containerd_calls_total", &["call=\"subscribe\""]);
        let before = ended(&own(node)?)?;
        let pod = cri.run_pod("p")?;
        // Above a MiB all together, and each below the kernel's 128 KiB for one.
        let names: Vec<String> = (0..14).map(|n| format!("LARGE_{n}")).collect();
        let value = "x".repeat(100 << 10);
        let env: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let large = Wanted { name: "large", command: &["sleep", "1000"], env: &env, ..Wanted::default() };
        cri.run(&pod, &large)?;
        run(cri, &pod, "small", &["sleep", "1000"])?;
        await_sums(
            node,
            &[
                ("shimtap_container_info", &["container=\"large\"", "label_app=\"p\"", "attempt=\"0\""], 1.0),
                ("shimtap_container_info", &["label_app=\"p\""], 3.0),
                ("shimtap_containerd_waiting_containers", &[], 0.0),
                ("shimtap_containerd_calls_total", &["result=\"too_large\""], 0.0),
            ],
        )?;
        let text = own(node)?;
        let after = ended(&text)?;
        let calls = || {
            text.lines().filter(|line| line.starts_with("shimtap_containerd_calls_total")).collect::<Vec<_>>()
        };
        ensure!(after == before, "connections that ended: {before}, then {after}; {:#?}", calls());
        cri.remove_pod(&pod)
    })
}

fn records_of_containerd_name_what_annotations_do_not(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod_of_handler("p", "runc")?;
        let id = run(cri, &pod, "c", &["sh", "-c", "echo one; echo two; sleep 1000"])?;
        await_sums(
            node,
            &[
                ("shimtap_containerd_state", &["state=\"up\""], 1.0),
                ("shimtap_container_info", &["handler=\"runc\"", "label_app=\"p\"", "attempt=\"0\""], 2.0),
                (
                    "shimtap_container_info",
                    &["handler=\"runc\"", "container=\"c\"", &format!("name=\"{id}\"")],
                    1.0,
                ),
                ("shimtap_container_create_seconds_count", &["handler=\"runc\"", "shim=\"host\""], 2.0),
                ("shimtap_container_log_lines_total", &[&format!("name=\"{id}\""), "stream=\"stdout\""], 2.0),
                ("shimtap_container_log_bytes_total", &["container=\"c\"", "stream=\"stdout\""], 8.0),
                ("shimtap_containerd_waiting_containers", &[], 0.0),
            ],
        )?;
        let ps = node.collector(|collector| collector.ps())?;
        let containers = ps.get("containers").and_then(|all| all.as_array()).context("containers")?;
        let record = containers.iter().find(|one| one["id"] == id.as_str()).context("the container")?;
        let record = &record["record"];
        let log = cri.log_path(&pod, "c");
        ensure!(record["log_path"].as_str() == log.to_str(), "{record}");
        ensure!(record["image_id"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{record}");
        ensure!(
            record.pointer("/pod_labels/app").and_then(serde_json::Value::as_str) == Some("p"),
            "{record}"
        );
        cri.remove_pod(&pod)
    })
}

fn a_containerd_that_is_away_takes_no_name_from_anybody(version: Version) -> Result<()> {
    wrapped(version).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        run(cri, &pod, "c", &["sleep", "1000"])?;
        await_sums(node, &[("shimtap_container_info", &["label_app=\"p\""], 2.0)])?;
        let ready = |node: &Node| node.collector(|collector| collector.get("/readyz"));
        ensure!(ready(node)? == "ok\n", "{}", ready(node)?);
        node.stop_daemon(Signal::SIGKILL)?;
        await_sums(node, &[("shimtap_containerd_state", &["state=\"down\""], 1.0)])?;
        ensure!(ready(node)?.contains("annotations alone"), "{}", ready(node)?);
        // What is known stays, and its numbers go on.
        await_sums(node, &[("shimtap_container_info", &["label_app=\"p\""], 2.0)])?;
        let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
        ensure!(text.contains("container=\"c\""), "{text}");
        node.start_daemon()?;
        node.cri()?.await_ready()?;
        await_sums(node, &[("shimtap_containerd_state", &["state=\"up\""], 1.0)])?;
        let second = cri.run_pod("q")?;
        await_sums(node, &[("shimtap_container_info", &["label_app=\"q\""], 1.0)])?;
        cri.remove_pod(&second)?;
        cri.remove_pod(&pod)
    })
}

/// How long a page may take while containerd hangs: nothing of ours waits for it.
const PAGE: Duration = Duration::from_secs(2);

/// containerd is there, takes connections and answers none. What starts meanwhile (a stand-in: containerd cannot) is shown by its
/// OCI annotations, with its lines and its numbers; what was known stays; and it is said.
fn a_containerd_that_stands_still_holds_up_nothing_and_is_told_of(version: Version) -> Result<()> {
    let told = Settings { containerd: "pod_labels = [\"app\"]\n".to_owned(), ..Settings::each_second() };
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let id = run(cri, &pod, "c", &["sh", "-c", "while :; do echo line; sleep 0.1; done"])?;
        await_sums(node, &[("shimtap_container_info", &["label_app=\"p\""], 2.0)])?;
        node.signal_daemon(Signal::SIGSTOP)?;
        let script = Script {
            stdout: Output::lines(10, 64),
            guest: Some(Guest::worked(Cgroup::V2)),
            ..Script::stayer()
        };
        let late = wrapped_as_kata("late", Profile::Rust, &script, &node.collector_socket())?;
        late.specify("annotations", annotations("late"))?;
        let _fifos = late.run()?;
        await_sums(node, &[("shimtap_containerd_state", &["state=\"down\""], 1.0)])?;
        let lines = "shimtap_container_log_lines_total";
        await_sums(
            node,
            &[
                (lines, &["container=\"app\"", "pod=\"late\"", "stream=\"stdout\""], 10.0),
                ("shimtap_container_info", &["label_app=\"p\""], 2.0),
            ],
        )?;
        eventually(LIMIT, "its numbers", || {
            let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=vm"))?;
            let rows = family(&text, "container_memory_working_set_bytes")?;
            let named = |(labels, _): &(&str, f64)| labels.contains("pod=\"late\"");
            Ok(rows.iter().any(named).then_some(()))
        })?;
        nothing_waits(node, &id)?;
        node.signal_daemon(Signal::SIGCONT)?;
        await_sums(
            node,
            &[
                ("shimtap_containerd_state", &["state=\"up\""], 1.0),
                ("shimtap_containerd_waiting_containers", &[], 0.0),
            ],
        )?;
        late.end()?;
        cri.remove_pod(&pod)
    })
}

/// Every page and `shimtap ps` come in time, say what is the matter, and what containers use is shown as it goes on.
fn nothing_waits(node: &Node, id: &str) -> Result<()> {
    let page = |path: &str| -> Result<String> {
        let mut text = String::new();
        quickly(PAGE, path, || {
            let began = Instant::now();
            text = node.collector(|collector| collector.get(path))?;
            Ok(began.elapsed())
        })?;
        Ok(text)
    };
    ensure!(page("/healthz")? == "ok\n", "it is well itself");
    ensure!(page("/readyz")?.contains("annotations alone"), "{}", page("/readyz")?);
    quickly(PAGE, "ps", || {
        let began = Instant::now();
        node.collector(|collector| collector.ps())?;
        Ok(began.elapsed())
    })?;
    // Its log has no reader now, so it waits, as it would without us; its numbers come all the same.
    let seen = || -> Result<(f64, u64)> {
        let name = format!("name=\"{id}\"");
        let waited = sum(&page("/metrics")?, "shimtap_container_log_stalled_seconds_total", &[&name])?;
        Ok((waited, of_label(&page("/metrics/cadvisor?scope=all")?, "name", id)?.time_ms))
    };
    let before = seen()?;
    eventually(LIMIT, "it to wait for longer, and a newer sample", || {
        let now = seen()?;
        Ok((now.0 > before.0 && now.1 > before.1).then_some(()))
    })
}

/// As CRI says whose container it is.
fn annotations(pod: &str) -> serde_json::Value {
    serde_json::json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": format!("sandbox-of-{pod}"),
        "io.kubernetes.cri.sandbox-namespace": "rig",
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.container-name": "app",
    })
}

/// A VM's kills are in no Stats answer. What tells of one is the event that the shim publishes past the wrapper, at the address that
/// came to it through the wrapper; containerd passes it on to who asks for it, which is the collector. The container's end
/// comes after it. What no event tells of is not known.
fn a_vms_kill_for_want_of_memory_is_told_by_containerds_event(version: Version) -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("oom");
    let named = [(oom::KEY, file.to_str().context("a path")?)];
    let inner = for_containerd(lab.dir(), Profile::Rust, &Guest::worked(Cgroup::V2), &named)?;
    let hook = if version.tools()?.honours_runtime_path() { Hook::Path } else { Hook::Opt };
    let told = Settings::each_second();
    let setup = Setup::new(version, Shim::Wrapped(hook)).with_collector().telling(told);
    setup.shim_toml(&format!("{PATIENT}{inner}")).run(|node| {
        let cri = node.cri()?;
        await_sums(node, &[("shimtap_containerd_state", &["state=\"up\""], 1.0)])?;
        let pod = cri.run_pod("vm")?;
        let (fat, lean) = (run(cri, &pod, "fat", &["fat"])?, run(cri, &pod, "lean", &["lean"])?);
        let lone = run(cri, &pod, "lone", &["lone"])?;
        let kills = |id: &str, wanted: Option<f64>| {
            let mut last = None;
            eventually(LIMIT, "its kills", || {
                let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=vm"))?;
                last = of_label(&text, "name", id)?.values.get("container_oom_events_total").copied();
                Ok((last == wanted).then_some(()))
            })
            .with_context(|| format!("{last:?}, not {wanted:?}"))
        };
        // Nobody was killed since the collector listens.
        kills(&fat, Some(0.0))?;
        std::fs::write(&file, &fat).context("have it killed")?;
        let status = cri.await_exit(&fat)?;
        ensure!(status.exit_code == 137, "{status:?}");
        await_sums(
            node,
            &[
                ("shimtap_containerd_oom_events_total", &[], 1.0),
                ("shimtap_container_exits_total", &["class=\"oom\"", "code=\"137\"", "shim=\"kata\""], 1.0),
                ("shimtap_container_exits_total", &[], 1.0),
            ],
        )?;
        kills(&fat, Some(1.0))?;
        kills(&lean, Some(0.0))?;
        // Its guest as a whole had no memory left: nobody tells, so that 0 would be a claim.
        kills(&lone, Some(0.0))?;
        std::fs::write(&file, format!("{}{lone}", oom::UNTOLD)).context("have it killed")?;
        let status = cri.await_exit(&lone)?;
        ensure!(status.exit_code == 137, "{status:?}");
        kills(&lone, None)?;
        cri.remove_pod(&pod)
    })
}

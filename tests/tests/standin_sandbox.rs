//! A Kata sandbox as its host sees it: what it is and costs, which of its parts died, how often it is asked, what it keeps to
//! itself.
//!
//! All of it through the wrapper and the collector, with a stand-in shim that has real processes beside it under the names of
//! a hypervisor and of virtiofsd (`shimtap_tests::standin::kata::household`), in real cgroups. docs/kata.md names these tests
//! behind its promises. No hypervisor runs here.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shimtap_tests::{
    oracle::{cgroup, exposition::family},
    rig::{
        collector::{Collector, Settings},
        eventually,
    },
    standin::{
        client::{
            lab::Lab,
            pod::{self, Fifos},
            sandbox::{Sandbox, Wanted},
            wrapped::{STANDIN, binary},
        },
        journal::{Entry, Kind},
        kata::{
            Profile,
            guest::{Cgroup, Guest},
            household,
        },
        procs,
        script::Script,
    },
};

const LIMIT: Duration = Duration::from_secs(60);
/// What lies at least between two Stats of ours to an old release (30 s), and after three that were refused (60 s); less what the
/// asking and the writing down of a request may differ by on a busy machine.
const FLOOR: Duration = Duration::from_secs(25);
const FIRST_REST: Duration = Duration::from_secs(55);

/// A container beside a sandbox's own.
struct Second {
    id: String,
    _fifos: Fifos,
}

/// Time between Stats for this container of it that reached its shim, one after another.
fn pauses_between_stats(of: &Sandbox, id: &str) -> Result<Vec<Duration>> {
    let all = of.pod.lab.requests()?;
    let its = |entry: &&Entry| entry.kind == Kind::Request && entry.method == "Stats" && entry.id == id;
    let times: Vec<u64> = all.iter().filter(its).map(|entry| entry.at_ns).collect();
    let pause = |two: &[u64]| Some(Duration::from_nanos(two.get(1)?.saturating_sub(*two.first()?)));
    Ok(times.windows(2).filter_map(pause).collect())
}

/// One more container in it, of the same kind.
fn second_of(of: &Sandbox) -> Result<Second> {
    let id = format!("{}-second", of.id());
    let fifos = of.pod.run_beside(&id, &guest(), &[])?;
    Ok(Second { id, _fifos: fifos })
}

/// Its hypervisor dies, and containerd is told how its containers ended.
fn lose_vm(of: &Sandbox, second: &Second) -> Result<()> {
    for pid in of.processes("qemu-system-x86_64")? {
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("the VM's death")?;
    }
    for id in [of.id(), &second.id] {
        let answer = of.pod.connection.call("Wait", &pod::wait(id, ""))?;
        let status = answer.message::<api::WaitResponse>()?.exit_status;
        ensure!(status == 255, "{id} ended with {status}");
    }
    Ok(())
}

fn collector(lab: &Lab) -> Result<Collector> {
    lab.collector_told(&Settings::each_second())
}

/// Values of a family's rows of a sandbox, by what is in the rows' labels beside its names.
fn rows(collector: &Collector, name: &str, id: &str) -> Result<BTreeMap<String, f64>> {
    let text = collector.get("/metrics")?;
    let its = format!("sandbox=\"{id}\"");
    let all = family(&text, name)?;
    let all = all.into_iter().filter(|(labels, _)| labels.contains(&its));
    Ok(all.map(|(labels, value)| (labels.split(&its).nth(1).unwrap_or_default().to_owned(), value)).collect())
}

fn one(collector: &Collector, name: &str, id: &str) -> Result<Option<f64>> {
    Ok(rows(collector, name, id)?.into_values().next())
}

/// The value of a family's row with these labels.
fn of_node(collector: &Collector, name: &str, labels: &str) -> Result<f64> {
    let text = collector.get("/metrics")?;
    let all = family(&text, name)?;
    Ok(all.into_iter().filter(|(row, _)| row.contains(labels)).map(|(_, value)| value).sum())
}

fn as_f64(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}

/// Each hypervisor is told with its release, its processes and what they use.
fn told(profile: Profile, hypervisor: &str, program: &str, kernel: &str) -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    // The Go shim's file does not say that a guest is not confidential.
    let (shim, only, confidential) =
        if profile == Profile::Rust { ("kata_rust", "true", "false") } else { ("kata_go", "false", "") };
    let name = format!("{hypervisor}-{shim}");
    let mut sandbox =
        Wanted { name: &name, profile, hypervisor, ..Wanted::default() }.run(&collector.socket())?;
    let path = sandbox.confine(program)?;
    let id = sandbox.id().to_owned();
    let info = eventually(LIMIT, "what it is", || {
        let rows = rows(&collector, "shimtap_sandbox_info", &id)?;
        Ok(rows.into_keys().find(|labels| labels.contains("shim_version=\"4.1.0\"")))
    })?;
    for label in [
        &format!("shim=\"{shim}\""),
        &format!("hypervisor=\"{hypervisor}\""),
        &format!("guest_kernel=\"{kernel}\""),
        "guest_image=\"kata-initrd.img\"",
        &format!("sandbox_cgroup_only=\"{only}\""),
        &format!("confidential=\"{confidential}\""),
    ] {
        ensure!(info.contains(label), "{label} is not in {info}");
    }
    ensure!(one(&collector, "shimtap_vm_memory_bytes", &id)? == Some(416.0 * 1024.0 * 1024.0), "VM's memory");
    ensure!(one(&collector, "shimtap_vm_vcpus", &id)? == Some(as_f64(household::VCPUS)), "vCPUs");
    let work = household::WORK.as_secs_f64() * as_f64(household::VCPUS);
    eventually(LIMIT, "the work of its vCPUs", || {
        let run = one(&collector, "shimtap_vcpu_run_seconds_total", &id)?;
        // Spinning until a time is not running until it: the rest was waited for.
        let wait = one(&collector, "shimtap_vcpu_wait_seconds_total", &id)?;
        Ok(run.zip(wait).filter(|(run, wait)| run + wait >= work * 0.9 && *run <= work * 2.0))
    })?;
    let threads = rows(&collector, "shimtap_component_threads", &id)?;
    let of = |component: &str| {
        let label = format!(",component=\"{component}\"");
        threads.get(&label).copied().with_context(|| format!("{component} in {threads:?}"))
    };
    ensure!(of("vmm")? == as_f64(household::VCPUS + 1) && of("virtiofsd")? == 2.0, "{threads:?}");
    ensure!(of("shim")? >= 1.0 && of("wrapper")? >= 2.0, "{threads:?}");
    costs(&collector, &id, &path)?;
    named(&collector, &sandbox, program)?;
    shares(&collector, &sandbox, program)?;
    sandbox.end()?;
    collector.stop()
}

/// What each component has of the memory that it shares, where the kernel tells (the shipped unit is not told). It is asked once a
/// minute, and the first time may have been before the hypervisor was there.
fn shares(collector: &Collector, sandbox: &Sandbox, program: &str) -> Result<()> {
    let vmm = *sandbox.processes(program)?.first().context("the hypervisor")?;
    if std::fs::read_to_string(format!("/proc/{vmm}/smaps_rollup")).is_err() {
        return Ok(());
    }
    eventually(LIMIT * 2, "shares of memory", || {
        let memory = rows(collector, "shimtap_component_memory_bytes", sandbox.id())?;
        let is_shown = |component: &str| {
            let row = format!(",component=\"{component}\",kind=\"pss\"");
            memory.get(&row).is_some_and(|bytes| *bytes > 0.0)
        };
        Ok(["vmm", "virtiofsd", "shim", "wrapper"].into_iter().all(is_shown).then_some(()))
    })
}

/// `shimtap ps` says by which numbers its processes are found, and which build its shim is.
fn named(collector: &Collector, sandbox: &Sandbox, program: &str) -> Result<()> {
    let ps = collector.ps()?;
    let all = ps.pointer("/sandboxes").and_then(|all| all.as_array()).context("sandboxes")?;
    let its = all.iter().find(|one| one["id"] == sandbox.id()).context("the sandbox")?;
    let pids = |key: &str| -> Vec<i64> {
        its[key].as_array().into_iter().flatten().filter_map(|pid| pid.as_i64()).collect()
    };
    let truly = |name: &str| -> Result<Vec<i64>> {
        let mut pids: Vec<i64> = sandbox.processes(name)?.into_iter().map(i64::from).collect();
        pids.sort_unstable();
        Ok(pids)
    };
    ensure!(pids("hypervisor_pids") == truly(program)? && truly(program)?.len() == 1, "{its}");
    ensure!(pids("virtiofsd_pids") == truly("virtiofsd")? && truly("virtiofsd")?.len() == 2, "{its}");
    ensure!(its["sandbox_cgroup_only"].is_boolean(), "{its}");
    let build = its["shim_build_id"].as_str().context("its build")?;
    ensure!(build == build_id(&binary(STANDIN)?)?, "{build} is another build");
    let table = collector.ps_with(&[])?;
    let word = program.split('-').next().unwrap_or_default();
    for pid in truly(program)?.iter().chain(&truly("virtiofsd")?) {
        let pid = pid.to_string();
        ensure!(table.lines().any(|row| row.contains(word) && row.contains(&pid)), "{pid} is not in {table}");
    }
    Ok(())
}

/// As the linker wrote it: a note with the name GNU, of kind 3 and with 20 bytes (elf(5)).
fn build_id(path: &Path) -> Result<String> {
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let note = bytes.windows(NOTE.len()).position(|window| window == NOTE);
    let id = note.and_then(|at| bytes.get(at + NOTE.len()..)?.first_chunk::<20>());
    Ok(id.context("the program has no build id")?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the host's cgroup is charged with, and what is left of it without the containers'.
fn costs(collector: &Collector, id: &str, path: &str) -> Result<()> {
    let guest = Guest::worked(Cgroup::V2);
    let truth = cgroup::at_rest(path, LIMIT)?;
    let memory = truth.get("container_memory_usage_bytes").context("memory of the cgroup")?;
    let cpu = truth.get("container_cpu_usage_seconds_total").context("CPU time of the cgroup")?;
    let near = |a: f64, b: f64, by: f64| (a - b).abs() <= by;
    let mut last = String::new();
    let shown = eventually(LIMIT, "what it costs", || {
        let figure = |name: &str| one(collector, name, id);
        let memory_shown = figure("shimtap_pod_host_memory_bytes")?;
        let cpu_shown = figure("shimtap_pod_host_cpu_seconds_total")?;
        let overhead = figure("shimtap_pod_overhead_memory_bytes")?;
        let overhead_cpu = figure("shimtap_pod_overhead_cpu_seconds")?;
        last = format!("{memory_shown:?} {cpu_shown:?} {overhead:?} {overhead_cpu:?}");
        let both = memory_shown.zip(cpu_shown).zip(overhead.zip(overhead_cpu));
        // The processes look every 100 ms whether they are wanted, so that their CPU time creeps.
        Ok(both.filter(|((m, c), _)| near(*m, *memory, 2e6) && near(*c, *cpu, 0.5)))
    });
    let ((memory, _), (overhead, overhead_cpu)) = shown.with_context(|| last.clone())?;
    let usage = as_f64(guest.usage);
    ensure!(near(overhead, memory - usage, 2e6), "overhead {overhead} of {memory}, the guest has {usage}");
    ensure!(overhead < 0.0, "the guest of this stand-in claims more than its host has: {overhead}");
    // It was first seen before its container began, whose guest claims to have worked from the beginning, or after that.
    let claimed = as_f64(guest.user_us + guest.system_us) / 1e6;
    let since = [0.0, -claimed].map(|from| from..from + 1.0);
    ensure!(
        since.iter().any(|since| since.contains(&overhead_cpu)),
        "CPU time since it was first seen: {overhead_cpu}"
    );
    Ok(())
}

#[test]
fn a_sandbox_of_qemu_is_told_with_what_it_costs() -> Result<()> {
    told(Profile::Rust, "qemu", "qemu-system-x86_64", "vmlinux-6.12.42")
}

#[test]
fn a_sandbox_of_the_go_shim_is_told_with_what_it_costs() -> Result<()> {
    told(Profile::Go(Cgroup::V2), "qemu", "qemu-system-x86_64", "vmlinux-6.12.42")
}

#[test]
fn a_sandbox_of_cloud_hypervisor_is_told_with_what_it_costs() -> Result<()> {
    // Its arguments do not name a kernel here: what the state says.
    told(Profile::Rust, "cloud-hypervisor", "cloud-hypervisor", "vmlinux")
}

/// Our own Stats keep a distance of 30 s from releases before 4.1, also at a container's end; others' do not, and are measured.
#[test]
fn an_old_release_is_asked_seldom_and_a_warning_says_who_asks_often() -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    let old = Wanted { name: "old", release: "4.0.0", ..Wanted::default() }.run(&collector.socket())?;
    let new = Wanted { name: "new", ..Wanted::default() }.run(&collector.socket())?;
    let asked = |sandbox: &Sandbox| sandbox.pod.lab.count("Stats", sandbox.id(), "");
    let info = "shimtap_sandbox_info";
    eventually(LIMIT, "both releases", || {
        let known = |sandbox: &Sandbox, release: &str| -> Result<bool> {
            Ok(rows(&collector, info, sandbox.id())?.into_keys().any(|labels| labels.contains(release)))
        };
        Ok((known(&old, "\"4.0.0\"")? && known(&new, "\"4.1.0\"")?).then_some(()))
    })?;
    let before = asked(&new)?;
    eventually(LIMIT, "four rounds of the new one", || Ok((asked(&new)? >= before + 4).then_some(())))?;
    let pauses = pauses_between_stats(&old, old.id())?;
    ensure!(pauses.iter().all(|pause| *pause >= FLOOR), "the old one was asked after {pauses:?}");
    // Nor at the end of a container of it, which is when it does harm.
    let second = second_of(&old)?;
    eventually(LIMIT, "its first Stats", || {
        Ok((old.pod.lab.count("Stats", &second.id, "")? >= 1).then_some(()))
    })?;
    old.pod.end_beside(&second.id)?;
    let pauses = pauses_between_stats(&old, &second.id)?;
    ensure!(pauses.iter().all(|pause| *pause >= FLOOR), "it was asked at its end, after {pauses:?}");
    ensure!(asked(&old)? >= 1, "the old one was never asked");

    // (Of other things it may warn: the tests beside this one share the machine.)
    ensure!(!collector.ps_with(&["--warnings"])?.contains("stats_asked_often"), "nobody else asks");
    let said = eventually(LIMIT, "a warning", || {
        old.pod.connection.call("Stats", &pod::stats(old.id()))?.message::<api::StatsResponse>()?;
        let said = collector.ps_with(&["--warnings"])?;
        Ok(said.contains("stats_asked_often").then_some(said))
    })?;
    ensure!(said.contains(old.id()) && said.contains("Kata 4.0.0"), "{said}");
    ensure!(!said.contains(new.id()), "the new one may be asked: {said}");
    old.end()?;
    new.end()?;
    collector.stop()
}

/// Which of the two is gone is told apart; what runs on without a shim is nobody's to be ended.
#[test]
fn a_dead_shim_is_told_from_a_dead_vm() -> Result<()> {
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    let deaths = "shimtap_sandbox_deaths_total";
    let shimless = Wanted { name: "shimless", ..Wanted::default() }.run(&collector.socket())?;
    let vmless = Wanted { name: "vmless", script: guest(), ..Wanted::default() }.run(&collector.socket())?;
    let second = second_of(&vmless)?;
    for sandbox in [&shimless, &vmless] {
        eventually(LIMIT, "both processes known", || one(&collector, "shimtap_vm_vcpus", sandbox.id()))?;
    }
    let vmm = |sandbox: &Sandbox| sandbox.processes("qemu-system-x86_64");
    for pid in shimless.pod.lab.inner_pids()? {
        kill(pid, Signal::SIGKILL).context("the shim's death")?;
    }
    lose_vm(&vmless, &second)?;
    for cause in ["shim", "vm"] {
        eventually(LIMIT, &format!("the death of a {cause}"), || {
            Ok((of_node(&collector, deaths, &format!("cause=\"{cause}\""))? == 1.0).then_some(()))
        })?;
    }
    eventually(LIMIT, "the container that ended with its shim", || {
        let exits = of_node(&collector, "shimtap_container_exits_total", "class=\"shim_death\"")?;
        Ok((exits == 1.0).then_some(()))
    })?;
    ensure!(!vmm(&shimless)?.is_empty(), "the hypervisor that a dead shim left was ended");
    // Only once, and an ordinary end is none: one that dies after it is counted, and nothing else is by then.
    let third = Wanted { name: "third", ..Wanted::default() }.run(&collector.socket())?;
    let last = Wanted { name: "last", script: guest(), ..Wanted::default() }.run(&collector.socket())?;
    let last_second = second_of(&last)?;
    for sandbox in [&third, &last] {
        eventually(LIMIT, "the others known", || one(&collector, "shimtap_vm_vcpus", sandbox.id()))?;
    }
    third.end()?;
    lose_vm(&last, &last_second)?;
    eventually(LIMIT, "the death of another", || {
        Ok((of_node(&collector, deaths, "cause=\"vm\"")? == 2.0).then_some(()))
    })?;
    let all = of_node(&collector, deaths, "")?;
    ensure!(all == 3.0, "{all} deaths, of which one shim's and two of VMs were");
    for (mut sandbox, second) in [(vmless, second), (last, last_second)] {
        sandbox
            .pod
            .connection
            .call("Delete", &pod::delete(&second.id, ""))?
            .message::<api::DeleteResponse>()?;
        sandbox.pod.finish()?;
        sandbox.clear();
    }
    collector.stop()
}

/// One GET of the shim's own metrics ends the shim and leaves the rest (seen): its containers are lost with it, its wrapper goes
/// though the dead shim's address still connects, and what runs on is listed with proof, and let live.
#[test]
fn what_a_forbidden_read_leaves_is_told_and_let_live() -> Result<()> {
    let lab = Lab::new()?;
    // Beside that: a label that is cut is counted. Twice this name is longer, as the label `id` has it.
    let metrics = "max_label_value_bytes = 64\n".to_owned();
    let ingest = "orphan_secs = 2\n".to_owned();
    let collector = lab.collector_told(&Settings { ingest, metrics, ..Settings::each_second() })?;
    let mut sandbox =
        Wanted { name: "read-by-somebody-else-s-monitor", ..Wanted::default() }.run(&collector.socket())?;
    let id = sandbox.id().to_owned();
    eventually(LIMIT, "its processes known", || one(&collector, "shimtap_vm_vcpus", &id))?;
    let orphans = || -> Result<String> { collector.ps_with(&["--orphans"]) };
    ensure!(!orphans()?.contains(&id), "its shim lives");
    ensure!(sandbox.touched()?.is_empty(), "{:?}", sandbox.touched()?);
    somebodys_monitor(&collector, &sandbox)?;
    // What may be read is answered, and nothing comes of it.
    ensure!(get(&sandbox, "/agent-url")?.contains("hvsock://") && get(&sandbox, "/x")?.contains("404"));
    ensure!(get(&sandbox, "/metrics")?.is_empty(), "an empty reply");
    let touched = ["/agent-url", "/x", "/metrics"].map(|path| format!("shim-monitor.sock: GET {path}"));
    ensure!(sandbox.touched()? == touched, "who comes is noted: {:?}", sandbox.touched()?);

    procs::wait(
        LIMIT,
        || "its wrapper ends".to_owned(),
        || procs::keepers(sandbox.pod.lab.namespace()).ok()?.is_empty().then_some(()),
    )?;
    eventually(LIMIT, "a shim's death", || {
        let exits = of_node(&collector, "shimtap_container_exits_total", "class=\"shim_death\"")?;
        let deaths = of_node(&collector, "shimtap_sandbox_deaths_total", "cause=\"shim\"")?;
        Ok((exits == 1.0 && deaths == 1.0).then_some(()))
    })?;
    let said = eventually(LIMIT, "orphans", || Ok(Some(orphans()?).filter(|said| said.contains(&id))))?;
    let mut all = sandbox.processes("virtiofsd")?;
    all.extend(sandbox.processes("qemu-system-x86_64")?);
    ensure!(all.len() == 3, "somebody ended one: {all:?}");
    for pid in &all {
        ensure!(said.contains(&format!("process {pid}, of sandbox {id}")), "{pid} is not in {said}");
    }
    ensure!(said.contains("no shim runs with -id") && said.contains("no wrapper serves"), "{said}");
    ensure!(collector.ps_with(&["--warnings"])?.contains("orphans"), "no warning");
    for (kind, least) in [("vmm", 1.0), ("virtiofsd", 2.0)] {
        let counted = of_node(&collector, "shimtap_orphans", kind)?;
        // Whoever else uses this machine may have left some as well.
        ensure!(counted >= least, "{counted} orphans of kind {kind}");
    }
    ensure!(of_node(&collector, "shimtap_metrics_cut_total", "label_length")? > 0.0, "a cut is counted");
    sandbox.clear();
    eventually(LIMIT, "nobody left", || Ok((!orphans()?.contains(&id)).then_some(())))?;
    collector.stop()
}

/// A process by the name of the one that reads what must not be read is warned of while it runs.
fn somebodys_monitor(collector: &Collector, beside: &Sandbox) -> Result<()> {
    let path = beside.pod.lab.dir().join("kata-monitor");
    std::fs::copy("/bin/sleep", &path).context("a program of that name")?;
    let mut monitor = Command::new(&path).arg("600").spawn().context("kata-monitor")?;
    let pid = monitor.id().to_string();
    let warned = eventually(LIMIT, "a warning of kata-monitor", || {
        let said = collector.ps_with(&["--warnings"])?;
        let is_it = |row: &str| row.contains("kata-monitor runs here") && row.contains(&pid);
        Ok(said.lines().any(is_it).then_some(()))
    });
    monitor.kill().context("its end")?;
    monitor.wait().context("its end")?;
    warned
}

/// What its shim-monitor answers.
fn get(of: &Sandbox, path: &str) -> Result<String> {
    let mut peer = UnixStream::connect(of.monitor()).context("its shim-monitor")?;
    write!(peer, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").context("a request")?;
    let mut said = Vec::new();
    // One that dies resets the connection.
    let _reset = peer.read_to_end(&mut said);
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// A container that ends as Kata's do whose guest is gone.
fn guest() -> Script {
    Script {
        guest: Some(Guest::worked(Cgroup::V2)),
        exit_status: 255,
        ends_with_vm: true,
        ..Script::default()
    }
}

/// A policy that denies both: said as a state, and neither asked for again and again nor got by another way.
#[test]
fn what_a_confidential_pod_keeps_to_itself_is_said() -> Result<()> {
    const PERMISSION_DENIED: i32 = 7;
    let lab = Lab::new()?;
    let collector = collector(&lab)?;
    let script = Script { stats_refused: PERMISSION_DENIED, closes_early: true, ..Script::stayer() };
    let sealed = Wanted { name: "sealed", confidential: true, script, ..Wanted::default() }
        .run(&collector.socket())?;
    let open = Wanted { name: "open", ..Wanted::default() }.run(&collector.socket())?;
    eventually(LIMIT, "streams that ended empty", || {
        Ok(one(&collector, "shimtap_log_redacted", sealed.id())?.filter(|streams| *streams == 2.0))
    })?;
    ensure!(
        one(&collector, "shimtap_log_redacted", open.id())?.is_none(),
        "the other one is not confidential"
    );
    eventually(LIMIT, "a state", || {
        let denied = of_node(&collector, "shimtap_stats_quality", "reason=\"stats_denied\"")?;
        Ok((denied == 1.0).then_some(()))
    })?;
    let asked = |sandbox: &Sandbox| sandbox.pod.lab.count("Stats", sandbox.id(), "");
    let before = asked(&open)?;
    eventually(LIMIT, "four rounds of the other", || Ok((asked(&open)? >= before + 4).then_some(())))?;
    let pauses = pauses_between_stats(&sealed, sealed.id())?;
    let rest = pauses.get(2..).context("it was asked until it had refused three times")?;
    ensure!(rest.iter().all(|pause| *pause >= FIRST_REST), "the denied one was asked after {pauses:?}");
    let ps = collector.ps()?;
    let denied = ps.pointer("/sandboxes").and_then(|all| all.as_array()).into_iter().flatten();
    let denied: Vec<_> = denied.filter(|one| one.get("stats_denied").is_some()).collect();
    ensure!(denied.len() == 1 && denied.iter().all(|one| one["id"] == sealed.id()), "{denied:?}");
    // No other way in was tried.
    let methods: std::collections::BTreeSet<String> =
        sealed.pod.lab.requests()?.into_iter().map(|entry| entry.method).filter(|m| !m.is_empty()).collect();
    let known = ["Connect", "Create", "Start", "Stats"].map(str::to_owned);
    ensure!(methods == known.into(), "{methods:?}");
    sealed.end()?;
    open.end()?;
    collector.stop()
}

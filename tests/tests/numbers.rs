//! The numbers under cAdvisor's names are right or absent: each is held against the kernel's cgroup files, read before
//! and after the sample, of a container that has worked and now rests.
//!
//! Runs on whichever cgroup version the machine has, and on v2 in the node VM.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shimtap_tests::on_each_containerd;
use shimtap_tests::oracle::cgroup::{self, Figures};
use shimtap_tests::oracle::exposition::{family, of_container, of_label};
use shimtap_tests::rig::collector::Settings;
use shimtap_tests::rig::cri::{Cri, LinuxContainerResources, Wanted};
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(90);

on_each_containerd!(
    every_number_is_the_kernels_or_absent,
    a_short_life_has_its_last_cpu_time,
    an_oom_kill_is_counted,
    limits_are_those_of_the_cgroup_as_it_was_made_and_as_it_was_changed,
    the_network_is_shown_once_per_pod_and_never_the_hosts
);

/// Writes and reads a disk past the cache, fills memory, burns its quota of CPU, says so, and rests.
const WORK: &str = "dd if=/dev/zero of=/disk/f bs=65536 count=32 oflag=direct && \
    dd if=/disk/f of=/dev/null bs=65536 iflag=direct && cat /disk/f >/dev/null && rm /disk/f || exit 1; \
    x=$(head -c 4000000 /dev/zero | tr '\\0' x); \
    i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo $? >/host/rests; sleep 1000";

fn every_number_is_the_kernels_or_absent(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let disk = std::env::temp_dir().join(format!("{}-disk", node.mark()));
        std::fs::create_dir_all(&disk).context("create a folder on a disk")?;
        let answer = bracketed(node, &disk.to_string_lossy());
        std::fs::remove_dir_all(&disk).context("remove the folder on the disk")?;
        answer
    })
}

fn bracketed(node: &Node, disk: &str) -> Result<()> {
    let mount = format!("type=bind,src={disk},dst=/disk,options=rbind:rw");
    // So little that a machine with much else to do still has more for it.
    let flags = ["--detach", "--null-io", "--cpus", "0.1", "--mount", &mount];
    // runc's own folder is the machine's: the name must be nobody else's.
    let id = format!("worker-{}", node.mark());
    run(node.run_command(&id, &flags, &["sh", "-c", WORK]), LIMIT)?.ok().context("run the worker")?;
    eventually(LIMIT, "the worker to rest", || Ok(node.host_dir().join("rests").exists().then_some(())))?;
    let group = format!("{}/{id}", node.mark());
    let before = cgroup::at_rest(&group, LIMIT)?;
    let since = cgroup::now_ms()?;
    let shown = eventually(LIMIT, "a sample of the resting worker", || {
        let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
        let shown = of_container(&text, &id)?;
        Ok(cgroup::is_sampled_after(&shown, since).then_some(shown))
    })?;
    let after = cgroup::figures(&group)?;
    node.remove(&id)?;
    has_worked(&before)?;
    cgroup::agree(&before, &shown, &after)
}

/// The worker did what it was meant to: otherwise the comparison says less than it seems to.
fn has_worked(figures: &Figures) -> Result<()> {
    for name in ["container_cpu_cfs_throttled_seconds_total", "container_memory_rss"] {
        let value = figures.get(name).with_context(|| format!("the worker left no {name}"))?;
        ensure!(*value > 0.0, "{name} is {value}");
    }
    if cgroup::is_v2() {
        for name in ["container_fs_reads_bytes_total", "container_fs_writes_bytes_total"] {
            let bytes = figures.get(name).with_context(|| format!("the worker left no {name}"))?;
            ensure!(*bytes >= f64::from(32 * 65536), "{name} is {bytes}");
        }
    }
    Ok(())
}

/// A container that ends before anybody would have asked is asked at its end: what its one process has used until it said so is
/// in what is shown of it afterwards.
fn a_short_life_has_its_last_cpu_time(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let script = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; cat /proc/$$/schedstat";
        // Containers of which the end was told, and last samples that were taken.
        let told = || -> Result<(f64, f64)> {
            let text = node.collector(|collector| collector.get("/metrics"))?;
            let one = |name: &str, label: &str| -> Result<f64> {
                let rows = family(&text, name)?;
                let its = rows.iter().find(|(labels, _)| labels.contains(label));
                Ok(its.map_or(0.0, |(_, value)| *value))
            };
            let ends = one("shimtap_events_total", "kind=\"delete\"")?;
            Ok((ends, one("shimtap_stats_samples_total", "source=\"final\"")?))
        };
        let mut known = 0;
        // An exit waits for its last sample for 200 ms at most, which a busy machine may take.
        for turn in 1..=20 {
            let (ends, before) = told()?;
            let id = format!("short-{turn}");
            let ended = node.run(&id, &["sh", "-c", script])?.ok()?;
            // Of a process: time on a CPU and time waiting for one, in ns, and how often.
            let said = ended.text();
            let used =
                said.split(' ').next().context("schedstat")?.parse::<f64>().context(said.clone())? / 1e9;
            ensure!(used > 0.01, "{used} s is too little to tell");
            let after = eventually(LIMIT, "its end to be told", || {
                let (now, after) = told()?;
                Ok((now > ends).then_some(after))
            })?;
            if after <= before {
                continue;
            }
            let mut shown = None;
            eventually(LIMIT, "its last CPU time", || {
                let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
                shown = of_container(&text, &id)?.values.get("container_cpu_usage_seconds_total").copied();
                Ok(shown.filter(|shown| *shown >= used * 0.99).map(drop))
            })
            .with_context(|| format!("it used {used} s, shown are {shown:?}"))?;
            known += 1;
            if known == 3 {
                return Ok(());
            }
        }
        bail!("of twenty containers {known} had a last sample in time")
    })
}

/// A child of the container is killed for want of memory while the container lives on and is shown.
fn an_oom_kill_is_counted(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let flags = ["--detach", "--null-io", "--memory-limit", "33554432"];
        let script = "speaker eat=200; echo $? >/host/killed; sleep 1000";
        let id = format!("eater-{}", node.mark());
        run(node.run_command(&id, &flags, &["sh", "-c", script]), LIMIT)?.ok().context("run it")?;
        let killed = eventually(LIMIT, "the kill", || {
            let text = std::fs::read_to_string(node.host_dir().join("killed")).unwrap_or_default();
            Ok(text.trim().parse::<i32>().ok())
        })?;
        ensure!(killed == 137, "it ended with {killed}");
        let truth = cgroup::figures(&format!("{}/{id}", node.mark()))?;
        let truth = truth.get("container_oom_events_total").copied();
        eventually(LIMIT, "the kill in a sample", || {
            let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
            let shown = of_container(&text, &id)?.values.get("container_oom_events_total").copied();
            // Not every kernel of v1 counts them.
            Ok((shown == truth && truth.is_none_or(|kills| kills > 0.0)).then_some(()))
        })
        .with_context(|| format!("the kernel counted {truth:?}"))?;
        node.remove(&id)
    })
}

/// A container's limits are those that runc has written into its cgroup, from the OCI spec and from each Update: what is shown is
/// the kernel's, and what the kernel has no limit for is absent.
fn limits_are_those_of_the_cgroup_as_it_was_made_and_as_it_was_changed(version: Version) -> Result<()> {
    const MEMORY: i64 = 64 << 20;
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let limited = Wanted {
            name: "c",
            command: &["sleep", "1000"],
            cpu_quota_us: 50_000,
            cpu_shares: 512,
            memory_limit_bytes: MEMORY,
            ..Wanted::default()
        };
        let id = cri.run(&pod, &limited)?;
        limits_agree(node, &id, 50_000.0, 512.0)?;
        let of = |cpu_quota, cpu_shares| LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota,
            cpu_shares,
            memory_limit_in_bytes: MEMORY / 2,
            oom_score_adj: 0,
        };
        for (quota, shares) in [(70_000_i32, 256_i32), (-1, 1024)] {
            cri.update(&id, of(quota.into(), shares.into()))?;
            limits_agree(node, &id, quota.into(), shares.into())?;
        }
        cri.remove_pod(&pod)
    })
}

/// Waits until what is shown of a container's limits is what its cgroup says, with this quota and these shares in it.
fn limits_agree(node: &Node, id: &str, quota: f64, shares: f64) -> Result<()> {
    const SHARES: &str = "container_spec_cpu_shares";
    const SWAP: &str = "container_spec_memory_swap_limit_bytes";
    let group = format!("{}/{id}", node.mark());
    let mut truth = cgroup::limits(&group)?;
    let asked = truth.get("container_spec_cpu_quota").copied();
    ensure!(asked == Some(quota).filter(|quota| *quota > 0.0), "the kernel has {truth:?}");
    if cgroup::is_v2() {
        // runc makes a weight of shares, by a line until 1.3 and by a curve since.
        let exponent = (shares.log2().powi(2) + 125.0 * shares.log2()) / 612.0 - 7.0 / 34.0;
        let line = (1.0 + (shares - 2.0) * 9_999.0 / 262_142.0).floor();
        let weight = cgroup::weight(&group)?;
        ensure!([line, 10_f64.powf(exponent).ceil()].contains(&weight), "{shares} shares are {weight}");
        truth.insert(SHARES, shares);
    }
    let mut shown = BTreeMap::new();
    eventually(LIMIT, "its limits", || {
        let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
        shown = of_label(&text, "name", id)?.values;
        shown.retain(|name, _| name.starts_with("container_spec_"));
        if !truth.contains_key(SWAP) {
            // A kernel without accounting of swap has no such limit, whatever the spec asks for.
            shown.remove(SWAP);
        }
        Ok(shown
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .eq(truth.iter().map(|(n, v)| (*n, v)))
            .then_some(()))
    })
    .with_context(|| format!("shown {shown:?}, and the kernel has {truth:?}"))
}

/// Two pods, one with a network of its own. Its sandbox shows what its containers see of that, except for a device that only
/// mirrors, as hypervisors have it; the other pod, whose network is the host's, shows nothing.
fn the_network_is_shown_once_per_pod_and_never_the_hosts(version: Version) -> Result<()> {
    let quickly = Settings::each_second();
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(quickly).run(|node| {
        let cri = node.cri()?;
        let (own, hosts) = (cri.run_pod_with_its_own_network("own")?, cri.run_pod("hosts")?);
        let wanted = Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() };
        let (inside, _) = (cri.run(&own, &wanted)?, cri.run(&hosts, &wanted)?);
        mirror(&own.id)?;
        let pinged = cri.exec(&inside, &["sh", "-c", PING], 0)?;
        ensure!(pinged.exit_code == 0, "{}", String::from_utf8_lossy(&pinged.stderr));
        let before = eth0(cri, &inside)?;
        let since = cgroup::now_ms()?;
        let text = eventually(LIMIT, "a reading after that", || {
            let text = node.collector(|collector| collector.get("/metrics/cadvisor?scope=all"))?;
            let row = text.lines().find(|row| row.starts_with(NETWORK[0].0));
            let time = row.and_then(|row| row.rsplit(' ').next()?.parse::<u64>().ok());
            Ok(time.is_some_and(|time| time > since).then_some(text))
        })?;
        let after = eth0(cri, &inside)?;
        for (name, column) in NETWORK {
            let rows = family(&text, name)?;
            let [(labels, value)] = rows.as_slice() else { anyhow::bail!("{name}: {rows:?}") };
            for label in ["interface=\"eth0\"", "container=\"\"", "pod=\"own\"", "namespace=\"rig\""] {
                ensure!(labels.contains(label), "no {label} in {labels}");
            }
            let (low, high) = (before.get(column).copied(), after.get(column).copied());
            let (low, high) = (low.context("a column")?, high.context("a column")?);
            ensure!((low..=high).contains(value), "{name} is {value}, and the kernel said {low} to {high}");
        }
        ensure!(before.first().is_some_and(|bytes| *bytes >= 3.0 * 84.0), "nothing was received: {before:?}");
        cri.remove_pod(&own)?;
        cri.remove_pod(&hosts)
    })
}

/// Asks the other end of the pair three times.
const PING: &str = "ping -c 3 $(ip route | sed -n 's/.* via \\([^ ]*\\).*/\\1/p' | head -n 1)";

/// Families of a network, and the columns of /proc/net/dev that they are.
const NETWORK: [(&str, usize); 8] = [
    ("container_network_receive_bytes_total", 0),
    ("container_network_receive_packets_total", 1),
    ("container_network_receive_errors_total", 2),
    ("container_network_receive_packets_dropped_total", 3),
    ("container_network_transmit_bytes_total", 8),
    ("container_network_transmit_packets_total", 9),
    ("container_network_transmit_errors_total", 10),
    ("container_network_transmit_packets_dropped_total", 11),
];

/// What a container sees of its interface.
fn eth0(cri: &Cri, id: &str) -> Result<Vec<f64>> {
    let said = String::from_utf8(cri.exec(id, &["cat", "/proc/net/dev"], 0)?.stdout)?;
    let row = said.lines().find_map(|row| row.trim().strip_prefix("eth0:")).context("no eth0")?;
    row.split_whitespace().map(|number| number.parse().context("a number")).collect()
}

/// Puts a device named as Kata names its tap into a sandbox's network, and lets it carry something.
fn mirror(sandbox: &str) -> Result<()> {
    let processes = std::fs::read_dir("/proc").context("read /proc")?.flatten();
    let its = |pid: &String| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        pid.parse::<u32>().is_ok() && groups.contains(sandbox)
    };
    let pid = processes.filter_map(|entry| entry.file_name().into_string().ok()).find(its);
    let pid = pid.context("no process of the sandbox")?;
    for words in ["add tap0_kata type veth peer name veth0", "set tap0_kata up", "set veth0 up"] {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{pid}/ns/net"), "ip", "link"]).args(words.split(' '));
        run(command, LIMIT)?.ok().with_context(|| format!("ip link {words}"))?;
    }
    Ok(())
}

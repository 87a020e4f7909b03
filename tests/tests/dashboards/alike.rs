//! What the usual queries come to for a pod in a VM and for one of runc, beside a kubelet, by each shipped configuration.
//!
//! The truth is the guest's own figures, the kernel's cgroup files, and the kubelet's page, whichever is to be the source.
//! Both containers have worked and rest, so that nothing moves while Prometheus is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    oracle::{
        cgroup::{self, Figures},
        exposition::{family, of_label},
        families,
    },
    rig::{
        Hook, Node, Setup, Shim, Version, collector::Settings, eventually, prometheus::Labels,
        prometheus::Prometheus,
    },
    standin::{
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        script::Script,
    },
};

use super::{kubelet, pods, scrape, scrape::Scope};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes and reads a disk past the cache, fills memory, burns its quota, says so, and rests.
const WORK: &str = "dd if=/dev/zero of=/host/f bs=65536 count=32 oflag=direct && \
    dd if=/host/f of=/dev/null bs=65536 iflag=direct && rm /host/f || exit 1; x=$(head -c 4000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; \
    echo >/host/rests; sleep 1000";

/// Sums by namespace, pod and container that dashboards and rules have, and how much the kernel's own figure may move.
const USUAL: [(&str, f64); 12] = [
    ("container_cpu_usage_seconds_total", 1e-6),
    ("container_cpu_cfs_periods_total", 0.0),
    ("container_cpu_cfs_throttled_periods_total", 0.0),
    ("container_cpu_cfs_throttled_seconds_total", 1e-6),
    ("container_memory_working_set_bytes", 524_288.0),
    ("container_memory_rss", 524_288.0),
    ("container_memory_cache", 524_288.0),
    ("container_memory_swap", 0.0),
    ("container_fs_reads_total", 0.0),
    ("container_fs_writes_total", 0.0),
    ("container_fs_reads_bytes_total", 0.0),
    ("container_fs_writes_bytes_total", 0.0),
];

/// How kubernetes-mixin tells disks from what else is a block device.
const DISKS: &str = "device=~\"(/dev.+)|mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|dasd.+\"";

/// Rows that are to come out, by pod and container.
type Rows = BTreeMap<String, RangeInclusive<f64>>;

/// The two pods at rest, and what is true of them.
struct Truth {
    guest: Guest,
    before: Figures,
    after: Figures,
    /// Of shimtap only Azure's minimal profile is asked for.
    minimal: bool,
}

/// The whole of it on one containerd.
pub fn each_container_once_by_each_shipped_configuration(version: Version) -> Result<()> {
    let told = Settings::each_second();
    Setup::new(version, Shim::Wrapped(Hook::Opt)).with_collector().telling(told).run(|node| {
        let disk = std::env::temp_dir().join(format!("{}-disk", node.mark()));
        fs::create_dir_all(&disk).context("create a folder on a disk")?;
        let answer = each_once(node, &disk);
        fs::remove_dir_all(&disk).context("remove the folder on the disk")?;
        answer
    })
}

fn each_once(node: &Node, disk: &Path) -> Result<()> {
    let (web, id) = pods::of_runc(node, disk, WORK)?;
    let guest = Guest::worked(Cgroup::V2);
    let vm = pods::in_a_vm(node, "vm", Profile::Rust, &guest, Script::stayer())?;
    let _fifos = vm.run()?;
    pods::said(disk, "rests")?;
    let group = format!("{}/{id}", node.mark());
    let before = cgroup::at_rest(&group, LIMIT)?;
    let kubelet = kubelet::serve()?;
    let address = node.collector(|collector| Ok(collector.address().to_owned()))?;
    for (file, selector) in scrape::SHIPPED {
        for scope in [Scope::Vm, Scope::All] {
            let targets = [Some(kubelet.as_str()), Some(&address), Some(&address)];
            let config = scrape::configuration(file, scope, targets)?;
            let name = format!("{file}-{scope:?}");
            let prometheus = Prometheus::start(node.dir(), &name, &config)?;
            let after = cgroup::figures(&group)?;
            let minimal = file == "azure-managed.yml";
            let truth = Truth { guest: guest.clone(), before: before.clone(), after, minimal };
            judge(&prometheus, selector, scope, &truth).with_context(|| name)?;
        }
    }
    vm.end()?;
    node.cri()?.remove_pod(&web)
}

fn judge(prometheus: &Prometheus, selector: &str, scope: Scope, truth: &Truth) -> Result<()> {
    for (name, slack) in USUAL {
        let of = format!("{name}{{{selector}cluster=\"rig\", namespace=\"rig\", image!=\"\"}}");
        let rows = truth.rows(name, slack, scope)?;
        comes_out(prometheus, &format!("sum by (namespace, pod, container) ({of})"), &rows)?;
        // Two rows of one container would be added by the sum above and not by this.
        let one = format!(
            "max by (namespace, pod, container) (sum by (instance, job, namespace, pod, container) ({of}))"
        );
        comes_out(prometheus, &one, &rows)?;
        if name.ends_with("_total") {
            // A Kata shim of unknown release is asked every 30 s: too seldom for a rate that a test can wait for.
            let web = of.replace("image!=", "pod=\"web\", image!=");
            let still = rows.keys().filter(|key| *key == "web/app").map(|key| (key.clone(), 0.0..=0.0));
            let rate = format!("sum by (namespace, pod, container) (rate({web}[10s]))");
            comes_out(prometheus, &rate, &still.collect())?;
        }
        if name.starts_with("container_fs_") {
            let disks = of.replace("image!=", &format!("{DISKS}, container!=\"\", image!="));
            comes_out(prometheus, &format!("sum by (namespace, pod, container) ({disks})"), &rows)?;
        }
        same_labels(prometheus, &of)?;
    }
    network(prometheus, selector)
}

/// Once per pod, as the kubelet has it without the hypervisor's tap.
fn network(prometheus: &Prometheus, selector: &str) -> Result<()> {
    for (name, web) in
        [("receive_bytes", 5_000.0), ("transmit_packets", 100.0), ("receive_packets_dropped", 2.0)]
    {
        let name = format!("container_network_{name}_total");
        let rows = [("web/", web), ("vm/", web + 7.0)];
        let rows = rows.map(|(key, value)| (key.to_owned(), value..=value)).into();
        let query = format!("sum by (namespace, pod) ({name}{{{selector}namespace=\"rig\"}})");
        comes_out(prometheus, &query, &rows)?;
    }
    Ok(())
}

/// The two containers' series have labels of the same names.
fn same_labels(prometheus: &Prometheus, selector: &str) -> Result<()> {
    let rows = prometheus.ask(selector)?;
    let names = |pod: &str| -> Option<Vec<String>> {
        let (labels, _) = rows.iter().find(|(labels, _)| labels.get("pod").is_some_and(|it| it == pod))?;
        Some(labels.keys().cloned().collect())
    };
    let (web, vm) = (names("web"), names("vm"));
    ensure!(web.is_none() || vm.is_none() || web == vm, "{selector}: {web:?} and {vm:?}");
    Ok(())
}

/// Waits until a query has these rows and no others.
fn comes_out(prometheus: &Prometheus, query: &str, rows: &Rows) -> Result<()> {
    let mut last = Vec::new();
    eventually(LIMIT, query, || {
        last = prometheus.ask(query)?;
        let label = |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
        let right = |(labels, value): &(Labels, f64)| {
            let key = format!("{}/{}", label(labels, "pod"), label(labels, "container"));
            rows.get(&key).is_some_and(|range| range.contains(value))
        };
        Ok((last.len() == rows.len() && last.iter().all(right)).then_some(()))
    })
    .with_context(|| format!("{last:?}, not {rows:?}\n{}", prometheus.said()))
}

// === impl Truth ===

impl Truth {
    /// What a sum comes to; a container of which a figure is not known is not in it.
    fn rows(&self, name: &str, slack: f64, scope: Scope) -> Result<Rows> {
        let mut rows = Rows::new();
        let web = match scope {
            Scope::Vm => of_label(kubelet::PAGE, "container", "app")?.values.get(name).map(|v| *v..=*v),
            // Not one of the 20 families of that profile.
            Scope::All if self.minimal && name == "container_cpu_cfs_throttled_seconds_total" => None,
            Scope::All => self.before.get(name).map(|low| {
                let high = self.after.get(name).unwrap_or(low);
                low.min(*high) - slack..=low.max(*high) + slack
            }),
        };
        rows.extend(web.map(|web| ("web/app".to_owned(), web)));
        // docs/kata.md: what Kata's Rust shim does not say of a guest with cgroup v2.
        let absent =
            ["container_cpu_cfs_throttled_seconds_total", "container_memory_rss", "container_memory_cache"];
        let known = !absent.contains(&name) && name != "container_memory_swap";
        let truth = self.guest.truth();
        let vm = truth.get(name).filter(|_| known).map(|value| value - 1e-6..=value + 1e-6);
        rows.extend(vm.map(|vm| ("vm/app".to_owned(), vm)));
        Ok(rows)
    }
}

/// The page says nothing twice, and every family of it that we have too is of the same kind.
#[test]
fn the_kubelets_page_is_well_formed() -> Result<()> {
    let documented = families::documented()?;
    for row in kubelet::PAGE.lines().filter_map(|row| row.strip_prefix("# TYPE ")) {
        let (name, _) = row.split_once(' ').context("a kind")?;
        ensure!(documented.contains(name), "{name} is nothing that shimtap has");
        let rows = family(kubelet::PAGE, name)?;
        let unique: BTreeSet<_> = rows.iter().map(|(labels, _)| labels).collect();
        ensure!(!rows.is_empty() && unique.len() == rows.len(), "{name}: {rows:?}");
    }
    Ok(())
}

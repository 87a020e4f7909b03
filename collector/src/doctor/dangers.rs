//! Findings about what may hurt pods, or us: foreign scrapers, two wrappers, a shim that is not there.

use std::{collections::BTreeMap, fs, path::Path};

use toml::{Table, Value};

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
};

/// What is to be said of it.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut found: Vec<Finding> = [kata_monitor(evidence), doubled(evidence)].into_iter().flatten().collect();
    found.extend(shim_toml(&evidence.places.shim_toml));
    found
}

/// One GET of a monitor socket aborts the Rust shim where its hypervisor is QEMU or Firecracker (Kata 4.1).
fn kata_monitor(evidence: &Evidence) -> Option<Finding> {
    let monitors = evidence.processes.iter().filter(|process| process.name == "kata-monitor");
    let monitors: Vec<String> =
        monitors.map(|process| format!("kata-monitor, pid {}", process.pid)).collect();
    let in_danger = evidence.rust_sandboxes.len();
    let (severity, what) = if in_danger > 0 {
        (
            Severity::Fault,
            format!(
                "kata-monitor runs beside {in_danger} pods of Kata's Rust shim: one scrape ends such a pod on QEMU or Firecracker"
            ),
        )
    } else {
        (Severity::Note, "kata-monitor runs here; beside pods of Kata's Rust shim on QEMU or Firecracker one scrape would end them".to_owned())
    };
    let remedy = "stop kata-monitor on this node; shimtap never reads those sockets";
    (!monitors.is_empty())
        .then(|| Finding::new(Id::KataMonitor, severity, Whose::Neighbour, what, remedy).about(monitors))
}

fn doubled(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.collector.as_ref().ok()?;
    let mut by_pod: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for wrapper in &told.ps.wrappers {
        by_pod.entry((&wrapper.namespace, &wrapper.pod)).or_default().push(wrapper.keeper_pid);
    }
    let double = by_pod.into_iter().filter(|(_, keepers)| keepers.len() > 1);
    let double: Vec<String> =
        double.map(|((namespace, pod), keepers)| format!("{namespace}/{pod}: keepers {keepers:?}")).collect();
    let what = "two wrappers stand before one pod: its lines may come twice";
    let remedy = "start those pods anew, and report it with the output of shimtap ps";
    (!double.is_empty()).then(|| {
        Finding::new(Id::WrappersDoubled, Severity::Fault, Whose::Shimtap, what, remedy).about(double)
    })
}

/// shim.toml as wrappers will read it at their next start: a shim that it names and that is not there ends each of them.
fn shim_toml(path: &Path) -> Vec<Finding> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let at = path.display().to_string();
    let table: Table = match toml::from_str(&text) {
        Ok(table) => table,
        Err(fault) => {
            let what = format!("shim.toml is no TOML, so wrappers go by the defaults: {}", fault.message());
            let remedy = "correct it; the defaults may know another shim than the one that is meant";
            return vec![Finding::new(Id::ShimToml, Severity::Fault, Whose::Setup, what, remedy).about([at])];
        }
    };
    let inner = table.get("inner").and_then(Value::as_table).into_iter().flatten();
    let named = inner.filter_map(|(name, path)| Some((name, Path::new(path.as_str()?))));
    let missing = named.filter(|(_, path)| path.is_absolute() && !path.is_file());
    let missing: Vec<String> = missing.map(|(name, path)| format!("{name}: {}", path.display())).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let what = "shim.toml names shims that are not there: pods of their handlers cannot start";
    let remedy = "shimtap install --yes takes the shims that the handlers name now (containerd 2.x), or correct [inner]";
    vec![Finding::new(Id::InnerMissing, Severity::Fault, Whose::Setup, what, remedy).about(missing)]
}

#[cfg(test)]
mod tests {
    use super::{
        super::evidence::{Process, Told, wrapper},
        *,
    };
    use crate::admin::PsWrapper;

    #[test]
    fn a_shim_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("shim.toml");
        let ids = |text: &str| -> Vec<Id> {
            fs::write(&file, text).expect("a file");
            shim_toml(&file).into_iter().map(|found| found.id).collect()
        };
        assert_eq!(
            ids("[inner]\na = \"/nowhere/shim\"\nb = \"containerd-shim-runc-v2\"\nc = \"/proc/self/exe\"\n"),
            [Id::InnerMissing]
        );
        assert_eq!(ids("[inner"), [Id::ShimToml]);
        assert_eq!(ids(""), []);
    }

    #[test]
    fn kata_monitor_is_a_danger_only_beside_pods_that_it_can_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut node = Evidence::pretended(dir.path());
        assert_eq!(examine(&node), []);
        node.processes.push(Process { pid: 7, name: "kata-monitor".to_owned() });
        let found = examine(&node);
        assert_eq!(
            found.iter().map(|one| (one.id, one.severity)).collect::<Vec<_>>(),
            [(Id::KataMonitor, Severity::Note)]
        );
        node.rust_sandboxes.push("/run/kata/a".into());
        let found = examine(&node);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.id, one.severity), (Id::KataMonitor, Severity::Fault));
        assert!(one.what.contains("beside 1 pods") && one.which == ["kata-monitor, pid 7"], "{one:?}");
        // Without a scraper nothing is in danger.
        node.processes.clear();
        assert_eq!(examine(&node), []);
    }

    #[test]
    fn two_wrappers_of_one_pod_are_named_and_one_each_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let of = |pod: &str, keeper_pid| PsWrapper { pod: pod.to_owned(), keeper_pid, ..wrapper("1.0.0") };
        let mut told = Told::default();
        told.ps.wrappers = vec![of("a", 1), of("b", 2)];
        let mut node = Evidence { collector: Ok(told), ..Evidence::pretended(dir.path()) };
        assert_eq!(examine(&node), []);
        if let Ok(told) = &mut node.collector {
            told.ps.wrappers.push(of("a", 3));
        }
        let found = examine(&node);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.id, one.severity), (Id::WrappersDoubled, Severity::Fault));
        assert_eq!(one.which, ["k8s.io/a: keepers [1, 3]"]);
    }
}

//! Findings about what may hurt pods, or us: foreign scrapers, two wrappers, a shim that is not there, questions that come too
//! often.

use std::{collections::BTreeMap, fs, path::Path};

use toml::{Table, Value};

use super::{
    Evidence, Finding, Id,
    finding::{Severity, Whose},
    handlers,
};
use crate::install::Node;

/// Kata's agent collects with vsock and some twenty files of the guest for each answer, about 30 to 50 ms: no more often than
/// the kubelet asks.
const KATA_FLOOR_SECS: f64 = 10.0;

/// containerd's own where nothing is configured.
const STATS_PERIOD: &str = "1s";

/// What is to be said of it.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut found: Vec<Finding> = [kata_monitor(evidence), doubled(evidence)].into_iter().flatten().collect();
    if let Ok(node) = &evidence.containerd {
        found.extend(stats_period(node));
    }
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

/// containerd 2.3 asks every container once per period, a second unless told otherwise.
fn stats_period(node: &Node) -> Option<Finding> {
    let cri = node.effective.all.get("plugins")?.get(node.effective.plugin)?;
    // Not so in 1.x, where a number of that name is about images.
    let period = cri.get("stats_collect_period").and_then(Value::as_str)?;
    let period = if period.is_empty() { STATS_PERIOD } else { period };
    let secs = seconds(period)?;
    let kata: Vec<String> = node
        .effective
        .handlers
        .values()
        .filter(|handler| {
            handler.runtime_type.contains("kata") && handlers::first_shim(node, handler).is_some()
        })
        .map(|handler| handler.name.clone())
        .collect();
    let what = format!(
        "containerd asks every container for its figures each {period}; a Kata guest is woken for each answer"
    );
    let remedy = "stats_collect_period = \"10s\" in containerd's CRI section, as often as the kubelet asks";
    (secs > 0.0 && secs < KATA_FLOOR_SECS && !kata.is_empty()).then(|| {
        Finding::new(Id::StatsPeriod, Severity::Warning, Whose::Containerd, what, remedy).about(kata)
    })
}

/// A duration as Go writes it: `1s`, `500ms`, `1m30s`.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(digits)?;
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(unit)?;
        let number: f64 = number.parse().ok()?;
        sum += number
            * match unit {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = behind;
    }
    Some(sum)
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
    let remedy = "shimtap uninstall --yes && shimtap install --yes takes the shims that are there now, or correct [inner]";
    vec![Finding::new(Id::InnerMissing, Severity::Fault, Whose::Setup, what, remedy).about(missing)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_s_durations_are_read() {
        assert_eq!(
            ["1s", "500ms", "1m30s", "10s"].map(seconds),
            [Some(1.0), Some(0.5), Some(90.0), Some(10.0)]
        );
        assert_eq!(["", "x", "5", "5 parsecs"].map(seconds), [Some(0.0), None, None, None]);
    }

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
}

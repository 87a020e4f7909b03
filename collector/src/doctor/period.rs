//! How often containerd asks every container for its figures, against what each shim stands.
//!
//! Only Kata's stand little: each answer wakes a guest. What floor a shim has is known by its release, as the collector has seen it of
//! its pods; one that nothing is known of counts as an old one, as the collector's own rule has it.

use std::{collections::BTreeMap, path::PathBuf};

use toml::Value;

use super::{
    Evidence, Finding, Id, Told,
    finding::{Severity, Whose},
};
use crate::{
    enrich::ShimKind,
    install::{Handler, Node, inner_shims},
    metrics::{self, MENDED},
};

/// Kata's agent collects with vsock and some twenty files of the guest for each answer, about 30 to 50 ms: no more often than
/// the kubelet asks.
const FLOOR_SECS: u32 = 10;
/// containerd's own where nothing is configured.
const PERIOD: &str = "1s";

/// containerd 2.3 asks every container once per period, a second unless told otherwise.
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let Ok(node) = &evidence.containerd else { return Vec::new() };
    let Some(period) = period(node) else { return Vec::new() };
    let Some(secs) = seconds(&period).filter(|secs| *secs > 0.0) else { return Vec::new() };
    let told = evidence.collector.as_ref().ok();
    let floors = floors(node, told, &inner_shims(&evidence.places.shim_toml));
    let short: BTreeMap<String, u32> =
        floors.into_iter().filter(|(_, floor)| f64::from(*floor) > secs).collect();
    let Some(longest) = short.values().max() else { return Vec::new() };
    let what = format!(
        "containerd asks every container for its figures each {period}, more often than these handlers' shims stand: a Kata guest is woken for \
         each answer, and before 4.1 cannot end a container meanwhile"
    );
    let remedy = format!("stats_collect_period = \"{longest}s\" in containerd's CRI section");
    let which = short.iter().map(|(handler, floor)| format!("{handler}: {floor} s or more"));
    vec![Finding::new(Id::StatsPeriod, Severity::Warning, Whose::Containerd, what, remedy).about(which)]
}

/// None where there is no such thing.
fn period(node: &Node) -> Option<String> {
    let cri = node.effective.all.get("plugins")?.get(node.effective.plugin)?;
    // Not so in 1.x, where a number of that name is about images.
    let period = cri.get("stats_collect_period").and_then(Value::as_str)?;
    Some(if period.is_empty() { PERIOD } else { period }.to_owned())
}

/// Handlers whose shim is Kata's, with the least seconds between two questions.
fn floors(node: &Node, told: Option<&Told>, inner: &BTreeMap<String, PathBuf>) -> Vec<(String, u32)> {
    let installed = node.effective.handlers.values().filter(|handler| node.first_shim(handler).is_some());
    let floor = |handler: &Handler| {
        let shim = shim(node, handler, inner)?;
        let path = shim.to_string_lossy();
        let is_kata = ShimKind::named(&path).is_kata() || handler.runtime_type.contains("kata");
        let seen: Vec<&str> = told.into_iter().flat_map(|told| releases(told, &path)).collect();
        let mended = !seen.is_empty() && seen.iter().all(|release| is_mended(release));
        let old = u32::try_from(metrics::FLOOR.as_secs()).unwrap_or(u32::MAX);
        is_kata.then(|| (handler.name.clone(), if mended { FLOOR_SECS } else { old }))
    };
    installed.filter_map(floor).collect()
}

/// The real shim of a handler, also behind the wrapper.
fn shim(node: &Node, handler: &Handler, inner: &BTreeMap<String, PathBuf>) -> Option<PathBuf> {
    let called = node.runtime_path(handler).and_then(|path| path.file_name());
    let behind = called.and_then(|name| inner.get(&*name.to_string_lossy()));
    behind.cloned().or_else(|| node.real_shim(handler))
}

/// What is known of the releases of pods that this shim runs.
fn releases<'t>(told: &'t Told, shim: &str) -> impl Iterator<Item = &'t str> {
    let wrappers = told.ps.wrappers.iter().filter(move |wrapper| wrapper.inner == shim);
    wrappers.filter_map(|wrapper| {
        let mut all = told.ps.sandboxes.iter();
        let its = all.find(|one| one.namespace == wrapper.namespace && one.id == wrapper.pod)?;
        // One that was not asked yet is one of which nothing is known.
        Some(its.shim_version.as_deref().unwrap_or_default())
    })
}

/// Whether frequent questions keep nothing from ending any more. One that is not finished (`-rc0`) does not say.
fn is_mended(release: &str) -> bool {
    if release.contains('-') {
        return false;
    }
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    major.zip(minor).is_some_and(|release| release >= MENDED)
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        admin::{PsSandbox, PsWrapper},
        doctor::evidence::wrapper,
        install::Release,
    };

    #[test]
    fn go_s_durations_are_read() {
        assert_eq!(
            ["1s", "500ms", "1m30s", "10s"].map(seconds),
            [Some(1.0), Some(0.5), Some(90.0), Some(10.0)]
        );
        assert_eq!(["", "x", "5", "5 parsecs"].map(seconds), [Some(0.0), None, None, None]);
    }

    /// A node of 2.3 with a Kata handler and one of another name, of whose pods' shims the releases are known.
    fn node(dir: &Path, period: &str, releases: &[Option<&str>]) -> Evidence {
        fs::create_dir_all(dir.join("bin")).expect("a folder");
        for file in ["containerd-shim-kata-v2", "containerd-shim-runc-v2"] {
            fs::write(dir.join("bin").join(file), "").expect("a file");
        }
        let shim = dir.join("bin/containerd-shim-kata-v2");
        let dump = format!(
            "[plugins.'io.containerd.cri.v1.runtime']\nstats_collect_period = '{period}'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes]\n\
             runc = {{ runtime_type = 'io.containerd.runc.v2' }}\n\
             gone = {{ runtime_type = 'io.containerd.kata-gone.v2' }}\n\
             vm = {{ runtime_type = 'io.containerd.runc.v2', runtime_path = '{}' }}\n",
            shim.display()
        );
        let mut told = Told::default();
        for (n, release) in releases.iter().enumerate() {
            let pod = n.to_string();
            told.ps.wrappers.push(PsWrapper {
                inner: shim.display().to_string(),
                pod: pod.clone(),
                ..wrapper("1.0.0")
            });
            told.ps.sandboxes.push(PsSandbox {
                namespace: "k8s.io".to_owned(),
                id: pod,
                shim: "kata".to_owned(),
                shim_version: release.map(ToOwned::to_owned),
                ..PsSandbox::default()
            });
        }
        let containerd = Ok(Node::pretended(Release(2, 3, 4), dir, &dump));
        Evidence { containerd, collector: Ok(told), ..Evidence::pretended(dir) }
    }

    #[test]
    fn each_shim_has_a_floor_of_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        for (period, releases, floor) in [
            ("", &[][..], Some(30)),
            ("1s", &[Some("4.1.0")], Some(10)),
            ("10s", &[Some("4.1.0")], None),
            ("10s", &[Some("4.0.2")], Some(30)),
            ("10s", &[], Some(30)),
            ("10s", &[Some("4.1.0"), Some("3.32.0")], Some(30)),
            ("10s", &[Some("4.1.0"), None], Some(30)),
            ("10s", &[Some("4.1.0-rc0")], Some(30)),
            ("30s", &[], None),
            ("1m", &[], None),
            ("0s", &[], None),
        ] {
            let found = examine(&node(dir.path(), period, releases));
            let which: Vec<&str> = found.iter().flat_map(|one| &one.which).map(String::as_str).collect();
            let wanted = floor.map(|floor| format!("vm: {floor} s or more"));
            assert_eq!(which, wanted.iter().map(String::as_str).collect::<Vec<_>>(), "{period} {releases:?}");
            if let (Some(floor), [one]) = (floor, found.as_slice()) {
                assert!(one.remedy.contains(&format!("\"{floor}s\"")), "{one:?}");
            }
        }
        assert_eq!(examine(&Evidence::pretended(dir.path())), []);
    }
}

//! The scrape configurations that are shipped, with the places of their targets put to addresses of this machine.
//!
//! What they drop, rename and ask for stays as it is: that is what is tried.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use shimtap_tests::oracle::yaml;
use yaml_rust2::{Yaml, YamlEmitter, yaml::Hash};

/// The files, and what selects a kubelet's cAdvisor in the rules and dashboards of their world.
pub const SHIPPED: [(&str, &str); 3] = [
    ("prometheus.yml", ""),
    ("kube-prometheus.yml", "job=\"kubelet\", metrics_path=\"/metrics/cadvisor\", "),
    ("azure-managed.yml", "job=\"cadvisor\", "),
];

/// The label that every target here gets, as clusters have it.
pub const CLUSTER: &str = "rig";

/// Whose containers shimtap is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those in virtual machines: the files as they are.
    Vm,
    /// All: the files after the change that prometheus.yml describes.
    All,
}

/// The jobs of a shipped file by their targets' addresses, in the file's order: a kubelet, shimtap for containers, and shimtap
/// for itself. Where there is no address the job is left out.
pub fn configuration(file: &str, scope: Scope, targets: [Option<&str>; 3]) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let jobs = jobs(&of_scope(&text, scope)?)?;
    ensure!(jobs.len() == targets.len(), "{} jobs", jobs.len());
    let local = jobs.iter().zip(targets).filter_map(|(job, target)| Some((job, target?)));
    let local = local.map(|(job, target)| at(job, target)).collect::<Result<_>>()?;
    let mut out = String::new();
    let whole = Hash::from_iter([(text_of("scrape_configs"), Yaml::Array(local))]);
    YamlEmitter::new(&mut out).dump(&Yaml::Hash(whole)).context("write YAML")?;
    Ok(out)
}

/// What the comment in prometheus.yml says of `scope: [all]`, done.
fn of_scope(text: &str, scope: Scope) -> Result<String> {
    let mut text = text.to_owned();
    let changes = BTreeMap::from([("scope: [vm]", "scope: [all]"), (";;.+\n", ";.*;.+\n")]);
    for (from, to) in changes {
        ensure!(text.matches(from).count() == 1, "{from:?} is there {} times", text.matches(from).count());
        if scope == Scope::All {
            text = text.replace(from, to);
        }
    }
    Ok(text)
}

fn jobs(text: &str) -> Result<Vec<Yaml>> {
    let mut whole = yaml::parse(text)?;
    // In Azure's it is a text within.
    if let Some(inner) = whole["data"]["prometheus-config"].as_str() {
        whole = yaml::parse(inner)?;
    }
    Ok(yaml::list(&whole, "scrape_configs")?.to_vec())
}

/// A job that asks one address of this machine once a second.
fn at(job: &Yaml, target: &str) -> Result<Yaml> {
    let mut job = job.as_hash().context("a job")?.clone();
    for key in ["kubernetes_sd_configs", "static_configs", "scheme", "tls_config", "authorization"] {
        job.remove(&text_of(key));
    }
    let labels = Hash::from_iter([(text_of("cluster"), text_of(CLUSTER))]);
    let target = Hash::from_iter([
        (text_of("targets"), Yaml::Array(vec![text_of(target)])),
        (text_of("labels"), Yaml::Hash(labels)),
    ]);
    job.insert(text_of("static_configs"), Yaml::Array(vec![Yaml::Hash(target)]));
    job.insert(text_of("scrape_interval"), text_of("1s"));
    job.insert(text_of("scrape_timeout"), text_of("1s"));
    Ok(Yaml::Hash(job))
}

fn text_of(text: &str) -> Yaml {
    Yaml::String(text.to_owned())
}

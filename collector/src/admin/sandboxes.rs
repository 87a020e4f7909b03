//! What `shimtap ps` says of pods that are virtual machines: what they are, what they left behind, what endangers them.

use serde::{Deserialize, Serialize};

use crate::{
    metrics::{About, FLOOR, Registry, is_ended_by_a_scrape},
    node::{Component, Findings, Hypervisor, Orphan, Sandbox},
};

/// One pod that is a VM. Absent = not known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PsSandbox {
    /// containerd's namespace.
    pub namespace: String,
    /// Id of the sandbox.
    pub id: String,
    /// `kata_go`, `kata_rust`, `kata`.
    pub shim: String,
    /// Its shim's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim_version: Option<String>,
    /// What the shim's linker called its build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim_build_id: Option<String>,
    /// Its hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// Its process on this host; none where it is a part of the shim, or elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypervisor_pids: Vec<u32>,
    /// Its file server's processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtiofsd_pids: Vec<u32>,
    /// All of the sandbox is in one cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_cgroup_only: Option<bool>,
    /// Base name of the guest's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_kernel: Option<String>,
    /// Base name of the guest's image or initrd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_image: Option<String>,
    /// Memory that the VM was begun with, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// The host may not look into the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidential: Option<bool>,
    /// Containers whose statistics the guest denies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats_denied: Vec<String>,
}

/// What Kata left behind.
#[derive(Debug, Serialize, Deserialize)]
pub struct PsOrphan {
    /// `vmm`, `virtiofsd`, `cgroup`.
    pub kind: String,
    /// Its process; absent of a cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The sandbox that it was of.
    pub sandbox: String,
    /// What it is called.
    pub name: String,
    /// Why it is one.
    pub proof: Vec<String>,
}

/// Something that endangers pods or makes their numbers less than they could be.
#[derive(Debug, Serialize, Deserialize)]
pub struct PsWarning {
    /// `stats_asked_often`, `kata_monitor`, `orphans`.
    pub kind: String,
    /// What, whose fault, and what to do.
    pub text: String,
}

/// Every pod that is a VM and was looked at.
pub(super) fn sandboxes(registry: &Registry) -> Vec<PsSandbox> {
    let all = registry.attached().into_iter().filter_map(|wrapper| {
        let sandbox = wrapper.machine.sandbox()?;
        Some(one(registry, &wrapper.about(), &sandbox))
    });
    all.collect()
}

fn one(registry: &Registry, about: &About, sandbox: &Sandbox) -> PsSandbox {
    let facts = &sandbox.facts;
    let containers = registry.of_sandbox(&about.namespace, &about.id);
    let denied = containers.iter().filter(|container| container.live().stats_refused);
    let pids = |component| sandbox.pids.get(&component).cloned().unwrap_or_default();
    PsSandbox {
        namespace: about.namespace.clone(),
        id: about.id.clone(),
        shim: sandbox.shim.label().to_owned(),
        shim_version: sandbox.release.as_ref().map(|release| release.text.clone()),
        shim_build_id: sandbox.build.clone(),
        hypervisor_pids: pids(Component::Vmm),
        virtiofsd_pids: pids(Component::Virtiofsd),
        sandbox_cgroup_only: facts.sandbox_cgroup_only,
        hypervisor: facts.hypervisor.map(|hypervisor| Hypervisor::label(hypervisor).to_owned()),
        guest_kernel: facts.kernel.clone(),
        guest_image: facts.image.clone(),
        memory_bytes: facts.memory_bytes,
        vcpus: sandbox.vcpus.map(|vcpus| vcpus.count).or(facts.vcpus),
        confidential: facts.confidential,
        stats_denied: denied.map(|container| container.key.container.clone()).collect(),
    }
}

/// What was left behind.
pub(super) fn orphans(findings: &Findings) -> Vec<PsOrphan> {
    let one = |orphan: &Orphan| PsOrphan {
        kind: orphan.kind.label().to_owned(),
        pid: orphan.pid,
        sandbox: orphan.sandbox.clone(),
        name: orphan.name.clone(),
        proof: orphan.proof.clone(),
    };
    findings.orphans.iter().map(one).collect()
}

/// What endangers them.
pub(super) fn warnings(registry: &Registry) -> Vec<PsWarning> {
    let mut warnings = Vec::new();
    let mut in_danger = 0;
    for wrapper in registry.attached() {
        let Some(sandbox) = wrapper.machine.sandbox() else { continue };
        in_danger += usize::from(is_ended_by_a_scrape(&sandbox));
        let about = wrapper.about();
        if *wrapper.machine.floor().borrow() < FLOOR {
            continue;
        }
        let containers = registry.of_sandbox(&about.namespace, &about.id);
        let running = containers.iter().filter(|container| container.live().is_running()).count();
        let every = u32::try_from(running).ok().and_then(|running| wrapper.machine.asked_every(running));
        let Some(every) = every.filter(|every| *every < FLOOR) else { continue };
        let release = sandbox.release.as_ref().map_or("of unknown release", |release| &release.text);
        let text = format!(
            "{}/{}: containerd or another client asks each container for statistics every {:.1} s, and this is Kata {release}: \
             before 4.1 that may keep containers from being killed; stats_collect_period = \"30s\" in containerd's \
             CRI section, or Kata 4.1",
            about.namespace,
            about.id,
            every.as_secs_f64()
        );
        warnings.push(PsWarning { kind: "stats_asked_often".to_owned(), text });
    }
    let findings = registry.findings();
    if !findings.monitors.is_empty() && in_danger > 0 {
        let text = format!(
            "kata-monitor runs here (process {:?}) beside {in_danger} pods of Kata's Rust shim on QEMU or Firecracker: one \
             scrape ends such a pod (kata-containers#13708); stop it, shimtap never reads those sockets",
            findings.monitors
        );
        warnings.push(PsWarning { kind: "kata_monitor".to_owned(), text });
    }
    if !findings.orphans.is_empty() {
        let text = format!(
            "{} things that Kata left behind: shimtap ps --orphans lists them with proof; nothing ends them by itself",
            findings.orphans.len()
        );
        warnings.push(PsWarning { kind: "orphans".to_owned(), text });
    }
    warnings
}

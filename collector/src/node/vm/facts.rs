//! What a sandbox is, from what Kata leaves below /run and from its hypervisor's arguments.
//!
//! Both are internals without a version: every field is optional, an odd one is as if it were not there, and nothing here can
//! fail. What the process was really given counts more than what a file says it was to be given.

use std::{
    fs,
    io::Read,
    path::{Component, Path},
};

use serde_json::Value;

use super::{household::Hypervisor, table::Process};

/// The captured file has 7 KiB; Go's grows with containers and annotations.
const STATE_BYTES: u64 = 4 << 20;
/// Longest text that becomes a label.
const TEXT_BYTES: usize = 128;

/// What is known of a sandbox. `None` = not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its hypervisor.
    pub hypervisor: Option<Hypervisor>,
    /// Base name of the guest's kernel, links followed: `vmlinux-6.12.42-160`.
    pub kernel: Option<String>,
    /// Base name of the guest's image or initrd.
    pub image: Option<String>,
    /// Memory that the VM was started with, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that was plugged in since, in bytes.
    pub hotplugged_bytes: Option<u64>,
    /// vCPUs that the VM was started with.
    pub vcpus: Option<u64>,
    /// All of the sandbox is in one cgroup.
    pub sandbox_cgroup_only: Option<bool>,
    /// The host may not look into the guest.
    pub confidential: Option<bool>,
    /// Cgroups below the hierarchies' roots that it has by its own word: the sandbox's, the overhead's.
    pub cgroups: Vec<String>,
}

/// From the file of either shim, and from the hypervisor's process where there is one.
pub(super) fn read(root: &Path, sandbox: &str, vmm: Option<&Process>) -> Facts {
    let (mut facts, paths) = state(root, sandbox);
    if facts.hypervisor == Some(Hypervisor::Remote) {
        // A VM of somewhere else has the size that it is given there; the configuration's is a default that nobody asked.
        (facts.memory_bytes, facts.hotplugged_bytes) = (None, None);
    }
    let Some(vmm) = vmm else { return facts };
    facts.hypervisor = Hypervisor::of_program(vmm.program()).or(facts.hypervisor);
    let given = |flags: &[&str]| flags.iter().find_map(|flag| vmm.value_of(flag));
    // Its arguments are its own word, and no path of theirs is followed.
    // One that Kata's file names too is known already, links followed.
    let foreign = |path: &&str| !paths.iter().any(|known| known == path);
    let base = |path: &str| text(path.rsplit('/').next()?);
    facts.kernel = given(&["-kernel", "--kernel"]).filter(foreign).and_then(base).or(facts.kernel);
    facts.image = given(&["-initrd", "--initramfs"]).filter(foreign).and_then(base).or(facts.image);
    facts.memory_bytes = memory(vmm).or(facts.memory_bytes);
    facts.vcpus = vcpus(vmm).or(facts.vcpus);
    facts.confidential = is_confidential(vmm).then_some(true).or(facts.confidential);
    facts
}

/// What Kata's file says, and the paths that it names.
fn state(root: &Path, sandbox: &str) -> (Facts, Vec<String>) {
    if !is_folder_name(sandbox) {
        return Default::default();
    }
    let rust = document(&root.join("run/kata").join(sandbox).join("state.json"));
    if let Some(state) = rust {
        return (of_rust(root, &state), paths(&state, "/hypervisor/config", ["kernel", "image", "initrd"]));
    }
    let go = document(&root.join("run/vc/sbs").join(sandbox).join("persist.json"));
    let keys = ["KernelPath", "ImagePath", "InitrdPath"];
    let said = |state| (of_go(root, &state), paths(&state, "/Config/HypervisorConfig", keys));
    go.map(said).unwrap_or_default()
}

fn paths(state: &Value, config: &str, keys: [&str; 3]) -> Vec<String> {
    let of = |key| Some(state.pointer(config)?.get(key)?.as_str()?.to_owned());
    keys.into_iter().filter_map(of).collect()
}

fn of_rust(root: &Path, state: &Value) -> Facts {
    let config = |key: &str| state.pointer("/hypervisor/config")?.get(key);
    let file = |key: &str| config(key)?.as_str().and_then(|path| base_name(root, path));
    let cgroup = |key: &str| Some(state.pointer("/resource/cgroup_state")?.get(key)?.as_str()?.to_owned());
    Facts {
        hypervisor: word(state.pointer("/hypervisor/hypervisor_type")),
        kernel: file("kernel"),
        image: file("image").or_else(|| file("initrd")),
        memory_bytes: config("default_memory").and_then(Value::as_u64).and_then(mebibytes),
        vcpus: None,
        hotplugged_bytes: None,
        sandbox_cgroup_only: state
            .pointer("/resource/cgroup_state/sandbox_cgroup_only")
            .and_then(Value::as_bool),
        confidential: config("confidential_guest").and_then(Value::as_bool),
        cgroups: ["path", "overhead_path"].iter().filter_map(|key| cgroup(key)).collect(),
    }
}

fn of_go(root: &Path, state: &Value) -> Facts {
    let config = |key: &str| state.pointer("/Config/HypervisorConfig")?.get(key);
    let file = |key: &str| config(key)?.as_str().and_then(|path| base_name(root, path));
    let cgroup = |key: &str| Some(state.get(key)?.as_str()?.to_owned());
    let plugged = state.pointer("/HypervisorState/HotpluggedMemory").and_then(Value::as_u64);
    Facts {
        hypervisor: word(state.pointer("/HypervisorState/Type")),
        kernel: file("KernelPath"),
        image: file("ImagePath").or_else(|| file("InitrdPath")),
        memory_bytes: config("MemorySize").and_then(Value::as_u64).and_then(mebibytes),
        hotplugged_bytes: plugged.and_then(|n| n.checked_mul(1 << 20)),
        vcpus: None,
        sandbox_cgroup_only: state.pointer("/Config/SandboxCgroupOnly").and_then(Value::as_bool),
        // `dumpConfig` of Kata's `persist.go` keeps no word of it: only its hypervisor's arguments tell.
        confidential: None,
        cgroups: ["SandboxCgroupPath", "OverheadCgroupPath"].iter().filter_map(|key| cgroup(key)).collect(),
    }
}

fn word(value: Option<&Value>) -> Option<Hypervisor> {
    Hypervisor::of_word(value?.as_str()?)
}

fn mebibytes(count: u64) -> Option<u64> {
    count.checked_mul(1 << 20).filter(|bytes| *bytes > 0)
}

fn document(path: &Path) -> Option<Value> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(STATE_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// An id comes from a client: it must be a folder's name and not a way elsewhere.
fn is_folder_name(id: &str) -> bool {
    let mut parts = Path::new(id).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// The file's name, of what a link names in the end: `vmlinux` is a link to the release. Only for paths of Kata's own file.
fn base_name(root: &Path, path: &str) -> Option<String> {
    let below = path.strip_prefix('/')?;
    let real = fs::canonicalize(root.join(below)).unwrap_or_else(|_| Path::new(path).to_owned());
    text(real.file_name()?.to_str()?)
}

/// A text that may stand in a label: short, and nothing in it that a terminal would act on.
pub fn text(from: &str) -> Option<String> {
    let plain: String = from.chars().filter(|c| c.is_ascii_graphic()).take(TEXT_BYTES).collect();
    (!plain.is_empty()).then_some(plain)
}

/// `-m 2048M,slots=10,maxmem=…`, `-m size=2G`, or `--memory size=536870912`.
fn memory(vmm: &Process) -> Option<u64> {
    let qemu = vmm.value_of("-m").and_then(|value| value.split(',').next());
    let cloud = vmm.value_of("--memory").and_then(|value| part(value, "size="));
    let (value, unit) = match (qemu, cloud) {
        // QEMU counts in MiB unless told otherwise.
        (Some(value), _) => (value.strip_prefix("size=").unwrap_or(value), 1 << 20),
        (None, Some(value)) => (value, 1),
        (None, None) => return None,
    };
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match value.get(digits.len()..)? {
        "" => unit,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// `-smp 1,cores=1,…`, `-smp cpus=2`, or `--cpus boot=1,max=4`.
fn vcpus(vmm: &Process) -> Option<u64> {
    let qemu = vmm.value_of("-smp").and_then(|value| {
        let first = value.split(',').next()?;
        part(value, "cpus=").or(Some(first))
    });
    let value = qemu.or_else(|| part(vmm.value_of("--cpus")?, "boot="))?;
    value.parse().ok().filter(|count| *count > 0)
}

/// `-machine q35,accel=kvm,confidential-guest-support=tdx`. Without it nothing is said: each hypervisor has ways of its own.
fn is_confidential(vmm: &Process) -> bool {
    vmm.value_of("-machine").and_then(|value| part(value, "confidential-guest-support=")).is_some()
}

fn part<'a>(value: &'a str, key: &str) -> Option<&'a str> {
    value.split(',').find_map(|part| part.strip_prefix(key))
}

#[cfg(test)]
mod tests;

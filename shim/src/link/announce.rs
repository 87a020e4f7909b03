//! What is said of a task: `Open`, from the block and from the bundle's config.json.
//!
//! The bundle may be gone when it is said again (by a successor, or to a collector that comes late), so what was read
//! from it is kept in the block.

use std::{collections::BTreeMap, fs, path::Path, sync::atomic::Ordering};

use protobuf::Message;
use serde::Deserialize;
use shimtap_proto::link::{NotCaptured, Open, Stdio, Stream as StreamKind};

use crate::{
    block::{Block, Places, Task, TaskState, linked},
    limits::{self, Change},
};

/// Annotations beyond this are left out and counted; the whole must fit its place in the block.
const ANNOTATIONS_MAX: usize = 8 << 10;
/// Largest config.json that is read.
const CONFIG_MAX: u64 = 4 << 20;

#[derive(Deserialize, Default)]
#[serde(default)]
struct OciSpec {
    hostname: String,
    annotations: BTreeMap<String, String>,
    linux: OciLinux,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct OciLinux {
    cgroups_path: String,
    resources: OciResources,
    namespaces: Vec<OciNamespace>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OciNamespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OciResources {
    cpu: OciCpu,
    memory: OciMemory,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OciCpu {
    quota: Option<i64>,
    period: Option<u64>,
    shares: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OciMemory {
    limit: Option<i64>,
    swap: Option<i64>,
}

// === impl OciResources ===

impl OciResources {
    /// These, and where they say nothing (0 and absent are the same to the runtimes) those from before.
    fn over(self, before: Self) -> Self {
        let cpu = OciCpu {
            quota: self.cpu.quota.filter(|n| *n != 0).or(before.cpu.quota),
            period: self.cpu.period.filter(|n| *n != 0).or(before.cpu.period),
            shares: self.cpu.shares.filter(|n| *n != 0).or(before.cpu.shares),
        };
        let memory = OciMemory {
            limit: self.memory.limit.filter(|n| *n != 0).or(before.memory.limit),
            swap: self.memory.swap.filter(|n| *n != 0).or(before.memory.swap),
        };
        Self { cpu, memory }
    }
}

/// The announcement of a task as it is now; what was read for it is kept. For the link thread only.
pub fn open(block: &Block, index: usize, task: &Task) -> Open {
    if task.announcement.load(Ordering::Acquire) == 0 {
        let open = known(block, index, task);
        keep(block, index, task, &open);
        return Open { again: false, ..look(block, index, task) };
    }
    look(block, index, task)
}

/// The same for others, who must not write where the link thread does.
pub fn look(block: &Block, index: usize, task: &Task) -> Open {
    let mut open = known(block, index, task);
    match limits::change(block, index, open.task) {
        Change::None => {}
        Change::Unknown => set_limits(&mut open, OciResources::default()),
        Change::To { resources, first } => updated(&mut open, &resources, first),
    }
    open
}

/// As it was when the task was made.
fn known(block: &Block, index: usize, task: &Task) -> Open {
    let kept = task.announcement.load(Ordering::Acquire);
    let mut open = if kept == 0 { from_bundle(&task.bundle.get()) } else { recall(block, index, kept) };
    open.again = kept != 0;
    let who = &block.tables().identity;
    open.task = task.handle.load(Ordering::Relaxed);
    open.namespace = who.namespace.get();
    open.container = task.id.get();
    open.incarnation = task.incarnation.load(Ordering::Relaxed);
    open.bundle = task.bundle.get();
    open.terminal = task.terminal.load(Ordering::Relaxed) != 0;
    open.created_ns = task.created_ns.load(Ordering::Relaxed);
    open.started_ns = task.started_ns.load(Ordering::Relaxed);
    open.pid = task.pid.load(Ordering::Relaxed);
    open.stdio = stdio(block, task);
    open
}

/// Takes over the limits that an Update set. What it does not name stays; what an earlier one made of that is not kept, so
/// that it is not known.
fn updated(open: &mut Open, resources: &[u8], first: bool) {
    let before = if first { limits_of(open) } else { OciResources::default() };
    // What does not parse is not known either.
    let now: Option<OciResources> = serde_json::from_slice(resources).ok();
    set_limits(open, now.map(|now| now.over(before)).unwrap_or_default());
}

fn set_limits(open: &mut Open, OciResources { cpu, memory }: OciResources) {
    (open.cpu_quota_us, open.cpu_period_us, open.cpu_shares) = (cpu.quota, cpu.period, cpu.shares);
    (open.memory_limit_bytes, open.memory_swap_limit_bytes) = (memory.limit, memory.swap);
}

fn limits_of(open: &Open) -> OciResources {
    let cpu = OciCpu { quota: open.cpu_quota_us, period: open.cpu_period_us, shares: open.cpu_shares };
    let memory = OciMemory { limit: open.memory_limit_bytes, swap: open.memory_swap_limit_bytes };
    OciResources { cpu, memory }
}

/// Where it is; empty without one, and also where it is one that the runtime makes: nobody else can name that.
fn network_namespace(namespaces: Vec<OciNamespace>) -> String {
    namespaces.into_iter().find(|namespace| namespace.kind == "network").unwrap_or_default().path
}

/// Makes the announcements of tasks that have none yet.
pub fn keep_all(block: &Block) {
    for (index, task) in block.tables().tasks().iter().enumerate() {
        let state = TaskState::load(&task.state);
        let begun = !matches!(state, TaskState::Free | TaskState::Creating);
        if begun && task.announcement.load(Ordering::Acquire) == 0 {
            open(block, index, task);
        }
    }
}

fn stdio(block: &Block, task: &Task) -> Vec<Stdio> {
    let kinds = [StreamKind::STREAM_STDOUT, StreamKind::STREAM_STDERR];
    let words = task.streams.iter().zip(&task.not_captured);
    kinds
        .into_iter()
        .zip(words)
        .map(|(kind, (stream, reason))| {
            let handle = linked(stream).and_then(|s| block.tables().streams.get(s));
            let reason = i32::try_from(reason.load(Ordering::Relaxed)).unwrap_or(0);
            Stdio {
                stream: kind.into(),
                handle: handle.map_or(0, |s| s.handle.load(Ordering::Relaxed)),
                acked: handle.map_or(0, |s| s.acked.load(Ordering::Acquire)),
                not_captured: protobuf::EnumOrUnknown::<NotCaptured>::from_i32(reason),
                ..Default::default()
            }
        })
        .collect()
}

/// What the bundle says; an unreadable one leaves everything unknown, which is said by absence.
fn from_bundle(bundle: &str) -> Open {
    let path = Path::new(bundle).join("config.json");
    let readable = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= CONFIG_MAX);
    let spec: Option<OciSpec> = if readable {
        fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    } else {
        None
    };
    let spec = spec.unwrap_or_default();
    let mut open = Open {
        hostname: spec.hostname,
        cgroups_path: spec.linux.cgroups_path,
        network_namespace: network_namespace(spec.linux.namespaces),
        ..Default::default()
    };
    set_limits(&mut open, spec.linux.resources);
    let mut annotations: Vec<_> = spec.annotations.into_iter().collect();
    // The short ones first: names and ids are what everything else hangs on.
    annotations.sort_by_key(|(k, v)| k.len() + v.len());
    let mut room = ANNOTATIONS_MAX;
    for (key, value) in annotations {
        match room.checked_sub(key.len() + value.len()) {
            Some(left) => {
                room = left;
                open.annotations.insert(key, value);
            }
            None => open.annotations_dropped = open.annotations_dropped.saturating_add(1),
        }
    }
    open
}

fn keep(block: &Block, index: usize, task: &Task, open: &Open) {
    let Ok(bytes) = open.write_to_bytes() else { return };
    let place = Places::announcement(index);
    let kept = block.map_place(place).ok().and_then(|m| Some(m.area(0, limits::AT)?.put(0, &bytes)));
    if kept == Some(true) {
        task.announcement.store(u32::try_from(bytes.len()).unwrap_or(0), Ordering::Release);
    }
}

fn recall(block: &Block, index: usize, len: u32) -> Open {
    let len = usize::try_from(len).unwrap_or(0);
    let bytes =
        block.map_place(Places::announcement(index)).ok().and_then(|m| m.area(0, limits::AT)?.get(0, len));
    bytes.and_then(|b| Open::parse_from_bytes(&b).ok()).unwrap_or_default()
}

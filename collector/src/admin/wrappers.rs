//! What `shimtap ps` shows of wrappers: who they are, and what became of their processes.
//!
//! Only of those that are connected.

use serde::{Deserialize, Serialize};

use crate::metrics::{Death, Registry};

/// One wrapper.
#[derive(Debug, Serialize, Deserialize)]
pub struct PsWrapper {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Its release.
    pub version: String,
    /// Base name of the shim inside.
    pub inner: String,
    /// Process id of the shim inside; 0 = unknown.
    #[serde(default)]
    pub inner_pid: u32,
    /// Process id of the keeper; 0 = unknown.
    pub keeper_pid: u32,
    /// Process id of the worker; 0 = unknown.
    pub worker_pid: u32,
    /// How many workers it has had.
    pub generation: u64,
    /// It moves bytes without looking into them.
    #[serde(default)]
    pub safe_mode: bool,
    /// containerd's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The id whose `start` made it: the sandbox's under CRI.
    #[serde(default)]
    pub pod: String,
    /// The last of its workers and keepers that were replaced, newest first; eight at most, and since the collector began.
    #[serde(default)]
    pub deaths: Vec<PsDeath>,
}

/// A worker or keeper that was replaced. Absent = not known.
#[derive(Debug, Serialize, Deserialize)]
pub struct PsDeath {
    /// Unix ns.
    pub time_ns: u64,
    /// `worker` or `keeper`.
    pub process: String,
    /// As in `shimtap_wrapper_restarts_total`.
    pub reason: String,
    /// Its process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it died of, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Of one that ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u32>,
    /// How long there was no worker, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_worker_ns: Option<u64>,
}

/// All of them.
pub(super) fn wrappers(registry: &Registry) -> Vec<PsWrapper> {
    let shown = registry.attached().into_iter().map(|wrapper| {
        let about = wrapper.about();
        PsWrapper {
            id: format!("{:016x}", wrapper.id),
            version: about.version,
            inner: about.inner,
            inner_pid: about.inner_pid,
            keeper_pid: about.keeper_pid,
            worker_pid: about.worker_pid,
            generation: about.generation,
            safe_mode: about.safe_mode,
            namespace: about.namespace,
            pod: about.id,
            deaths: wrapper.deaths().into_iter().map(death).collect(),
        }
    });
    shown.collect()
}

fn death(death: Death) -> PsDeath {
    let Death { time_ns, reason, pid, signal, exit_status, without_worker_ns } = death;
    let (process, reason) = (reason.process().to_owned(), reason.label().to_owned());
    PsDeath { time_ns, process, reason, pid, signal, exit_status, without_worker_ns }
}

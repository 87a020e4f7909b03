//! What `shimtap ps` shows of streams whose end nobody told. A node that lost power has one per stream, so they are bounded.

use serde::{Deserialize, Serialize};

use crate::{journal::OpenEnded, metrics::Registry};

/// So many are listed: the streams of a full node (110 pods of a few containers, two outputs each), all of which end at once
/// with its power.
pub(super) const LISTED: usize = 1_000;

/// A stream whose end nobody told. Of its last bytes nothing is claimed. Absent = not known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PsOpenEnded {
    /// containerd's namespace.
    pub containerd_namespace: String,
    /// Container id.
    pub id: String,
    /// 16 hexadecimal digits.
    pub incarnation: String,
    /// Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Empty = the init process.
    pub process: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `inexact`, `wrapper_lost`, `reboot`, `power_cut`, `unknown`.
    pub reason: String,
    /// Bytes taken.
    pub bytes: u64,
    /// Bytes that are not here.
    pub gap_bytes: u64,
    /// Where it is: behind the last byte that is known of.
    pub reached_bytes: u64,
    /// Unix ns of its last record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ns: Option<u64>,
}

/// Those with the newest records, and how many there are.
pub(super) fn open_ended(registry: &Registry) -> (Vec<PsOpenEnded>, Option<u64>) {
    let Some(mut all) = registry.open_ended() else { return (Vec::new(), None) };
    let total = u64::try_from(all.len()).ok();
    all.sort_by(|one, other| {
        other.last_ns.cmp(&one.last_ns).then_with(|| one.origin.name.cmp(&other.origin.name))
    });
    all.truncate(LISTED);
    (all.iter().map(one).collect(), total)
}

fn one(stream: &OpenEnded) -> PsOpenEnded {
    let (name, identity) = (&stream.origin.name, &stream.origin.identity);
    PsOpenEnded {
        containerd_namespace: name.namespace.clone(),
        id: name.container.clone(),
        incarnation: format!("{:016x}", name.incarnation),
        namespace: identity.namespace.clone(),
        pod: identity.pod.clone(),
        container: identity.container.clone(),
        process: name.process.clone(),
        stream: name.stream.label().to_owned(),
        reason: stream.ending.label().to_owned(),
        bytes: stream.bytes,
        gap_bytes: stream.gap_bytes,
        reached_bytes: stream.reached,
        last_ns: stream.last_ns,
    }
}

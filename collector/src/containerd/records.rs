//! What CRI wrote into containerd's records: JSON below two names, of which a few fields are read.
//!
//! CRI's JSON belongs to containerd and has grown with every release. What is not there, or is not what it was, is not
//! known; nothing here fails.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};

use super::messages::Record;
use crate::enrich::{Details, Overhead};

/// Where CRI has what it knows of a sandbox.
const SANDBOX: &str = "io.cri-containerd.sandbox.metadata";
/// The same of a container.
const CONTAINER: &str = "io.cri-containerd.container.metadata";
/// Labels of a pod that are kept, and their bytes together; Kubernetes allows more.
const LABELS: usize = 64;
const LABELS_BYTES: usize = 8 << 10;

/// What all containers of a pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    handler: Option<String>,
    labels: Arc<BTreeMap<String, String>>,
    overhead: Overhead,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned<T> {
    metadata: T,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Sandbox {
    config: SandboxConfig,
    runtime_handler: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SandboxConfig {
    metadata: Option<Name>,
    labels: Option<BTreeMap<String, String>>,
    linux: Option<SandboxLinux>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    attempt: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SandboxLinux {
    overhead: Option<Resources>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    cpu_period: i64,
    cpu_quota: i64,
    cpu_shares: i64,
    memory_limit_in_bytes: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    #[serde(rename = "Config")]
    config: ContainerConfig,
    #[serde(rename = "ImageRef")]
    image_ref: String,
    #[serde(rename = "LogPath")]
    log_path: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerConfig {
    metadata: Option<Name>,
}

/// The pod that a sandbox's record tells of.
pub(super) fn pod(record: &Record) -> Pod {
    let Sandbox { config, runtime_handler } = metadata(record, SANDBOX).unwrap_or_default();
    let mut room = LABELS_BYTES;
    let mut labels = config.labels.unwrap_or_default();
    labels.retain(|key, value| {
        let left = room.checked_sub(key.len().saturating_add(value.len()));
        room = left.unwrap_or(room);
        left.is_some()
    });
    let labels = labels.into_iter().take(LABELS).collect();
    let overhead = config.linux.unwrap_or_default().overhead.unwrap_or_default();
    Pod {
        handler: Some(runtime_handler).filter(|handler| !handler.is_empty()),
        labels: Arc::new(labels),
        overhead: overhead.into(),
    }
}

/// What a record says of its own container, and `pod` of the pod that it is in.
pub(super) fn details(record: &Record, pod: &Pod) -> Details {
    let of_pod = Details {
        handler: pod.handler.clone(),
        pod_labels: Arc::clone(&pod.labels),
        overhead: pod.overhead,
        ..Details::default()
    };
    if let Some(sandbox) = metadata::<Sandbox>(record, SANDBOX) {
        return Details { attempt: sandbox.config.metadata.map(|name| name.attempt), ..of_pod };
    }
    let Some(container) = metadata::<Container>(record, CONTAINER) else { return of_pod };
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    Details {
        image_id: said(container.image_ref),
        log_path: said(container.log_path),
        attempt: container.config.metadata.map(|name| name.attempt),
        ..of_pod
    }
}

fn metadata<T: DeserializeOwned>(record: &Record, name: &str) -> Option<T> {
    let any = record.extensions.get(name)?;
    serde_json::from_slice::<Versioned<T>>(&any.value).ok().map(|versioned| versioned.metadata)
}

impl From<Resources> for Overhead {
    fn from(resources: Resources) -> Self {
        let Resources { cpu_period, cpu_quota, cpu_shares, memory_limit_in_bytes } = resources;
        let above_nought = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        let of_quota = above_nought(cpu_quota)
            .zip(above_nought(cpu_period))
            .and_then(|(quota, period)| quota.saturating_mul(1_000).checked_div(period));
        // Shares are what Kubernetes makes of millicores, rounded down, and never below 2.
        let of_shares =
            || above_nought(cpu_shares).map(|shares| shares.saturating_mul(1_000).div_ceil(1_024));
        Self { memory_bytes: above_nought(memory_limit_in_bytes), cpu_millis: of_quota.or_else(of_shares) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::messages::Any, *};

    fn record(name: &str, json: &str) -> Record {
        let any = Any { type_url: String::new(), value: json.as_bytes().to_vec() };
        Record { id: "c".into(), extensions: [(name.to_owned(), any)].into() }
    }

    /// As containerd 2.3.4 writes it, shortened.
    const SEEN_SANDBOX: &str = r#"{"Version":"v1","Metadata":{"ID":"0ab","Name":"p_rig_uid-p_2","Config":{"metadata":
        {"name":"p","uid":"uid-p","namespace":"rig","attempt":2},"log_directory":"/l","dns_config":{},"labels":{"app":"p"},
        "linux":{"cgroup_parent":"/x","security_context":{},"overhead":{"cpu_period":100000,"cpu_quota":25000,
        "memory_limit_in_bytes":167772160}}},"NetNSPath":"","RuntimeHandler":"kata-qemu","SandboxID":""}}"#;
    const SEEN_CONTAINER: &str = r#"{"Version":"v1","Metadata":{"ID":"1cd","Name":"c_p_rig_uid-p_3","SandboxID":"0ab","Config":
        {"metadata":{"name":"c","attempt":3},"image":{"image":"i"},"log_path":"c.log"},"ImageRef":"sha256:99",
        "LogPath":"/l/c.log","StopSignal":"","ProcessLabel":""}}"#;

    #[test]
    fn what_cri_writes_is_read() {
        let pod = pod(&record(SANDBOX, SEEN_SANDBOX));
        let sandbox = details(&record(SANDBOX, SEEN_SANDBOX), &pod);
        let labels: BTreeMap<_, _> = [("app".to_owned(), "p".to_owned())].into();
        let overhead = Overhead { memory_bytes: Some(160 << 20), cpu_millis: Some(250) };
        assert_eq!(
            sandbox,
            Details {
                handler: Some("kata-qemu".into()),
                attempt: Some(2),
                pod_labels: Arc::new(labels),
                overhead,
                ..Details::default()
            }
        );
        let container = details(&record(CONTAINER, SEEN_CONTAINER), &pod);
        assert_eq!(
            container,
            Details {
                image_id: Some("sha256:99".into()),
                log_path: Some("/l/c.log".into()),
                attempt: Some(3),
                ..sandbox
            }
        );
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        for json in ["", "{", "[]", "{\"Metadata\":7}", "{\"Version\":\"v1\"}"] {
            assert_eq!(pod(&record(SANDBOX, json)), Pod::default(), "{json}");
            assert_eq!(details(&record(CONTAINER, json), &Pod::default()), Details::default(), "{json}");
        }
        assert_eq!(details(&Record::default(), &Pod::default()), Details::default());
        let bare = "{\"Metadata\":{\"Config\":{\"labels\":null,\"linux\":null},\"RuntimeHandler\":\"\"}}";
        assert_eq!(pod(&record(SANDBOX, bare)), Pod::default());
    }

    #[test]
    fn overhead_is_what_was_promised_and_nothing_else() {
        for (quota, period, shares, millis) in [
            (25_000, 100_000, 256, Some(250)),
            (0, 100_000, 256, Some(250)),
            (-1, 100_000, 0, None),
            (50_000, 0, 0, None),
            (0, 0, 2, Some(2)),
        ] {
            let resources = Resources {
                cpu_period: period,
                cpu_quota: quota,
                cpu_shares: shares,
                ..Resources::default()
            };
            let expected = Overhead { memory_bytes: None, cpu_millis: millis };
            assert_eq!(Overhead::from(resources), expected, "{quota} {period} {shares}");
        }
    }

    #[test]
    fn labels_are_bounded() {
        let long = "x".repeat(LABELS_BYTES);
        let many: Vec<String> = (0..100).map(|n| format!("\"k{n:03}\":\"v\"")).collect();
        let json =
            format!("{{\"Metadata\":{{\"Config\":{{\"labels\":{{\"a\":\"{long}\",{}}}}}}}}}", many.join(","));
        let labels = pod(&record(SANDBOX, &json)).labels;
        assert_eq!((labels.len(), labels.contains_key("a")), (LABELS, false));
    }
}

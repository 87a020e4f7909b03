//! The control socket: HTTP/1 with JSON, for root and our own user only.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};

use super::{
    body::Answer,
    explain::explain,
    health::health,
    logs,
    metrics::plain,
    open_ended::{self, PsOpenEnded},
    sandboxes::{self, PsOrphan, PsSandbox, PsWarning},
    server::State,
    top::top,
    wrappers::{self, PsWrapper},
};
use crate::{
    enrich::Details,
    event::Ending,
    metrics::{Container, Live, Registry, Unwrapped},
};

/// What `shimtap ps` shows. Fields are only ever added.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ps {
    /// The collector's release.
    pub version: String,
    /// Wrappers that are connected.
    pub wrappers: Vec<PsWrapper>,
    /// Tasks known.
    pub containers: Vec<PsContainer>,
    /// The last pods that were started without a wrapper, newest first; they may have ended since.
    #[serde(default)]
    pub unwrapped: Vec<PsUnwrapped>,
    /// Pods that are virtual machines.
    #[serde(default)]
    pub sandboxes: Vec<PsSandbox>,
    /// Streams whose end nobody told, those with the newest records first, at most [`open_ended::LISTED`].
    #[serde(default)]
    pub open_ended: Vec<PsOpenEnded>,
    /// How many there are; absent = not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ended_total: Option<u64>,
    /// What Kata left behind on this node.
    #[serde(default)]
    pub orphans: Vec<PsOrphan>,
    /// What endangers pods.
    #[serde(default)]
    pub warnings: Vec<PsWarning>,
}

/// One pod that runs unwrapped.
#[derive(Debug, Serialize, Deserialize)]
pub struct PsUnwrapped {
    /// Unix ns when the collector learnt of it.
    pub time_ns: u64,
    /// containerd's namespace.
    pub namespace: String,
    /// The id that was started: the sandbox's under CRI.
    pub pod: String,
    /// Why; empty = not said.
    pub why: String,
}

/// One task. Absent = not known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PsContainer {
    /// containerd's namespace.
    pub containerd_namespace: String,
    /// Container id.
    pub id: String,
    /// 16 hexadecimal digits.
    pub incarnation: String,
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Image reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Base name of the shim inside.
    #[serde(default)]
    pub shim: String,
    /// `created`, `running`, `exited`, `deleted`, `lost`.
    pub state: String,
    /// Exit status of the init process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u32>,
    /// Process id on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Unix ns of Create's answer.
    pub created_ns: u64,
    /// Unix ns of Start's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ns: Option<u64>,
    /// Unix ns of the exit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited_ns: Option<u64>,
    /// CPU time used, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Memory in use without the inactive file cache, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_bytes: Option<u64>,
    /// Unix ns of the sample that the two are from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_ns: Option<u64>,
    /// `snooped`, `polled`, `final`, `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_source: Option<String>,
    /// What containerd's records say of it; absent where none was had (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<PsRecord>,
    /// Its streams.
    pub streams: Vec<PsStream>,
}

/// What containerd's record of a container, and of its pod, says. Absent = it does not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PsRecord {
    /// Runtime handler of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// The image by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Where containerd writes the container's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_path: Option<String>,
    /// How often it was made before, as its client counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Labels of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
}

/// One stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PsStream {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Empty = the init process.
    pub process: String,
    /// Bytes taken.
    pub bytes: u64,
    /// Lines made of them.
    pub lines: u64,
    /// Bytes that are not here.
    pub gap_bytes: u64,
    /// `open`, `closed`, `open_ended`.
    pub end: String,
    /// Why the end is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ended: Option<String>,
    /// Why it is not captured; `rule`: by the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_captured: Option<String>,
}

/// Answers one request.
pub(super) fn answer(state: &State, request: &Request<Incoming>) -> Response<Answer> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/ps") => json(&ps(&state.registry)),
        (&Method::GET, "/v1/top") => json(&top(&state.registry)),
        (&Method::GET, "/v1/explain") => {
            let rules = Arc::clone(&state.reloader.rules().borrow());
            json(&explain(&state.registry, &rules))
        }
        (&Method::GET, "/v1/health") => json(&health(&state.registry, &state.places)),
        (&Method::GET, "/v1/logs") => show_logs(state, request.uri().query().unwrap_or_default()),
        // Reads a file of a few KiB on the admin thread: it is asked for by a person, and the answer is about that file.
        (&Method::POST, "/v1/reload") => match state.reloader.reload() {
            Ok(rules) => plain(StatusCode::OK, format!("the configuration holds: rules {rules}\n")),
            Err(fault) => plain(StatusCode::CONFLICT, format!("nothing was changed: {fault}\n")),
        },
        (_, "/v1/ps" | "/v1/top" | "/v1/explain" | "/v1/health" | "/v1/logs" | "/v1/reload") => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "GET for what is shown, POST for what is done\n")
        }
        _ => plain(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

fn show_logs(state: &State, query: &str) -> Response<Answer> {
    let Some(journal) = state.registry.journal.get() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "there is no journal\n");
    };
    match logs::Query::parse(query).and_then(|query| query.answer(journal)) {
        Ok(answer) => Response::new(answer),
        Err(fault) => {
            let status = match fault {
                logs::QueryFault::Busy | logs::QueryFault::Thread { .. } => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            plain(status, format!("{fault}\n"))
        }
    }
}

fn json(value: &impl Serialize) -> Response<Answer> {
    // Strings, numbers and lists of them cannot fail to become JSON.
    let Ok(body) = serde_json::to_vec(value) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode\n");
    };
    let mut response = Response::new(Answer::from(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Everything that it shows, as it is now.
pub(crate) fn ps(registry: &Registry) -> Ps {
    let (open_ended, open_ended_total) = open_ended::open_ended(registry);
    Ps {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wrappers: wrappers::wrappers(registry),
        containers: registry.containers().iter().map(ps_container).collect(),
        unwrapped: registry.unwrapped().into_iter().map(unwrapped).collect(),
        open_ended,
        open_ended_total,
        sandboxes: sandboxes::sandboxes(registry),
        orphans: sandboxes::orphans(&registry.findings()),
        warnings: sandboxes::warnings(registry),
    }
}

fn unwrapped(pod: Unwrapped) -> PsUnwrapped {
    let Unwrapped { time_ns, namespace, id, why } = pod;
    PsUnwrapped { time_ns, namespace, pod: id, why }
}

fn record(details: &Details) -> PsRecord {
    PsRecord {
        handler: details.handler.clone(),
        image_id: details.image_id.clone(),
        log_path: details.log_path.clone(),
        attempt: details.attempt,
        pod_labels: BTreeMap::clone(&details.pod_labels),
    }
}

/// One task, as it is now.
fn ps_container(container: &Arc<Container>) -> PsContainer {
    let about = about(container, &container.live());
    PsContainer { record: container.extra.get().map(record), ..about }
}

/// The same without what containerd's record says.
pub(super) fn about(container: &Container, live: &Live) -> PsContainer {
    let identity = &container.identity;
    let sample = live.sample.as_ref();
    let known = |value: u64| (value != 0).then_some(value);
    PsContainer {
        containerd_namespace: container.key.namespace.clone(),
        id: container.key.container.clone(),
        incarnation: format!("{:016x}", container.key.incarnation),
        namespace: identity.namespace.clone(),
        pod: identity.pod.clone(),
        container: identity.container.clone(),
        image: identity.image.clone(),
        shim: identity.shim.clone(),
        state: live.state.map_or("created", |state| state.label()).to_owned(),
        exit_status: live.exit_status,
        pid: (live.pid != 0).then_some(live.pid),
        created_ns: live.created_ns,
        started_ns: known(live.started_ns),
        exited_ns: known(live.exited_ns),
        cpu_ns: sample.and_then(|sample| sample.cpu_ns),
        working_set_bytes: sample.and_then(|sample| sample.working_set),
        sampled_ns: sample.map(|sample| sample.time_ns),
        sample_source: live.source.map(|source| source.label().to_owned()),
        record: None,
        streams: live
            .streams
            .iter()
            .map(|counts| PsStream {
                stream: counts.stream.label().to_owned(),
                process: counts.process.clone(),
                bytes: counts.bytes.load(Ordering::Relaxed),
                lines: counts.lines.load(Ordering::Relaxed),
                gap_bytes: counts.gap_bytes.total(),
                end: match counts.ending() {
                    None => "open",
                    Some(Ending::Exact) => "closed",
                    Some(_) => "open_ended",
                }
                .to_owned(),
                open_ended: counts
                    .ending()
                    .filter(|ending| ending.is_open())
                    .map(|ending| ending.label().to_owned()),
                not_captured: counts.silent().map(str::to_owned),
            })
            .collect(),
    }
}

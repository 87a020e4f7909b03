//! The control socket: HTTP/1 with JSON, for root and our own user only.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};

use super::{body::Answer, explain::explain, health::health, logs, metrics::plain, server::State};
use crate::{
    event::Ending,
    metrics::{Container, Registry, Unwrapped},
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
}

/// One task. Absent = not known.
#[derive(Debug, Serialize, Deserialize)]
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
    /// Its streams.
    pub streams: Vec<PsStream>,
}

/// One stream.
#[derive(Debug, Serialize, Deserialize)]
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
        (_, "/v1/ps" | "/v1/explain" | "/v1/health" | "/v1/logs" | "/v1/reload") => {
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

fn ps(registry: &Registry) -> Ps {
    let wrappers = registry.attached().into_iter().map(|wrapper| {
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
        }
    });
    Ps {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wrappers: wrappers.collect(),
        containers: registry.containers().iter().map(container).collect(),
        unwrapped: registry.unwrapped().into_iter().map(unwrapped).collect(),
    }
}

fn unwrapped(pod: Unwrapped) -> PsUnwrapped {
    let Unwrapped { time_ns, namespace, id, why } = pod;
    PsUnwrapped { time_ns, namespace, pod: id, why }
}

fn container(container: &Arc<Container>) -> PsContainer {
    let identity = &container.identity;
    let live = container.live();
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
                    .filter(|ending| *ending != Ending::Exact)
                    .map(|ending| ending.label().to_owned()),
                not_captured: counts.silent().map(str::to_owned),
            })
            .collect(),
    }
}

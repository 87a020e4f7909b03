//! What becomes of each container's output, and who said so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    event::StreamKind,
    metrics::{Container, Registry},
    rules::{By, Rules},
};

/// A container's output under the rules that hold now. Fields are only ever added; absent = not known, or not so.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explained {
    /// containerd's namespace.
    pub containerd_namespace: String,
    /// Container id.
    pub id: String,
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
    /// Shim inside, as rules name it.
    pub runtime: String,
    /// Its streams.
    pub streams: Vec<ExplainedStream>,
}

/// One stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedStream {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Empty = the init process.
    pub process: String,
    /// Why there is nothing to collect, whatever rules say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_captured: Option<String>,
    /// Whether rules have it collected.
    pub collect: bool,
    /// Who said that last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect_by: Option<String>,
    /// What is taken out of its lines.
    pub redact: Vec<ExplainedRedaction>,
    /// How much its container may write, all streams of that rate together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<ExplainedRate>,
    /// Where the journal keeps it, where somebody says so: else in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<ExplainedStore>,
    /// To which sinks it goes, where a rule says so: else to all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sinks: Option<ExplainedSinks>,
    /// Every rule and annotation that speaks of it, in order.
    pub matched: Vec<String>,
}

/// Something that is taken out.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedRedaction {
    /// A preset's name, or a pattern.
    pub what: String,
    /// Who said so.
    pub by: String,
}

/// A limit.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedRate {
    /// Lines per second, lasting.
    pub lines_per_sec: u32,
    /// Lines at once.
    pub burst_lines: u32,
    /// Who said so.
    pub by: String,
}

/// Where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedStore {
    /// `memory`, `disk`.
    pub name: String,
    /// Who said so.
    pub by: String,
}

/// Where it goes.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedSinks {
    /// Their names; empty = it is in the journal only.
    pub names: Vec<String>,
    /// Who said so.
    pub by: String,
}

/// All containers that are known.
pub(super) fn explain(registry: &Registry, rules: &Rules) -> Vec<Explained> {
    registry.containers().iter().map(|container| one(container, rules)).collect()
}

fn one(container: &Arc<Container>, rules: &Rules) -> Explained {
    let identity = &container.identity;
    let live = container.live();
    let streams = live.streams.iter().map(|counts| {
        let not_captured = counts.not_captured.map(str::to_owned);
        stream(container, rules, counts.stream, counts.process.clone(), not_captured)
    });
    Explained {
        containerd_namespace: container.key.namespace.clone(),
        id: container.key.container.clone(),
        namespace: identity.namespace.clone(),
        pod: identity.pod.clone(),
        container: identity.container.clone(),
        image: identity.image.clone(),
        runtime: identity.runtime().to_owned(),
        streams: streams.collect(),
    }
}

fn stream(
    container: &Container,
    rules: &Rules,
    stream: StreamKind,
    process: String,
    not_captured: Option<String>,
) -> ExplainedStream {
    let verdict = rules.judge(&container.identity, stream);
    let reasons = verdict.reasons;
    let by = |by: &By| by.to_string();
    let rate = verdict.rate.map(|rate| ExplainedRate {
        lines_per_sec: rate.lines_per_sec,
        burst_lines: rate.burst_lines,
        by: reasons.rate.as_ref().map(by).unwrap_or_default(),
    });
    let store = verdict.store.map(|store| ExplainedStore {
        name: store.label().to_owned(),
        by: reasons.store.as_ref().map(by).unwrap_or_default(),
    });
    let sinks = verdict.sinks.map(|names| ExplainedSinks {
        names: names.into_iter().map(str::to_owned).collect(),
        by: reasons.sinks.as_ref().map(by).unwrap_or_default(),
    });
    let redact = reasons.redact.iter();
    ExplainedStream {
        stream: stream.label().to_owned(),
        process,
        not_captured,
        collect: !verdict.off,
        collect_by: reasons.off.as_ref().map(by),
        redact: redact.map(|(what, who)| ExplainedRedaction { what: what.clone(), by: by(who) }).collect(),
        rate,
        store,
        sinks,
        matched: reasons.matched.iter().map(by).collect(),
    }
}

//! Collection rules: what of a container's output is collected, and what is taken out of it.
//!
//! An ordered list. Every rule that matches a stream has its say, in order: of `collect`, `rate`, `store` and
//! `sinks` the last one holds, what is redacted adds up. A pod's own annotations come after all rules and may only narrow. Nothing here knows a
//! connection, a file or the clock; whoever asks gets a [`Verdict`] with the reasons.

mod censor;
mod names;
mod narrow;
mod rate;
mod redact;

use std::{collections::BTreeMap, fmt};

pub use censor::Censor;
pub use names::Names;
pub use rate::{Budget, Rate};
pub use redact::{Redacted, Redactor};

use crate::{
    enrich::Identity,
    event::{Store, StreamKind},
};

/// All rules, in order. None: everything is collected as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One rule. What it does not say it leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// For people.
    pub name: String,
    /// Its line in the configuration.
    pub line: usize,
    /// Which streams it speaks of.
    pub of: Match,
    /// Whether they are collected.
    pub collect: Option<bool>,
    /// What is taken out of their lines.
    pub redact: Redactor,
    /// How many lines their container may write.
    pub rate: Option<Rate>,
    /// Where the journal keeps them.
    pub store: Option<Store>,
    /// To which sinks they go, by name; to none where it is empty.
    pub sinks: Option<Vec<&'static str>>,
}

/// Which streams a rule speaks of: those of which all that it names is known and matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Kubernetes namespace.
    pub namespace: Option<Names>,
    /// Pod name.
    pub pod: Option<Names>,
    /// The container's name; outside of Kubernetes nerdctl's name or the id.
    pub container: Option<Names>,
    /// Image reference.
    pub image: Option<Names>,
    /// Shim inside: `runc-v2`, `kata-v2`.
    pub runtime: Option<Names>,
    /// Which output.
    pub stream: Option<StreamKind>,
    /// Annotations that reach the OCI spec: each must be there and match.
    pub annotations: BTreeMap<String, Names>,
}

/// What becomes of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Not collected: the wrapper is told to send nothing of it.
    pub off: bool,
    /// What is taken out of its lines.
    pub redact: Redactor,
    /// How many lines its container may write.
    pub rate: Option<Rate>,
    /// Where the journal keeps it, where somebody says so: see [`Verdict::store`].
    pub store: Option<Store>,
    /// To which sinks it goes; to all where nobody says.
    pub sinks: Option<Vec<&'static str>>,
    /// Who said so.
    pub reasons: Reasons,
}

/// Who decided what. Later ones come later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Rules and annotations that match, whether or not they changed anything.
    pub matched: Vec<By>,
    /// Of `off`.
    pub off: Option<By>,
    /// Of each thing that is redacted.
    pub redact: Vec<(String, By)>,
    /// Of `rate`.
    pub rate: Option<By>,
    /// Of `store`.
    pub store: Option<By>,
    /// Of `sinks`.
    pub sinks: Option<By>,
}

/// A rule, or a pod's annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A rule of the configuration.
    Rule {
        /// Its name.
        name: String,
        /// Its line.
        line: usize,
    },
    /// An annotation of the pod.
    Annotation {
        /// Its key.
        key: String,
        /// What is wrong with its value, where it could not be followed.
        fault: Option<String>,
    },
}

// === impl Rules ===

impl Rules {
    /// These, in this order.
    #[must_use]
    pub const fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether any of them says to which sinks something goes.
    #[must_use]
    pub fn route(&self) -> bool {
        self.0.iter().any(|rule| rule.sinks.is_some())
    }

    /// What becomes of this stream of this container.
    #[must_use]
    pub fn judge(&self, identity: &Identity, stream: StreamKind) -> Verdict {
        let mut verdict = Verdict::default();
        for rule in self.0.iter().filter(|rule| rule.of.has(identity, stream)) {
            rule.apply(&mut verdict);
        }
        narrow::apply(&identity.annotations, &mut verdict);
        verdict
    }
}

// === impl Rule ===

impl Rule {
    fn apply(&self, verdict: &mut Verdict) {
        let by = || By::Rule { name: self.name.clone(), line: self.line };
        let reasons = &mut verdict.reasons;
        reasons.matched.push(by());
        if let Some(collect) = self.collect {
            verdict.off = !collect;
            reasons.off = Some(by());
        }
        if self.rate.is_some() {
            verdict.rate = self.rate;
            reasons.rate = Some(by());
        }
        if self.store.is_some() {
            verdict.store = self.store;
            reasons.store = Some(by());
        }
        if self.sinks.is_some() {
            verdict.sinks.clone_from(&self.sinks);
            reasons.sinks = Some(by());
        }
        verdict.redact(&self.redact, &by());
    }
}

// === impl Match ===

impl Match {
    fn has(&self, identity: &Identity, stream: StreamKind) -> bool {
        let container = identity.container.as_deref();
        let known = |names: &Option<Names>, name: Option<&str>| {
            names.as_ref().is_none_or(|names| name.is_some_and(|name| names.has(name)))
        };
        known(&self.namespace, identity.namespace.as_deref())
            && known(&self.pod, identity.pod.as_deref())
            && known(&self.container, container)
            && known(&self.image, identity.image.as_deref())
            && known(&self.runtime, Some(identity.runtime()).filter(|name| !name.is_empty()))
            && self.stream.is_none_or(|kind| kind == stream)
            && self
                .annotations
                .iter()
                .all(|(key, names)| identity.annotations.get(key).is_some_and(|value| names.has(value)))
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether the sink of this name is to have it.
    #[must_use]
    pub fn goes_to(&self, sink: &str) -> bool {
        self.sinks.as_ref().is_none_or(|sinks| sinks.contains(&sink))
    }

    /// Where the journal keeps it: in memory where nobody says else.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.unwrap_or(Store::Memory)
    }

    /// Adds what `by` wants to be taken out.
    fn redact(&mut self, more: &Redactor, by: &By) {
        if more.is_empty() {
            return;
        }
        for name in more.names().filter(|name| !self.redact.names().any(|known| known == *name)) {
            self.reasons.redact.push((name.to_owned(), by.clone()));
        }
        self.redact = std::mem::take(&mut self.redact).and(more);
    }
}

// === impl By ===

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { name, line } => write!(f, "rule {name:?} (line {line})"),
            Self::Annotation { key, fault: None } => write!(f, "annotation {key} of the pod"),
            Self::Annotation { key, fault: Some(fault) } => {
                write!(f, "annotation {key} of the pod, not followed: {fault}")
            }
        }
    }
}

#[cfg(test)]
mod tests;

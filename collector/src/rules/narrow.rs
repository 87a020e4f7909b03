//! What a pod says of itself, in annotations `shimtap.io/*`: it may have less collected and more redacted, never the
//! other way round, for whoever writes a pod is not who answers for the node.
//!
//! They reach us where containerd passes them into the OCI spec: `pod_annotations = ["shimtap.io/*"]` of the runtime.

use std::collections::BTreeMap;

use super::{By, Rate, Redactor, Verdict};
use crate::event::Store;

const COLLECT: &str = "shimtap.io/collect";
const REDACT: &str = "shimtap.io/redact";
const RATE: &str = "shimtap.io/lines-per-sec";
const STORE: &str = "shimtap.io/store";

/// Follows one annotation's value, as far as it can be understood; else says what is wrong with it.
type Narrow = fn(&str, &By, &mut Verdict) -> Result<(), String>;

/// Narrows `verdict` as far as the annotations can be understood; what cannot be is said among its reasons.
pub(super) fn apply(annotations: &BTreeMap<String, String>, verdict: &mut Verdict) {
    let each: [(&str, Narrow); 4] = [(COLLECT, collect), (REDACT, redact), (RATE, rate), (STORE, store)];
    for (key, narrow) in each {
        let Some(value) = annotations.get(key) else { continue };
        let by = |fault| By::Annotation { key: key.to_owned(), fault };
        let fault = narrow(value, &by(None), verdict).err();
        verdict.reasons.matched.push(by(fault));
    }
}

/// `false`: nothing of this pod. `true` changes nothing.
fn collect(value: &str, by: &By, verdict: &mut Verdict) -> Result<(), String> {
    match value.trim() {
        "false" => {
            if !verdict.off {
                verdict.reasons.off = Some(by.clone());
            }
            verdict.off = true;
            Ok(())
        }
        "true" => Ok(()),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// Names of presets, with commas between. Patterns are for the node's configuration only: they cost time.
fn redact(value: &str, by: &By, verdict: &mut Verdict) -> Result<(), String> {
    let mut faults = Vec::new();
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Redactor::preset(name) {
            Ok(redactor) => verdict.redact(&redactor, by),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

/// A whole number, above 0.
fn rate(value: &str, by: &By, verdict: &mut Verdict) -> Result<(), String> {
    let lines_per_sec = value.trim().parse().ok().filter(|n| *n > 0);
    let lines_per_sec = lines_per_sec.ok_or_else(|| format!("{value:?} is no whole number above 0"))?;
    let asked = Rate::lasting(lines_per_sec);
    let narrowed = verdict.rate.map_or(asked, |given| given.narrowed(asked));
    if verdict.rate != Some(narrowed) {
        verdict.reasons.rate = Some(by.clone());
        verdict.rate = Some(narrowed);
    }
    Ok(())
}

/// `memory`: none of this pod is kept on a disk. `disk` changes nothing: only a rule says so.
fn store(value: &str, by: &By, verdict: &mut Verdict) -> Result<(), String> {
    match value.trim() {
        "memory" => {
            if verdict.store() != Store::Memory {
                (verdict.store, verdict.reasons.store) = (Some(Store::Memory), Some(by.clone()));
            }
            Ok(())
        }
        "disk" => Ok(()),
        other => Err(format!("{other:?} is neither memory nor disk")),
    }
}

//! `[[rule]]`: what is collected, what is taken out, how much, and to which sinks. In the file's order.

use std::collections::BTreeMap;

use super::{
    option::{Bound, Heading, Sample},
    section::{At, Document, Section},
};
use crate::{
    closed::Closed,
    event::{Store, StreamKind},
    rules::{Match, Names, Rate, Redactor, Rule, Rules},
};

const NAME: Sample = Sample {
    key: "name",
    says: "For people: shimtap explain shows it. Its number unless given.",
    example: "\"payments\"",
};
const NAMESPACE: Sample = Sample {
    key: "namespace",
    says: "Kubernetes' namespace: * stands for any characters, ? for one; a list matches where one of its patterns does.",
    example: "[\"pay\", \"pay-*\"]",
};
const POD: Sample = Sample { key: "pod", says: "Likewise the pod.", example: "\"api-*\"" };
const CONTAINER: Sample = Sample {
    key: "container",
    says: "Likewise the container; outside of Kubernetes nerdctl's name or the id.",
    example: "\"*\"",
};
const IMAGE: Sample =
    Sample { key: "image", says: "Likewise the image.", example: "\"registry.example.org/*\"" };
const RUNTIME: Sample =
    Sample { key: "runtime", says: "Likewise the shim inside: runc-v2, kata-v2.", example: "\"kata-*\"" };
const STREAM: Sample =
    Sample { key: "stream", says: "Either \"stdout\" or \"stderr\".", example: "\"stderr\"" };
const ANNOTATIONS: Sample = Sample {
    key: "annotations",
    says: "Likewise those of the OCI spec, by their keys. Not together with sinks.",
    example: "{ \"example.org/team\" = \"red\" }",
};
const COLLECT: Sample = Sample {
    key: "collect",
    says: "False: the wrapper is told to send nothing, so it costs nothing.",
    example: "true",
};
const REDACT: Sample = Sample {
    key: "redact",
    says: "Taken out of each line: presets, or regular expressions (those of the crate regex: each search is linear in \
           the line's length). A group named `secret` says which part goes; otherwise the whole match does.",
    example: "[\"email\", \"authorization\", 'card=(?P<secret>\\d+)']",
};
const LINES_PER_SEC: Bound = Bound {
    key: "lines_per_sec",
    says: "More lines than this of a container, all its streams of this rate together, are dropped.",
    range: 1..=10_000_000,
    example: 1_000,
};
const BURST_LINES: Bound = Bound {
    key: "burst_lines",
    says: "So many at once; twice the rate unless given.",
    range: 1..=100_000_000,
    example: 5_000,
};
const STORE: Sample = Sample {
    key: "store",
    says: "Where the journal keeps it until every sink has it: \"memory\", which is [journal] and where it is unless given, or \
           \"disk\", which is [journal.disk].",
    example: "\"memory\"",
};
const SINKS: Sample = Sample {
    key: "sinks",
    says: "Where it goes: names of sections of sinks in this file; to all of them unless given, [] = it stays in the \
           journal, for shimtap logs.",
    example: "[\"file\"]",
};

pub(super) const HEADING: Heading = Heading {
    name: "rule",
    says: "A rule, of any number: what is collected of containers of which all that it names is known and matches. No \
           option has a default, and what is not given changes nothing.",
    is_comment: true,
    options: &[
        &NAME,
        &NAMESPACE,
        &POD,
        &CONTAINER,
        &IMAGE,
        &RUNTIME,
        &STREAM,
        &ANNOTATIONS,
        &COLLECT,
        &REDACT,
        &LINES_PER_SEC,
        &BURST_LINES,
        &STORE,
        &SINKS,
    ],
};

/// All of them. What a rule says wrongly is a fault and left out, so the result is of use only where there is none.
///
/// `sinks` are those that the file has a section of; `disk` says whether it has one of the journal on a disk.
pub(super) fn read(document: &mut Document<'_>, sinks: &[&'static str], disk: bool) -> Rules {
    let mut number = 0;
    Rules::new(document.each(&HEADING, |line, mut section| {
        number += 1;
        let name = section.string(NAME.key).map_or_else(|| number.to_string(), |at| at.value);
        let of = selection(&mut section);
        let rule = Rule {
            name,
            line,
            of,
            collect: section.boolean(COLLECT.key).map(|at| at.value),
            redact: redactor(&mut section),
            rate: rate(&mut section),
            store: store(&mut section, disk),
            sinks: route(&mut section, sinks),
        };
        let is_idle = rule.collect.is_none() && rule.rate.is_none() && rule.store.is_none() && rule.sinks.is_none();
        if is_idle && rule.redact.is_empty() {
            section.refuse(line, "", "changes nothing: give it collect, redact, lines_per_sec, store or sinks");
        }
        if rule.sinks.is_some() && !rule.of.annotations.is_empty() {
            let message = "cannot go with annotations, which the journal does not keep: after a restart of the \
                           collector nobody would know them";
            section.refuse(line, SINKS.key, message);
        }
        section.finish();
        rule
    }))
}

/// Where the journal keeps it.
fn store(section: &mut Section<'_, '_>, disk: bool) -> Option<Store> {
    let At { line, value } = section.string(STORE.key)?;
    match Store::named(&value) {
        Some(Store::Disk) if !disk => {
            section.refuse(line, STORE.key, "is \"disk\", and there is no section [journal.disk]");
            None
        }
        None => {
            section.refuse(line, STORE.key, "must be \"memory\" or \"disk\"");
            None
        }
        known => known,
    }
}

/// Which sinks, each by the name of its section.
fn route(section: &mut Section<'_, '_>, there: &[&'static str]) -> Option<Vec<&'static str>> {
    let At { line, value } = section.strings(SINKS.key)?;
    let mut sinks = Vec::new();
    for name in value {
        match there.iter().find(|known| **known == name) {
            Some(known) => sinks.push(*known),
            None => {
                section.refuse(line, SINKS.key, &format!("names {name:?}, and there is no section [{name}]"))
            }
        }
    }
    Some(sinks)
}

fn selection(section: &mut Section<'_, '_>) -> Match {
    let mut of = Match {
        namespace: names(section, &NAMESPACE),
        pod: names(section, &POD),
        container: names(section, &CONTAINER),
        image: names(section, &IMAGE),
        runtime: names(section, &RUNTIME),
        stream: None,
        annotations: BTreeMap::new(),
    };
    if let Some(At { line, value }) = section.string(STREAM.key) {
        of.stream = match value.as_str() {
            "stdout" => Some(StreamKind::Stdout),
            "stderr" => Some(StreamKind::Stderr),
            _ => {
                section.refuse(line, STREAM.key, "must be \"stdout\" or \"stderr\"");
                None
            }
        };
    }
    for (key, At { line, value }) in section.lists(ANNOTATIONS.key) {
        match Names::new(value) {
            Ok(names) => drop(of.annotations.insert(key, names)),
            Err(fault) => section.refuse(line, ANNOTATIONS.key, &fault),
        }
    }
    of
}

fn names(section: &mut Section<'_, '_>, option: &Sample) -> Option<Names> {
    let At { line, value } = section.strings(option.key)?;
    Names::new(value).map_err(|fault| section.refuse(line, option.key, &fault)).ok()
}

fn redactor(section: &mut Section<'_, '_>) -> Redactor {
    let Some(At { line, value }) = section.strings(REDACT.key) else { return Redactor::default() };
    value.iter().fold(Redactor::default(), |all, what| match Redactor::of(what) {
        Ok(one) => all.and(&one),
        Err(fault) => {
            section.refuse(line, REDACT.key, &fault);
            all
        }
    })
}

fn rate(section: &mut Section<'_, '_>) -> Option<Rate> {
    let lines = section.bound(&LINES_PER_SEC);
    let burst = section.bound(&BURST_LINES);
    let small = |at: At<u64>| u32::try_from(at.value).unwrap_or(u32::MAX);
    match (lines, burst) {
        (Some(lines), burst) => {
            let rate = Rate::lasting(small(lines));
            Some(Rate { burst_lines: burst.map_or(rate.burst_lines, small), ..rate })
        }
        (None, Some(At { line, .. })) => {
            section.refuse(line, BURST_LINES.key, "goes with lines_per_sec, which is missing");
            None
        }
        (None, None) => None,
    }
}

//! `[[rule]]`: what is collected, what is taken out, how much, and to which sinks. In the file's order.

use std::collections::BTreeMap;

use super::section::{At, Document, Section};
use crate::{
    event::StreamKind,
    rules::{Match, Names, Rate, Redactor, Rule, Rules},
};

/// All of them. What a rule says wrongly is a fault and left out, so the result is of use only where there is none.
///
/// `sinks` are those that the file has a section of.
pub(super) fn read(document: &mut Document<'_>, sinks: &[&'static str]) -> Rules {
    let mut number = 0;
    Rules::new(document.each("rule", |line, mut section| {
        number += 1;
        let name = section.string("name").map_or_else(|| number.to_string(), |at| at.value);
        let of = selection(&mut section);
        let rule = Rule {
            name,
            line,
            of,
            collect: section.boolean("collect").map(|at| at.value),
            redact: redactor(&mut section),
            rate: rate(&mut section),
            sinks: route(&mut section, sinks),
        };
        if rule.collect.is_none() && rule.redact.is_empty() && rule.rate.is_none() && rule.sinks.is_none() {
            section.refuse(line, "", "changes nothing: give it collect, redact, lines_per_sec or sinks");
        }
        if rule.sinks.is_some() && !rule.of.annotations.is_empty() {
            let message = "cannot go with annotations, which the journal does not keep: after a restart of the \
                           collector nobody would know them";
            section.refuse(line, "sinks", message);
        }
        section.finish();
        rule
    }))
}

/// Which sinks, each by the name of its section.
fn route(section: &mut Section<'_, '_>, there: &[&'static str]) -> Option<Vec<&'static str>> {
    let At { line, value } = section.strings("sinks")?;
    let mut sinks = Vec::new();
    for name in value {
        match there.iter().find(|known| **known == name) {
            Some(known) => sinks.push(*known),
            None => {
                section.refuse(line, "sinks", &format!("names {name:?}, and there is no section [{name}]"))
            }
        }
    }
    Some(sinks)
}

fn selection(section: &mut Section<'_, '_>) -> Match {
    let mut of = Match {
        namespace: names(section, "namespace"),
        pod: names(section, "pod"),
        container: names(section, "container"),
        image: names(section, "image"),
        runtime: names(section, "runtime"),
        stream: None,
        annotations: BTreeMap::new(),
    };
    if let Some(At { line, value }) = section.string("stream") {
        of.stream = match value.as_str() {
            "stdout" => Some(StreamKind::Stdout),
            "stderr" => Some(StreamKind::Stderr),
            _ => {
                section.refuse(line, "stream", "must be \"stdout\" or \"stderr\"");
                None
            }
        };
    }
    for (key, At { line, value }) in section.lists("annotations") {
        match Names::new(value) {
            Ok(names) => drop(of.annotations.insert(key, names)),
            Err(fault) => section.refuse(line, "annotations", &fault),
        }
    }
    of
}

fn names(section: &mut Section<'_, '_>, key: &'static str) -> Option<Names> {
    let At { line, value } = section.strings(key)?;
    Names::new(value).map_err(|fault| section.refuse(line, key, &fault)).ok()
}

fn redactor(section: &mut Section<'_, '_>) -> Redactor {
    let Some(At { line, value }) = section.strings("redact") else { return Redactor::default() };
    value.iter().fold(Redactor::default(), |all, what| match Redactor::of(what) {
        Ok(one) => all.and(&one),
        Err(fault) => {
            section.refuse(line, "redact", &fault);
            all
        }
    })
}

fn rate(section: &mut Section<'_, '_>) -> Option<Rate> {
    let lines = section.number("lines_per_sec", 1..=10_000_000);
    let burst = section.number("burst_lines", 1..=100_000_000);
    let small = |at: At<u64>| u32::try_from(at.value).unwrap_or(u32::MAX);
    match (lines, burst) {
        (Some(lines), burst) => {
            let rate = Rate::lasting(small(lines));
            Some(Rate { burst_lines: burst.map_or(rate.burst_lines, small), ..rate })
        }
        (None, Some(At { line, .. })) => {
            section.refuse(line, "burst_lines", "goes with lines_per_sec, which is missing");
            None
        }
        (None, None) => None,
    }
}

//! A strict reader of the Prometheus text format, version 0.0.4, for tests: whatever a scraper might take amiss is
//! a failed test here.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "test code, though no test function to clippy")]

use std::collections::{BTreeMap, BTreeSet};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    pub at_ms: Option<i64>,
}

/// One family with its samples.
#[derive(Clone, Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// Reads a whole exposition; panics with the line that is wrong.
pub fn parse(text: &str) -> Vec<Family> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let mut families: Vec<Family> = Vec::new();
    let mut names = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!help.is_empty(), "no help: {line}");
            assert!(names.insert(name.to_owned()), "family twice: {name}");
            let kind_line = lines.next().unwrap_or_default();
            let kind =
                kind_line.strip_prefix(&format!("# TYPE {name} ")).unwrap_or_else(|| panic!("{kind_line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind_line}");
            let family = Family { name: name.into(), kind: kind.into(), samples: Vec::new() };
            families.push(family);
            continue;
        }
        assert!(!line.starts_with('#'), "a comment: {line}");
        let sample = sample(line);
        let family = families.last_mut().unwrap_or_else(|| panic!("a sample without a family: {line}"));
        let suffix =
            sample.name.strip_prefix(&family.name).unwrap_or_else(|| panic!("in {}: {line}", family.name));
        match family.kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let identity = format!("{}{:?}", sample.name, sample.labels);
        assert!(series.insert(identity), "series twice: {line}");
        family.samples.push(sample);
    }
    for family in &families {
        assert!(!family.samples.is_empty(), "an empty family: {}", family.name);
        if family.kind == "histogram" {
            check_histogram(family);
        }
    }
    families
}

fn check_histogram(family: &Family) {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let key = |sample: &Sample| {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        format!("{labels:?}")
    };
    for sample in &family.samples {
        if sample.name.ends_with("_bucket") {
            let le = &sample.labels["le"];
            let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound") };
            buckets.entry(key(sample)).or_default().push((bound, sample.value));
        }
    }
    for (labels, list) in &buckets {
        assert!(
            list.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1),
            "{} {labels}: {list:?}",
            family.name
        );
        let last = list.last().expect("one bucket at least");
        assert_eq!(last.0, f64::INFINITY, "{} {labels}", family.name);
        let count = family.samples.iter().find(|s| s.name.ends_with("_count") && key(s) == *labels);
        assert_eq!(count.expect("a count").value, last.1);
        assert!(family.samples.iter().any(|s| s.name.ends_with("_sum") && key(s) == *labels));
    }
}

fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(name_end);
    let first_ok = |c: char| c.is_ascii_alphabetic() || c == '_';
    assert!(name.starts_with(first_ok), "{line}");
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label: {line}"));
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !key.is_empty(), "{line}");
            let (value, after) = quoted(after, line);
            assert!(labels.insert(key.to_owned(), value).is_none(), "label twice: {line}");
            match after.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("after a label: {line}"),
            }
        }
    }
    let mut parts = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no blank: {line}")).split(' ');
    let value = parts.next().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no value: {line}"));
    let at_ms = parts.next().map(|t| t.parse().unwrap_or_else(|_| panic!("no time: {line}")));
    assert_eq!(parts.next(), None, "{line}");
    Sample { name: name.to_owned(), labels, value, at_ms }
}

fn quoted<'l>(text: &'l str, line: &str) -> (String, &'l str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                other => panic!("escape {other:?}: {line}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no closing quote: {line}")
}

//! A Prometheus exposition as a scraper reads it: the rows of one container.
//!
//! Knows the text format and nothing of what stands in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// What one container shows: per family the sum over its rows (devices), and the oldest time of any row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// Values by family name.
    pub values: BTreeMap<String, f64>,
    /// Unix ms; 0 where no row has a time.
    pub time_ms: u64,
}

/// The rows of `text` that have the label `container` with this value.
pub fn of_container(text: &str, container: &str) -> Result<Shown> {
    of_label(text, "container", container)
}

/// The rows of `text` that have this label with this value.
pub fn of_label(text: &str, label: &str, value: &str) -> Result<Shown> {
    let label = format!("{label}=\"{value}\"");
    let mut shown = Shown::default();
    for row in text.lines().filter(|row| !row.starts_with('#')) {
        let Some((name, rest)) = row.split_once('{') else { continue };
        let (labels, rest) = rest.rsplit_once('}').with_context(|| format!("no end of labels: {row}"))?;
        if !labels.split(',').any(|pair| pair == label) {
            continue;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        ensure!((1..=2).contains(&words.len()), "a row with {} numbers: {row}", words.len());
        let value = words.first().context("no value")?;
        let value: f64 = value.parse().with_context(|| format!("a value: {row}"))?;
        *shown.values.entry(name.to_owned()).or_default() += value;
        if let Some(time) = words.get(1) {
            let time = time.parse().with_context(|| format!("a time: {row}"))?;
            shown.time_ms = if shown.time_ms == 0 { time } else { shown.time_ms.min(time) };
        }
    }
    Ok(shown)
}

/// The rows of one family: the labels as they stand between the braces, and the value.
pub fn family<'a>(text: &'a str, name: &str) -> Result<Vec<(&'a str, f64)>> {
    let mut rows = Vec::new();
    for row in text.lines() {
        let Some(rest) = row.strip_prefix(name) else { continue };
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ").with_context(|| format!("no end of labels: {row}"))?,
            None => match rest.strip_prefix(' ') {
                Some(value) => ("", value),
                // A longer name.
                None => continue,
            },
        };
        let value = value.split(' ').next().unwrap_or_default();
        rows.push((labels, value.parse().with_context(|| format!("a value: {row}"))?));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_family_are_told_from_those_of_a_longer_name() {
        let text = "# TYPE a gauge\na 3\na{x=\"1\"} 1.5 1000\nab 7\nab{x=\"1\"} 9\n";
        assert_eq!(family(text, "a").expect("it parses"), [("", 3.0), ("x=\"1\"", 1.5)]);
    }

    #[test]
    fn rows_of_one_container_are_summed_per_family() {
        let text = "# HELP a b\na{container=\"x\",d=\"1\"} 1.5 1000\na{container=\"x\",d=\"2\"} 2 1001\n\
                    a{container=\"xy\"} 7 9000\nb{container=\"x\"} 3\n";
        let shown = of_container(text, "x").expect("it parses");
        assert_eq!(shown.time_ms, 1000, "the oldest");
        assert_eq!(shown.values, BTreeMap::from([("a".to_owned(), 3.5), ("b".to_owned(), 3.0)]));
    }
}

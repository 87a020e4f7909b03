//! Which metric families there are, by `docs/metrics.md`, and which ones a PromQL expression asks for.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The names that the page documents.
pub fn documented() -> Result<BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let name = |row: &str| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let names: BTreeSet<String> = text.lines().filter_map(name).filter(|name| is_ours(name)).collect();
    ensure!(names.len() > 50, "only {} families in {}", names.len(), path.display());
    Ok(names)
}

/// The families that an expression names, those of a histogram by its own name.
pub fn asked_for(expression: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !word(c)).filter(|word| is_ours(word));
    words.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

/// Families that an expression asks for and that are not of a collector: nothing in the shipped scrape configurations brings them,
/// and what is compared with them never comes true. Known by the underscore that every family's name has here and no label of ours
/// outside of braces.
pub fn foreign(expression: &str) -> BTreeSet<String> {
    // What is in braces are labels and their values.
    let outside = expression.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest));
    let mut found = BTreeSet::new();
    for part in outside {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in part.split(|c| !word(c)).filter(|name| name.contains('_') && !is_ours(name)) {
            // A function.
            if !part.contains(&format!("{name}(")) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

fn is_ours(name: &str) -> bool {
    ["shimtap_", "container_", "process_"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_functions_are_no_families() {
        let asked = asked_for(
            "histogram_quantile(0.9, sum by (le, container) (rate(shimtap_a_seconds_bucket{container!=\"\"}[5m]))) \
             / container_b unless process_c",
        );
        let names: Vec<&str> = asked.iter().map(String::as_str).collect();
        assert_eq!(names, ["container_b", "process_c", "shimtap_a_seconds"]);
    }

    #[test]
    fn what_nobody_brings_is_foreign() {
        let all = foreign(
            "max_over_time(shimtap_a{le_x=\"kube_b\"}[5m]) > on (job) kube_c{d_e=\"\"} or container_f",
        );
        assert_eq!(all.iter().map(String::as_str).collect::<Vec<_>>(), ["kube_c"]);
    }
}

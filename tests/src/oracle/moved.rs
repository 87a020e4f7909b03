//! Which metric families have had a value other than 0, in whatever real collectors have shown tests. `./dev test` says at its end
//! which had none: they are counted (`collector/src/metrics/own/moved.rs`), and no real one was seen to.
//!
//! Never fails a test: it only looks on.

use std::{collections::BTreeSet, env, fs::File, io::Write};

/// The variable that names the file to which they are appended, a line each; without it nothing is.
const KEY: &str = "SHIMTAP_SHOWN";

/// Will anybody ask?
#[must_use]
pub fn is_asked_for() -> bool {
    env::var_os(KEY).is_some()
}

/// Notes the families of a page that have one.
pub fn note(page: &str) {
    let Some(path) = env::var_os(KEY) else { return };
    let lines: String = families(page).into_iter().map(|name| format!("{name}\n")).collect();
    // In one write, since others write too.
    if let Ok(mut file) = File::options().create(true).append(true).open(path) {
        let _ = file.write_all(lines.as_bytes());
    }
}

fn families(page: &str) -> BTreeSet<&str> {
    let mut family = "";
    let mut found = BTreeSet::new();
    for row in page.lines() {
        if let Some(rest) = row.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap_or_default();
        } else if !row.starts_with('#') {
            let value = row
                .rsplit_once('}')
                .map_or_else(|| row.split_once(' ').map(|(_, rest)| rest), |(_, rest)| Some(rest));
            let value = value.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            if value.is_some_and(|value| value.abs() > 0.0) {
                found.insert(family);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_0_counts() {
        let page = "# HELP a b\n# TYPE a counter\na{x=\"1 2\"} 0 1000\n# TYPE b histogram\nb_bucket{le=\"1\"} 0\nb_sum 0.5\n\
                    # TYPE c gauge\nc 7 1000\n";
        assert_eq!(families(page).into_iter().collect::<Vec<_>>(), ["b", "c"]);
    }
}

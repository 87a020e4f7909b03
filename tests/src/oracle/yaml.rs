//! YAML as it is shipped: read whole, asked by key, and the rules of a file of alerts. What is not there is an error that shows
//! where it was looked for, never an empty answer.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use yaml_rust2::{Yaml, YamlLoader};

/// The rule file that is shipped, from the root of the tree.
pub const ALERTS: &str = "packaging/prometheus/alerts.yml";

/// The first document of a text.
pub fn parse(text: &str) -> Result<Yaml> {
    let documents = YamlLoader::load_from_str(text).context("YAML")?;
    documents.into_iter().next().context("a document")
}

/// The first document of a file, named from the root of the tree.
pub fn read(path: &str) -> Result<Yaml> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    parse(&fs::read_to_string(file).with_context(|| format!("read {path}"))?).with_context(|| path.to_owned())
}

/// The text of a key.
pub fn text<'y>(yaml: &'y Yaml, key: &str) -> Result<&'y str> {
    yaml[key].as_str().with_context(|| format!("no text {key} in {yaml:?}"))
}

/// The list of a key.
pub fn list<'y>(yaml: &'y Yaml, key: &str) -> Result<&'y [Yaml]> {
    yaml[key].as_vec().map(Vec::as_slice).with_context(|| format!("no list {key} in {yaml:?}"))
}

/// Every rule of [`ALERTS`].
pub fn alerts() -> Result<Vec<Yaml>> {
    let mut rules = Vec::new();
    for group in list(&read(ALERTS)?, "groups")? {
        rules.extend_from_slice(list(group, "rules")?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said() {
        let yaml = parse("a: one\nb: [1, 2]\n").unwrap();
        assert_eq!(text(&yaml, "a").unwrap(), "one");
        assert_eq!(list(&yaml, "b").unwrap().len(), 2);
        for wrong in [text(&yaml, "b").map(drop), list(&yaml, "a").map(drop), parse("").map(drop)] {
            assert!(wrong.is_err());
        }
        assert!(text(&yaml, "c").unwrap_err().to_string().contains("no text c"));
    }
}

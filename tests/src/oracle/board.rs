//! A dashboard that is shipped, as Grafana reads it: its panels, their expressions, its variables.
//!
//! It fills in what a person would choose, and knows nothing of what the expressions mean.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// A dashboard.
#[derive(Debug)]
pub struct Board {
    /// The file's name without its extension.
    pub name: String,
    /// All of it.
    pub json: Value,
}

/// One query of a panel.
#[derive(Debug)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// PromQL with Grafana's variables in it.
    pub expression: String,
}

impl Board {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let json = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let name = path.file_stem().with_context(|| format!("{} has no name", path.display()))?;
        Ok(Self { name: name.to_string_lossy().into_owned(), json })
    }

    /// The list at a JSON pointer.
    pub fn list(&self, pointer: &str) -> Result<&[Value]> {
        let list = self.json.pointer(pointer).and_then(Value::as_array);
        Ok(list.with_context(|| format!("{}: no {pointer}", self.name))?)
    }

    /// Panels that ask for something.
    pub fn panels(&self) -> Result<Vec<&Value>> {
        Ok(self.list("/panels")?.iter().filter(|panel| text(panel, "/type") != "row").collect())
    }

    /// Every query of every panel.
    pub fn queries(&self) -> Result<Vec<Query>> {
        let mut queries = Vec::new();
        for panel in self.panels()? {
            let targets = panel.pointer("/targets").and_then(Value::as_array).context("no targets")?;
            queries.extend(targets.iter().map(|target| Query {
                panel: text(panel, "/title").to_owned(),
                expression: text(target, "/expr").to_owned(),
            }));
        }
        Ok(queries)
    }

    /// The only query of the panel with this title, with these values chosen and all of every other variable.
    pub fn query(&self, title: &str, chosen: &[(&str, &str)]) -> Result<String> {
        let mut found = self.queries()?.into_iter().filter(|query| query.panel == title);
        let query = found.next().with_context(|| format!("{}: no panel {title:?}", self.name))?;
        anyhow::ensure!(found.next().is_none(), "{}: {title:?} asks for more than one thing", self.name);
        let expression = chosen.iter().fold(query.expression, |filled, (name, value)| {
            filled.replace(&format!("\"${name}\""), &format!("\"{value}\""))
        });
        Ok(filled(&expression, self.variables()?.into_keys()))
    }

    /// The queries of its variables, by name.
    pub fn variables(&self) -> Result<BTreeMap<String, String>> {
        let list = self.list("/templating/list")?.iter();
        let queries = list.filter(|variable| text(variable, "/type") == "query");
        Ok(queries.map(|one| (text(one, "/name").to_owned(), text(one, "/query/query").to_owned())).collect())
    }
}

/// An expression with every variable filled in as Grafana does where all is chosen. The interval has room for two samples of
/// Kata's containers, which are 30 s apart (docs/kata.md).
pub fn filled(expression: &str, names: impl Iterator<Item = String>) -> String {
    // A Kata shim of unknown release is asked every 30 s.
    let times = expression.replace("$__rate_interval", "90s").replace("$__range", "2m");
    names.fold(times, |filled, name| filled.replace(&format!("\"${name}\""), "\".*\""))
}

/// The text at a JSON pointer; none there is an empty one.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

//! The dashboards that are shipped, as Grafana reads them: panels, expressions, variables.
//!
//! Grafana itself is not here. What it would stumble over is demanded of the files: identities, places, units, and that every
//! data source is the variable.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shimtap_tests::oracle::{
    board::{Board, Query, filled, text},
    families::{asked_for, documented},
};

/// The files.
pub const SHIPPED: [&str; 2] = ["pods", "pipeline"];

/// What stands for the data source in every panel.
const SOURCE: &str = "${datasource}";

/// The one of that name.
pub fn shipped(name: &str) -> Result<Board> {
    Board::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../packaging/grafana/{name}.json")))
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer} in {value}"))
}

/// Every `datasource` in it, however deep.
fn sources<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("datasource"));
            members.values().for_each(|member| sources(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| sources(item, found)),
        _ => {}
    }
}

fn each(judge: impl Fn(&Board) -> Result<()>) -> Result<()> {
    for name in SHIPPED {
        judge(&shipped(name)?).with_context(|| format!("packaging/grafana/{name}.json"))?;
    }
    Ok(())
}

#[test]
fn a_dashboard_can_be_imported_and_found_again() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana");
    let files = fs::read_dir(folder).context("list the dashboards")?.flatten();
    let boards = files.filter(|file| file.path().extension().is_some_and(|it| it == "json")).count();
    ensure!(boards == SHIPPED.len(), "{boards} dashboards are there");
    each(|board| {
        // Grafana finds by the uid what an import is to replace; an id would be another instance's.
        ensure!(text(&board.json, "/uid") == format!("shimtap-{}", board.name), "its uid");
        ensure!(board.json.get("id") == Some(&Value::Null), "it has an id");
        // 36 to 41 are Grafana 9.5 to 11; older ones refuse nothing and newer ones migrate.
        ensure!((36..=41).contains(&number(&board.json, "/schemaVersion")?), "its schema");
        ensure!(board.json.get("__inputs").is_none(), "it asks for inputs besides its variables");
        ensure!(!text(&board.json, "/title").is_empty() && !text(&board.json, "/description").is_empty());
        let mut found = Vec::new();
        sources(&board.json, &mut found);
        let others = found.iter().filter(|source| text(source, "/uid") != SOURCE);
        ensure!(found.len() > 50 && others.clone().count() == 1, "{:?}", others.collect::<Vec<_>>());
        Ok(())
    })
}

#[test]
fn panels_have_a_place_a_unit_and_words_of_their_own() -> Result<()> {
    each(|board| {
        let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in board.list("/panels")? {
            let title = text(panel, "/title");
            ensure!(ids.insert(number(panel, "/id")?), "{title:?} has another's id");
            let at = |name: &str| number(panel, &format!("/gridPos/{name}"));
            let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
            ensure!(x + w <= 24 && h > 0, "{title} is too wide");
            let places = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
            for place in places {
                ensure!(taken.insert(place), "{title} lies over another panel at {place:?}");
            }
        }
        for panel in board.panels()? {
            let title = text(panel, "/title");
            ensure!(titles.insert(title), "{title:?} is there twice");
            ensure!(!text(panel, "/description").is_empty(), "{title} has no description");
            ensure!(!text(panel, "/fieldConfig/defaults/unit").is_empty(), "{title} has no unit");
            let targets = panel.pointer("/targets").and_then(Value::as_array).context("no targets")?;
            let letters: BTreeSet<&str> = targets.iter().map(|target| text(target, "/refId")).collect();
            ensure!(!targets.is_empty() && letters.len() == targets.len(), "{title}: {letters:?}");
        }
        Ok(())
    })
}

#[test]
fn expressions_ask_for_what_there_is_and_for_what_was_chosen() -> Result<()> {
    let documented = documented()?;
    each(|board| {
        let variables = board.variables()?;
        let mut used = BTreeSet::new();
        for Query { panel, expression } in board.queries()? {
            let asked = asked_for(&expression);
            ensure!(!asked.is_empty() && asked.is_subset(&documented), "{panel} asks for {asked:?}");
            // Each selector says which cluster, or numbers of two would be taken together.
            let selectors = expression.matches('{').count();
            ensure!(
                expression.matches("cluster=~\"$cluster\"").count() == selectors,
                "{panel}: {expression}"
            );
            used.extend(
                variables.keys().filter(|name| expression.contains(&format!("\"${name}\""))).cloned(),
            );
            let left = filled(&expression, variables.keys().cloned());
            ensure!(!left.contains('$'), "{panel}: {left}");
        }
        ensure!(used == variables.keys().cloned().collect(), "{used:?} are used, {variables:?} are there");
        Ok(())
    })
}

//! New contents of TOML files that people keep: a key set, an import added, what was ours taken out again.
//!
//! Comments, order and spelling of everything else stay as they are. Pure: text in, text out. Never guesses at a file that is no
//! TOML.

use std::path::Path;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::{InstallFault, proof::is_zero};
use crate::wrapper::ANY_WRAPPER;

/// The name of our own file in a folder of drop-ins: the last word of it. What others say of a handler's shim (`kata-deploy.toml`, an
/// operator's `99-`) is the shim that we stand before.
pub const DROP_IN: &str = "zz-shimtap.toml";

const HEADER: &str = "# Written by `shimtap install`, removed by `shimtap uninstall`. What is changed here is lost with the next of them.\n";

/// Whether a path is that of a file that is all ours.
pub fn is_drop_in(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == DROP_IN)
}

/// A file of ours: a version and what `with` puts below it.
pub fn own_file(version: i64, with: impl FnOnce(&mut DocumentMut)) -> String {
    let mut doc = DocumentMut::new();
    doc.insert("version", value(version));
    with(&mut doc);
    format!("{HEADER}{doc}")
}

/// `text` understood, or why not, with `path` to say whose.
pub fn parse(path: &Path, text: &str) -> Result<DocumentMut, InstallFault> {
    text.parse().map_err(|fault: toml_edit::TomlError| InstallFault::NotToml {
        path: path.to_owned(),
        why: fault.to_string().trim().replace('\n', "; "),
    })
}

/// Sets the last of `keys` in the tables that the others name, which are made where they are not there. Where something
/// other than a table is in the way, nothing is changed.
pub fn set(doc: &mut DocumentMut, keys: &[&str], to: Value) {
    let Some((last, tables)) = keys.split_last() else { return };
    if let Some(table) = open(doc.as_table_mut(), tables) {
        match table.get_mut(last).and_then(Item::as_value_mut) {
            // What stands around a value, such as a comment behind it, stays.
            Some(old) => {
                let around = old.decor().clone();
                *old = to;
                *old.decor_mut() = around;
            }
            None => {
                table.insert(last, Item::Value(to));
            }
        }
    }
}

/// The table that `keys` name, made where it is not there; none where something else is in the way.
fn open<'a>(root: &'a mut dyn TableLike, keys: &[&str]) -> Option<&'a mut dyn TableLike> {
    let mut at = root;
    for key in keys {
        let made = || {
            let mut table = Table::new();
            // Without a line of its own unless something stands directly in it.
            table.set_implicit(true);
            Item::Table(table)
        };
        at = at.entry(key).or_insert_with(made).as_table_like_mut()?;
    }
    Some(at)
}

/// Has a main file import these and no others.
pub fn import_only(doc: &mut DocumentMut, patterns: Vec<String>) {
    doc.insert("imports", value(Array::from_iter(patterns)));
}

/// Takes the last of `keys` out of the tables that the others name; whether it was there.
pub fn unset(doc: &mut DocumentMut, keys: &[&str]) -> bool {
    let Some((last, tables)) = keys.split_last() else { return false };
    let mut at: &mut dyn TableLike = doc.as_table_mut();
    for key in tables {
        match at.get_mut(key).and_then(Item::as_table_like_mut) {
            Some(table) => at = table,
            None => return false,
        }
    }
    at.remove(last).is_some()
}

/// Whether the tables that `keys` name are there.
pub fn has(doc: &DocumentMut, keys: &[&str]) -> bool {
    let mut at: &dyn TableLike = doc.as_table();
    for key in keys {
        match at.get(key).and_then(Item::as_table_like) {
            Some(table) => at = table,
            None => return false,
        }
    }
    true
}

/// Writes a table as containerd has it in effect, without what is zero or empty: that is what a missing key means.
pub fn set_table(doc: &mut DocumentMut, keys: &[&str], table: &toml::Table) {
    for (key, inner) in table {
        let keys: Vec<&str> = keys.iter().copied().chain([key.as_str()]).collect();
        match inner {
            toml::Value::Table(inner) => set_table(doc, &keys, inner),
            other if is_zero(other) => {}
            other => {
                if let Some(other) = converted(other) {
                    set(doc, &keys, other);
                }
            }
        }
    }
}

/// The same value for the other crate; none for a date, which containerd's configuration has nowhere.
fn converted(of: &toml::Value) -> Option<Value> {
    match of {
        toml::Value::String(text) => Some(text.into()),
        toml::Value::Integer(number) => Some((*number).into()),
        toml::Value::Float(number) => Some((*number).into()),
        toml::Value::Boolean(is) => Some((*is).into()),
        toml::Value::Array(all) => Some(all.iter().filter_map(converted).collect::<Array>().into()),
        toml::Value::Table(inner) => {
            let inner = inner.iter().filter_map(|(key, inner)| Some((key.as_str(), converted(inner)?)));
            Some(inner.collect::<InlineTable>().into())
        }
        toml::Value::Datetime(_) => None,
    }
}

/// The patterns of a main file's `imports`.
pub fn imports(doc: &DocumentMut) -> Vec<String> {
    let all = doc.get("imports").and_then(Item::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Has a pattern be the last of a main file's `imports`.
pub fn import(doc: &mut DocumentMut, pattern: &str) {
    if let Some(all) = doc.get_mut("imports").and_then(Item::as_array_mut) {
        all.retain(|one| one.as_str() != Some(pattern));
        all.push(pattern);
        return;
    }
    doc.insert("imports", value(Array::from_iter([pattern])));
}

/// What is left of `now` without what we made of `before` when we wrote `after`: every value that is still ours goes back to
/// what it was, or goes; all others stay. A file in which no hook of ours stands any more has been written anew, and is theirs
/// whatever else is as we had it.
pub fn cut(path: &Path, now: &str, before: Option<&str>, after: &str) -> Result<String, InstallFault> {
    let standing = parse(path, now)?;
    let before = parse(path, before.unwrap_or_default())?;
    let after = parse(path, after)?;
    let without = |counts: fn(&str) -> bool| {
        let mut left = standing.clone();
        cut_table(left.as_table_mut(), before.as_table(), after.as_table(), counts);
        left.to_string()
    };
    if without(is_hook) == standing.to_string() { Ok(now.to_owned()) } else { Ok(without(|_| true)) }
}

/// Keys of single values by which containerd comes to us, and by which the wrapper finds what is behind it.
fn is_hook(key: &str) -> bool {
    key == "runtime_path" || key == "imports" || key.starts_with(ANY_WRAPPER)
}

fn cut_table(
    now: &mut dyn TableLike,
    before: &dyn TableLike,
    after: &dyn TableLike,
    counts: fn(&str) -> bool,
) {
    for (key, ours) in after.iter() {
        let theirs = before.get(key);
        let Some(standing) = now.get_mut(key) else { continue };
        if let (Some(standing), Some(ours)) = (standing.as_table_like_mut(), ours.as_table_like()) {
            let nothing = Table::new();
            let theirs = theirs.and_then(Item::as_table_like);
            cut_table(standing, theirs.unwrap_or(&nothing), ours, counts);
            if theirs.is_none() && standing.is_empty() {
                now.remove(key);
            }
            continue;
        }
        if !counts(key) {
            continue;
        }
        if let (Some(standing), Some(ours)) = (standing.as_array_mut(), ours.as_array()) {
            let kept = theirs.and_then(Item::as_array);
            let is_ours = |value: &Value| holds(Some(ours), value) && !holds(kept, value);
            standing.retain(|value| !is_ours(value));
            if theirs.is_none() && standing.is_empty() {
                now.remove(key);
            }
            continue;
        }
        match theirs {
            Some(theirs) if text(theirs) != text(ours) && text(standing) == text(ours) => {
                *standing = theirs.clone()
            }
            None if text(standing) == text(ours) => {
                now.remove(key);
            }
            _ => {}
        }
    }
}

fn holds(all: Option<&Array>, value: &Value) -> bool {
    all.is_some_and(|all| all.iter().any(|one| one.as_str() == value.as_str()))
}

/// A value without what stands around it.
fn text(of: &Item) -> String {
    let mut of = of.clone();
    if let Some(value) = of.as_value_mut() {
        value.decor_mut().clear();
    }
    of.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "# ours since 2019\nversion = 2\n\n[plugins]\n  [plugins.\"cri\".containerd.runtimes.runc] # the only one\n    \
                        runtime_type = \"io.containerd.runc.v2\"\n    # do not touch\n    [plugins.\"cri\".containerd.runtimes.runc.options]\n      \
                        SystemdCgroup = true\n";

    fn at() -> &'static Path {
        Path::new("/etc/x.toml")
    }

    fn with(text: &str, change: impl FnOnce(&mut DocumentMut)) -> String {
        let mut doc = parse(at(), text).unwrap();
        change(&mut doc);
        doc.to_string()
    }

    fn hook(doc: &mut DocumentMut) {
        set(doc, &["plugins", "cri", "containerd", "runtimes", "runc", "runtime_path"], "/tap".into());
    }

    #[test]
    fn a_key_is_set_and_the_rest_stays() {
        let changed = with(KEPT, hook);
        let without =
            changed.replace("    runtime_path = \"/tap\"\n", "").replace("runtime_path = \"/tap\"\n", "");
        assert_eq!(without, KEPT, "{changed}");
        let again = with(&changed, hook);
        assert_eq!(again, changed);
    }

    #[test]
    fn a_value_is_replaced_and_its_comment_stays() {
        let text = "[a]\nb = \"x\" # why\n";
        assert_eq!(with(text, |doc| set(doc, &["a", "b"], "y".into())), "[a]\nb = \"y\" # why\n");
    }

    #[test]
    fn what_is_no_table_stays() {
        assert_eq!(with("a = 1\n", |doc| set(doc, &["a", "b"], "y".into())), "a = 1\n");
    }

    #[test]
    fn imports_are_made_and_added_to() {
        assert_eq!(
            with("version = 2\n", |doc| import(doc, "/d/*.toml")),
            "version = 2\nimports = [\"/d/*.toml\"]\n"
        );
        let two = with("imports = [\"/a\"]\n", |doc| import(doc, "/d/*.toml"));
        assert_eq!(imports(&parse(at(), &two).unwrap()), ["/a", "/d/*.toml"]);
        // Somebody has put theirs behind it.
        let moved = with("imports = [\"/d/*.toml\", \"/b\"]\n", |doc| import(doc, "/d/*.toml"));
        assert_eq!(imports(&parse(at(), &moved).unwrap()), ["/b", "/d/*.toml"]);
    }

    #[test]
    fn what_is_ours_is_cut_out_of_what_somebody_changed_since() {
        let ours = with(KEPT, |doc| {
            hook(doc);
            import(doc, "/d/*.toml");
        });
        let since = ours.replace("SystemdCgroup = true", "SystemdCgroup = false") + "[more]\nx = 1\n";
        let cut = cut(at(), &since, Some(KEPT), &ours).unwrap();
        assert_eq!(cut, KEPT.replace("SystemdCgroup = true", "SystemdCgroup = false") + "[more]\nx = 1\n");
    }

    #[test]
    fn what_was_ours_and_is_theirs_now_stays() {
        let ours = with(KEPT, hook);
        let since = ours.replace("/tap", "/other");
        assert_eq!(cut(at(), &since, Some(KEPT), &ours).unwrap(), since);
        let had = KEPT.replace("    # do not", "    runtime_path = \"/kata\"\n    # do not");
        let ours = with(&had, hook);
        let since = format!("{ours}[more]\nx = 1\n");
        assert_eq!(cut(at(), &since, Some(&had), &ours).unwrap(), format!("{had}[more]\nx = 1\n"));
    }

    #[test]
    fn a_file_without_a_hook_of_ours_is_theirs() {
        let ours = with("version = 2\n", |doc| {
            hook(doc);
            set(doc, &["plugins", "cri", "containerd", "runtimes", "runc", "runtime_type"], "r".into());
        });
        let anew = ours.replace("runtime_path = \"/tap\"\n", "");
        assert_ne!(anew, ours);
        assert_eq!(cut(at(), &anew, Some("version = 2\n"), &ours).unwrap(), anew);
    }

    #[test]
    fn a_table_is_taken_out_and_its_neighbour_stays() {
        let text = "[a.b]\nc = 1\n\n[a.d]\nc = 1\n";
        let mut doc = parse(at(), text).unwrap();
        assert!(
            unset(&mut doc, &["a", "b"]) && !unset(&mut doc, &["a", "b"]) && !unset(&mut doc, &["x", "b"])
        );
        assert_eq!(doc.to_string().trim_start(), "[a.d]\nc = 1\n");
    }

    #[test]
    fn what_is_no_toml_says_where() {
        let fault = parse(at(), "a = [\n").expect_err("no TOML").to_string();
        assert!(fault.contains("/etc/x.toml") && fault.contains("line"), "{fault}");
    }

    #[test]
    fn tables_are_written_without_what_is_zero() {
        let table: toml::Table = toml::from_str(
            "a = \"x\"\nb = \"\"\nc = 0\nd = []\ne = [0, 1]\n[options]\nSystemdCgroup = true\nRoot = \"\"\n",
        )
        .unwrap();
        let text = with("", |doc| set_table(doc, &["r", "runc"], &table));
        assert_eq!(text, "[r.runc]\na = \"x\"\ne = [0, 1]\n\n[r.runc.options]\nSystemdCgroup = true\n");
    }
}

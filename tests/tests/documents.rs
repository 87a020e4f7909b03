//! What the pages say is there is there: links lead somewhere, files that are named lie there, and a promise's test exists.
//!
//! A promise whose test was renamed or removed must not go on naming it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Words of a page's code that are names of metrics, not of tests.
const METRICS: [&str; 4] = ["shimtap_", "container_", "machine_", "kube_"];
/// What a path to a file of this tree ends in, where a page names one.
const ENDINGS: [&str; 5] = [".rs", ".yml", ".toml", ".json", ".sh"];
/// Underscores from which on a bare word is taken for a test's name.
const SENTENCE: usize = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below `dir` of which `is_wanted` holds, built ones left out.
fn files(dir: &Path, is_wanted: &dyn Fn(&Path) -> bool, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files(&path, is_wanted, out)?;
            }
        } else if is_wanted(&path) {
            out.push(path);
        }
    }
    Ok(())
}

fn with_ending(ending: &'static str) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    files(&root(), &|path| path.extension().is_some_and(|is| is == ending), &mut out)?;
    ensure!(out.len() > 10, "only {} files *.{ending}", out.len());
    Ok(out)
}

/// The text between each `open` and the next `close`.
fn between<'t>(text: &'t str, open: &'t str, close: char) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inner, _)| inner))
}

#[test]
fn every_link_of_a_page_leads_somewhere() -> Result<()> {
    let mut dead = Vec::new();
    for page in with_ending("md")? {
        let text = fs::read_to_string(&page)?;
        let dir = page.parent().context("a page lies somewhere")?;
        for link in between(&text, "](", ')') {
            let path = link.split_once('#').map_or(link, |(path, _)| path);
            if !path.is_empty() && !link.contains("://") && !dir.join(path).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
    Ok(())
}

/// Pieces of code in a page's running text; what stands in a block of lines is an example.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let mut is_block = false;
    let prose = text.lines().filter(move |line| {
        let is_edge = line.trim_start().starts_with("```");
        is_block ^= is_edge;
        !is_block && !is_edge
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A path below the root, or below the page's own directory. One from the machine's root, or with a place for a word of
/// somebody's own, is none.
fn is_file_of_ours(code: &str) -> bool {
    code.contains('/')
        && !code.starts_with('/')
        && !code.contains("//")
        && !code.contains(|c: char| c.is_whitespace() || "<>{}*…$~".contains(c))
        && ENDINGS.iter().any(|ending| code.ends_with(ending))
}

#[test]
fn every_file_that_a_page_names_is_there() -> Result<()> {
    let (mut missing, mut found) = (Vec::new(), 0);
    // Where something was in a release of the past is history.
    for page in with_ending("md")?.into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = fs::read_to_string(&page)?;
        let dir = page.parent().context("a page lies somewhere")?;
        for path in code(&text).filter(|code| is_file_of_ours(code)) {
            found += 1;
            if !root().join(path).is_file() && !dir.join(path).is_file() {
                missing.push(format!("{}: {path}", page.display()));
            }
        }
    }
    ensure!(found > 10, "only {found} names of files were found in the pages");
    ensure!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
    Ok(())
}

/// Whether `name` is `pattern`, in which `*` and `…` stand for anything.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split(['*', '…']);
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut is_open = false;
    for piece in pieces {
        is_open = piece.is_empty();
        let Some((_, behind)) = rest.split_once(piece) else { return false };
        rest = behind;
    }
    is_open || rest.is_empty()
}

/// Names of functions, modules and files of the sources.
fn sources() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in with_ending("rs")? {
        names.extend(file.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        let text = fs::read_to_string(&file)?;
        for word in ["fn ", "mod "] {
            for rest in text.split(word).skip(1) {
                let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
                names.extend(name.map(str::to_owned));
            }
        }
        // Checks within the node VM stand in a table, under names of their own.
        let is_path = |piece: &&str| {
            piece.contains("::") && piece.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == ':')
        };
        let paths = text.split('"').filter(is_path);
        names.extend(paths.filter_map(|path| path.rsplit("::").next()).map(str::to_owned));
    }
    Ok(names)
}

/// The last part of `word`, where it is a test's path, a module's, or a name as long as tests have.
fn test_in(word: &str) -> Option<&str> {
    let last = word.rsplit("::").next()?;
    let is_name = last.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*…".contains(c));
    let is_test = word.contains("::") || last.matches('_').count() >= SENTENCE;
    // A path with a type in it is no test's: `Type::method`.
    let is_else = word.contains(|c: char| c.is_ascii_uppercase())
        || METRICS.iter().any(|metric| last.starts_with(metric));
    (is_name && is_test && !is_else && !last.is_empty()).then_some(last)
}

#[test]
fn every_test_that_a_page_names_is_there() -> Result<()> {
    let names = sources()?;
    let (mut missing, mut found) = (Vec::new(), 0);
    // What a release of the past was proven by may be gone.
    for page in with_ending("md")?.into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = fs::read_to_string(&page)?;
        for test in code(&text).filter_map(test_in) {
            found += 1;
            if !names.iter().any(|name| is_like(name, test)) {
                missing.push(format!("{}: {test}", page.display()));
            }
        }
    }
    ensure!(found > 100, "only {found} names of tests were found in the pages");
    ensure!(missing.is_empty(), "named and not there:\n{}", missing.join("\n"));
    Ok(())
}

#[test]
fn patterns_are_read_as_people_write_them() {
    for (name, pattern, is) in [
        ("a_worker_stops", "a_worker_*", true),
        ("a_worker_stops", "a_worker_stops", true),
        ("a_worker_stops_late", "a_worker_stops", false),
        ("an_end_of_safe_mode", "*_of_safe_mode", true),
        ("an_end_of_safe_modes", "*_of_safe_mode", false),
        ("nobody_there_at_all", "nobody_there_…", true),
        ("somebody", "nobody_*", false),
    ] {
        assert_eq!(is_like(name, pattern), is, "{name} {pattern}");
    }
}

//! A metric that nobody counts fails here. Two halves, neither of which a name in a list could pass:
//!
//! every family of the table leaves its first value where everything happens (`everything`), so that each is made of
//! something that can change; and everything that is counted for one is counted by the product's own sources, in the part that
//! it belongs to, not by tests alone. What wrappers count is asked of their sources in the shim.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        SinkTotals, Wanted,
        exposition::{self, Sample},
        families::{ALL, BUILD_INFO, Family},
        registry::Registry,
        render_cadvisor, render_own,
    },
    everything::everything,
};
use crate::{
    config::{Profile, Scope},
    sinks::Backlog,
};

/// What is there before anything happened: of this process, by the kernel's word.
fn is_there_anyhow(family: &Family) -> bool {
    *family == BUILD_INFO || family.name.starts_with("process_")
}

fn shown(registry: &Registry) -> Vec<exposition::Family> {
    let all = Wanted { scope: Scope::All, profile: Profile::Full, times: true };
    let mut shown = exposition::parse(&render_own(registry));
    shown.extend(exposition::parse(&render_cadvisor(registry, all)));
    shown
}

/// Is it another value than at the start? What was not there then is taken for 0.
fn has_moved(sample: &Sample, before: &[exposition::Family]) -> bool {
    let is_it = |old: &&Sample| (&old.name, &old.labels) == (&sample.name, &sample.labels);
    let old = before.iter().flat_map(|family| &family.samples).find(is_it);
    (sample.value - old.map_or(0.0, |old| old.value)).abs() > 0.0
}

#[test]
fn every_family_leaves_its_first_value_where_everything_happens() {
    let sink = Arc::new(SinkTotals::new("file"));
    let fresh = Registry::new(Arc::default(), Backlog::default(), vec![sink], Duration::from_secs(10));
    let before = shown(&fresh);
    let after = shown(&everything().registry);
    let still: Vec<_> = ALL
        .iter()
        .filter(|family| !is_there_anyhow(family))
        .filter(|family| {
            let samples = after.iter().filter(|it| it.name == family.name).flat_map(|it| &it.samples);
            !samples.into_iter().any(|sample| has_moved(sample, &before))
        })
        .map(|family| family.name)
        .collect();
    assert!(still.is_empty(), "nothing in `everything` provokes these: {still:#?}");
}

/// Where what is counted stands, the folder whose sources have to count it, and ways of counting that are no field's.
const COUNTED: [(&str, &str, &[&str]); 4] = [
    ("metrics/totals.rs", "", &["limited"]),
    ("metrics/journal.rs", "journal", &["error"]),
    ("metrics/sink.rs", "sinks", &["error"]),
    ("metrics/containerd.rs", "containerd", &["called", "set"]),
];
/// What fields that count are of.
const KINDS: [&str; 5] = ["Counter,", "Gauge,", "Histogram,", "Counts<", "PerStream<"];
/// How one of them is counted. `of` is a stream's part, of which nobody but who counts asks by the field's name.
const WAYS: [&str; 5] = ["add", "set", "up", "observe", "of"];

/// Everything below `dir` that is the product's, without blanks, so that a call over several lines is one word.
fn product(dir: &Path) -> String {
    let mut out = String::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        // Its own tests, and what they have happen.
        if ["tests", "moved", "everything"].contains(&name) {
            continue;
        }
        if path.is_dir() {
            out += &product(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let own = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code = own.lines().filter(|line| !line.trim_start().starts_with("//"));
            out.extend(code.flat_map(str::chars).filter(|c| !c.is_whitespace()));
        }
    }
    out
}

/// Fields that count, of the structs in this source.
fn fields(source: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(source).expect("a source");
    let field = |line: &str| {
        let (name, kind) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
        KINDS.iter().any(|known| kind.starts_with(known)).then(|| name.to_owned())
    };
    text.lines().filter_map(field).collect()
}

#[test]
fn everything_that_is_counted_is_counted_by_the_product() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut idle, mut found) = (Vec::new(), 0);
    for (source, folder, methods) in COUNTED {
        let code = product(&src.join(folder));
        let fields = fields(&src.join(source));
        found += fields.len();
        for field in fields {
            let counts = |way: &&str| code.contains(&format!(".{field}.{way}("));
            if !WAYS.iter().any(counts) {
                idle.push(format!("{source}: {field}"));
            }
        }
        let unused = methods.iter().filter(|method| !code.contains(&format!(".{method}(")));
        idle.extend(unused.map(|method| format!("{source}: {method}()")));
    }
    assert!(found > 40, "only {found} fields that count were found");
    assert!(idle.is_empty(), "nobody but tests counts these: {idle:#?}");
}

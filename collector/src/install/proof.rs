//! Whether containerd, asked again, has in effect what was wanted and nothing else.
//!
//! The whole configuration is compared, key by key: a drop-in that replaces a section (containerd 1.x), a table that lost its
//! defaults, a file that is not read at all show here, before any restart.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{InstallFault, effective::Effective};

/// Keys that are about the files themselves: which ones were read, and in which version the answer is written.
const OF_FILES: [&str; 2] = ["imports", "version"];

/// `after` must be `before` without the tables of `gone` and with each of `wanted`: the tables' names, and what each shall be.
pub fn compare(
    before: &Effective,
    after: &Effective,
    wanted: &[(Vec<String>, Value)],
    gone: &[Vec<String>],
) -> Result<(), InstallFault> {
    let mut meant = leaves(&before.all);
    for keys in gone {
        let table = keys.join(".") + ".";
        meant.retain(|key, _| !key.starts_with(&table));
    }
    for (keys, value) in wanted {
        flatten(&keys.join("."), value, &mut meant);
    }
    let got = leaves(&after.all);
    let keys = meant.keys().chain(got.keys());
    let differs = keys.into_iter().find(|key| meant.get(*key) != got.get(*key));
    match differs {
        None => Ok(()),
        Some(key) => {
            let shown = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".to_owned());
            Err(InstallFault::Differs {
                key: key.clone(),
                got: shown(got.get(key)),
                wanted: shown(meant.get(key)),
            })
        }
    }
}

/// Whether two tables mean the same.
pub fn same(a: &Table, b: &Table) -> bool {
    leaves(a) == leaves(b)
}

fn leaves(of: &Table) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in of.iter().filter(|(key, _)| !OF_FILES.contains(&key.as_str())) {
        flatten(key, value, &mut out);
    }
    out
}

fn flatten(at: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, inner)| flatten(&format!("{at}.{key}"), inner, out))
        }
        // What is zero or empty is what a missing key means, and a table of options holds only what somebody wrote.
        other if is_zero(other) => {}
        other => {
            out.insert(at.to_owned(), format!("{other:?}"));
        }
    }
}

/// What a missing key means as well.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::Boolean(is) => !is,
        Value::Array(all) => all.is_empty(),
        Value::Table(_) | Value::Datetime(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(rest: &str) -> Effective {
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n{rest}\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"
        );
        Effective::read(&text).unwrap()
    }

    fn wanted() -> [(Vec<String>, Value); 1] {
        let keys = ["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", "runc", "runtime_path"];
        [(keys.map(str::to_owned).to_vec(), "/tap".into())]
    }

    #[test]
    fn only_what_was_wanted_may_differ() {
        let before = effective("");
        let good = format!("{}runtime_path = \"/tap\"\n", toml_of(&before));
        compare(&before, &Effective::read(&good).unwrap(), &wanted(), &[]).unwrap();
        let fault = compare(&before, &before, &wanted(), &[]).expect_err("it is not there").to_string();
        assert!(fault.contains("runtime_path") && fault.contains("nothing"), "{fault}");
        let replaced = good.replace("sandbox_image = \"pause\"\n", "");
        let fault = compare(&before, &Effective::read(&replaced).unwrap(), &wanted(), &[])
            .expect_err("a section was lost");
        assert!(fault.to_string().contains("sandbox_image"), "{fault}");
        // What is to go must go, and its neighbour whose name begins alike stays.
        let two = effective("[plugins.\"x\".a]\nk = 1\n[plugins.\"x\".ab]\nk = 1\n");
        let one = effective("[plugins.\"x\".ab]\nk = 1\n");
        let gone = [["plugins", "x", "a"].map(str::to_owned).to_vec()];
        compare(&two, &one, &[], &gone).unwrap();
        compare(&two, &two, &[], &gone).expect_err("it is there still");
        compare(&two, &before, &[], &gone).expect_err("its neighbour went with it");
    }

    fn toml_of(_: &Effective) -> String {
        "version = 3\nimports = [\"/d\"]\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"
            .to_owned()
    }
}

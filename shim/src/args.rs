//! containerd's command line, as far as it concerns us (everything is handed on untouched, unknown flags included), and the
//! one of our own processes.

use std::{ffi::OsString, path::Path};

/// What is asked of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `… start`
    Start,
    /// `… delete`
    Delete,
    /// `-info`, `-v`, daemon mode of the inner shim, or anything newer: not ours.
    Other,
}

/// The flags that we use.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The last positional word.
    pub action: Action,
    /// `-namespace`
    pub namespace: String,
    /// `-id`
    pub id: String,
    /// The name by which we were run, without its folder; empty where there is none.
    pub invoked: String,
}

/// Flags of Go shims that take no value (reference: containerd 1.6 to 2.3).
const SWITCHES: [&str; 5] = ["debug", "v", "version", "info", "help"];

// === impl Arguments ===

impl Arguments {
    /// As Go's flag package reads it: `-x v`, `--x v`, `-x=v`; flags end at the first positional word.
    pub fn parse(argv: &[OsString]) -> Self {
        let invoked = argv.first().and_then(|path| Path::new(path).file_name());
        let mut parsed = Self {
            action: Action::Other,
            namespace: String::new(),
            id: String::new(),
            invoked: invoked.unwrap_or_default().to_string_lossy().into_owned(),
        };
        let mut words = argv.iter().skip(1).map(|w| w.to_string_lossy());
        let mut informs = false;
        while let Some(word) = words.next() {
            let Some(flag) =
                word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|f| !f.is_empty())
            else {
                parsed.action = action(&word);
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None if SWITCHES.contains(&flag) => (flag.to_owned(), None),
                None => (flag.to_owned(), words.next().map(|v| v.into_owned())),
            };
            match (name.as_str(), value) {
                ("namespace", Some(value)) => parsed.namespace = value,
                ("id", Some(value)) => parsed.id = value,
                ("v" | "version" | "info" | "help", _) => informs = true,
                _ => {}
            }
        }
        if informs {
            parsed.action = Action::Other;
        }
        parsed
    }
}

/// argv of a process of our own: what `ps` shows is whose it is.
pub fn ours(verb: &str, namespace: &str, id: &str) -> Vec<String> {
    ["containerd-shim-tap-v2", verb, "-namespace", namespace, "-id", id].map(str::to_owned).to_vec()
}

fn action(word: &str) -> Action {
    match word {
        "start" => Action::Start,
        "delete" => Action::Delete,
        _ => Action::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn containerd_s_own_lines() {
        let start = parse(
            "/bin/shim -namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc start",
        );
        let [namespace, id, invoked] = ["k8s.io", "abc", "shim"].map(str::to_owned);
        assert_eq!(start, Arguments { action: Action::Start, namespace, id, invoked });
        let delete = parse("shim -namespace n -address a -publish-binary p -id i -bundle /b -debug delete");
        assert_eq!((delete.action, delete.id.as_str()), (Action::Delete, "i"));
    }

    #[test]
    fn what_is_not_ours() {
        for line in
            ["shim -info", "shim -v", "shim", "shim -namespace n -id i", "shim -id i stop", "shim --version"]
        {
            assert_eq!(parse(line).action, Action::Other, "{line}");
        }
        assert_eq!(parse("shim -info start").action, Action::Other);
    }

    #[test]
    fn other_spellings_and_newer_flags() {
        assert_eq!(parse("shim --id=i --namespace n start").id, "i");
        assert_eq!(parse("shim -brand-new x -id i start").action, Action::Start);
        assert_eq!(parse("shim -id").action, Action::Other, "a flag without its value");
    }
}

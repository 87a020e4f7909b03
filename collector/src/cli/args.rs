//! Arguments to a command.

use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use super::upgrade::Wanted;

/// What `--help` says.
pub(super) const HELP: &str = "\
shimtap - logs and metrics of containers, taken at their shims

usage:
  shimtap collector [--config PATH]      run the node's collector
  shimtap check [--config PATH]          say what is wrong with a configuration
  shimtap ps [--json] [--socket PATH]    list containers, as the collector sees them
  shimtap explain [--json] [--socket PATH] WHOSE
                                         say what rules do with a container's output, and which;
                                         WHOSE: NAMESPACE/POD[/CONTAINER], or the beginning of an id
  shimtap reload [--socket PATH]         have the collector read its configuration again
  shimtap upgrade [--all | ID...] [--dry-run] [--force] [--json] [--binary PATH] [--run-dir PATH]
                                         bring running wrappers to another release, up or down
  shimtap --version

ID is a pod's or container's, or its beginning. The binary to upgrade to is containerd-shim-tap-v2 beside shimtap, or
in PATH; its wrappers' files are in /run/shimtap-shim.
PATH of the configuration is /etc/shimtap/collector.toml unless given; it need not exist.
exit status: 0 done, 1 failed (stderr says why), 64 wrong usage
";

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `shimtap collector`
    Collector {
        /// `--config`
        config: Option<PathBuf>,
    },
    /// `shimtap check`
    Check {
        /// `--config`
        config: Option<PathBuf>,
    },
    /// `shimtap ps`
    Ps {
        /// `--json`
        json: bool,
        /// `--socket`
        socket: Option<PathBuf>,
    },
    /// `shimtap explain`
    Explain {
        /// Which container.
        whose: String,
        /// `--json`
        json: bool,
        /// `--socket`
        socket: Option<PathBuf>,
    },
    /// `shimtap reload`
    Reload {
        /// `--socket`
        socket: Option<PathBuf>,
    },
    /// `shimtap upgrade`
    Upgrade(Wanted),
    /// `shimtap --help`
    Help,
    /// `shimtap --version`
    Version,
}

/// Why the arguments make no command.
#[derive(Debug, thiserror::Error)]
pub enum Usage {
    /// An option or a value that is not understood.
    #[error("{0}; see shimtap --help")]
    Option(#[from] lexopt::Error),
    /// No subcommand.
    #[error("a subcommand is missing: collector, check, ps, explain, reload or upgrade; see shimtap --help")]
    Missing,
    /// A subcommand's argument is not there.
    #[error("explain needs a container: NAMESPACE/POD/CONTAINER or an id; see shimtap --help")]
    Whose,
    /// Neither all wrappers nor any, or both.
    #[error("which wrappers: --all, or ids; see shimtap --help")]
    Which,
    /// An unknown subcommand.
    #[error("there is no subcommand {0}; see shimtap --help")]
    Unknown(String),
}

// === impl Command ===

impl Command {
    /// Reads the process's arguments.
    ///
    /// # Errors
    /// They make no command.
    pub fn from_env() -> Result<Self, Usage> {
        Self::parse(Parser::from_env())
    }

    fn parse(mut parser: Parser) -> Result<Self, Usage> {
        let name = match parser.next()? {
            None => return Err(Usage::Missing),
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Self::Help),
            Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Self::Version),
            Some(Arg::Value(name)) => name.string()?,
            Some(other) => return Err(other.unexpected().into()),
        };
        if name == "upgrade" {
            return Self::parse_upgrade(parser);
        }
        let (mut config, mut socket, mut json, mut whose) = (None, None, false, None);
        let takes_config = matches!(name.as_str(), "collector" | "check");
        let takes_socket = matches!(name.as_str(), "ps" | "explain" | "reload");
        let takes_json = matches!(name.as_str(), "ps" | "explain");
        if !takes_config && !takes_socket {
            return Err(Usage::Unknown(name));
        }
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(Self::Help),
                Arg::Long("config") if takes_config => config = Some(PathBuf::from(parser.value()?)),
                Arg::Long("socket") if takes_socket => socket = Some(PathBuf::from(parser.value()?)),
                Arg::Long("json") if takes_json => json = true,
                Arg::Value(value) if name == "explain" && whose.is_none() => whose = Some(value.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(match name.as_str() {
            "collector" => Self::Collector { config },
            "check" => Self::Check { config },
            "explain" => Self::Explain { whose: whose.ok_or(Usage::Whose)?, json, socket },
            "reload" => Self::Reload { socket },
            _ => Self::Ps { json, socket },
        })
    }

    fn parse_upgrade(mut parser: Parser) -> Result<Self, Usage> {
        let mut wanted = Wanted::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(Self::Help),
                Arg::Long("all") => wanted.all = true,
                Arg::Long("dry-run") => wanted.dry_run = true,
                Arg::Long("force") => wanted.force = true,
                Arg::Long("json") => wanted.json = true,
                Arg::Long("binary") => wanted.binary = Some(PathBuf::from(parser.value()?)),
                Arg::Long("run-dir") => wanted.run_dir = Some(PathBuf::from(parser.value()?)),
                Arg::Value(id) => wanted.ids.push(id.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        if wanted.all != wanted.ids.is_empty() {
            return Err(Usage::Which);
        }
        Ok(Self::Upgrade(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Parser, Wanted};

    fn parse(args: &[&str]) -> Result<Command, String> {
        Command::parse(Parser::from_args(args)).map_err(|usage| usage.to_string())
    }

    #[test]
    fn commands_are_what_help_says() {
        assert_eq!(parse(&["collector"]), Ok(Command::Collector { config: None }));
        assert_eq!(parse(&["check", "--config", "/x"]), Ok(Command::Check { config: Some("/x".into()) }));
        assert_eq!(
            parse(&["ps", "--json", "--socket=/s"]),
            Ok(Command::Ps { json: true, socket: Some("/s".into()) })
        );
        assert_eq!(
            parse(&["explain", "a/b/c"]),
            Ok(Command::Explain { whose: "a/b/c".to_owned(), json: false, socket: None })
        );
        assert_eq!(parse(&["reload"]), Ok(Command::Reload { socket: None }));
        let wanted = Wanted { dry_run: true, ids: vec!["abc".into(), "d".into()], ..Wanted::default() };
        assert_eq!(parse(&["upgrade", "abc", "--dry-run", "d"]), Ok(Command::Upgrade(wanted)));
        let all = Wanted { all: true, binary: Some("/b".into()), ..Wanted::default() };
        assert_eq!(parse(&["upgrade", "--all", "--binary", "/b"]), Ok(Command::Upgrade(all)));
        assert_eq!(parse(&["--version"]), Ok(Command::Version));
        assert_eq!(parse(&["ps", "-h"]), Ok(Command::Help));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for args in [
            &[][..],
            &["upgrade"],
            &["upgrade", "--all", "x"],
            &["top"],
            &["ps", "--config", "/x"],
            &["collector", "--json"],
            &["check", "extra"],
            &["explain"],
        ] {
            let said = parse(args).expect_err("no command");
            assert!(said.ends_with("see shimtap --help"), "{said}");
        }
    }
}

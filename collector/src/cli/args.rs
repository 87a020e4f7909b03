//! Arguments to a command.

use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

/// What `--help` says.
pub(super) const HELP: &str = "\
shimtap - logs and metrics of containers, taken at their shims

usage:
  shimtap collector [--config PATH]      run the node's collector
  shimtap check [--config PATH]          say what is wrong with a configuration
  shimtap ps [--json] [--socket PATH]    list containers, as the collector sees them
  shimtap logs [--follow] [--tail N] [--container NAME] [--pod NAME] [--namespace NAME] [--stream stdout|stderr]
               [--grep REGEX] [-o text|json|cri] [--socket PATH]
                                         show what the journal holds, and with --follow what comes
  shimtap --version

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
    /// `shimtap logs`
    Logs {
        /// What to ask the collector for, by its names.
        parameters: Vec<(&'static str, String)>,
        /// `--socket`
        socket: Option<PathBuf>,
    },
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
    #[error("a subcommand is missing: collector, check, ps or logs; see shimtap --help")]
    Missing,
    /// An unknown subcommand.
    #[error("there is no subcommand {0}; see shimtap --help")]
    Unknown(String),
}

/// Options of `shimtap logs` that are parameters of the same name.
const LOGS: [&str; 6] = ["container", "pod", "namespace", "stream", "grep", "tail"];

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
        let (mut config, mut socket, mut json) = (None, None, false);
        let takes_config = matches!(name.as_str(), "collector" | "check");
        let (is_ps, is_logs) = (name == "ps", name == "logs");
        let mut parameters = Vec::new();
        if !takes_config && !is_ps && !is_logs {
            return Err(Usage::Unknown(name));
        }
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(Self::Help),
                Arg::Long("config") if takes_config => config = Some(PathBuf::from(parser.value()?)),
                Arg::Long("socket") if is_ps || is_logs => socket = Some(PathBuf::from(parser.value()?)),
                Arg::Long("json") if is_ps => json = true,
                Arg::Short('f') | Arg::Long("follow") if is_logs => {
                    parameters.push(("follow", "1".to_owned()))
                }
                Arg::Short('o') | Arg::Long("output") if is_logs => {
                    parameters.push(("output", parser.value()?.string()?));
                }
                Arg::Long(option) if is_logs => {
                    let known = LOGS.iter().copied().find(|known| *known == option);
                    let Some(key) = known else { return Err(Arg::Long(option).unexpected().into()) };
                    parameters.push((key, parser.value()?.string()?));
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(match name.as_str() {
            "collector" => Self::Collector { config },
            "check" => Self::Check { config },
            "logs" => Self::Logs { parameters, socket },
            _ => Self::Ps { json, socket },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Parser};

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
        let parameters =
            vec![("pod", "p".to_owned()), ("follow", "1".to_owned()), ("output", "cri".to_owned())];
        assert_eq!(
            parse(&["logs", "--pod", "p", "-f", "-o", "cri"]),
            Ok(Command::Logs { parameters, socket: None })
        );
        assert_eq!(parse(&["--version"]), Ok(Command::Version));
        assert_eq!(parse(&["ps", "-h"]), Ok(Command::Help));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for args in [
            &[][..],
            &["top"],
            &["ps", "--config", "/x"],
            &["collector", "--json"],
            &["check", "extra"],
            &["logs", "--colour", "x"],
        ] {
            let said = parse(args).expect_err("no command");
            assert!(said.ends_with("see shimtap --help"), "{said}");
        }
    }
}

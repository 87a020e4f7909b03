//! Arguments to a command. What `--help` says stands here as well: the text of each item.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{completions::Shell, top::Sort};
use crate::{doctor, install};

/// Logs and metrics of containers, taken at their shims
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "shimtap", version, disable_help_subcommand = true)]
#[command(
    after_help = "exit status: 0 done, 1 failed (stderr says why), 2 done and something is wrong (doctor), 64 wrong usage"
)]
pub struct Cli {
    /// What the user wants.
    #[command(subcommand)]
    pub command: Command,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the node's collector
    Collector(Configured),
    /// Say what is wrong with a configuration
    Check {
        /// Which configuration.
        #[command(flatten)]
        which: Configured,
        /// Print every option with its default instead, as a configuration to begin with
        #[arg(long, conflicts_with = "config")]
        defaults: bool,
    },
    /// List containers, as the collector sees them
    Ps {
        /// JSON instead of a table: always all of it
        #[arg(long)]
        json: bool,
        /// Streams whose end nobody told, with the reason
        #[arg(long, conflicts_with_all = ["orphans", "warnings"])]
        open_ended: bool,
        /// What Kata left behind on this node, with what proves it
        #[arg(long, conflicts_with = "warnings")]
        orphans: bool,
        /// What endangers pods that are virtual machines
        #[arg(long)]
        warnings: bool,
        /// Where the collector is asked.
        #[command(flatten)]
        at: Asked,
    },
    /// Show what the journal holds, and with --follow what comes
    Logs(Logs),
    /// Say what rules do with a container's output, and which
    Explain {
        /// NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or the beginning of an id
        whose: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
        /// Where the collector is asked.
        #[command(flatten)]
        at: Asked,
    },
    /// Say whether every container of this node is covered, and if not, why and what to do
    Doctor(Doctor),
    /// Put the wrapper in front of this node's shims
    Install(Install),
    /// Take it away again: every file as it was
    Uninstall(Uninstall),
    /// Have the collector read its configuration again
    Reload(Asked),
    /// Watch what containers and pods use and write, and the output of one of them
    Top(Top),
    /// Bring running wrappers to another release, up or down
    Upgrade(Wanted),
    /// Print what a shell needs to complete these arguments
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Configured {
    /// The configuration; /etc/shimtap/collector.toml unless given, which need not exist
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// A collector that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Asked {
    /// The collector's control socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What is watched, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Top {
    /// Pods instead of containers
    #[arg(long)]
    pub pods: bool,
    /// What rows are sorted by, the most first
    #[arg(long, value_name = "BY", default_value = "cpu")]
    pub sort: Sort,
    /// Only rows with this in one of their names
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Between two looks, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// One look, printed as a table
    #[arg(long)]
    pub batch: bool,
    /// Where the collector is asked.
    #[command(flatten)]
    pub at: Asked,
}

/// Which lines, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Logs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Of containers of this name or id
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Of this pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Of this output
    #[arg(long)]
    stream: Option<Stream>,
    /// Lines that match
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// How they are shown
    #[arg(short, long)]
    output: Option<Output>,
    /// Where the collector is asked.
    #[command(flatten)]
    pub at: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stream {
    Stdout,
    Stderr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
    Cri,
}

/// Which wrappers, and to which release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["all", "ids"]))]
pub struct Wanted {
    /// Pods or containers, by the beginnings of their ids
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Every wrapper of the node
    #[arg(long)]
    pub all: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Also where it is of that release already
    #[arg(long)]
    pub force: bool,
    /// Lines of JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// The new wrapper; containerd-shim-tap-v2 beside shimtap, or in PATH, unless given
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Where the wrappers' files are; /run/shimtap-shim unless given
    #[arg(long, value_name = "PATH")]
    pub run_dir: Option<PathBuf>,
}

/// What is installed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Install {
    /// Handlers (RuntimeClass handlers, as containerd names them); all whose shim is here unless given
    #[arg(value_name = "HANDLER")]
    handlers: Vec<String>,
    /// Handlers <name>-tap beside those that are there, for pods that ask for them
    #[arg(long)]
    pilot: bool,
    /// How containerd is made to start the wrapper; the way that works for its release unless given
    #[arg(long)]
    hook: Option<HookArg>,
    /// Only show what would be done, and what files would hold
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Restart containerd's unit afterwards; running pods go on
    #[arg(long)]
    pub restart: bool,
    /// The wrapper; containerd-shim-tap-v2 beside shimtap, or in PATH, unless given
    #[arg(long, value_name = "PATH")]
    wrapper: Option<PathBuf>,
    /// The wrapper's configuration, where shims are noted that handlers name by path
    #[arg(long, value_name = "PATH", default_value = "/etc/shimtap/shim.toml")]
    shim_config: PathBuf,
    /// Where containerd and our record are.
    #[command(flatten)]
    pub at: At,
}

/// What is taken away, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Uninstall {
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Restart containerd's unit afterwards; running pods go on
    #[arg(long)]
    pub restart: bool,
    /// Where containerd and our record are.
    #[command(flatten)]
    pub at: At,
}

/// What is looked at, and how it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Doctor {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Where the wrappers' files are
    #[arg(long, value_name = "PATH", default_value = "/run/shimtap-shim")]
    run_dir: PathBuf,
    /// The wrapper's configuration
    #[arg(long, value_name = "PATH", default_value = "/etc/shimtap/shim.toml")]
    shim_config: PathBuf,
    /// Where containerd and the record of an installation are.
    #[command(flatten)]
    at: At,
    /// Where the collector is asked.
    #[command(flatten)]
    pub asked: Asked,
}

/// Where things are on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct At {
    /// containerd's binary; that of the running daemon unless given
    #[arg(long, value_name = "PATH")]
    containerd: Option<PathBuf>,
    /// containerd's main configuration; that of the running daemon unless given
    #[arg(long, value_name = "PATH")]
    containerd_config: Option<PathBuf>,
    /// Where what was there before is kept
    #[arg(long, value_name = "PATH", default_value = "/var/lib/shimtap")]
    state_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookArg {
    /// runtime_path of the handler
    RuntimePath,
    /// A link in the folder that containerd puts in front of its PATH: also for docker and nerdctl
    Opt,
}

// === impl Install ===

impl Install {
    /// What to install.
    pub fn wanted(&self) -> install::Wanted {
        install::Wanted {
            handlers: self.handlers.clone(),
            mode: if self.pilot { install::Mode::Pilot } else { install::Mode::Wrap },
            hook: self.hook.map(|hook| match hook {
                HookArg::RuntimePath => install::Hook::RuntimePath,
                HookArg::Opt => install::Hook::Opt,
            }),
            wrapper: self.wrapper.clone(),
            shim_toml: self.shim_config.clone(),
            state: self.at.state(),
        }
    }
}

// === impl Doctor ===

impl Doctor {
    /// Where to look.
    pub fn places(&self) -> doctor::Places {
        doctor::Places {
            containerd: self.at.node(),
            run_dir: self.run_dir.clone(),
            shim_toml: self.shim_config.clone(),
            state: self.at.state(),
        }
    }
}

// === impl At ===

impl At {
    /// Which containerd.
    pub fn node(&self) -> install::Where {
        install::Where { containerd: self.containerd.clone(), config: self.containerd_config.clone() }
    }

    /// The one whose configuration is this, unless another was named.
    pub fn node_of(&self, config: &Path) -> install::Where {
        let at = self.node();
        install::Where { config: at.config.or_else(|| Some(config.to_owned())), ..at }
    }

    /// The folder of the record.
    pub fn state(&self) -> PathBuf {
        self.state_dir.clone()
    }
}

// === impl Logs ===

impl Logs {
    /// What to ask the collector for, by its names.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        fn name(value: impl ValueEnum) -> String {
            value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        }
        let all = [
            ("follow", self.follow.then(|| "1".to_owned())),
            ("tail", self.tail.map(|n| n.to_string())),
            ("container", self.container.clone()),
            ("pod", self.pod.clone()),
            ("namespace", self.namespace.clone()),
            ("stream", self.stream.map(name)),
            ("grep", self.grep.clone()),
            ("output", self.output.map(name)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Command, String> {
        let all = ["shimtap"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| cli.command).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_what_help_says() {
        assert_eq!(parse(&["collector"]), Ok(Command::Collector(Configured::default())));
        let config = Some("/x".into());
        assert_eq!(
            parse(&["check", "--config", "/x"]),
            Ok(Command::Check { which: Configured { config }, defaults: false })
        );
        let at = Asked { socket: Some("/s".into()) };
        for option in ["--json", "--open-ended", "--orphans", "--warnings"] {
            let is = |asked| option == asked;
            let wanted = Command::Ps {
                json: is("--json"),
                open_ended: is("--open-ended"),
                orphans: is("--orphans"),
                warnings: is("--warnings"),
                at: at.clone(),
            };
            assert_eq!(parse(&["ps", option, "--socket=/s"]), Ok(wanted));
        }
        assert_eq!(parse(&["reload"]), Ok(Command::Reload(Asked::default())));
        let wanted = Wanted { dry_run: true, ids: vec!["abc".into(), "d".into()], ..Wanted::default() };
        assert_eq!(parse(&["upgrade", "abc", "--dry-run", "d"]), Ok(Command::Upgrade(wanted)));
        let all = Wanted { all: true, binary: Some("/b".into()), ..Wanted::default() };
        assert_eq!(parse(&["upgrade", "--all", "--binary", "/b"]), Ok(Command::Upgrade(all)));
    }

    #[test]
    fn logs_are_asked_for_by_the_collector_s_names() {
        let Ok(Command::Logs(logs)) = parse(&["logs", "--pod", "p", "-f", "-o", "cri", "--tail", "5"]) else {
            panic!("logs");
        };
        let asked = [("follow", "1"), ("tail", "5"), ("pod", "p"), ("output", "cri")];
        assert_eq!(logs.parameters(), asked.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for args in [
            &[][..],
            &["upgrade"],
            &["upgrade", "--all", "x"],
            &["top", "--sort", "colour"],
            &["top", "--interval", "0"],
            &["ps", "--config", "/x"],
            &["ps", "--orphans", "--warnings"],
            &["ps", "--open-ended", "--warnings"],
            &["ps", "--open-ended", "--orphans"],
            &["collector", "--json"],
            &["check", "extra"],
            &["explain"],
            &["logs", "--colour", "x"],
            &["logs", "-o", "xml"],
            &["logs", "--tail", "-1"],
        ] {
            let said = parse(args).expect_err("no command");
            assert!(said.contains("Usage: shimtap") || said.contains("--help"), "{args:?}: {said}");
        }
    }
}

//! `/etc/shimtap/shim.toml`: which shim is inside, and the wrapper's few settings.
//!
//! Read by `start`, `delete` and pass-through only, never by a living keeper or worker. A file that cannot be used
//! never stops a container: everything is as without it, and the collector is told. Which shim is inside is taken of it all the
//! same wherever that can be read: a fault of another line must not give a pod another shim (ADR 0021).

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use shimtap_proto::link::COLLECTOR_SOCKET;
use thiserror::Error;

const DEFAULT_PATH: &str = "/etc/shimtap/shim.toml";
const ENV_PATH: &str = "SHIMTAP_CONFIG";
const ENV_COLLECTOR: &str = "SHIMTAP_COLLECTOR";
/// Puts both spool directories below another one (tests, several containerds on one machine).
const ENV_SPOOL: &str = "SHIMTAP_SPOOL_DIR";
/// Where spool files lie unless told otherwise; the collector's defaults are the same.
const SPOOL_DISK: &str = "/var/lib/shimtap/spool";
const SPOOL_MEMORY: &str = "/run/shimtap/spool";

/// The file as written.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    inner: BTreeMap<String, PathBuf>,
    collector: RawCollector,
    tee: RawTee,
    stats: RawStats,
    start: RawStart,
    safe_mode: RawSafeMode,
    spool: RawSpool,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawSpool {
    limit_bytes: Option<u64>,
    disk_dir: Option<String>,
    memory_dir: Option<String>,
    disk_free_bytes: Option<u64>,
    disk_free_percent: Option<u32>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawSafeMode {
    deaths: Option<u32>,
}

/// How long a busy stream gathers, unless it is told otherwise: docs/adr/0032.
const COALESCE_MS: u32 = 40;

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawStart {
    ready_ms: Option<u16>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawCollector {
    socket: Option<String>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawTee {
    coalesce_ms: Option<u32>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct RawStats {
    interval_ms: Option<u32>,
    foreign_bound_ms: Option<u32>,
    repair: RawRepair,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged, expecting = "expected true, false or a list of names under which the wrapper is run")]
enum RawRepair {
    All(bool),
    Of(Vec<String>),
}

impl Default for RawRepair {
    fn default() -> Self {
        Self::All(false)
    }
}

/// What holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// From the name we were invoked by to the real shim.
    pub inner: BTreeMap<String, PathBuf>,
    /// The collector's socket.
    pub collector: String,
    /// How long a busy stream may wait for more bytes; 0 = never.
    pub coalesce_ms: u32,
    /// Age from which on a Stats sample is too old.
    pub stats_interval_ms: u32,
    /// After how long a foreign, frequent Stats is answered for a mute shim; 0 = never.
    pub stats_bound_ms: u32,
    /// Whose Stats answers are mended on their way to containerd.
    pub stats_repair: Repair,
    /// How long `start` waits for the first worker before it hands out the inner shim's address.
    pub ready_ms: u16,
    /// So many deaths of workers within ten seconds mean safe mode; 0 = never.
    pub safe_mode_deaths: u32,
    /// What goes to files while no collector is there.
    pub spool: Spool,
    /// The file is there and cannot be used.
    pub fault: Option<String>,
}

/// Whose Stats answers are mended.
#[derive(Debug, PartialEq, Eq)]
pub enum Repair {
    /// Everybody's, or nobody's.
    All(bool),
    /// Those of wrappers that are run under one of these names; `install` gives each handler one of its own.
    Of(Vec<String>),
}

/// Spool files.
#[derive(Debug, PartialEq, Eq)]
pub struct Spool {
    /// Bytes that one wrapper's files may hold on the disk; a quarter of it in memory; 0 = none are written.
    pub limit_bytes: u64,
    /// Directory on a disk, and in memory.
    pub disk_dir: String,
    pub memory_dir: String,
    /// What the disk keeps free, in bytes and in percent.
    pub disk_free_bytes: u64,
    pub disk_free_percent: u32,
}

#[derive(Debug, Error)]
enum ConfigFault {
    #[error("reading {path} (ours to fix; defaults hold until then)")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "understanding {path} (ours to fix; defaults hold until then, and its [inner] where that can be read)"
    )]
    Parse { path: PathBuf, source: toml::de::Error },
}

// === impl Config ===

impl Config {
    /// From the file (or `SHIMTAP_CONFIG`) and the environment; never fails.
    pub fn load() -> Self {
        let path = env::var_os(ENV_PATH)
            .filter(|v| !v.is_empty())
            .map_or_else(|| DEFAULT_PATH.into(), PathBuf::from);
        let (raw, fault) = read(&path);
        let mut config = Self::resolve(raw, fault.map(|fault| in_full(&fault)));
        if let Some(socket) = env::var(ENV_COLLECTOR).ok().filter(|v| !v.is_empty()) {
            config.collector = socket;
        }
        if let Some(dir) = env::var(ENV_SPOOL).ok().filter(|v| !v.is_empty()) {
            config.spool.disk_dir = format!("{dir}/disk");
            config.spool.memory_dir = format!("{dir}/memory");
        }
        config
    }

    fn resolve(raw: RawConfig, fault: Option<String>) -> Self {
        Self {
            inner: raw.inner,
            collector: raw.collector.socket.unwrap_or_else(|| COLLECTOR_SOCKET.to_owned()),
            // Measured (docs/costs.md): at saturation 1.5 times the lines for 0.6 of the CPU per line; little with slow ones.
            coalesce_ms: raw.tee.coalesce_ms.unwrap_or(COALESCE_MS).min(1000),
            stats_interval_ms: raw.stats.interval_ms.unwrap_or(10_000).clamp(100, 3_600_000),
            stats_bound_ms: raw.stats.foreign_bound_ms.unwrap_or(2000),
            stats_repair: Repair::resolve(raw.stats.repair),
            // The longest that a start waits for its own worker; one that meets another `start` of its pod waits for that one too
            // (README, limits).
            ready_ms: raw.start.ready_ms.unwrap_or(300),
            // The block remembers eight.
            safe_mode_deaths: raw.safe_mode.deaths.unwrap_or(5).min(8),
            spool: Spool::resolve(raw.spool),
            fault,
        }
    }
}

// === impl Repair ===

impl Repair {
    fn resolve(raw: RawRepair) -> Self {
        match raw {
            RawRepair::All(all) => Self::All(all),
            RawRepair::Of(names) => Self::Of(names),
        }
    }

    /// Are those of a wrapper that was run under this name?
    pub fn is_wanted(&self, invoked: &str) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Of(names) => names.iter().any(|name| name == invoked),
        }
    }
}

// === impl Spool ===

impl Spool {
    fn resolve(raw: RawSpool) -> Self {
        Self {
            limit_bytes: raw.limit_bytes.unwrap_or(16 << 20).min(1 << 30),
            disk_dir: raw.disk_dir.unwrap_or_else(|| SPOOL_DISK.to_owned()),
            memory_dir: raw.memory_dir.unwrap_or_else(|| SPOOL_MEMORY.to_owned()),
            // Beyond 15 % the kubelet begins to evict pods for want of disk (imagefs.available).
            disk_free_bytes: raw.disk_free_bytes.unwrap_or(2 << 30),
            disk_free_percent: raw.disk_free_percent.unwrap_or(15).min(100),
        }
    }
}

/// What holds of the file, and why not all of it does.
fn read(path: &Path) -> (RawConfig, Option<ConfigFault>) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return (RawConfig::default(), None),
        Err(source) => {
            return (RawConfig::default(), Some(ConfigFault::Read { path: path.to_owned(), source }));
        }
    };
    match toml::from_str(&text) {
        Ok(raw) => (raw, None),
        Err(source) => (of_inner_alone(&text), Some(ConfigFault::Parse { path: path.to_owned(), source })),
    }
}

/// The lines of `[inner]` that can be used, whatever else is wrong: a key of a later release, a wrong type, a misspelt section.
fn of_inner_alone(text: &str) -> RawConfig {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let lines = table.get("inner").and_then(toml::Value::as_table).into_iter().flatten();
    let named = lines.filter_map(|(name, shim)| Some((name.clone(), shim.as_str()?.into())));
    RawConfig { inner: named.collect(), ..RawConfig::default() }
}

/// An error and its causes on one line.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(error.to_string().trim_end());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file() {
        let text = "[inner]\n\"containerd-shim-tap-v2\" = \"/usr/bin/containerd-shim-runc-v2\"\n\
                    [collector]\nsocket = \"/s\"\n[tee]\ncoalesce_ms = 50\n[stats]\ninterval_ms = 1\n";
        let config = Config::resolve(toml::from_str(text).unwrap(), None);
        assert_eq!(config.inner["containerd-shim-tap-v2"], Path::new("/usr/bin/containerd-shim-runc-v2"));
        assert_eq!((config.collector.as_str(), config.coalesce_ms), ("/s", 50));
        assert_eq!(config.stats_interval_ms, 100, "no busier than ten a second");
        assert_eq!((config.stats_bound_ms, config.safe_mode_deaths), (2000, 5));
    }

    /// It says what holds without it.
    #[test]
    fn the_example_that_is_shipped() {
        let example = include_str!("../../packaging/wrapper/shim.toml");
        let config = Config::resolve(toml::from_str(example).unwrap(), None);
        assert_eq!(config, Config::resolve(RawConfig::default(), None));
        let all = example.replace("\n#[", "\n[").replace("\n#\"", "\n\"");
        assert_eq!(Config::resolve(toml::from_str(&all).unwrap(), None).inner.len(), 1);
    }

    #[test]
    fn stats_are_mended_for_whom_it_is_said() {
        let wanted = |text: &str| {
            let config = Config::resolve(toml::from_str(text).unwrap(), None);
            ["containerd-shim-tap-v2", "containerd-shim-tap-kata-v2"]
                .map(|name| config.stats_repair.is_wanted(name))
        };
        assert_eq!(wanted(""), [false; 2]);
        assert_eq!(wanted("[stats]\nrepair = true\n"), [true; 2]);
        assert_eq!(wanted("[stats]\nrepair = false\n"), [false; 2]);
        assert_eq!(wanted("[stats]\nrepair = [\"containerd-shim-tap-kata-v2\"]\n"), [false, true]);
        let fault = toml::from_str::<RawConfig>("[stats]\nrepair = \"kata\"\n").unwrap_err().to_string();
        assert!(fault.contains("a list of names"), "{fault}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in ["[innner]\n", "[tee]\ncoalesce = 5\n", "[tee]\ncoalesce_ms = -1\n", "\u{0}"] {
            assert!(toml::from_str::<RawConfig>(text).is_err(), "{text:?}");
        }
        let (missing, fault) = read(Path::new("/nonexistent/shim.toml"));
        assert!(missing == RawConfig::default() && fault.is_none());
        let fault = in_full(&read(Path::new("/")).1.unwrap());
        assert!(fault.starts_with("reading / (ours to fix"), "{fault}");
    }

    #[test]
    fn a_fault_elsewhere_leaves_the_shim_that_is_named() {
        let named = |text: &str| of_inner_alone(text).inner.into_iter().collect::<Vec<_>>();
        let ours = ("tap".to_owned(), PathBuf::from("/kata"));
        for rest in
            ["[tee]\nno_such_key = 1\n", "[innner]\n", "[stats]\ninterval_ms = \"often\"\n", "[inner2]\n"]
        {
            let held = named(&format!("[inner]\ntap = \"/kata\"\n{rest}"));
            assert_eq!(held, std::slice::from_ref(&ours), "{rest}");
        }
        assert_eq!(named("[inner]\ntap = \"/kata\"\nother = 1\n"), [ours], "a line of it");
        assert_eq!(named("inner = 1\n"), []);
        assert_eq!(named("[inner]\ntap = \"/kata\"\n[tee\n"), [], "no TOML");
    }
}

//! What containerd says of itself: its release, and its effective configuration as `containerd config dump` prints it.
//!
//! Keys that differ between releases stand here and nowhere else. Never reads a configuration file: imports, defaults and
//! migrations are containerd's own to resolve.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use toml::{Table, Value};

/// A release of containerd, comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32, pub u32);

/// The parts of a configuration that matter here.
#[derive(Clone, Debug)]
pub struct Effective {
    /// All of it.
    pub all: Table,
    /// The CRI plugin that holds the runtimes.
    pub plugin: &'static str,
    /// Whether CRI is switched off, as Docker's own package has it: other clients start shims by their type alone.
    pub is_without_cri: bool,
    /// Handlers by name; where CRI is switched off the one whose shim the other clients start.
    pub handlers: BTreeMap<String, Handler>,
    /// The folder that containerd puts in front of its PATH, without `bin`.
    pub opt: PathBuf,
    /// The folder of its bundles and other things that do not outlive a boot; of a daemon that was started with `--state`, that one.
    pub bundles: PathBuf,
}

/// One entry of the runtimes' table.
#[derive(Clone, Debug)]
pub struct Handler {
    /// As RuntimeClasses name it.
    pub name: String,
    /// e.g. `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// The shim's path where the handler names it.
    pub runtime_path: Option<PathBuf>,
    /// Whether the sandbox is made by a shim's sandbox API, for which `runtime_path` is not looked at.
    pub by_sandbox_api: bool,
    /// The whole table.
    pub table: Table,
}

/// Why a dump says nothing of handlers.
#[derive(Debug, thiserror::Error)]
pub enum DumpFault {
    /// As containerd prints it, it is TOML.
    #[error("{}", .0.message())]
    NotToml(toml::de::Error),
    /// Every one has some.
    #[error("it names no plugins")]
    NoPlugins,
    /// CRI is not switched off, and its table does not stand where any known release has it.
    #[error("CRI has no table of runtimes")]
    NoRuntimes,
}

/// How a file of some version names CRI's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The file's version.
    pub version: i64,
    /// The plugin.
    plugin: &'static str,
}

/// CRI's runtimes in files of version 2 (all that 1.x knows), and from version 3 on (2.0).
const PLUGINS: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
const OPT: &str = "io.containerd.internal.v1.opt";
/// What stands among the disabled plugins where CRI is switched off: its runtimes', its service's, and what files of version 1 call it.
const CRI: [&str; 3] = [PLUGINS[1], PLUGINS[0], "cri"];

// === impl Release ===

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Release {
    /// From what `containerd --version` prints: program, module, version, revision.
    pub fn read(said: &str) -> Option<Self> {
        said.split_whitespace().filter(|word| !word.contains('/')).find_map(Self::word)
    }

    fn word(word: &str) -> Option<Self> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let mut parts = word.get(..end)?.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// Whether CRI hands `runtime_path` on: 1.6.0 to 1.6.20 and 1.7.0 read the key and do nothing with it.
    pub fn honours_runtime_path(self) -> bool {
        self >= Self(1, 6, 21) && self != Self(1, 7, 0)
    }

    /// Whether a drop-in is merged into the main file, key by key. Before, it replaces the whole plugin's section.
    pub fn merges_drop_ins(self) -> bool {
        self.0 >= 2
    }
}

// === impl Effective ===

impl Effective {
    /// From a dump; the error says which part is missing.
    pub fn read(dump: &str) -> Result<Self, DumpFault> {
        let all: Table = toml::from_str(dump).map_err(DumpFault::NotToml)?;
        let plugins = all.get("plugins").and_then(Value::as_table).ok_or(DumpFault::NoPlugins)?;
        let runtimes = |plugin: &str| {
            let cri = plugins.get(plugin)?.as_table()?;
            cri.get("containerd")?.as_table()?.get("runtimes")?.as_table()
        };
        let is_without_cri = is_without_cri(&all);
        let found = PLUGINS.into_iter().find_map(|plugin| Some((plugin, runtimes(plugin)?)));
        let (plugin, handlers): (_, Vec<_>) = match found {
            // 2.x shows its table all the same, and nobody reads it.
            _ if is_without_cri => (PLUGINS[0], vec![Handler::read("runc", &Table::new())]),
            Some((plugin, runtimes)) => {
                let tables = runtimes.iter().filter_map(|(name, table)| Some((name, table.as_table()?)));
                (plugin, tables.map(|(name, table)| Handler::read(name, table)).collect())
            }
            None => return Err(DumpFault::NoRuntimes),
        };
        let handlers = handlers.into_iter().map(|handler| (handler.name.clone(), handler)).collect();
        let opt = plugins.get(OPT).and_then(|opt| opt.get("path")).and_then(Value::as_str);
        let opt = opt.filter(|path| !path.is_empty()).unwrap_or("/opt/containerd").into();
        let state = all.get("state").and_then(Value::as_str).unwrap_or("/run/containerd").into();
        Ok(Self { plugin, is_without_cri, handlers, opt, bundles: state, all })
    }

    /// The keys that lead to a handler's table.
    pub fn keys_of<'a>(&self, handler: &'a str) -> [&'a str; 5] {
        ["plugins", self.plugin, "containerd", "runtimes", handler]
    }
}

fn is_without_cri(all: &Table) -> bool {
    let disabled = all.get("disabled_plugins").and_then(Value::as_array).into_iter().flatten();
    disabled.filter_map(Value::as_str).any(|plugin| CRI.contains(&plugin))
}

// === impl Dialect ===

impl Dialect {
    /// Of the files that every 1.x understands.
    pub const TWO: Self = Self { version: 2, plugin: PLUGINS[0] };
    /// Of those that every 2.x understands.
    pub const THREE: Self = Self { version: 3, plugin: PLUGINS[1] };

    /// In which a drop-in has to be below a main file of this version: containerd 2.3 refuses one of a higher. None for version 1.
    pub fn below(main: Option<i64>) -> Option<Self> {
        match main {
            // Without a version a file has none that could be too low.
            None => Some(Self::THREE),
            Some(version) if version >= Self::THREE.version => Some(Self::THREE),
            Some(version) if version == Self::TWO.version => Some(Self::TWO),
            Some(_) => None,
        }
    }

    /// The keys that lead to a handler's table.
    pub fn keys_of(self, handler: &str) -> [&str; 5] {
        ["plugins", self.plugin, "containerd", "runtimes", handler]
    }
}

// === impl Handler ===

impl Handler {
    fn read(name: &str, table: &Table) -> Self {
        let text = |key: &str| table.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Self {
            name: name.to_owned(),
            runtime_type: text("runtime_type").unwrap_or("io.containerd.runc.v2").to_owned(),
            runtime_path: text("runtime_path").map(PathBuf::from),
            by_sandbox_api: text("sandboxer") == Some("shim") || text("sandbox_mode") == Some("shim"),
            table: table.clone(),
        }
    }

    /// Whether the wrapper under its own name starts its shim.
    pub fn is_plain_runc(&self) -> bool {
        self.runtime_path.is_none() && self.shim_name().as_deref() == Some("containerd-shim-runc-v2")
    }

    /// The file name that containerd makes of the runtime's type: the last two of its parts. None where the type is a path.
    pub fn shim_name(&self) -> Option<String> {
        if self.runtime_type.contains('/') {
            return None;
        }
        let mut parts = self.runtime_type.rsplit('.');
        let (version, name) = (parts.next()?, parts.next()?);
        Some(format!("containerd-shim-{name}-{version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_what_each_containerd_says() {
        for (said, release) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                Release(1, 6, 20),
            ),
            ("containerd github.com/containerd/containerd/v2 2.3.4+unknown ", Release(2, 3, 4)),
            ("containerd github.com/k3s-io/containerd v2.0.5-k3s2 abcdef", Release(2, 0, 5)),
            ("containerd containerd.io v2.1.0-rc.1 123", Release(2, 1, 0)),
        ] {
            assert_eq!(Release::read(said), Some(release), "{said}");
        }
        assert_eq!(Release::read("busybox"), None);
    }

    #[test]
    fn releases_know_which_hook_works() {
        for (release, path, merges) in [
            (Release(1, 6, 20), false, false),
            (Release(1, 6, 21), true, false),
            (Release(1, 7, 0), false, false),
            (Release(1, 7, 1), true, false),
            (Release(2, 0, 0), true, true),
        ] {
            assert_eq!(
                (release.honours_runtime_path(), release.merges_drop_ins()),
                (path, merges),
                "{release}"
            );
        }
    }

    #[test]
    fn shims_are_named_as_containerd_names_them() {
        let named = |kind: &str| {
            Handler::read("h", &Table::from_iter([("runtime_type".to_owned(), kind.into())])).shim_name()
        };
        assert_eq!(named("io.containerd.kata-qemu.v2").as_deref(), Some("containerd-shim-kata-qemu-v2"));
        assert_eq!(named("").as_deref(), Some("containerd-shim-runc-v2"));
        assert_eq!(named("/opt/x/shim"), None);
    }

    #[test]
    fn a_dump_without_runtimes_says_so() {
        let fault = Effective::read("version = 2\n[plugins]\n").expect_err("no runtimes");
        assert!(matches!(fault, DumpFault::NoRuntimes), "{fault}");
    }

    #[test]
    fn where_cri_is_switched_off_there_is_the_shim_of_its_other_clients() {
        let shown = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\n\
                     runtime_type = 'io.containerd.kata.v2'\n";
        for (disabled, is_off) in [
            ("cri", true),
            ("io.containerd.grpc.v1.cri", true),
            ("io.containerd.cri.v1.runtime", true),
            ("io.containerd.snapshotter.v1.zfs", false),
        ] {
            let dump = format!("disabled_plugins = ['{disabled}']\n{shown}");
            let effective = Effective::read(&dump).expect("a dump");
            let handlers: Vec<_> = effective.handlers.keys().map(String::as_str).collect();
            let expected = if is_off { "runc" } else { "kata" };
            assert_eq!((effective.is_without_cri, handlers), (is_off, vec![expected]), "{disabled}");
        }
        // 1.x shows no table then.
        let effective = Effective::read("disabled_plugins = ['cri']\n[plugins]\n").expect("a dump");
        assert_eq!(effective.handlers["runc"].shim_name().as_deref(), Some("containerd-shim-runc-v2"));
    }
}

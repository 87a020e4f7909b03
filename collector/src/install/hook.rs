//! Which hook works for which handler on this node, and which shim is behind it.
//!
//! Rules of releases and of handlers' keys, none of it guessed: packaging/containerd says each with its reason. Changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    InstallFault, Node,
    edit::{self, DROP_IN},
    effective::{Dialect, Effective, Handler},
    imports::Imports,
    plan::{Mode, Wanted},
};
use crate::wrapper;

/// The folder of our own where nothing else is the last that the main file imports. Not `conf.d`: what else lies there would begin to
/// hold.
pub const OWN_FOLDER: &str = "shimtap.d";

/// How containerd is made to start the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `runtime_path` of the handler.
    RuntimePath,
    /// A link of the shim's name in the opt plugin's folder.
    Opt,
}

/// Where `runtime_path` is written.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file of ours, which the main file imports or shall import.
    DropIn {
        /// That file.
        file: PathBuf,
        /// The pattern that has to become the last of the imports.
        import: Option<String>,
        /// How it names handlers.
        dialect: Dialect,
    },
    /// In the main file itself.
    Main,
}

/// This node, what is wanted of it, and our own binary.
pub struct Site<'a> {
    /// containerd.
    pub node: &'a Node,
    /// What the user asks for.
    pub wanted: &'a Wanted,
    /// The wrapper's binary, with no link left in its path.
    pub wrapper: PathBuf,
    /// Where `runtime_path` goes, or why it goes nowhere.
    pub place: Result<Place, String>,
    /// What containerd would do without us.
    pub alone: Effective,
    /// Which real shim is behind which name of the wrapper's.
    pub inner: BTreeMap<String, PathBuf>,
}

// === impl Hook ===

impl Hook {
    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RuntimePath => "runtime-path",
            Self::Opt => "opt",
        }
    }
}

// === impl Site ===

impl<'a> Site<'a> {
    /// Reads the main file and shim.toml, once for all handlers.
    pub fn new(node: &'a Node, wanted: &'a Wanted, wrapper: PathBuf, alone: Effective) -> Self {
        Self { node, wanted, wrapper, place: Place::of(node), alone, inner: inner_shims(&wanted.shim_toml) }
    }

    /// The hook that works for a handler, or why none does.
    pub fn hook_for(&self, handler: &Handler) -> Result<Hook, String> {
        let by_path = self.runtime_path_works(handler);
        let by_link = self.opt_works(handler);
        match (self.wanted.hook, self.wanted.mode) {
            (Some(Hook::Opt), Mode::Pilot) => {
                Err("a link wraps every pod of a shim; a pilot needs runtime-path".to_owned())
            }
            (Some(Hook::RuntimePath), _) | (None, Mode::Pilot) => by_path.map(|()| Hook::RuntimePath),
            (Some(Hook::Opt), Mode::Wrap) => by_link.map(|()| Hook::Opt),
            (None, Mode::Wrap) => match (by_path, by_link) {
                (Ok(()), _) => Ok(Hook::RuntimePath),
                (Err(_), Ok(())) => Ok(Hook::Opt),
                (Err(path), Err(link)) => Err(format!("{path}; {link}")),
            },
        }
    }

    fn runtime_path_works(&self, handler: &Handler) -> Result<(), String> {
        let release = self.node.release;
        if self.node.effective.is_without_cri {
            return Err("CRI is switched off (disabled_plugins), and runtime_path is of its handlers alone"
                .to_owned());
        }
        if !release.honours_runtime_path() {
            return Err(format!("containerd {release} reads runtime_path and does nothing with it"));
        }
        if handler.by_sandbox_api {
            return Err("its sandboxes are made by the shim itself, for which runtime_path is not looked at"
                .to_owned());
        }
        self.place.as_ref().map(drop).map_err(Clone::clone)
    }

    fn opt_works(&self, handler: &Handler) -> Result<(), String> {
        if handler.shim_name().is_none() {
            return Err("its runtime_type is a path, which no link can come before".to_owned());
        }
        if self.node.runtime_path(handler).is_some() {
            return Err("it names its shim by runtime_path, which no link can come before".to_owned());
        }
        Ok(())
    }

    /// Whether a path leads to our own binary.
    pub fn is_ours(&self, path: &Path) -> bool {
        same_file(path, &self.wrapper)
    }

    /// Whether a handler is wrapped already, or has its pilot. By any wrapper; where one is named, by that one.
    pub fn is_wrapped(&self, handler: &Handler) -> bool {
        let meant = match self.wanted.mode {
            Mode::Pilot => self.node.pilot(handler),
            Mode::Wrap => Some(handler),
        };
        let first = meant.and_then(|handler| self.node.first_shim(handler));
        first.is_some_and(|file| match self.wanted.wrapper {
            Some(_) => self.is_ours(&file),
            None => wrapper::is_one(&file) || self.is_ours(&file),
        })
    }

    /// The real shim of a handler.
    pub fn inner_of(&self, handler: &Handler) -> Result<PathBuf, InstallFault> {
        self.node.real_shim(handler).ok_or_else(|| {
            let (shim, searched) = match self.node.runtime_path(handler) {
                Some(path) => (path.display().to_string(), "place".to_owned()),
                None => {
                    (handler.shim_name().unwrap_or_default(), self.node.path.to_string_lossy().into_owned())
                }
            };
            InstallFault::NoShim { handler: handler.name.clone(), shim, searched }
        })
    }
}

impl Place {
    /// Where `runtime_path` goes, or why it goes nowhere.
    fn of(node: &Node) -> Result<Self, String> {
        let config = &node.config;
        let text = fs::read_to_string(config).unwrap_or_default();
        let main = edit::parse(config, &text).map_err(|fault| fault.to_string())?;
        let generated = node.config_is_generated();
        let anew = || format!("{} is written anew by another program", config.display());
        let version = main.get("version").and_then(toml_edit::Item::as_integer);
        // Its plugins have other names.
        let too_old =
            || format!("{} is not of version 2; containerd config migrate makes it so", config.display());
        if !node.release.merges_drop_ins() {
            return match version {
                _ if generated => Err(anew()),
                Some(version) if version == Dialect::TWO.version => Ok(Self::Main),
                None if text.is_empty() => Ok(Self::Main),
                _ => Err(too_old()),
            };
        }
        let dialect = Dialect::below(version).ok_or_else(too_old)?;
        let imports = Imports::of(config, &main);
        // In a file that somebody else writes, a place that is read late is better than none; whether it does is asked afterwards.
        let folder = imports.last_folder().or_else(|| imports.any_folder().filter(|_| generated));
        match folder {
            Some(folder) => Ok(Self::DropIn { file: folder.join(DROP_IN), import: None, dialect }),
            None if generated => Err(anew()),
            None => {
                let folder = config.parent().unwrap_or(Path::new("/")).join(OWN_FOLDER);
                let import = Some(format!("{}/*.toml", folder.display()));
                Ok(Self::DropIn { file: folder.join(DROP_IN), import, dialect })
            }
        }
    }
}

/// shim.toml's `[inner]`, by which name of the wrapper's; nothing where it cannot be read, which whoever changes it says.
pub fn inner_shims(shim_toml: &Path) -> BTreeMap<String, PathBuf> {
    let text = fs::read_to_string(shim_toml).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let inner = table.get("inner").and_then(toml::Value::as_table).into_iter().flatten();
    inner.filter_map(|(name, shim)| Some((name.clone(), shim.as_str()?.into()))).collect()
}

/// Whether two paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::effective::Release;

    /// A node of that release with these handlers, whose main file has this text.
    fn chosen(
        release: Release,
        main: &str,
        handler: &str,
        hook: Option<Hook>,
        mode: Mode,
    ) -> Result<Hook, String> {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("config.toml"), main).expect("a main file");
        let plugin = if release.merges_drop_ins() {
            "io.containerd.cri.v1.runtime"
        } else {
            "io.containerd.grpc.v1.cri"
        };
        let dump = format!(
            "[plugins.'{plugin}'.containerd.runtimes]\nruntime = {{ runtime_type = 'io.containerd.runc.v2' }}\n\
             sandbox = {{ runtime_type = 'io.containerd.kata.v2', sandboxer = 'shim', runtime_path = '/opt/kata/shim' }}\n\
             pathed = {{ runtime_type = 'io.containerd.kata.v2', runtime_path = '/opt/kata/shim' }}\n\
             typed = {{ runtime_type = '/opt/own/shim' }}\n"
        );
        let node = Node::pretended(release, dir.path(), &dump);
        let wanted = Wanted {
            handlers: Vec::new(),
            mode,
            hook,
            wrapper: None,
            shim_toml: dir.path().join("shim.toml"),
            state: dir.path().join("state"),
        };
        let alone = node.effective.clone();
        let site = Site::new(&node, &wanted, dir.path().join("containerd-shim-tap-v2"), alone);
        site.hook_for(&node.effective.handlers[handler])
    }

    #[test]
    fn each_release_and_handler_gets_the_hook_that_works() {
        const GENERATED: &str = "# File generated by k3s. DO NOT EDIT.\nversion = 2\n";
        const IMPORTS: &str = "# File generated by k3s. DO NOT EDIT.\nversion = 3\nimports = ['/x/*.toml']\n";
        let (path, link) = (Ok(Hook::RuntimePath), Ok(Hook::Opt));
        for (release, main, handler, expected) in [
            (Release(2, 1, 0), "version = 3\n", "runtime", &path),
            (Release(2, 1, 0), "", "runtime", &path),
            (Release(1, 7, 1), "version = 2\n", "runtime", &path),
            (Release(1, 7, 0), "version = 2\n", "runtime", &link),
            (Release(1, 6, 20), "version = 2\n", "runtime", &link),
            (Release(1, 6, 21), "version = 1\n", "runtime", &link),
            // Somebody else writes the main file at each start, unless it imports a folder.
            (Release(2, 1, 0), GENERATED, "runtime", &link),
            (Release(1, 7, 1), GENERATED, "runtime", &link),
            (Release(2, 1, 0), IMPORTS, "runtime", &path),
            // Its sandboxes are made by the shim: runtime_path is not looked at, so a link comes before it.
            (Release(2, 1, 0), "version = 3\n", "sandbox", &link),
            (Release(2, 1, 0), "version = 3\n", "pathed", &path),
            (Release(1, 6, 20), "version = 2\n", "pathed", &link),
            (Release(2, 1, 0), "version = 3\n", "typed", &path),
        ] {
            assert_eq!(
                &chosen(release, main, handler, None, Mode::Wrap),
                expected,
                "{release} {main:?} {handler}"
            );
        }
        let none = chosen(Release(2, 1, 0), GENERATED, "pathed", None, Mode::Wrap).expect_err("neither");
        assert!(none.contains("written anew") && none.contains("runtime_path"), "{none}");
        assert!(chosen(Release(1, 6, 20), "version = 2\n", "typed", None, Mode::Wrap).is_err());
    }

    #[test]
    fn a_hook_that_was_asked_for_is_had_or_refused() {
        for (hook, mode, expected) in [
            (Some(Hook::Opt), Mode::Wrap, Some(Hook::Opt)),
            (Some(Hook::RuntimePath), Mode::Wrap, Some(Hook::RuntimePath)),
            (Some(Hook::Opt), Mode::Pilot, None),
            (None, Mode::Pilot, Some(Hook::RuntimePath)),
        ] {
            let chosen = chosen(Release(2, 1, 0), "version = 3\n", "runtime", hook, mode);
            assert_eq!(chosen.ok(), expected, "{hook:?} {mode:?}");
        }
        for (hook, handler) in [(Hook::RuntimePath, "sandbox"), (Hook::Opt, "pathed"), (Hook::Opt, "typed")] {
            let refused = chosen(Release(2, 1, 0), "version = 3\n", handler, Some(hook), Mode::Wrap);
            assert!(refused.is_err(), "{hook:?} {handler}");
        }
        assert!(chosen(Release(1, 6, 20), "version = 2\n", "runtime", None, Mode::Pilot).is_err());
    }
}

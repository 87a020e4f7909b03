//! Which hook works for which handler on this node, and which shim is behind it.
//!
//! Rules of releases and of handlers' keys, none of it guessed: packaging/containerd says each with its reason. Changes nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    InstallFault, Node,
    edit::{self, DROP_IN},
    effective::Handler,
    plan::{Mode, Wanted, pilot_of},
};

/// The file version that every 2.x understands.
pub const VERSION_OF_2: i64 = 3;
/// The newest of 1.x.
pub const VERSION_OF_1: i64 = 2;
/// How containerd is made to start the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `runtime_path` of the handler.
    RuntimePath,
    /// A link of the shim's name in the opt plugin's folder.
    Opt,
}

/// Where `runtime_path` is written.
pub enum Place {
    /// In a file of ours, which the main file imports or shall import.
    DropIn {
        /// That file.
        file: PathBuf,
        /// The pattern to be added to the imports.
        import: Option<String>,
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

impl Site<'_> {
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
        if !release.honours_runtime_path() {
            return Err(format!("containerd {release} reads runtime_path and does nothing with it"));
        }
        if handler.by_sandbox_api {
            return Err("its sandboxes are made by the shim itself, for which runtime_path is not looked at"
                .to_owned());
        }
        self.place().map(drop)
    }

    fn opt_works(&self, handler: &Handler) -> Result<(), String> {
        if handler.shim_name().is_none() {
            return Err("its runtime_type is a path, which no link can come before".to_owned());
        }
        if handler.runtime_path.is_some()
            && self.node.release.honours_runtime_path()
            && !handler.by_sandbox_api
        {
            return Err("it names its shim by runtime_path, which no link can come before".to_owned());
        }
        Ok(())
    }

    /// Whether a path leads to our own binary.
    pub fn is_ours(&self, path: &Path) -> bool {
        same_file(path, &self.wrapper)
    }

    /// Whether a handler is wrapped already, or has its pilot.
    pub fn is_wrapped(&self, handler: &Handler) -> bool {
        if self.wanted.mode == Mode::Pilot {
            let pilot = self.node.effective.handlers.get(&pilot_of(&handler.name));
            return pilot
                .and_then(|pilot| pilot.runtime_path.as_ref())
                .is_some_and(|path| self.is_ours(path));
        }
        let by_path = handler.runtime_path.as_ref().filter(|_| self.node.release.honours_runtime_path());
        match by_path {
            Some(path) if !handler.by_sandbox_api => self.is_ours(path),
            _ => handler.shim_name().is_some_and(|name| self.is_ours(&self.opt_link(&name))),
        }
    }

    /// The real shim of a handler.
    pub fn inner_of(&self, handler: &Handler) -> Result<PathBuf, InstallFault> {
        let missing = |shim: String, searched: String| InstallFault::NoShim {
            handler: handler.name.clone(),
            shim,
            searched,
        };
        if let Some(path) = handler.runtime_path.as_ref().filter(|_| self.node.release.honours_runtime_path())
        {
            let there = path.is_file();
            return there
                .then(|| path.clone())
                .ok_or_else(|| missing(path.display().to_string(), "place".to_owned()));
        }
        let Some(name) = handler.shim_name() else {
            return Ok(PathBuf::from(&handler.runtime_type));
        };
        let found = self.node.shim(&name, |file| self.is_ours(file));
        found.ok_or_else(|| missing(name, self.node.path.to_string_lossy().into_owned()))
    }

    /// The link that comes before a shim of this name.
    pub fn opt_link(&self, name: &str) -> PathBuf {
        self.node.effective.opt.join("bin").join(name)
    }

    /// Where `runtime_path` goes, or why it goes nowhere.
    pub fn place(&self) -> Result<Place, String> {
        let config = &self.node.config;
        let text = fs::read_to_string(config).unwrap_or_default();
        let main = edit::parse(config, &text).map_err(|fault| fault.to_string())?;
        let generated = self.node.config_is_generated();
        let anew = || Err(format!("{} is written anew by another program", config.display()));
        if !self.node.release.merges_drop_ins() {
            let version = main.get("version").and_then(toml_edit::Item::as_integer);
            return match version {
                _ if generated => anew(),
                Some(VERSION_OF_1) => Ok(Place::Main),
                None if text.is_empty() => Ok(Place::Main),
                // Its plugins have other names.
                _ => Err(format!(
                    "{} is not of version 2; containerd config migrate makes it so",
                    config.display()
                )),
            };
        }
        let patterns = edit::imports(&main).into_iter();
        let mut folders = patterns.filter_map(|pattern| {
            let folder = pattern.strip_suffix("/*.toml")?;
            (folder.starts_with('/') && !folder.contains('*')).then(|| PathBuf::from(folder))
        });
        match folders.next_back() {
            Some(folder) => Ok(Place::DropIn { file: folder.join(DROP_IN), import: None }),
            None if generated => anew(),
            None => {
                // containerd's own name for it from 2.2.0 on; beside the main file, wherever that is.
                let folder = config.parent().unwrap_or(Path::new("/")).join("conf.d");
                let import = Some(format!("{}/*.toml", folder.display()));
                Ok(Place::DropIn { file: folder.join(DROP_IN), import })
            }
        }
    }
}

/// Whether two paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

//! What an installation would do to this node: which hook for which handler, and the new contents of which files.
//!
//! Three hooks, each where it works ([`super::hook`]): a drop-in with `runtime_path` where containerd merges drop-ins (2.0 on), the
//! same key in the main file where it does not (1.6.21 and 1.7.1 on), and else, or where somebody writes the main file anew, or
//! where a shim's sandbox API passes `runtime_path` by, a link in the folder that containerd puts in front of its PATH. Changes
//! nothing itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Value;
use toml_edit::DocumentMut;

use super::{
    Change, InstallFault, Node, Record, edit,
    effective::Handler,
    hook::{Hook, Place, Site, VERSION_OF_1, VERSION_OF_2},
    read_if_there,
};
use crate::wrapper;

/// By which pods may say what is collected of them.
const ANNOTATIONS: &str = "shimtap.io/*";

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Handlers by name; empty = all that can be covered.
    pub handlers: Vec<String>,
    /// Those themselves, or others beside them.
    pub mode: Mode,
    /// The hook; none = the one that works.
    pub hook: Option<Hook>,
    /// The wrapper's binary; none = where packages put it.
    pub wrapper: Option<PathBuf>,
    /// The wrapper's configuration.
    pub shim_toml: PathBuf,
    /// Where links and the record are kept.
    pub state: PathBuf,
}

/// Which pods shall go through the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of the handlers.
    Wrap,
    /// Those that ask for a handler `<name>-tap` by a RuntimeClass.
    Pilot,
}

/// What would be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files, in the order in which they are to be made.
    pub changes: Vec<Change>,
    /// Handlers that will be wrapped by this, with how.
    pub covered: Vec<(String, String)>,
    /// Handlers that are wrapped already.
    pub already: Vec<String>,
    /// Handlers that stay as they are, with why.
    pub left_out: Vec<(String, String)>,
    /// What containerd shall say afterwards: keys and value.
    pub expected: Vec<(Vec<String>, Value)>,
}

struct Planner<'a> {
    site: Site<'a>,
    plan: Plan,
    /// Handlers whose `runtime_path` is to be written, and what it is.
    paths: Vec<(Handler, PathBuf)>,
    /// For shim.toml: by which name the wrapper is called, and the real shim.
    inner: Vec<(String, PathBuf)>,
}

// === impl Plan ===

impl Plan {
    /// Looks at the node and plans.
    pub fn make(node: &Node, wanted: &Wanted) -> Result<Self, InstallFault> {
        let wrapper = match &wanted.wrapper {
            Some(path) => path.clone(),
            None => wrapper::find().map_err(|beside| InstallFault::NoWrapper { beside })?,
        };
        // Fails with the path in it where there is none.
        let wrapper = fs::canonicalize(&wrapper).map_err(|source| InstallFault::File {
            doing: "finding the wrapper",
            path: wrapper,
            source,
        })?;
        let site = Site { node, wanted, wrapper };
        Planner { site, plan: Self::default(), paths: Vec::new(), inner: Vec::new() }.run()
    }
}

// === impl Planner ===

impl Planner<'_> {
    fn run(mut self) -> Result<Plan, InstallFault> {
        for handler in self.chosen()? {
            self.handler(&handler)?;
        }
        if !self.paths.is_empty() {
            self.write_paths()?;
        }
        if !self.inner.is_empty() {
            self.write_inner()?;
        }
        Ok(self.plan)
    }

    fn chosen(&self) -> Result<Vec<Handler>, InstallFault> {
        let all = &self.site.node.effective.handlers;
        if self.site.wanted.handlers.is_empty() {
            // What a pilot has made is not to be piloted again.
            let is_pilot = |name: &str| name.strip_suffix("-tap").is_some_and(|of| all.contains_key(of));
            return Ok(all.values().filter(|handler| !is_pilot(&handler.name)).cloned().collect());
        }
        let named = self.site.wanted.handlers.iter().map(|name| {
            all.get(name).cloned().ok_or_else(|| InstallFault::NoHandler {
                name: name.clone(),
                all: all.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            })
        });
        named.collect()
    }

    fn handler(&mut self, handler: &Handler) -> Result<(), InstallFault> {
        if self.site.is_wrapped(handler) {
            self.plan.already.push(handler.name.clone());
            return Ok(());
        }
        let inner = match self.site.inner_of(handler) {
            Ok(inner) => inner,
            // Only those that were named must be there: `config default` names handlers that nobody has installed.
            Err(InstallFault::NoShim { shim, .. }) if self.site.wanted.handlers.is_empty() => {
                let why = format!("its shim {shim} is not installed");
                self.plan.left_out.push((handler.name.clone(), why));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        match self.site.hook_for(handler) {
            Ok(Hook::RuntimePath) => self.by_path(handler, inner),
            Ok(Hook::Opt) => self.by_link(handler, inner),
            Err(why) if self.site.wanted.hook.is_none() && self.site.wanted.handlers.is_empty() => {
                self.plan.left_out.push((handler.name.clone(), why));
                Ok(())
            }
            Err(why) => {
                let hook = self.site.wanted.hook.map_or("any hook", Hook::name);
                Err(InstallFault::Hook { hook, why: format!("handler {}: {why}", handler.name) })
            }
        }
    }

    fn by_path(&mut self, handler: &Handler, inner: PathBuf) -> Result<(), InstallFault> {
        // The wrapper under its own name runs the runc shim; for any other it is called by a name that shim.toml knows.
        let plain = handler.runtime_path.is_none()
            && handler.shim_name().as_deref() == Some("containerd-shim-runc-v2");
        let path = if plain {
            self.site.wrapper.clone()
        } else {
            let name = format!("containerd-shim-tap-{}-v2", handler.name);
            let link = self.site.wanted.state.join("hooks").join(&name);
            self.link(link.clone(), None)?;
            self.inner.push((name, inner));
            link
        };
        let how = match self.site.wanted.mode {
            Mode::Wrap => format!("runtime_path = {}", path.display()),
            Mode::Pilot => {
                format!("handler {} beside it, runtime_path = {}", pilot_of(&handler.name), path.display())
            }
        };
        self.plan.covered.push((handler.name.clone(), how));
        self.paths.push((handler.clone(), path));
        Ok(())
    }

    fn by_link(&mut self, handler: &Handler, inner: PathBuf) -> Result<(), InstallFault> {
        let link = self.site.opt_link(&handler.shim_name().unwrap_or_default());
        self.plan.covered.push((handler.name.clone(), format!("{} in front of its PATH", link.display())));
        // Two handlers may have one shim.
        if self.plan.changes.iter().any(|change| change.path() == link) {
            return Ok(());
        }
        self.link(link, Some(inner))
    }

    fn link(&mut self, path: PathBuf, before: Option<PathBuf>) -> Result<(), InstallFault> {
        let stood = match fs::symlink_metadata(&path) {
            Ok(_) if self.site.is_ours(&path) => return Ok(()),
            Ok(_) if self.was_left(&path, before.as_deref())? => true,
            Ok(_) => return Err(InstallFault::InTheWay { path }),
            Err(_) => false,
        };
        self.plan.changes.push(Change::Link { path, target: self.site.wrapper.clone(), before, stood });
        Ok(())
    }

    /// Whether a link is one that an earlier uninstall had to leave for running containers.
    fn was_left(&self, path: &Path, real: Option<&Path>) -> Result<bool, InstallFault> {
        let record = Record::read(&self.site.wanted.state)?;
        let is_known = record.is_some_and(|record| record.changes.iter().any(|one| one.path() == path));
        Ok(is_known && fs::read_link(path).ok().as_deref() == real)
    }

    fn write_paths(&mut self) -> Result<(), InstallFault> {
        let paths = std::mem::take(&mut self.paths);
        paths.iter().for_each(|(handler, path)| self.expect(handler, path));
        let (node, mode) = (self.site.node, self.site.wanted.mode);
        match self.site.place() {
            Ok(Place::DropIn { file, import }) => {
                let with = |doc: &mut DocumentMut| {
                    for (handler, path) in &paths {
                        match mode {
                            Mode::Wrap => put_key(doc, node, &handler.name, path),
                            Mode::Pilot => put_whole(doc, node, mode, handler, path),
                        }
                    }
                };
                self.change_file(file, |now| match now {
                    // Handlers that an earlier installation has wrapped stay in it.
                    Some(mut doc) => {
                        with(&mut doc);
                        doc.to_string()
                    }
                    None => edit::own_file(VERSION_OF_2, with),
                })?;
                match import {
                    Some(pattern) => self.change_main(VERSION_OF_2, |doc| edit::import(doc, &pattern)),
                    None => Ok(()),
                }
            }
            Ok(Place::Main) => self.change_main(VERSION_OF_1, |doc| {
                paths.iter().for_each(|(handler, path)| put_whole(doc, node, mode, handler, path));
            }),
            // Asked before, handler by handler.
            Err(_) => Ok(()),
        }
    }

    fn expect(&mut self, handler: &Handler, path: &Path) {
        let shown: Value = path.to_string_lossy().into_owned().into();
        let effective = &self.site.node.effective;
        let owned = |keys: [&str; 5]| keys.map(str::to_owned).to_vec();
        match self.site.wanted.mode {
            Mode::Wrap => {
                let mut keys = owned(effective.keys_of(&handler.name));
                keys.push("runtime_path".to_owned());
                self.plan.expected.push((keys, shown));
            }
            Mode::Pilot => {
                let mut table = pilot_table(handler);
                table.insert("runtime_path".to_owned(), shown);
                self.plan
                    .expected
                    .push((owned(effective.keys_of(&pilot_of(&handler.name))), Value::Table(table)));
            }
        }
    }

    fn change_main(&mut self, version: i64, with: impl FnOnce(&mut DocumentMut)) -> Result<(), InstallFault> {
        let file = self.site.node.config.clone();
        self.change_file(file, |now| {
            let mut doc = now.unwrap_or_else(|| {
                let mut doc = DocumentMut::new();
                doc.insert("version", toml_edit::value(version));
                doc
            });
            with(&mut doc);
            doc.to_string()
        })
    }

    /// Which real shim is behind which name.
    fn write_inner(&mut self) -> Result<(), InstallFault> {
        let inner = std::mem::take(&mut self.inner);
        let ours = self.plan.changes.len();
        self.change_file(self.site.wanted.shim_toml.clone(), |now| {
            let mut doc = now.unwrap_or_default();
            for (name, shim) in &inner {
                edit::set(&mut doc, &["inner", name], shim.to_string_lossy().into_owned().into());
            }
            doc.to_string()
        })?;
        // The wrapper must know before it is called.
        let new = self.plan.changes.len().saturating_sub(ours);
        self.plan.changes.rotate_right(new);
        Ok(())
    }

    /// Notes what a file shall hold, made of what it holds now; nothing where that is the same.
    fn change_file(
        &mut self,
        path: PathBuf,
        with: impl FnOnce(Option<DocumentMut>) -> String,
    ) -> Result<(), InstallFault> {
        let before = text_of(&path)?;
        let now = before.as_deref().map(|text| edit::parse(&path, text)).transpose()?;
        let after = with(now);
        if before.as_ref() != Some(&after) {
            self.plan.changes.push(Change::Content { path, before, after: Some(after) });
        }
        Ok(())
    }
}

pub(super) fn pilot_of(handler: &str) -> String {
    format!("{handler}-tap")
}

fn put_key(doc: &mut DocumentMut, node: &Node, handler: &str, path: &Path) {
    let keys: Vec<&str> = node.effective.keys_of(handler).into_iter().chain(["runtime_path"]).collect();
    edit::set(doc, &keys, path.to_string_lossy().into_owned().into());
}

/// In a main file: where the table is not there, what holds by default goes with it, since a table replaces its default whole.
fn put_whole(doc: &mut DocumentMut, node: &Node, mode: Mode, handler: &Handler, path: &Path) {
    let (name, table) = match mode {
        Mode::Wrap => (handler.name.clone(), handler.table.clone()),
        Mode::Pilot => (pilot_of(&handler.name), pilot_table(handler)),
    };
    let keys = node.effective.keys_of(&name);
    if !edit::has(doc, &keys) {
        edit::set_table(doc, &keys, &table);
    }
    put_key(doc, node, &name, path);
}

/// The table of a handler beside another: the same, and pods may say what is collected of them.
fn pilot_table(of: &Handler) -> toml::Table {
    let mut table = of.table.clone();
    let annotations = table.entry("pod_annotations").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(all) = annotations
        && !all.iter().any(|one| one.as_str() == Some(ANNOTATIONS))
    {
        all.push(ANNOTATIONS.into());
    }
    table
}

fn text_of(path: &Path) -> Result<Option<String>, InstallFault> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| InstallFault::NotToml { path: path.to_owned(), why: "it is not UTF-8".to_owned() })
}

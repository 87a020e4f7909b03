//! What an installation would do to this node: which hook for which handler, and the new contents of which files.
//!
//! Three hooks, each where it works ([`super::hook`]): a drop-in with `runtime_path` where containerd merges drop-ins (2.0 on), the
//! same key in the main file where it does not (1.6.21 and 1.7.1 on), and else, or where somebody writes the main file anew, or
//! where a shim's sandbox API passes `runtime_path` by, a link in the folder that containerd puts in front of its PATH. A handler that
//! is wrapped is left as it is, unless the shim behind it has moved or is gone ([`super::standing`]). Changes nothing itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Value;

use super::{
    Change, InstallFault, Node, Record, alone,
    effective::Handler,
    hook::{Hook, Site},
    shims::pilot_of,
    standing::Standing,
};
use crate::wrapper::{self, ANY_WRAPPER};

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
    /// Handlers that are there by our files alone and go out of them.
    pub dropped: Vec<String>,
    /// What containerd shall say afterwards: keys and value.
    pub expected: Vec<(Vec<String>, Value)>,
    /// What it shall not say any more: keys of tables.
    pub gone: Vec<Vec<String>>,
    /// Whether containerd has to be restarted for it: it reads its files at its start, and wrappers theirs at each.
    pub needs_restart: bool,
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) site: Site<'a>,
    pub(super) plan: Plan,
    /// Handlers whose `runtime_path` is to be written, and what it is.
    pub(super) paths: Vec<(Handler, PathBuf)>,
    /// Handlers that are to go out of our files.
    pub(super) orphans: Vec<Handler>,
    /// For shim.toml: by which name the wrapper is called, and the real shim; none where there is none any more.
    pub(super) inner: Vec<(String, Option<PathBuf>)>,
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
        let alone = alone::effective(node, Record::read(&wanted.state)?.as_ref())?;
        let site = Site::new(node, wanted, wrapper, alone);
        let (plan, paths, orphans, inner) = (Self::default(), Vec::new(), Vec::new(), Vec::new());
        Planner { site, plan, paths, orphans, inner }.run()
    }
}

// === impl Planner ===

impl Planner<'_> {
    fn run(mut self) -> Result<Plan, InstallFault> {
        for handler in self.chosen()? {
            self.handler(&handler)?;
        }
        self.write()?;
        let hooks = self.hooks();
        let for_wrappers = |change: &Change| {
            change.path() == self.site.wanted.shim_toml || change.path().starts_with(&hooks)
        };
        self.plan.needs_restart = !self.plan.changes.iter().all(for_wrappers);
        Ok(self.plan)
    }

    /// Where links are whose names shim.toml knows.
    fn hooks(&self) -> PathBuf {
        self.site.wanted.state.join("hooks")
    }

    fn chosen(&self) -> Result<Vec<Handler>, InstallFault> {
        let all = &self.site.node.effective.handlers;
        if self.site.wanted.handlers.is_empty() {
            // What a pilot has made is not to be piloted again.
            return Ok(all.values().filter(|handler| !self.site.is_pilot(handler)).cloned().collect());
        }
        // What is there by our files alone is not there for whoever names it.
        let is_there = |handler: &&Handler| self.site.standing(handler) != Standing::Orphan;
        let named = self.site.wanted.handlers.iter().map(|name| {
            all.get(name).filter(is_there).cloned().ok_or_else(|| InstallFault::NoHandler {
                name: name.clone(),
                all: self.site.alone.handlers.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            })
        });
        named.collect()
    }

    fn handler(&mut self, handler: &Handler) -> Result<(), InstallFault> {
        match self.site.standing(handler) {
            Standing::Wrapped => {
                self.plan.already.push(handler.name.clone());
                return Ok(());
            }
            Standing::Orphan => {
                self.orphan(handler);
                return Ok(());
            }
            Standing::Plain | Standing::Stale => {}
        }
        let handler = &self.site.own(handler);
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
            Err(why) => Err(match self.site.wanted.hook {
                Some(hook) => {
                    InstallFault::Hook { hook: hook.name(), why: format!("handler {}: {why}", handler.name) }
                }
                None => InstallFault::NoHook { handler: handler.name.clone(), why },
            }),
        }
    }

    fn by_path(&mut self, handler: &Handler, inner: PathBuf) -> Result<(), InstallFault> {
        // The wrapper under its own name runs the runc shim; for any other it is called by a name that shim.toml knows.
        let (path, before) = if handler.is_plain_runc() {
            (self.site.wrapper.clone(), String::new())
        } else {
            let name = format!("{ANY_WRAPPER}{}-v2", handler.name);
            let link = self.hooks().join(&name);
            self.link(link.clone(), None)?;
            let before = format!(" before {}", inner.display());
            self.inner.push((name, Some(inner)));
            (link, before)
        };
        let how = match self.site.wanted.mode {
            Mode::Wrap => format!("runtime_path = {}{before}", path.display()),
            Mode::Pilot => {
                let pilot = pilot_of(&handler.name);
                format!("handler {pilot} beside it, runtime_path = {}{before}", path.display())
            }
        };
        self.plan.covered.push((handler.name.clone(), how));
        self.paths.push((handler.clone(), path));
        Ok(())
    }

    /// Whoever made it has taken it away; what is left of it is ours.
    fn orphan(&mut self, handler: &Handler) {
        let called = handler.runtime_path.as_ref().and_then(|path| path.file_name());
        let name = called.unwrap_or_default().to_string_lossy().into_owned();
        // Running pods may need what is still there.
        if self.site.inner.get(&name).is_some_and(|shim| !shim.is_file()) {
            self.inner.push((name, None));
        }
        let keys = self.site.node.effective.keys_of(&handler.name);
        self.plan.gone.push(keys.map(str::to_owned).to_vec());
        self.plan.dropped.push(handler.name.clone());
        self.orphans.push(handler.clone());
    }

    fn by_link(&mut self, handler: &Handler, inner: PathBuf) -> Result<(), InstallFault> {
        let link = self.site.node.opt_link(&handler.shim_name().unwrap_or_default());
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::effective::Release;

    /// What would be done on a 1.6.20 with these handlers, of which the runc shim is installed.
    fn planned(runtimes: &str, handlers: &[&str]) -> Result<Plan, InstallFault> {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("bin")).expect("a folder");
        for file in ["bin/containerd-shim-runc-v2", "containerd-shim-tap-v2"] {
            fs::write(dir.path().join(file), "").expect("a file");
        }
        let dump = format!(
            "[plugins.'io.containerd.internal.v1.opt']\npath = '{0}/opt'\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes]\n{runtimes}\n",
            dir.path().display()
        );
        let wanted = Wanted {
            handlers: handlers.iter().map(|name| (*name).to_owned()).collect(),
            mode: Mode::Wrap,
            hook: None,
            wrapper: Some(dir.path().join("containerd-shim-tap-v2")),
            shim_toml: dir.path().join("shim.toml"),
            state: dir.path().join("state"),
        };
        Plan::make(&Node::pretended(Release(1, 6, 20), dir.path(), &dump), &wanted)
    }

    #[test]
    fn what_cannot_be_wrapped_is_left_out_and_said_unless_it_was_named() {
        let runtimes = "runc = { runtime_type = 'io.containerd.runc.v2' }\n\
                        typed = { runtime_type = '/opt/own/shim' }\n\
                        kata = { runtime_type = 'io.containerd.kata.v2' }";
        let plan = planned(runtimes, &[]).expect("a plan");
        let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&plan.covered), names(&plan.left_out)),
            (vec!["runc".into()], vec!["kata".into(), "typed".into()])
        );
        let fault = planned(runtimes, &["typed"]).expect_err("no hook for it").to_string();
        assert!(
            fault.contains("handler typed") && fault.contains("leave it out") && !fault.contains("--hook"),
            "{fault}"
        );
        let fault = planned(runtimes, &["kata"]).expect_err("no shim").to_string();
        assert!(fault.contains("containerd-shim-kata-v2") && fault.contains("/bin"), "{fault}");
        assert!(
            planned("typed = { runtime_type = '/opt/own/shim' }", &[]).expect("a plan").covered.is_empty()
        );
    }
}

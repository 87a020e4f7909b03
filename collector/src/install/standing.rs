//! How a handler stands to what it would be without us: whether it is wrapped, and whether the wrapper still starts the shim that the
//! handler names.
//!
//! An upgrade of Kata may move a shim or take a handler away, and our drop-in goes on to hold: nothing but this shows it. Changes
//! nothing.

use std::path::{Path, PathBuf};

use super::{
    InstallFault, Node, Record, alone,
    effective::Handler,
    hook::Site,
    plan::{Mode, Wanted},
    proof,
    shims::{PILOT, pilot_of, pilot_table},
};

/// What becomes of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No wrapper is in front of its shim.
    Plain,
    /// One is, as it would be put there today; or it is not ours to judge.
    Wrapped,
    /// One of ours is, in front of a shim or with options that are not the handler's any more.
    Stale,
    /// Without our files containerd would not know it: whoever made it has taken it away.
    Orphan,
}

/// Handlers that are wrapped and not as an installation would wrap them today, with how they stand.
pub fn unlike_today(
    node: &Node,
    state: &Path,
    shim_toml: &Path,
) -> Result<Vec<(String, Standing)>, InstallFault> {
    let wanted = Wanted {
        handlers: Vec::new(),
        mode: Mode::Wrap,
        hook: None,
        wrapper: None,
        shim_toml: shim_toml.to_owned(),
        state: state.to_owned(),
    };
    let alone = alone::effective(node, Record::read(state)?.as_ref())?;
    let site = Site::new(node, &wanted, PathBuf::new(), alone);
    let all = node.effective.handlers.values().map(|handler| (handler.name.clone(), site.standing(handler)));
    Ok(all.filter(|(_, standing)| matches!(standing, Standing::Stale | Standing::Orphan)).collect())
}

// === impl Site ===

impl Site<'_> {
    /// How a handler stands.
    pub fn standing(&self, handler: &Handler) -> Standing {
        let Some(own) = self.alone.handlers.get(&handler.name) else {
            return if self.is_pilot(handler) { Standing::Wrapped } else { Standing::Orphan };
        };
        let meant = match self.wanted.mode {
            Mode::Pilot => self.node.pilot(handler),
            Mode::Wrap => Some(handler),
        };
        let Some(wrapped) = meant.filter(|_| self.is_wrapped(handler)) else { return Standing::Plain };
        let untouched = self.alone.handlers.get(&wrapped.name);
        if untouched.is_some_and(|alone| alone.runtime_path == wrapped.runtime_path) {
            // By a link in front of PATH, or by somebody's own key.
            return Standing::Wrapped;
        }
        let as_today = self.starts_its_shim(own, wrapped) && self.has_its_options(own, wrapped);
        if as_today { Standing::Wrapped } else { Standing::Stale }
    }

    /// A handler as it is without us.
    pub fn own(&self, handler: &Handler) -> Handler {
        self.alone.handlers.get(&handler.name).unwrap_or(handler).clone()
    }

    /// Whether a handler is one that a pilot has made beside another.
    pub fn is_pilot(&self, handler: &Handler) -> bool {
        handler.name.strip_suffix(PILOT).is_some_and(|of| self.alone.handlers.contains_key(of))
    }

    /// Whether the wrapper that `wrapped` names would start the shim of `own`.
    fn starts_its_shim(&self, own: &Handler, wrapped: &Handler) -> bool {
        let called = wrapped.runtime_path.as_ref().and_then(|path| path.file_name());
        let known = called.and_then(|name| self.inner.get(&*name.to_string_lossy()));
        match known {
            Some(known) => self.node.real_shim(own).as_ref() == Some(known) && known.is_file(),
            // Under its own name it looks for runc's.
            None => own.is_plain_runc(),
        }
    }

    /// A pilot is a copy of what it stands beside.
    fn has_its_options(&self, own: &Handler, wrapped: &Handler) -> bool {
        if wrapped.name != pilot_of(&own.name) {
            return true;
        }
        let [meant, has] = [pilot_table(own), wrapped.table.clone()].map(|mut table| {
            table.remove("runtime_path");
            table
        });
        proof::same(&meant, &has)
    }
}

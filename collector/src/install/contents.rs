//! The new contents of files that a plan comes to: handlers in a drop-in or in the main file, and the shims behind them in shim.toml.
//!
//! Made of what the files hold now. Writes nothing; what a file would hold that holds it already is no change.

use std::path::{Path, PathBuf};

use toml::Value;
use toml_edit::{DocumentMut, Item};

use super::{
    Change, InstallFault, edit,
    effective::{Dialect, Handler},
    hook::Place,
    imports::Imports,
    plan::{Mode, Planner},
    shims::{pilot_of, pilot_table},
    text_of,
};

// === impl Planner ===

impl Planner<'_> {
    /// Everything that handlers have come to. The wrapper's own file comes first: it must know before it is called.
    pub(super) fn write(&mut self) -> Result<(), InstallFault> {
        self.write_inner()?;
        let paths = std::mem::take(&mut self.paths);
        paths.iter().for_each(|(handler, path)| self.expect(handler, path));
        let mode = self.site.wanted.mode;
        let mut written = None;
        match self.site.place.clone() {
            Ok(Place::DropIn { file, import, dialect }) if !paths.is_empty() => {
                self.write_drop_in(file.clone(), dialect, &paths)?;
                if let Some(pattern) = import {
                    self.change_main(Dialect::THREE, |doc| edit::import(doc, &pattern))?;
                }
                written = Some(file);
            }
            Ok(Place::Main) if !paths.is_empty() => self.change_main(Dialect::TWO, |doc| {
                for (handler, path) in &paths {
                    put_whole(doc, Dialect::TWO, mode, handler, path);
                }
            })?,
            // Where nothing works was asked before, handler by handler.
            _ => {}
        }
        self.take_out_orphans(written.as_deref())
    }

    fn write_drop_in(
        &mut self,
        file: PathBuf,
        dialect: Dialect,
        paths: &[(Handler, PathBuf)],
    ) -> Result<(), InstallFault> {
        let (mode, orphans) = (self.site.wanted.mode, self.orphans.clone());
        let with = |doc: &mut DocumentMut, dialect: Dialect| {
            for (handler, path) in paths {
                match mode {
                    Mode::Wrap => put_key(doc, &dialect.keys_of(&handler.name), path),
                    Mode::Pilot => {
                        // A copy, anew: of its options some may have gone.
                        edit::unset(doc, &dialect.keys_of(&pilot_of(&handler.name)));
                        put_whole(doc, dialect, mode, handler, path);
                    }
                }
            }
            orphans.iter().for_each(|orphan| unset(doc, &orphan.name));
        };
        self.change_file(file, |now| match now {
            // Handlers that an earlier installation has wrapped stay in it.
            Some(mut doc) => {
                let dialect = Dialect::below(doc.get("version").and_then(Item::as_integer));
                with(&mut doc, dialect.unwrap_or(Dialect::THREE));
                doc.to_string()
            }
            None => edit::own_file(dialect.version, |doc| with(doc, dialect)),
        })
    }

    /// Out of our files with handlers that are there by them alone; of `written` they are out already.
    fn take_out_orphans(&mut self, written: Option<&Path>) -> Result<(), InstallFault> {
        let orphans = std::mem::take(&mut self.orphans);
        if orphans.is_empty() {
            return Ok(());
        }
        let config = &self.site.node.config;
        let main = edit::parse(config, &text_of(config)?.unwrap_or_default())?;
        for file in
            Imports::of(config, &main).ours().into_iter().filter(|file| Some(file.as_path()) != written)
        {
            self.change_file(file, |now| {
                let mut doc = now.unwrap_or_default();
                orphans.iter().for_each(|orphan| unset(&mut doc, &orphan.name));
                doc.to_string()
            })?;
        }
        Ok(())
    }

    /// What containerd has to say afterwards.
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
                let keys = owned(effective.keys_of(&pilot_of(&handler.name)));
                let mut table = pilot_table(handler);
                table.insert("runtime_path".to_owned(), shown);
                self.plan.gone.push(keys.clone());
                self.plan.expected.push((keys, Value::Table(table)));
            }
        }
    }

    fn change_main(
        &mut self,
        dialect: Dialect,
        with: impl FnOnce(&mut DocumentMut),
    ) -> Result<(), InstallFault> {
        let file = self.site.node.config.clone();
        self.change_file(file, |now| {
            let mut doc = now.unwrap_or_else(|| {
                let mut doc = DocumentMut::new();
                doc.insert("version", toml_edit::value(dialect.version));
                doc
            });
            with(&mut doc);
            doc.to_string()
        })
    }

    /// Which real shim is behind which name; none where nothing is behind it any more.
    fn write_inner(&mut self) -> Result<(), InstallFault> {
        let inner = std::mem::take(&mut self.inner);
        if inner.is_empty() {
            return Ok(());
        }
        self.change_file(self.site.wanted.shim_toml.clone(), |now| {
            let mut doc = now.unwrap_or_default();
            for (name, shim) in &inner {
                match shim {
                    Some(shim) => {
                        edit::set(&mut doc, &["inner", name], shim.to_string_lossy().into_owned().into());
                    }
                    None => {
                        edit::unset(&mut doc, &["inner", name]);
                    }
                }
            }
            doc.to_string()
        })?;
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
            self.plan.changes.push(Change::Content { path, before, after });
        }
        Ok(())
    }
}

fn put_key(doc: &mut DocumentMut, handler: &[&str; 5], path: &Path) {
    let keys: Vec<&str> = handler.iter().copied().chain(["runtime_path"]).collect();
    edit::set(doc, &keys, path.to_string_lossy().into_owned().into());
}

/// In a main file: where the table is not there, what holds by default goes with it, since a table replaces its default whole.
fn put_whole(doc: &mut DocumentMut, dialect: Dialect, mode: Mode, handler: &Handler, path: &Path) {
    let (name, table) = match mode {
        Mode::Wrap => (handler.name.clone(), handler.table.clone()),
        Mode::Pilot => (pilot_of(&handler.name), pilot_table(handler)),
    };
    let keys = dialect.keys_of(&name);
    if !edit::has(doc, &keys) {
        edit::set_table(doc, &keys, &table);
    }
    put_key(doc, &keys, path);
}

/// Whatever dialect the file is in.
fn unset(doc: &mut DocumentMut, handler: &str) {
    for dialect in [Dialect::TWO, Dialect::THREE] {
        edit::unset(doc, &dialect.keys_of(handler));
    }
}

//! The `imports` of containerd's main file: which files hold after it and in which order, and where one of ours comes last.
//!
//! containerd 2.x reads the main file, then its imports from the first to the last, the files of a pattern by their names, each once;
//! what is read later wins. kata-deploy appends its file at the end of the list, or puts it into the folder of a pattern. Asks the
//! disk only which files a folder has; never reads one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml_edit::DocumentMut;

use super::edit::{self, DROP_IN, is_drop_in};

/// All of them, with the folder that relative ones are relative to.
#[derive(Debug)]
pub struct Imports {
    base: PathBuf,
    patterns: Vec<String>,
}

// === impl Imports ===

impl Imports {
    /// Of the main file at `config`.
    pub fn of(config: &Path, main: &DocumentMut) -> Self {
        let base = config.parent().unwrap_or(Path::new("/")).to_owned();
        Self { base, patterns: edit::imports(main) }
    }

    /// The folder whose files are read last: a file of ours, last by its name, says the last word. None where what is read last is
    /// no such folder.
    pub fn last_folder(&self) -> Option<PathBuf> {
        self.patterns.last().and_then(|last| self.folder(last))
    }

    /// The last of the folders, whatever is read after it.
    pub fn any_folder(&self) -> Option<PathBuf> {
        self.patterns.iter().rev().find_map(|pattern| self.folder(pattern))
    }

    /// Files of ours that are read.
    pub fn ours(&self) -> Vec<PathBuf> {
        let all = self.patterns.iter().filter_map(|pattern| self.folder(pattern));
        let mut ours: Vec<PathBuf> =
            all.map(|folder| folder.join(DROP_IN)).filter(|file| file.is_file()).collect();
        ours.sort();
        ours.dedup();
        ours
    }

    /// The same without files of ours, to be read from any place: absolute, and a folder that has one is its other files.
    pub fn without_ours(&self) -> Vec<String> {
        let mut all = Vec::new();
        for pattern in &self.patterns {
            match self.folder(pattern) {
                Some(folder) if folder.join(DROP_IN).is_file() => all.extend(others(&folder)),
                _ => all.push(self.absolute(pattern)),
            }
        }
        all
    }

    /// The folder of a pattern that means all of its files.
    fn folder(&self, pattern: &str) -> Option<PathBuf> {
        let pattern = self.absolute(pattern);
        let folder = pattern.strip_suffix("/*.toml")?;
        (!folder.contains('*')).then(|| folder.into())
    }

    fn absolute(&self, pattern: &str) -> String {
        self.base.join(pattern).display().to_string()
    }
}

/// Files of a folder that are not ours, in the order in which they are read.
fn others(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "toml"));
    let mut files: Vec<String> =
        files.filter(|path| !is_drop_in(path)).map(|path| path.display().to_string()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(config: &Path, list: &str) -> Imports {
        Imports::of(config, &edit::parse(config, &format!("imports = [{list}]\n")).expect("TOML"))
    }

    #[test]
    fn the_last_word_is_a_folder_s_only_where_nothing_comes_after_it() {
        let config = Path::new("/etc/containerd/config.toml");
        for (list, last, any) in [
            ("", None, None),
            ("'/d/*.toml'", Some("/d"), Some("/d")),
            ("'conf.d/*.toml'", Some("/etc/containerd/conf.d"), Some("/etc/containerd/conf.d")),
            ("'/d/*.toml', '/opt/kata/kata-deploy.toml'", None, Some("/d")),
            ("'/d/*.toml', '/e/*.toml'", Some("/e"), Some("/e")),
            ("'/d/*/x.toml', '/*/d/*.toml'", None, None),
        ] {
            let all = imports(config, list);
            let shown = |folder: Option<PathBuf>| folder.map(|folder| folder.display().to_string());
            assert_eq!(
                (shown(all.last_folder()).as_deref(), shown(all.any_folder()).as_deref()),
                (last, any),
                "{list}"
            );
        }
    }

    #[test]
    fn without_ours_all_others_stay_in_their_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path();
        fs::create_dir(at.join("conf.d")).expect("a folder");
        for file in ["10-a.toml", DROP_IN, "kata-deploy.toml", "note.txt"] {
            fs::write(at.join("conf.d").join(file), "").expect("a file");
        }
        let all = imports(&at.join("config.toml"), "'x.toml', 'conf.d/*.toml', '/d/*.toml'");
        assert_eq!(all.ours(), [at.join("conf.d").join(DROP_IN)]);
        let [x, a, kata] = ["x.toml", "conf.d/10-a.toml", "conf.d/kata-deploy.toml"]
            .map(|name| at.join(name).display().to_string());
        assert_eq!(all.without_ours(), [x, a, kata, "/d/*.toml".to_owned()]);
        // Ours is the last word of its folder.
        assert!(["99-operator.toml", "kata-deploy.toml"].iter().all(|other| *other < DROP_IN));
    }
}

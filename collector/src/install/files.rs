//! Files and links that an installation makes or changes: all of them, or none.
//!
//! A file is replaced by a new one beside it, with the same owner and mode, synced before it takes the name: whoever reads it
//! at any time reads the old content or the new. What fails takes back what was done before it.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{InstallFault, hook::OWN_FOLDER, read_if_there};

/// One file of the node, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Content of a file; none = it is not there.
    Content {
        /// Which.
        path: PathBuf,
        /// What it holds without us.
        before: Option<String>,
        /// What it holds with us.
        after: String,
    },
    /// A symbolic link that is not there without us.
    Link {
        /// Its own path.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
        /// The real shim that it stands before, where containerd finds it by the shim's own name.
        before: Option<PathBuf>,
        /// It is there already and leads to the real shim, for containers that an earlier installation has wrapped: a way
        /// back leaves it so.
        #[serde(skip)]
        stood: bool,
    },
}

/// How a file of the node stands to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// As without us.
    Before,
    /// As we left it.
    After,
    /// Somebody has changed it since.
    Otherwise,
}

// === impl Change ===

impl Change {
    /// Which file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Content { path, .. } | Self::Link { path, .. } => path,
        }
    }

    /// How the file stands now.
    pub fn stands(&self) -> Result<Stands, InstallFault> {
        Ok(match self {
            Self::Content { path, before, after } => {
                let now = read_if_there(path)?;
                if now.as_deref() == Some(after.as_bytes()) {
                    Stands::After
                } else if now.as_deref() == before.as_deref().map(str::as_bytes) {
                    Stands::Before
                } else {
                    Stands::Otherwise
                }
            }
            Self::Link { path, target, before, .. } => match fs::read_link(path) {
                Ok(now) if now == *target || Some(&now) == before.as_ref() => Stands::After,
                Ok(_) => Stands::Otherwise,
                Err(_) if fs::symlink_metadata(path).is_err() => Stands::Before,
                Err(_) => Stands::Otherwise,
            },
        })
    }

    /// Makes it so.
    fn make(&self) -> Result<(), InstallFault> {
        match self {
            Self::Content { path, after, .. } => put(path, Some(after)),
            Self::Link { path, target, stood: true, .. } => turn(path, target),
            Self::Link { path, target, .. } => {
                make_folder(path)?;
                symlink(target, path).map_err(|source| fault("linking", path, source))
            }
        }
    }

    /// Makes it as it was without us.
    pub fn take_back(&self) -> Result<(), InstallFault> {
        match self {
            Self::Content { path, before, .. } => {
                put(path, before.as_deref())?;
                remove_own_folder(path);
                Ok(())
            }
            Self::Link { path, before: Some(real), stood: true, .. } => turn(path, real),
            Self::Link { path, .. } => remove(path),
        }
    }
}

/// Makes an existing link lead elsewhere, without a moment in which it is not there.
pub fn turn(link: &Path, target: &Path) -> Result<(), InstallFault> {
    let beside = beside(link);
    remove(&beside)?;
    symlink(target, &beside).map_err(|source| fault("linking", &beside, source))?;
    fs::rename(&beside, link).map_err(|source| fault("replacing", link, source))
}

/// All of them; where one fails, none. `kept` is where the old contents are, for the error.
pub fn make_all(changes: &[Change], kept: &Path) -> Result<(), InstallFault> {
    for (done, change) in changes.iter().enumerate() {
        if let Err(first) = change.make() {
            let made = changes.get(..=done).unwrap_or_default();
            return Err(match take_back_all(made) {
                Ok(()) => first,
                Err(second) => not_undone(first, second, kept),
            });
        }
    }
    Ok(())
}

/// Both faults, where the way back failed as well.
pub fn not_undone(first: InstallFault, second: InstallFault, kept: &Path) -> InstallFault {
    InstallFault::NotUndone { first: Box::new(first), second: Box::new(second), kept: kept.to_owned() }
}

/// The last one first; goes on where one fails, and says which was the first to.
pub fn take_back_all(changes: &[Change]) -> Result<(), InstallFault> {
    let mut first = Ok(());
    for change in changes.iter().rev() {
        let standing = change.stands().and_then(|stands| match stands {
            Stands::Before => Ok(()),
            Stands::After | Stands::Otherwise => change.take_back(),
        });
        first = first.and(standing);
    }
    first
}

/// A file with this content, or no file.
pub fn put(path: &Path, content: Option<&str>) -> Result<(), InstallFault> {
    match content {
        Some(content) => write(path, content, Guard::AsItWas),
        None => remove(path),
    }
}

/// A file that its owner alone may read, whatever it was.
pub fn put_private(path: &Path, content: &str) -> Result<(), InstallFault> {
    write(path, content, Guard::Private)
}

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// Whoever could; where there was none, all.
    AsItWas,
    /// Its owner.
    Private,
}

fn write(path: &Path, content: &str, guard: Guard) -> Result<(), InstallFault> {
    // A link (as package managers and distributions make them) goes on being one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    make_folder(path)?;
    let beside = beside(path);
    let written = write_beside(path, &beside, content, guard);
    if written.is_err() {
        // It may not be there; the fault that counts is the first.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Takes away what somebody who was ended in the middle has left beside a file.
pub fn tidy(path: &Path) -> Result<(), InstallFault> {
    remove(&beside(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())))?;
    // That of a link, which is none of what it leads to.
    remove(&beside(path))
}

/// The name under which a file's next content is made.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".shimtap-new");
    path.with_file_name(name)
}

fn write_beside(path: &Path, beside: &Path, content: &str, guard: Guard) -> Result<(), InstallFault> {
    // What somebody who was ended in the middle has left.
    remove(beside)?;
    // Opened by nobody else before it has its mode: whoever has a file open goes on to read it.
    let file = File::options().write(true).create_new(true).mode(0o600).open(beside);
    let mut file = file.map_err(|source| fault("creating", beside, source))?;
    let as_it_was = || -> std::io::Result<()> {
        if guard == Guard::Private {
            return Ok(());
        }
        let Ok(old) = fs::metadata(path) else {
            return file.set_permissions(fs::Permissions::from_mode(0o644));
        };
        file.set_permissions(old.permissions())?;
        chown(beside, Some(old.uid()), Some(old.gid()))
    };
    as_it_was().map_err(|source| fault("giving its owner and mode to", beside, source))?;
    let stored = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    stored.map_err(|source| fault("writing", beside, source))?;
    fs::rename(beside, path).map_err(|source| fault("replacing", path, source))
}

fn remove(path: &Path) -> Result<(), InstallFault> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(fault("removing", path, source)),
        _ => Ok(()),
    }
}

/// The folder of our own drop-in goes with it; it stays where somebody has put something into it.
fn remove_own_folder(of: &Path) {
    let folder = of.parent().filter(|folder| folder.ends_with(OWN_FOLDER));
    if let Some(folder) = folder {
        // An empty folder that stays says nothing to containerd.
        let _ = fs::remove_dir(folder);
    }
}

fn make_folder(path: &Path) -> Result<(), InstallFault> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|source| fault("creating the folder", folder, source))
}

fn fault(doing: &'static str, path: &Path, source: std::io::Error) -> InstallFault {
    InstallFault::File { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: PathBuf, before: Option<&str>, after: &str) -> Change {
        Change::Content { path, before: before.map(str::to_owned), after: after.to_owned() }
    }

    #[test]
    fn what_fails_takes_back_what_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let changed = dir.path().join("a");
        fs::write(&changed, "old").unwrap();
        fs::set_permissions(&changed, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("new/link");
        let in_the_way = dir.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let changes = [
            content(changed.clone(), Some("old"), "new"),
            content(dir.path().join("made"), None, "x"),
            Change::Link { path: link.clone(), target: "/bin/true".into(), before: None, stood: false },
            content(in_the_way.join("no/folder"), None, "x"),
        ];
        let fault = make_all(&changes, dir.path()).expect_err("the last cannot be made");
        assert!(fault.to_string().contains("no"), "{fault}");
        assert_eq!(fs::read_to_string(&changed).unwrap(), "old");
        assert!(!dir.path().join("made").exists() && fs::symlink_metadata(&link).is_err());
        let good = changes.get(..3).unwrap();
        make_all(good, dir.path()).unwrap();
        assert_eq!(fs::metadata(&changed).unwrap().mode() & 0o777, 0o600);
        assert!(good.iter().all(|change| change.stands().unwrap() == Stands::After));
        take_back_all(good).unwrap();
        assert!(good.iter().all(|change| change.stands().unwrap() == Stands::Before));
        assert_eq!(fs::read_to_string(&changed).unwrap(), "old");
    }

    #[test]
    fn what_is_private_is_so_whatever_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let is = || fs::metadata(&path).unwrap().mode() & 0o777;
        put_private(&path, "new").unwrap();
        assert_eq!(is(), 0o600);
        // As an earlier release left it, with what was left in its place once.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(beside(&path), "half").unwrap();
        put_private(&path, "newer").unwrap();
        assert_eq!((is(), fs::read_to_string(&path).unwrap().as_str()), (0o600, "newer"));
        put(&path, Some("others' files keep their mode")).unwrap();
        assert_eq!(is(), 0o600);
    }

    #[test]
    fn a_link_to_a_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        make_all(&[content(link.clone(), Some("old"), "new")], dir.path()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }
}

//! Where this node's wrapper binary is: beside our own, as packages put them, or in PATH; and which files are wrappers.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The wrapper's own name, also where it is installed under others.
pub const WRAPPER: &str = "containerd-shim-tap-v2";

/// How the name of every wrapper begins, of all releases and under whatever name it was installed.
pub const ANY_WRAPPER: &str = "containerd-shim-tap-";

/// Whether a path leads to a wrapper: by the file's name, through all links, so that a package's, a copy and another release
/// count alike.
pub fn is_one(path: &Path) -> bool {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ANY_WRAPPER))
}

/// Its path; where it is not there, the folder of our own binary, for the error.
pub fn find() -> Result<PathBuf, PathBuf> {
    let own = env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(beside.clone()).chain(env::split_paths(&path));
    places.find(|dir| dir.join(WRAPPER).is_file()).map(|dir| dir.join(WRAPPER)).ok_or(beside)
}

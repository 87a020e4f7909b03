//! Where this node's wrapper binary is: beside our own, as packages put them, or in PATH.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The wrapper's own name, also where it is installed under others.
pub const WRAPPER: &str = "containerd-shim-tap-v2";

/// Its path; where it is not there, the folder of our own binary, for the error.
pub fn find() -> Result<PathBuf, PathBuf> {
    let own = env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(beside.clone()).chain(env::split_paths(&path));
    places.find(|dir| dir.join(WRAPPER).is_file()).map(|dir| dir.join(WRAPPER)).ok_or(beside)
}

//! Finding the real shim, and running it.
//!
//! In this order: shim.toml's table by the name we were invoked by; our own name (`containerd-shim-tap-<inner>-<v>` wraps
//! `containerd-shim-<inner>-<v>`, and `containerd-shim-<inner>-<v>` the next file of that same name);
//! `containerd-shim-runc-v2`. Never ourselves.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use thiserror::Error;

use crate::{config::Config, go_build};

/// In the environment of everything that a wrapper starts: a second wrapper then stands aside. Its value are the files
/// that have done so, as `device:inode` joined by commas, so that none of them is taken for the real shim.
pub const MARKER: &str = "SHIMTAP_WRAPPED";

const PREFIX: &str = "containerd-shim-";
const OWN_PREFIX: &str = "containerd-shim-tap-";
const DEFAULT: &str = "containerd-shim-runc-v2";

/// No shim to wrap.
#[derive(Debug, Error)]
pub enum NoInner {
    #[error(
        "shimtap: invoked as {invoked}, found no shim {name} beside {beside} or in PATH; install it, or name it \
         in /etc/shimtap/shim.toml under [inner]"
    )]
    NotFound { invoked: String, name: String, beside: PathBuf },
    #[error(
        "shimtap: {path}, which /etc/shimtap/shim.toml names for {invoked}, cannot be used; correct that line"
    )]
    Unusable { invoked: String, path: PathBuf, source: io::Error },
    #[error(
        "shimtap: {path}, which /etc/shimtap/shim.toml names for {invoked}, is shimtap itself; name the real shim"
    )]
    Ourselves { invoked: String, path: PathBuf },
    #[error("shimtap: cannot look at our own binary /proc/self/exe")]
    NoSelf(#[source] io::Error),
}

/// Device and inode.
type FileId = (u64, u64);

struct Own {
    /// Ourselves first, then the wrappers that started us.
    ids: Vec<FileId>,
    dir: PathBuf,
}

/// The real shim for the name in `argv[0]`.
pub fn locate(config: &Config, argv: &[OsString]) -> Result<PathBuf, NoInner> {
    let own = own().map_err(NoInner::NoSelf)?;
    let invoked = argv.first().map(Path::new).and_then(Path::file_name).unwrap_or(OsStr::new(DEFAULT));
    let invoked = invoked.to_string_lossy().into_owned();
    let search = env::var_os("PATH").unwrap_or_default();
    match config.inner.get(&invoked) {
        Some(path) if path.is_absolute() => given(path, &own, invoked),
        Some(name) => find(&name.to_string_lossy(), &own, &search, invoked.clone()),
        None => find(&inner_name(&invoked), &own, &search, invoked.clone()),
    }
}

fn own() -> io::Result<Own> {
    let path = env::current_exe()?;
    // Through the link itself: the path may name a newer file by now, or none.
    let meta = fs::metadata("/proc/self/exe")?;
    let mut ids = vec![(meta.dev(), meta.ino())];
    ids.extend(marked(&env::var(MARKER).unwrap_or_default()));
    Ok(Own { ids, dir: path.parent().unwrap_or(Path::new("/")).to_owned() })
}

/// The files that a marker names; what is no such list names none.
fn marked(marker: &str) -> impl Iterator<Item = FileId> + '_ {
    marker.split(',').filter_map(|file| {
        let (dev, ino) = file.split_once(':')?;
        Some((dev.parse().ok()?, ino.parse().ok()?))
    })
}

fn given(path: &Path, own: &Own, invoked: String) -> Result<PathBuf, NoInner> {
    match usable(path) {
        Ok(id) if own.ids.contains(&id) => Err(NoInner::Ourselves { invoked, path: path.to_owned() }),
        Ok(_) => Ok(path.to_owned()),
        Err(source) => Err(NoInner::Unusable { invoked, path: path.to_owned(), source }),
    }
}

fn find(name: &str, own: &Own, search: &OsStr, invoked: String) -> Result<PathBuf, NoInner> {
    let places = [own.dir.clone()].into_iter().chain(env::split_paths(search).filter(|p| p.is_absolute()));
    let other = |path: &PathBuf| usable(path).is_ok_and(|id| !own.ids.contains(&id));
    places.map(|dir| dir.join(name)).find(other).ok_or_else(|| NoInner::NotFound {
        invoked,
        name: name.to_owned(),
        beside: own.dir.clone(),
    })
}

fn usable(path: &Path) -> io::Result<FileId> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not an executable file"));
    }
    Ok((meta.dev(), meta.ino()))
}

/// What our own name says.
fn inner_name(invoked: &str) -> String {
    match invoked.strip_prefix(OWN_PREFIX) {
        // containerd-shim-tap-v2: no inner in the name.
        Some(rest) if !rest.contains('-') => DEFAULT.to_owned(),
        Some(rest) => format!("{PREFIX}{rest}"),
        None if invoked.starts_with(PREFIX) => invoked.to_owned(),
        None => DEFAULT.to_owned(),
    }
}

/// Is this containerd's own runc shim, of whatever release? Its name does not say so, other shims bear it too.
pub fn is_containerds_runc_shim(path: &Path) -> bool {
    let package = go_build::main_package(path).ok().flatten();
    package.is_some_and(|package| {
        let rest = package.strip_prefix("github.com/containerd/containerd/");
        matches!(rest, Some("cmd/containerd-shim-runc-v2" | "v2/cmd/containerd-shim-runc-v2"))
    })
}

/// The real shim with our arguments, environment and working directory.
pub fn command(inner: &Path, argv: &[OsString]) -> Command {
    let mut command = Command::new(inner);
    let ids = own().map(|own| own.ids).unwrap_or_default();
    let marker: Vec<String> = ids.iter().map(|(dev, ino)| format!("{dev}:{ino}")).collect();
    command.args(argv.iter().skip(1)).env(MARKER, marker.join(","));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (invoked, inner) in [
            ("containerd-shim-tap-v2", "containerd-shim-runc-v2"),
            ("containerd-shim-tap-runc-v2", "containerd-shim-runc-v2"),
            ("containerd-shim-tap-kata-qemu-v2", "containerd-shim-kata-qemu-v2"),
            ("containerd-shim-kata-v2", "containerd-shim-kata-v2"),
            ("shimtap", "containerd-shim-runc-v2"),
        ] {
            assert_eq!(inner_name(invoked), inner, "{invoked}");
        }
    }

    #[test]
    fn a_marker_names_files() {
        assert_eq!(marked("12:34,5:6").collect::<Vec<_>>(), [(12, 34), (5, 6)]);
        assert_eq!(marked("1").count() + marked("").count() + marked("a:b,:").count(), 0);
    }

    #[test]
    fn the_next_file_of_the_same_name_and_never_ourselves() {
        let dir = env::temp_dir().join(format!("shimtap-inner-{}", std::process::id()));
        let (ours, theirs) = (dir.join("a"), dir.join("b"));
        for d in [&ours, &theirs] {
            fs::create_dir_all(d).unwrap();
        }
        let name = "containerd-shim-runc-v2";
        let own_exe = env::current_exe().unwrap();
        std::os::unix::fs::symlink(&own_exe, ours.join(name)).unwrap();
        fs::copy("/bin/true", theirs.join(name)).unwrap();
        let search = env::join_paths([&ours, &theirs]).unwrap();
        let own = own().unwrap();
        assert_eq!(find(name, &own, &search, name.to_owned()).unwrap(), theirs.join(name));
        fs::remove_file(theirs.join(name)).unwrap();
        let missing = find(name, &own, &search, name.to_owned()).unwrap_err();
        assert!(missing.to_string().contains("install it"), "{missing}");
        assert!(matches!(given(&own_exe, &own, name.to_owned()), Err(NoInner::Ourselves { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}

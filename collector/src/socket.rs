//! A unix socket for our own user and root: mode 0600 from its first moment, peers checked by their uid.
//!
//! What lies at the path is replaced only where nobody answers there. A lock beside it keeps two collectors from
//! taking each other's place; the path appears by rename, so that there is never a moment without the mode.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
        net::UnixStream as Probe,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    /// The system refused a step.
    #[error("{doing} {path}: {source}; check the path and that shimtap may write there")]
    Io {
        /// The step.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody is there.
    #[error("listening on {path}: another process answers there; stop it, or choose another path")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("listening on {path}: a file that is no socket is in the way; move it")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
}

/// A bound socket.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the socket is ours.
    _lock: Flock<fs::File>,
}

// === impl UnixSocket ===

impl UnixSocket {
    /// Binds `path`; its directory is made (0700) where it is missing.
    ///
    /// # Errors
    /// See [`SocketFault`].
    pub fn bind(path: &Path) -> Result<Self, SocketFault> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| SocketFault::Io { doing, path, source }
        };
        let dir = path.parent().unwrap_or_else(|| Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("making the directory", dir))?;
        let lock_path = with_suffix(path, ".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(io("opening the lock", &lock_path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| SocketFault::InUse { path: path.to_owned() })?;
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(SocketFault::NotASocket { path: path.to_owned() });
            }
            Ok(_) if Probe::connect(path).is_ok() => {
                return Err(SocketFault::InUse { path: path.to_owned() });
            }
            _ => {}
        }
        let fresh = dir.join(format!(".{}", std::process::id()));
        // Left by a process of our number that died between two lines of this function.
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io("binding a socket beside", path))?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))
            .map_err(io("setting the mode of", &fresh))?;
        fs::rename(&fresh, path).map_err(io("putting in place", path))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// The next connection; `None` for one of another user, which is closed. Cancel-safe.
    ///
    /// # Errors
    /// accept(2) failed; it will again at once where descriptors are short, so the caller pauses.
    pub async fn accept(&self) -> io::Result<Option<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((uid == 0 || uid == geteuid().as_raw()).then_some(stream))
    }

    /// Removes the path. Connections that are open stay.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

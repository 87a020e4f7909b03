//! Around a started inner shim: find its wrapper or make one, and say its answer with our address in it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use shimtap_proto::bootstrap::{Answer, BootstrapFault};
use thiserror::Error;

use super::prepare::{DESCRIPTORS, Prepared};
use crate::{
    args::{self, Arguments},
    block::{Block, Slot},
    keeper,
    run_dir::RunDir,
    sys::{Errno, epoll, fd, monotonic_ns, process},
};

/// Another `start` holds the lock for as long as it makes a keeper, no longer. Longer than it waits for that one's worker, also on a
/// busy machine: who gave up first would leave its container unwrapped beside wrapped ones. One that hangs holds others for so long.
const LOCK_NS: u64 = 2_000_000_000;

/// Why a pod runs unwrapped. Never an error of the pod's.
#[derive(Debug, Error)]
pub enum Unwrapped {
    #[error("the inner shim's answer is of no form we know; it is handed out as it is")]
    Answer(#[from] BootstrapFault),
    #[error("the inner shim's address {0:?} is not ttrpc over a unix socket file")]
    Address(String),
    #[error("{doing} {path}; is /run full or read-only?")]
    Files { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{doing} for {key}")]
    Kernel { doing: &'static str, key: String, source: Errno },
    #[error("the wrapper {0} lives but its socket is gone; somebody has cleaned {1}")]
    SocketGone(String, PathBuf),
    #[error("this kernel does not count what the relay moves (SO_PEEK_OFF, tee); nothing is put in between")]
    Facts(#[source] Option<Errno>),
    #[error(
        "a process may have {limit} descriptors at most here and a wrapper's keeper wants {DESCRIPTORS}; raise LimitNOFILE of \
         containerd's unit"
    )]
    Descriptors { limit: u64 },
    #[error("no worker within {1} ms for {0}; the machine is overloaded or processes are refused")]
    NotReady(String, u16),
}

/// What `s/<key>.json` says: for `delete` and for people.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Description {
    /// Format of this file.
    pub version: u32,
    pub namespace: String,
    /// The id whose `start` made this wrapper.
    pub id: String,
    /// The inner shim's socket.
    pub inner_socket: PathBuf,
    pub inner_binary: PathBuf,
    /// 2 or 3.
    pub task_api: u32,
    pub keeper_pid: i32,
    /// Does the inner shim start loggers (`binary://`) in the way of containerd's runc shim? False where that is not
    /// certain.
    #[serde(default)]
    pub starts_loggers: bool,
    /// What the inner shim's linker called its build; empty where it has no name.
    #[serde(default)]
    pub inner_build: String,
}

/// The answer to hand out instead of `answer`.
pub fn wrap(
    arguments: &Arguments,
    inner: &Path,
    ready_ms: u16,
    answer: &[u8],
    prepared: Result<Prepared, Unwrapped>,
) -> Result<Vec<u8>, Unwrapped> {
    let answer = Answer::parse(answer)?;
    let inner_socket = answer.unix_path().ok_or_else(|| Unwrapped::Address(answer.address().to_owned()))?;
    let prepared = prepared?;
    let run_dir = prepared.run_dir.clone();
    let (key, meta) = RunDir::key_of(Path::new(inner_socket))
        .map_err(files("looking at the inner shim's socket", Path::new(inner_socket)))?;
    let _lock = lock(&run_dir, &key)?;
    let alive = open_private(&run_dir.alive(&key))?;
    match fd::try_lock(alive.as_fd()) {
        // Held by keeper and worker for as long as either lives: this pod is wrapped already.
        Ok(false) => {
            let socket = run_dir.socket(&key);
            if !socket.exists() {
                return Err(Unwrapped::SocketGone(key, socket));
            }
        }
        Err(source) => return Err(Unwrapped::Kernel { doing: "locking", key, source }),
        Ok(true) => {
            let who = Who {
                key: &key,
                arguments,
                inner,
                inner_socket,
                inner_id: (meta.dev(), meta.ino()),
                task_api: answer.version(),
                ready_ms,
            };
            make_keeper(&who, prepared, &alive).inspect_err(|_| keeper::remove_files(&run_dir, &key))?;
        }
    }
    let ours = format!("unix://{}", run_dir.socket(&key).display());
    rename_address(answer.address(), &ours);
    Ok(answer.with_address(&ours))
}

/// Everything a new keeper has to be told that was not prepared.
struct Who<'a> {
    key: &'a str,
    arguments: &'a Arguments,
    inner: &'a Path,
    inner_socket: &'a str,
    inner_id: (u64, u64),
    task_api: u32,
    ready_ms: u16,
}

pub(super) fn files(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Unwrapped + use<> {
    let path = path.to_owned();
    move |source| Unwrapped::Files { doing, path, source }
}

fn open_private(path: &Path) -> Result<File, Unwrapped> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(files("opening the lock", path))
}

/// Two racing `start`s end with one keeper.
pub(super) fn lock(run_dir: &RunDir, key: &str) -> Result<Flock<File>, Unwrapped> {
    let path = run_dir.lock(key);
    let mut file = open_private(&path)?;
    let deadline = monotonic_ns().saturating_add(LOCK_NS);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if monotonic_ns() < deadline => file = back,
            Err((_, source)) => {
                return Err(Unwrapped::Kernel {
                    doing: "waiting for another start",
                    key: path.display().to_string(),
                    source,
                });
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn make_keeper(who: &Who<'_>, prepared: Prepared, alive: &File) -> Result<(), Unwrapped> {
    let kernel = |doing| move |source| Unwrapped::Kernel { doing, key: who.key.to_owned(), source };
    let Prepared { run_dir, block, ready: (ready_out, ready_in), starts_loggers, inner_build } = prepared;
    let listener = listen(&run_dir.socket(who.key))?;
    identify(who, &block).map_err(kernel("writing the memory block"))?;
    for (slot, fd) in [(Slot::LISTENER, listener.as_fd()), (Slot::ALIVE, alive.as_fd())] {
        block.tables().note_held(slot, fd).map_err(kernel("writing the memory block"))?;
    }
    let argv = args::ours(keeper::VERB, &who.arguments.namespace, &who.arguments.id);
    let env = [(keeper::ENV_BLOCK, block.memfd()), (keeper::ENV_READY, ready_in.as_fd())]
        .map(|(name, fd)| (name.to_owned(), fd.as_raw_fd().to_string()));
    let inherit = [listener.as_fd(), alive.as_fd(), block.memfd(), ready_in.as_fd()];
    // The keeper inherits it. Not before: the inner shim, which has begun by now, has taken its own from this process.
    process::be_easier_to_spare();
    let keeper = process::spawn_self(&argv, &env, &inherit).map_err(kernel("starting the keeper"))?;
    drop(ready_in);
    // While it begins; where it does not come up this is removed with the rest.
    describe(who, &run_dir, (starts_loggers, inner_build), keeper.as_raw());
    if !is_ready(&ready_out, who.ready_ms) {
        // Keeper and worker are one process group; the inner shim is in neither.
        // (Both calls: it may not have got as far as having its own group.)
        let _ = nix::sys::signal::killpg(keeper, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL);
        return Err(Unwrapped::NotReady(who.key.to_owned(), who.ready_ms));
    }
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener, Unwrapped> {
    // Only ours: the key names one inner socket, and its lock is free, so this is what a dead wrapper left.
    let _ = fs::remove_file(path);
    let doing = "listening on";
    let listener = UnixListener::bind(path).map_err(files(doing, path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(files(doing, path))?;
    listener.set_nonblocking(true).map_err(files(doing, path))?;
    Ok(listener)
}

fn is_ready(pipe: &OwnedFd, patience_ms: u16) -> bool {
    let mut byte = [0u8; 1];
    epoll::readable_within(pipe.as_fd(), patience_ms) == Ok(true)
        && nix::unistd::read(pipe, &mut byte) == Ok(1)
}

/// Writes what the inner shim's answer says of this wrapper; ENAMETOOLONG where a name does not fit.
fn identify(who: &Who<'_>, block: &Block) -> Result<(), Errno> {
    let identity = &block.tables().identity;
    identity.task_api.store(who.task_api, Ordering::Relaxed);
    identity.inner_dev.store(who.inner_id.0, Ordering::Relaxed);
    identity.inner_ino.store(who.inner_id.1, Ordering::Relaxed);
    let fits = identity.key.set(who.key) && identity.inner_path.set(who.inner_socket);
    if fits { Ok(()) } else { Err(Errno::ENAMETOOLONG) }
}

/// Without it only the repair after a death of both is missing.
fn describe(who: &Who<'_>, run_dir: &RunDir, (starts_loggers, inner_build): (bool, String), keeper_pid: i32) {
    let description = Description {
        version: 1,
        namespace: who.arguments.namespace.clone(),
        id: who.arguments.id.clone(),
        inner_socket: PathBuf::from(who.inner_socket),
        inner_binary: who.inner.to_owned(),
        task_api: who.task_api,
        keeper_pid,
        starts_loggers,
        inner_build,
    };
    if let Ok(text) = serde_json::to_vec_pretty(&description) {
        let _ = write_atomically(&run_dir.description(who.key), &text);
    }
}

/// The bundle's `address` file, where the inner shim wrote one: containerd 1.6 and 1.7 reconnect to what it names.
fn rename_address(inner: &str, ours: &str) {
    let path = Path::new("address");
    if fs::read_to_string(path).is_ok_and(|text| text.trim() == inner.trim()) {
        let _ = write_atomically(path, ours.as_bytes());
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".shimtap-new");
    let next = PathBuf::from(name);
    fs::write(&next, bytes)?;
    fs::rename(&next, path)
}

//! The command line of the stand-in: `start`, `delete`, `-info`, `-v`, and the daemon behind them.
//!
//! Kept to what containerd relies on: `start` has bound the socket before it answers, nothing but the answer
//! reaches stdout or stderr, and the daemon holds neither. What kind of answer it is, is told by the environment:
//!
//! | variable | values |
//! |---|---|
//! | `STANDIN_DIR` | where sockets and journals live (needed) |
//! | `STANDIN_ANSWER` | `plain` (default), `plain-newline`, `json`, `protobuf`, `truncated`, `garbage`, `empty`, `grpc`, `abstract`, `fail` |
//! | `STANDIN_API` | versions of the task service, `2` (default), `3`, or `2,3` |
//! | `STANDIN_VERSION` | the version that an answer names, though it be not served; by default the highest served |
//! | `STANDIN_CONFIDENTIAL` | with any value: the host may not look into the guest |
//! | `STANDIN_HYPERVISOR` | which hypervisor it has on this host: none (default), `qemu`, `cloud-hypervisor`, `firecracker` |
//! | `STANDIN_GUEST` | what the guest of a task without a script counts, as JSON (`kata::guest`); none by default |
//! | `STANDIN_NETWORK` | the network namespace (a file) that its hypervisor is in; the host's by default |
//! | `STANDIN_OOM` | a file: the container whose id a test writes into it is killed for want of memory (`kata::oom`); none by default |
//! | `STANDIN_PROFILE` | whose Stats it gives: `runc` (default), `kata-go-v1`, `kata-go-v2`, `kata-rust` |

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{ErrorKind, Read, Write, stdin, stdout},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use containerd_shim_protos::{
    api::DeleteResponse,
    bootstrap_api::BootstrapResult,
    protobuf::{Message, well_known_types::timestamp::Timestamp},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};

use super::{
    journal::{self, Journal, Verb},
    kata::{Profile, household, run_files},
    serve,
};

/// The annotation by which CRI names the pod, and shims group.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// What the command line said.
#[derive(Debug, Default)]
struct Flags {
    namespace: String,
    address: String,
    id: String,
    action: String,
}

impl Flags {
    fn parse(args: &[String]) -> Self {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().unwrap_or_default();
            match arg.trim_start_matches('-') {
                "namespace" if arg.starts_with('-') => flags.namespace = value(),
                "address" if arg.starts_with('-') => flags.address = value(),
                "id" if arg.starts_with('-') => flags.id = value(),
                "publish-binary" | "bundle" | "socket" if arg.starts_with('-') => drop(value()),
                "info" | "v" if arg.starts_with('-') => flags.action.clone_from(arg),
                _ if arg.starts_with('-') => {}
                _ => flags.action.clone_from(arg),
            }
        }
        flags
    }
}

/// Runs the verb that the command line names; without one, serves the listener found on stdin.
///
/// # Errors
/// Whatever keeps the verb from being carried out; the caller prints it, as shims do.
pub fn run() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let flags = Flags::parse(&args);
    if flags.action.ends_with("-info")
        && let Some(answer) = kata_info()?
    {
        // Asked by whoever finds it, in whatever environment.
        return Ok(stdout().write_all(&answer)?);
    }
    let dir = PathBuf::from(env::var_os("STANDIN_DIR").context("STANDIN_DIR is not set")?);
    match flags.action.as_str() {
        "" => {
            let journal = Arc::new(Journal::open(&dir, journal::REQUESTS)?);
            let listener = stdin().as_fd().try_clone_to_owned().context("listener on stdin")?;
            let socket = PathBuf::from(env::var_os("STANDIN_SOCKET").context("STANDIN_SOCKET is not set")?);
            serve::serve(listener, &apis()?, journal, vec![socket])
        }
        "start" => start(&args, &flags, &dir),
        "delete" => {
            enter(&args, &dir)?;
            if env::var_os(household::KEY).is_some() {
                run_files::remove(&flags.id, Profile::of_env()?);
            }
            let seconds =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let at = Timestamp { seconds: i64::try_from(seconds)?, ..Default::default() };
            let answer =
                DeleteResponse { exit_status: 137, exited_at: Some(at).into(), ..Default::default() };
            Ok(stdout().write_all(&answer.write_to_bytes()?)?)
        }
        "-info" | "--info" => {
            enter(&args, &dir)?;
            let info = RuntimeInfo { name: "standin".to_owned(), ..Default::default() };
            Ok(stdout().write_all(&info.write_to_bytes()?)?)
        }
        "-v" | "--v" => Ok(writeln!(stdout(), "containerd-shim-standin-v2:\n  Version: 1")?),
        other => bail!("unknown action {other:?}"),
    }
}

/// What Kata's shims answer to `-info`, of a stand-in that was installed under their name: its release stands in a file
/// `release` beside it. The Rust shim's answer has an annotation that the Go shim's has not.
fn kata_info() -> Result<Option<Vec<u8>>> {
    let path = env::current_exe().context("own executable")?;
    if !path.file_name().is_some_and(|name| name.to_string_lossy().contains("kata")) {
        return Ok(None);
    }
    let release = fs::read_to_string(path.with_file_name("release")).unwrap_or_else(|_| "4.1.0".to_owned());
    let version = RuntimeVersion { version: release.trim().to_owned(), ..Default::default() };
    let mut info = RuntimeInfo {
        name: "io.containerd.kata.v2".to_owned(),
        version: Some(version).into(),
        ..Default::default()
    };
    if path.to_string_lossy().contains("/runtime-rs/") {
        let mounts = "mkdir/*,format/*,erofs".to_owned();
        info.annotations.insert("containerd.io/runtime-allow-mounts".to_owned(), mounts);
    }
    Ok(Some(info.write_to_bytes()?))
}

fn apis() -> Result<Vec<u32>> {
    let text = env::var("STANDIN_API").unwrap_or_else(|_| "2".to_owned());
    text.split(',').map(|v| v.parse().with_context(|| format!("STANDIN_API {text:?}"))).collect()
}

/// Books a verb with everything it was given.
fn enter(args: &[String], dir: &Path) -> Result<()> {
    let mut input = Vec::new();
    stdin().read_to_end(&mut input).context("stdin")?;
    let verb = Verb {
        pid: std::process::id(),
        argv: args.to_vec(),
        cwd: env::current_dir().context("working directory")?.display().to_string(),
        stdin_bytes: input.len().try_into()?,
        stdin_hash: journal::hash(&input),
        env: env::vars().collect(),
    };
    Journal::open(dir, journal::VERBS)?.append(&verb)
}

fn start(args: &[String], flags: &Flags, dir: &Path) -> Result<()> {
    enter(args, dir)?;
    let form = env::var("STANDIN_ANSWER").unwrap_or_else(|_| "plain".to_owned());
    if form == "fail" {
        bail!("stand-in was told to fail");
    }
    let group = group(flags)?;
    // The Rust shim's hash is in upper case (seen), Go's in lower.
    let name =
        if Profile::of_env()? == Profile::Rust { format!("{group:016X}") } else { format!("{group:016x}") };
    let socket = dir.join(name + ".sock");
    if let Some(listener) = bind(&socket)? {
        let pid = daemonise(args, listener, &socket)?;
        fs::write(dir.join(format!("{pid}.pid")), &flags.id).context("pid file")?;
        if Profile::of_env()? != Profile::Runc {
            // Into the sandbox's bundle alone (seen; kata.md 1.1 of both).
            fs::write("shim.pid", pid.to_string()).context("shim.pid in the bundle")?;
        }
    }
    let address = format!("unix://{}", socket.display());
    if form.starts_with("plain") {
        fs::write("address", &address).context("address file in the bundle")?;
    }
    let version = match env::var("STANDIN_VERSION") {
        Ok(text) => text.parse().with_context(|| format!("STANDIN_VERSION {text:?}"))?,
        Err(_) => apis()?.into_iter().max().unwrap_or(2),
    };
    Ok(stdout().write_all(&answer(&form, &address, version)?)?)
}

/// The socket's name depends on what the runc shim hashes: containerd's address, namespace and pod (or id).
fn group(flags: &Flags) -> Result<u64> {
    let config = fs::read("config.json").context("config.json of the bundle")?;
    let config: serde_json::Value = serde_json::from_slice(&config).context("config.json of the bundle")?;
    let pod = config.get("annotations").and_then(|a| a.get(SANDBOX)).and_then(|s| s.as_str());
    let mut hasher = DefaultHasher::new();
    (&flags.address, &flags.namespace, pod.unwrap_or(&flags.id)).hash(&mut hasher);
    Ok(hasher.finish())
}

/// A listener, or none where somebody listens already. Probes by connecting and hanging up, as runc's does.
fn bind(socket: &Path) -> Result<Option<OwnedFd>> {
    let bound = UnixListener::bind(socket);
    match bound {
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(socket).is_ok() {
                return Ok(None);
            }
            fs::remove_file(socket).context("stale socket")?;
            Ok(Some(UnixListener::bind(socket).context("binding again")?.into()))
        }
        other => Ok(Some(other.with_context(|| format!("binding {}", socket.display()))?.into())),
    }
}

/// Runs this binary again as the daemon: own process group, no part of containerd's pipe, listener on stdin.
/// Gives its pid, which is on file before anybody can be told the address.
fn daemonise(args: &[String], listener: OwnedFd, socket: &Path) -> Result<u32> {
    let args = args.iter().filter(|a| a.as_str() != "start");
    let daemon = Command::new(env::current_exe().context("own executable")?)
        .args(args)
        .env("STANDIN_SOCKET", socket)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting the daemon")?;
    Ok(daemon.id())
}

/// The bytes that `start` prints for an address, in the form asked for.
fn answer(form: &str, address: &str, version: u32) -> Result<Vec<u8>> {
    let protobuf = || -> Result<Vec<u8>> {
        let result = BootstrapResult {
            version: version.try_into()?,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        };
        Ok(result.write_to_bytes()?)
    };
    let json = |protocol: &str| {
        serde_json::json!({"version": version, "address": address, "protocol": protocol})
            .to_string()
            .into_bytes()
    };
    Ok(match form {
        "plain" => address.as_bytes().to_vec(),
        "plain-newline" => format!("{address}\n").into_bytes(),
        "json" => json("ttrpc"),
        "protobuf" => protobuf()?,
        "truncated" => protobuf()?.into_iter().take(12).collect(),
        "garbage" => b"\xff\xfe\x00 stand-in: no address \x1b[0m".to_vec(),
        "empty" => Vec::new(),
        "grpc" => json("grpc"),
        "abstract" => b"/standin/abstract/socket@".to_vec(),
        other => bail!("STANDIN_ANSWER {other:?} is not known"),
    })
}

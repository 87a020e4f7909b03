//! What Kata's shims keep below /run for a sandbox: its state, the socket of shim-monitor, and the hypervisor's own sockets.
//!
//! Nobody but the shim may use the latter, and of shim-monitor one read ends the pod: so whatever comes to any of them is in the
//! journal before it has an effect. Rust: `/run/kata/ID` as it was captured (`collector/tests/fixtures/kata/state.json`) and seen.
//! Go: as it was read in release 4.1.0, `virtcontainers/persist/api` and `virtcontainers/fs.go` (both of which change as they like).

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    Profile,
    household::{self, Hypervisor},
};
use crate::standin::{
    journal::{Entry, Journal, Kind},
    serve::give_up,
};

/// The variable that says, with any value, that the host may not look into the guest.
pub const CONFIDENTIAL: &str = "STANDIN_CONFIDENTIAL";
const SHARE: &str = "/opt/kata/share/kata-containers";
/// Another sandbox's end may just have taken the folder away in which this one's is to be.
const TRIES: u32 = 500;

/// Folders of one sandbox, which go with it; those of a shim that was killed stay until its `delete`.
#[derive(Debug)]
pub struct RunFiles {
    folders: Vec<PathBuf>,
}

impl RunFiles {
    /// Makes them, and answers at the sockets.
    ///
    /// # Errors
    /// A folder, file or socket cannot be made.
    pub fn make(
        sandbox: &str,
        profile: Profile,
        hypervisor: Hypervisor,
        journal: &Arc<Journal>,
    ) -> Result<Self> {
        let folders = folders(sandbox, profile);
        for folder in &folders {
            made(folder)?;
        }
        let files = Self { folders };
        let [state, vm] = files.folders.as_slice() else { bail!("this shim has no folders of Kata's") };
        // `crates/persist`: written once, at the start. `virtcontainers/persist/fs`: mode 0600.
        let (name, text) = match profile {
            Profile::Rust => ("state.json", rust_state(sandbox, hypervisor)),
            _ => ("persist.json", go_state(sandbox, hypervisor)),
        };
        let path = state.join(name);
        fs::write(&path, text.to_string()).context("Kata's state")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("Kata's state")?;
        let ends_by_metrics =
            profile == Profile::Rust && matches!(hypervisor, Hypervisor::Qemu | Hypervisor::Firecracker);
        let answer = move |what: &str, mut peer: UnixStream| {
            if what == "GET /metrics" && ends_by_metrics {
                // hypervisor/src/qemu/inner.rs:816 is `todo!()`, as is Firecracker's, and the panic hook calls abort() (seen: an
                // empty reply, and hypervisor and virtiofsd live on).
                let _no_core = nix::sys::prctl::set_dumpable(false);
                process::abort();
            }
            let (status, body) = match what {
                // No content type (seen).
                "GET /metrics" => ("200 OK", "kata_agent_scrape_count 1\n".to_owned()),
                "GET /agent-url" => ("200 OK", "hvsock:///run/kata/root/kata.hvsock:1024".to_owned()),
                _ => ("404 Not Found", "URL NOT FOUND".to_owned()),
            };
            let _gone = write!(peer, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        };
        listen(&state.join("shim-monitor.sock"), journal, answer)?;
        // QMP has one client, which is the shim; so has the console.
        for name in ["qmp.sock", "console.sock"] {
            listen(&vm.join(name), journal, |_, _| {})?;
        }
        Ok(files)
    }

    /// Takes them away, as a shim does at its own end.
    pub fn remove(&self) {
        for folder in self.folders.iter().rev() {
            let _gone = fs::remove_dir_all(folder);
        }
    }
}

/// What a `delete` takes away of a sandbox whose shim was killed (seen).
pub fn remove(sandbox: &str, profile: Profile) {
    RunFiles { folders: folders(sandbox, profile) }.remove();
}

/// The state's, then the hypervisor's.
fn folders(sandbox: &str, profile: Profile) -> Vec<PathBuf> {
    let all: &[&str] = match profile {
        Profile::Rust => &["/run/kata/ID", "/run/kata/ID/root"],
        Profile::Go(_) => &["/run/vc/sbs/ID", "/run/vc/vm/ID"],
        Profile::Runc => &[],
    };
    all.iter().map(|path| PathBuf::from(path.replace("ID", sandbox))).collect()
}

fn made(folder: &Path) -> Result<()> {
    let mut tries = 0;
    while let Err(why) = fs::create_dir_all(folder) {
        tries += 1;
        if tries == TRIES {
            return Err(why).with_context(|| format!("making {}", folder.display()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // Seen of the Rust shim's.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o750)).context("Kata's folder")
}

/// As captured, as far as anybody may rely on it: pids are not in it.
fn rust_state(sandbox: &str, hypervisor: Hypervisor) -> Value {
    json!({
        "hypervisor": {
            "hypervisor_type": hypervisor.word(),
            "config": {
                "confidential_guest": std::env::var_os(CONFIDENTIAL).is_some(),
                "default_memory": 384,
                "image": "",
                "initrd": format!("{SHARE}/kata-initrd.img"),
                "kernel": format!("{SHARE}/vmlinux"),
            },
            "pid": null,
            "virtiofs_daemon_pid": 0,
        },
        "resource": {"cgroup_state": {"path": format!("shimtap/{sandbox}"), "sandbox_cgroup_only": true}},
        "sandbox_type": "virt_container",
    })
}

/// `SandboxState` of `virtcontainers/persist/api/sandbox.go`, as far as anybody may rely on it. Whether the guest is confidential is not
/// in it (`persist.go`, `dumpConfig`).
fn go_state(sandbox: &str, hypervisor: Hypervisor) -> Value {
    json!({
        "PersistVersion": 2,
        "SandboxContainer": sandbox,
        "SandboxCgroupPath": format!("shimtap/kata_{sandbox}"),
        "OverheadCgroupPath": format!("kata_overhead/{sandbox}"),
        "HypervisorState": {"Type": if hypervisor == Hypervisor::Cloud { "clh" } else { hypervisor.word() }, "HotpluggedMemory": 128},
        "Config": {
            "SandboxCgroupOnly": false,
            "HypervisorConfig": {
                "MemorySize": 2048,
                "InitrdPath": format!("{SHARE}/kata-initrd.img"),
                "KernelPath": format!("{SHARE}/vmlinux.container"),
            },
        },
    })
}

/// Says in the journal what comes to this socket, then answers.
fn listen(
    path: &Path,
    journal: &Arc<Journal>,
    answer: impl Fn(&str, UnixStream) + Send + 'static,
) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let journal = Arc::clone(journal);
    let serve = move || {
        for peer in listener.incoming().flatten() {
            // Who only connects has touched it too.
            let _late = peer.set_read_timeout(Some(household::LOOK * 10));
            let mut line = String::new();
            let _nothing = BufReader::new(&peer).read_line(&mut line);
            let what = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            let mut entry = Entry::new(Kind::Touched, 0);
            (entry.service, entry.method) = (name.clone(), what.clone());
            if let Err(why) = journal.append(&entry) {
                give_up(&why);
            }
            answer(&what, peer);
        }
    };
    thread::Builder::new().name(format!("at-{}", path.display())).spawn(serve).context("a thread")?;
    Ok(())
}

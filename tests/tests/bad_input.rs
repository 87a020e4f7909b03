//! What the wrapper meets on a machine that is not well: no room, no right to write, a wrong configuration,
//! something else in the collector's place. The container runs all the same.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shimtap_tests::on_each_containerd;
use shimtap_tests::rig::cri::Wanted;
use shimtap_tests::rig::{Hook, Node, Setup, Shim, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(
    run_dir_is_read_only,
    run_dir_is_full,
    run_dir_is_a_file,
    run_dir_fills_up_under_a_running_pod,
    wrong_configuration,
    an_inner_shim_that_is_not_there,
    collector_never_answers,
    collector_talks_nonsense,
);

/// A file system of its own, gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(options: &str, flags: MsFlags) -> Result<Tmpfs> {
        let number = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("a number")?;
        let path = Path::new("/run").join(format!("shimtap-{}", number.get(..8).unwrap_or("x")));
        std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options)).context("mount a tmpfs")?;
        Ok(Tmpfs(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(fault) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {fault}", self.0.display());
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A container says its word and ends.
const WORD: [&str; 3] = ["sh", "-c", "echo word; exit 3"];

/// It does so, and is heard.
fn runs_well(node: &Node, id: &str) -> Result<()> {
    let said = node.run(id, &WORD)?;
    ensure!(said.code == 3 && said.stdout == b"word\n", "{said:?}");
    Ok(())
}

/// The same where the wrapper has to stay out: what containerd itself loses of short containers is lost again ([`Node::complete`]).
fn runs_unwrapped(node: &Node, id: &str) -> Result<()> {
    let said = node.run(id, &WORD)?;
    let is_heard = said.stdout == b"word\n" || said.stdout.is_empty();
    ensure!(said.code == 3 && is_heard, "{said:?}");
    Ok(())
}

fn on_bad_run_dir(version: Version, dir: &Path) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run_dir(dir).run(|node| {
        for id in ["a", "b"] {
            runs_unwrapped(node, id)?;
        }
        node.run_detached("c", &["sleep", "1000"])?;
        ensure!(node.wrappers("tap-keeper")?.is_empty(), "a keeper lives without a place to live in");
        ensure!(node.exec("c", &["sh", "-c", "exit 7"])?.code == 7, "exec");
        node.remove("c")
    })
}

fn run_dir_is_read_only(version: Version) -> Result<()> {
    let tmpfs = Tmpfs::new("size=64k", MsFlags::MS_RDONLY)?;
    on_bad_run_dir(version, &tmpfs.0)
}

fn run_dir_is_full(version: Version) -> Result<()> {
    // One inode, and the root folder has it.
    let tmpfs = Tmpfs::new("size=4k,nr_inodes=1", MsFlags::empty())?;
    on_bad_run_dir(version, &tmpfs.0)
}

fn run_dir_is_a_file(version: Version) -> Result<()> {
    let tmpfs = Tmpfs::new("size=64k", MsFlags::empty())?;
    let file = tmpfs.0.join("file");
    std::fs::write(&file, "not a folder").context("write a file")?;
    on_bad_run_dir(version, &file)
}

/// The first container of the pod is wrapped; for the second there is no room to make FIFOs.
fn run_dir_fills_up_under_a_running_pod(version: Version) -> Result<()> {
    let tmpfs = Tmpfs::new("size=256k,nr_inodes=64", MsFlags::empty())?;
    Setup::new(version, Shim::Wrapped(Hook::Opt)).run_dir(&tmpfs.0).run(|node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("p")?;
        let sleeper = Wanted { name: "first", command: &["sleep", "1000"], ..Wanted::default() };
        let first = cri.run(&pod, &sleeper)?;
        let filler = (0..64).map(|number| tmpfs.0.join(format!("filler{number}")));
        let made: Vec<PathBuf> = filler.take_while(|path| std::fs::write(path, "").is_ok()).collect();
        ensure!(made.len() < 64, "it cannot be filled");
        let command = ["sh", "-c", "echo word; exit 3"];
        let second = cri.run(&pod, &Wanted { name: "second", command: &command, ..Wanted::default() })?;
        ensure!(cri.await_exit(&second)?.exit_code == 3, "the second container's exit status");
        ensure!(cri.exec(&first, &["sh", "-c", "exit 7"], 10)?.exit_code == 7, "exec in the first");
        for path in made {
            std::fs::remove_file(path).context("make room again")?;
        }
        cri.remove_pod(&pod)
    })
}

fn wrong_configuration(version: Version) -> Result<()> {
    for text in ["this is no TOML [", "[tee]\nno_such_key = 1\n", "[stats]\ninterval_ms = \"often\"\n"] {
        let setup = Setup::new(version, Shim::Wrapped(Hook::Path)).shim_toml(text);
        setup.run(|node| runs_well(node, "a")).with_context(|| format!("with {text:?}"))?;
    }
    // A folder in its place cannot be read by anybody.
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        std::fs::remove_file(node.dir().join("shim.toml")).context("take the file away")?;
        std::fs::create_dir(node.dir().join("shim.toml")).context("put a folder there")?;
        runs_well(node, "a")
    })
}

/// The one line that does stop containers: never is another shim taken than the one that is named (ADR 0021). What runs goes on,
/// and the next start after the line is right goes through.
fn an_inner_shim_that_is_not_there(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        node.run_detached("lives", &["sleep", "1000"])?;
        let path = node.dir().join("shim.toml");
        let name = node.wrapper().file_name().context("it has a name")?.to_string_lossy().into_owned();
        std::fs::write(&path, format!("[inner]\n\"{name}\" = \"/no/such/shim\"\n")).context("shim.toml")?;
        let refused = node.run("refused", &["true"])?;
        let says = ["/no/such/shim", &name, "cannot be used; correct that line"];
        let told = says.iter().all(|part| refused.stderr.contains(part));
        ensure!(refused.code != 0 && told, "{refused:?}");
        ensure!(node.exec("lives", &["sh", "-c", "exit 7"])?.code == 7, "what runs goes on");
        std::fs::write(&path, "").context("shim.toml")?;
        runs_well(node, "again")?;
        node.remove("lives")
    })
}

/// Puts a listener where the collector should be.
fn stand_in(node: &Node) -> Result<UnixListener> {
    let socket = node.collector_socket();
    let dir = socket.parent().context("the socket has no folder")?;
    std::fs::create_dir_all(dir).context("create the collector's folder")?;
    let listener = UnixListener::bind(&socket).context("listen in the collector's place")?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).context("chmod")?;
    Ok(listener)
}

fn speaks_well(node: &Node, id: &str) -> Result<()> {
    let said = node.run(id, &["speaker", "lines=50000", "batch=20", "exit=3"])?;
    ensure!(said.code == 3, "{} {}", said.code, said.stderr);
    node.complete(&said.stdout, &shimtap_tests::line::tape(1, 50_000, 64))
}

fn collector_never_answers(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        let listener = stand_in(node)?;
        speaks_well(node, "unaccepted")?;
        // The same with somebody who takes the connection and then says nothing.
        listener.set_nonblocking(true).context("do not wait for connections")?;
        let mut mute = Vec::new();
        let client = node.run_beside("mute", &["--rm"], &["speaker", "lines=3000", "rate=1000", "exit=3"])?;
        eventually(LIMIT, "the wrapper to connect", || {
            mute.extend(listener.accept().ok());
            Ok((!mute.is_empty()).then_some(()))
        })?;
        let said = client.finish(LIMIT)?;
        ensure!(said.code == 3, "{} {}", said.code, said.stderr);
        node.complete(&said.stdout, &shimtap_tests::line::tape(1, 3000, 64))
    })
}

fn collector_talks_nonsense(version: Version) -> Result<()> {
    Setup::new(version, Shim::Wrapped(Hook::Path)).run(|node| {
        let listener = stand_in(node)?;
        std::thread::spawn(move || {
            // Ends with the process, or when the socket's folder is gone and nobody can connect any more.
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { break };
                let _ = connection.write_all(&[0xff; 4096]);
                let _ = connection.write_all(b"\x00\x00\x00\x04\x00\x00\x00\x01\x02\x00\xff\xff\xff\xff");
            }
        });
        for id in ["a", "b", "c"] {
            speaks_well(node, id)?;
        }
        Ok(())
    })
}

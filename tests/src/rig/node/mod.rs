//! One private containerd: started, killed, restarted, and gone without a trace at the end.
//!
//! Everything lies in one folder with a short path (a unix socket's has 106 bytes at most). All its
//! processes carry the rig's mark. Dropping a node ends them and removes the folder, whatever happened.

mod end;
mod setup;

pub use setup::{PATIENT, Setup};

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::rig::collector::{Collector, spool_dir};
use crate::rig::config::{Layout, cni_conflist, containerd_toml};
use crate::rig::cri::Cri;
use crate::rig::process::{self, MARK};
use crate::rig::seed::Seed;
use crate::rig::tools::{self, Tools};
use crate::rig::{Foreign, Hook, Shim, eventually, image};

/// How long a daemon may take to answer its first call, on a busy machine with two cores.
const START: Duration = Duration::from_secs(60);

/// The containerd namespaces of what `ctr` runs; a node holds one for itself. runc keeps its containers by namespace and id
/// for the whole machine, so that two nodes with one namespace could not both have a container `a`.
const NAMESPACES: [&str; 4] = ["rig-0", "rig-1", "rig-2", "rig-3"];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running node.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    tools: Tools,
    mark: String,
    dir: PathBuf,
    wrapper: PathBuf,
    daemon: Mutex<Option<Child>>,
    collector: Mutex<Option<Collector>>,
    cri: OnceLock<Cri>,
    /// (namespace, id) of every shim that may have been started, to know their sockets.
    ids: Mutex<Vec<(String, String)>>,
    namespace: &'static str,
    _locks: [Flock<fs::File>; 2],
}

impl Node {
    fn start(setup: Setup) -> Result<Node> {
        ensure!(nix::unistd::geteuid().is_root(), "a private containerd needs root: run `sudo ./dev test`");
        let tools = setup.version.tools()?;
        let wrapper = match setup.shim {
            Shim::Unwrapped => PathBuf::new(),
            Shim::Wrapped(_) => tools::wrapper()?,
        };
        // Nodes share the machine, except one that measures time, which has it alone.
        let share = if setup.alone { FlockArg::LockExclusive } else { FlockArg::LockShared };
        let lock = lock("rig", share)?;
        let (namespace, namespace_lock) = free_namespace()?;
        let mark = format!("st{}", unique());
        let dir = Path::new("/run").join(&mark);
        let node = Node {
            setup,
            tools,
            mark,
            dir,
            wrapper,
            daemon: Mutex::new(None),
            collector: Mutex::new(None),
            cri: OnceLock::new(),
            ids: Mutex::new(Vec::new()),
            namespace,
            _locks: [lock, namespace_lock],
        };
        node.lay_out()?;
        if node.setup.collector {
            node.start_collector()?;
        }
        node.start_seeded()?;
        Ok(node)
    }

    /// The containerd namespace of what `ctr` runs here.
    pub fn namespace(&self) -> &'static str {
        self.namespace
    }

    /// Starts the daemon with the images in place, importing them where nobody has done it before.
    fn start_seeded(&self) -> Result<()> {
        let archive = image::archive().context("build the image")?;
        let seed = Seed::of(&self.tools, &archive)?;
        let root = self.dir.join("root");
        if !seed.plant(&root)? {
            self.start_daemon()?;
            for namespace in self.namespaces().into_iter().chain(["k8s.io"]) {
                self.import(namespace, &archive)?;
            }
            self.stop_daemon(Signal::SIGTERM)?;
            seed.keep(&root)?;
        }
        self.start_daemon()
    }

    /// Those that need the images in the seed. In an emulated machine tests run one after the other (`Suite::of_test`), so that only
    /// this node's is ever held, and an import takes many seconds.
    fn namespaces(&self) -> Vec<&'static str> {
        if std::env::var_os(image::READY).is_some() { vec![self.namespace] } else { NAMESPACES.into() }
    }

    fn lay_out(&self) -> Result<()> {
        for dir in ["bin", "opt/bin", "cni", "fifo", "logs", "host", "w"] {
            let path = self.dir.join(dir);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        match self.setup.shim {
            Shim::Wrapped(Hook::Name) => {
                symlink(&self.wrapper, self.dir.join("bin/containerd-shim-tap-runc-v2"))
                    .context("put the hook")?;
            }
            Shim::Wrapped(Hook::Opt) => {
                let hook = self.dir.join("opt/bin/containerd-shim-runc-v2");
                symlink(&self.wrapper, hook).context("put the hook")?;
            }
            Shim::Unwrapped | Shim::Wrapped(Hook::Path) => {}
        }
        if let Some(text) = &self.setup.shim_toml {
            fs::write(self.dir.join("shim.toml"), text).context("write shim.toml")?;
        }
        fs::write(self.dir.join("cni/10-rig.conflist"), cni_conflist(&self.dir)).context("write CNI's")?;
        if let Some(foreign) = &self.setup.foreign {
            self.lay_out_foreign(foreign)?;
        }
        let layout = Layout {
            dir: &self.dir,
            wrapper: &self.wrapper,
            runtime_lines: &self.setup.runtime_lines,
            foreign: self.setup.foreign.as_ref(),
        };
        let text = containerd_toml(&self.tools, self.setup.shim, &layout);
        fs::write(self.dir.join("containerd.toml"), text).context("write containerd.toml")
    }

    /// Puts a shim that is not containerd's own where containerd finds it, what it needs beside it, and the wrapper in front.
    fn lay_out_foreign(&self, foreign: &Foreign) -> Result<()> {
        let bin = self.dir.join("bin");
        symlink(&foreign.program, bin.join(foreign.file(""))).context("put the shim")?;
        if self.is_wrapped() {
            symlink(&self.wrapper, bin.join(foreign.file("tap-"))).context("put the hook")?;
        }
        for program in &foreign.beside {
            let name = program.file_name().context("a program has no name")?;
            symlink(program, bin.join(name)).context("put a program beside the shim")?;
        }
        Ok(())
    }

    /// The shim that is not containerd's own.
    pub(crate) fn foreign(&self) -> Option<&Foreign> {
        self.setup.foreign.as_ref()
    }

    /// Starts the daemon on what the last one left, and waits until it answers.
    pub fn start_daemon(&self) -> Result<()> {
        let log =
            fs::File::options().create(true).append(true).open(self.log_path()).context("open its log")?;
        let mut command = Command::new(&self.tools.containerd);
        command.arg("--config").arg(self.dir.join("containerd.toml"));
        self.environment(&mut command);
        // Ctrl-C at a terminal is for us; we end it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate the log")?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.tools.containerd.display()))?;
        *locked(&self.daemon) = Some(child);
        eventually(START, "containerd to answer", || {
            if let Some(child) = locked(&self.daemon).as_mut() {
                let ended = child.try_wait().context("ask for containerd's exit")?;
                ensure!(ended.is_none(), "containerd ended with {ended:?}\n{}", self.log_tail());
            }
            let ready = std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
                && self.ctr(&["namespaces", "ls", "-q"]).is_ok_and(|said| said.code == 0);
            Ok(ready.then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Environment of everything that belongs to this node.
    pub(crate) fn environment(&self, command: &mut Command) {
        let shims = self.tools.runc_shim.parent().unwrap_or(Path::new("/usr/bin"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", self.dir.join("bin").display(), shims.display());
        command
            .env("PATH", path)
            .env(MARK, &self.mark)
            .env("SHIMTAP_RUN_DIR", self.run_dir())
            .env("SHIMTAP_COLLECTOR", self.collector_socket())
            .env("SHIMTAP_SPOOL_DIR", self.spool_dir())
            .env("SHIMTAP_CONFIG", self.dir.join("shim.toml"))
            .env_remove("NOTIFY_SOCKET");
    }

    /// Ends the daemon with `signal` and waits for it; pods live on.
    pub fn stop_daemon(&self, with: Signal) -> Result<()> {
        let mut child = locked(&self.daemon).take().context("containerd does not run")?;
        let pid = i32::try_from(child.id()).context("a pid")?;
        process::signal(pid, with)?;
        let ended = eventually(START, "containerd to end", || child.try_wait().context("ask for its exit"));
        if ended.is_err() {
            child.kill().context("kill containerd")?;
            child.wait().context("wait for containerd")?;
        }
        ended.map(|_| ())
    }

    /// Sends the daemon a signal that it outlives, as SIGSTOP and SIGCONT.
    pub fn signal_daemon(&self, with: Signal) -> Result<()> {
        let pid = locked(&self.daemon).as_ref().context("containerd does not run")?.id();
        process::signal(i32::try_from(pid).context("a pid")?, with)
    }

    /// SIGKILL and start anew: what an update of the package or a crash does.
    pub fn restart(&self) -> Result<()> {
        self.stop_daemon(Signal::SIGKILL)?;
        self.start_daemon()
    }

    /// Where spool files of this node are.
    pub fn spool_dir(&self) -> PathBuf {
        spool_dir(&self.mark)
    }

    /// Starts the collector.
    pub fn start_collector(&self) -> Result<()> {
        let collector = Collector::start(&self.dir, &self.mark, &self.setup.told)?;
        *locked(&self.collector) = Some(collector);
        Ok(())
    }

    /// Does something with the collector that runs.
    pub fn collector<T>(&self, what: impl FnOnce(&mut Collector) -> Result<T>) -> Result<T> {
        what(locked(&self.collector).as_mut().context("this node has no collector")?)
    }

    /// Takes the collector away, to be stopped and read by the caller.
    pub fn take_collector(&self) -> Result<Collector> {
        locked(&self.collector).take().context("this node has no collector")
    }

    fn import(&self, namespace: &str, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the image's path is no UTF-8")?;
        let said = self.ctr_in(namespace, &["images", "import", archive])?;
        said.ok().with_context(|| format!("import the image into {namespace}")).map(|_| ())
    }

    /// The CRI client.
    pub fn cri(&self) -> Result<&Cri> {
        if let Some(cri) = self.cri.get() {
            return Ok(cri);
        }
        let cri = Cri::connect(&self.socket(), &self.mark, &self.dir.join("logs"))?;
        cri.await_image(image::IMAGE)?;
        cri.await_image(image::PAUSE)?;
        Ok(self.cri.get_or_init(|| cri))
    }

    /// Notes a container, so that its shim's socket is known.
    pub fn note(&self, namespace: &str, id: &str) {
        let noted = (namespace.to_owned(), id.to_owned());
        let mut ids = locked(&self.ids);
        if !ids.contains(&noted) {
            ids.push(noted);
        }
    }

    /// The last lines of containerd's log, for a message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("loading plugin")).collect();
        let from = lines.len().saturating_sub(25);
        format!("containerd's log ends:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }

    /// What containerd has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    /// The folder of this node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A folder that containers see as `/host` where they ask for it.
    pub fn host_dir(&self) -> PathBuf {
        self.dir.join("host")
    }

    /// Where the wrapper keeps its files.
    pub fn run_dir(&self) -> PathBuf {
        self.setup.run_dir.clone().unwrap_or_else(|| self.dir.join("w"))
    }

    /// Where the collector listens for wrappers.
    pub fn collector_socket(&self) -> PathBuf {
        self.dir.join("col/collector.sock")
    }

    /// Its mark, which is also the cgroup that its containers live in.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Its containerd's programs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// With which shim it runs containers.
    pub fn shim(&self) -> Shim {
        self.setup.shim
    }

    /// Demands that a client got what an init process wrote: `expected`, or, where nothing of ours is there to prevent it, as
    /// much of it as containerd itself lets through: old clients lose tails ([`Tools::loses_tails`]), and every one gives up a
    /// FIFO that it is still about to open when a short container has ended (seen with 2.3.4, all of stderr).
    pub fn complete(&self, got: &[u8], expected: &[u8]) -> Result<()> {
        let lets_through = got.is_empty() || self.tools.loses_tails();
        let forgiven = !self.is_wrapped() && lets_through && expected.starts_with(got);
        ensure!(
            got == expected || forgiven,
            "{} bytes written, {} arrived; they differ from byte {} on",
            expected.len(),
            got.len(),
            expected.iter().zip(got).take_while(|(a, b)| a == b).count()
        );
        Ok(())
    }

    /// Whether the wrapper is in front.
    pub fn is_wrapped(&self) -> bool {
        self.setup.shim != Shim::Unwrapped
    }

    /// The wrapper's binary.
    pub fn wrapper(&self) -> &Path {
        &self.wrapper
    }
}

/// A lock whatever became of its last holder: who fails a test must still be able to end its node.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A word that no other caller on this machine gets.
pub(crate) fn unique() -> String {
    format!("{:x}-{:x}", std::process::id(), number())
}

/// A number that no other caller of this process gets.
pub(crate) fn number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The first namespace that no node on this machine holds; where each is held, the last one when it becomes free.
fn free_namespace() -> Result<(&'static str, Flock<fs::File>)> {
    let [rest @ .., last] = NAMESPACES;
    for namespace in rest {
        if let Ok(lock) = lock(&format!("rig.{namespace}"), FlockArg::LockExclusiveNonblock) {
            return Ok((namespace, lock));
        }
    }
    Ok((last, lock(&format!("rig.{last}"), FlockArg::LockExclusive)?))
}

/// Keeps those away who measure time and have the machine alone, for as long as the answer is held: for a program that makes a
/// node of its own and is given a time.
pub fn share_machine() -> Result<impl Send> {
    lock("rig", FlockArg::LockShared)
}

/// Locks one of the rig's names on this machine; the kernel forgets it with the process.
fn lock(name: &str, how: FlockArg) -> Result<Flock<fs::File>> {
    let path = format!("/run/shimtap-{name}.lock");
    let file = fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {path}"))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno).with_context(|| format!("lock {path}"))
}

//! The processes that a Kata sandbox has on its host beside its shim: a hypervisor with vCPU threads, and two of virtiofsd; and
//! what it keeps below /run (`run_files`).
//!
//! They inherit the Rust shim's listening socket, as real ones do (seen: a dead shim's address still connects, and nobody answers;
//! here it is their descriptor 0). They are this stand-in's own binary under other names, with the arguments that were seen of real ones (QEMU) or read
//! (Cloud Hypervisor). They work a little, rest, and outlive their shim as real ones do; where the stand-in's directory is gone
//! they end, so that no test leaves them behind.

use std::{
    env, fs,
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Profile,
    run_files::{self, RunFiles},
};
use crate::standin::journal::Journal;

/// The variable that names the hypervisor to have: `qemu`, `cloud-hypervisor` or `firecracker`; without it there is none.
pub const KEY: &str = "STANDIN_HYPERVISOR";
/// The variable that names a network namespace (a file) for the hypervisor, which is where Kata's shims have theirs (read); without
/// it that is the host's.
pub const NETWORK: &str = "STANDIN_NETWORK";
/// Where the processes look whether they are still wanted.
const HOME: &str = "STANDIN_HOME";
/// What each vCPU works before it rests.
pub const WORK: Duration = Duration::from_millis(50);
/// vCPUs of a hypervisor.
pub const VCPUS: u64 = 2;
/// How often it is looked who is there.
pub const LOOK: Duration = Duration::from_millis(100);

/// What was started for a sandbox.
#[derive(Debug)]
pub struct Household {
    vmm: Child,
    files: Child,
    run: RunFiles,
}

/// Which hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// QEMU.
    Qemu,
    /// Cloud Hypervisor.
    Cloud,
    /// Firecracker.
    Firecracker,
}

impl Hypervisor {
    fn of_env() -> Result<Option<Self>> {
        let Ok(word) = env::var(KEY) else { return Ok(None) };
        let all = [Self::Qemu, Self::Cloud, Self::Firecracker];
        let known = all.into_iter().find(|one| one.word() == word);
        if known.is_none() {
            bail!("{KEY} {word:?} is not known");
        }
        Ok(known)
    }

    /// Its name in the Rust shim's state, and here.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Cloud => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }
}

impl Household {
    /// Starts it where the environment asks for one, for a shim of Kata's.
    ///
    /// # Errors
    /// A process, file or socket cannot be made.
    pub fn start(sandbox: &str, profile: Profile, journal: &Arc<Journal>) -> Result<Option<Self>> {
        let Some(hypervisor) = Hypervisor::of_env()?.filter(|_| profile != Profile::Runc) else {
            return Ok(None);
        };
        let dir = &PathBuf::from(env::var_os("STANDIN_DIR").context("STANDIN_DIR is not set")?);
        let run = RunFiles::make(sandbox, profile, hypervisor, journal)?;
        let (below, files) = match profile {
            Profile::Rust => (format!("/run/kata/{sandbox}/root"), "virtiofsd.sock"),
            _ => (format!("/run/vc/vm/{sandbox}"), "vhost-fs.sock"),
        };
        let socket = format!("{below}/{files}");
        let files = ["--socket-path", &socket, "--cache", "auto"].map(str::to_owned).to_vec();
        let (name, arguments) = arguments(sandbox, hypervisor, &below);
        let inherit = profile == Profile::Rust;
        let network = env::var_os(NETWORK).map(PathBuf::from);
        let files = spawn(dir, "virtiofsd", files, inherit, None)?;
        Ok(Some(Self { files, vmm: spawn(dir, name, arguments, inherit, network.as_deref())?, run }))
    }

    /// The hypervisor's number, which is every task's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.vmm.id()
    }

    /// Ends it, as a shim does at its own end.
    pub fn end(&mut self) {
        for child in [&mut self.vmm, &mut self.files] {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        self.run.remove();
    }
}

/// The name of its program, and what it is run with.
fn arguments(sandbox: &str, hypervisor: Hypervisor, below: &str) -> (&'static str, Vec<String>) {
    let share = "/opt/kata/share/kata-containers";
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match hypervisor {
        Hypervisor::Qemu => {
            let name = format!("sandbox-{sandbox},debug-threads=on");
            let qmp = format!("unix:path={below}/qmp.sock,server=on,wait=off");
            let (kernel, initrd) = (format!("{share}/vmlinux-6.12.42"), format!("{share}/kata-initrd.img"));
            // `enableProtection` of both shims' QEMU drivers (read).
            let confidential = env::var_os(run_files::CONFIDENTIAL).is_some();
            let machine = if confidential { "q35,confidential-guest-support=tdx" } else { "q35" };
            let all = [
                &["-name", &name, "-m", "416M,slots=10,maxmem=24105M", "-smp", "2,cores=1", "-qmp", &qmp][..],
                &["-machine", machine, "-kernel", &kernel, "-initrd", &initrd],
            ];
            ("qemu-system-x86_64", words(&all.concat()))
        }
        Hypervisor::Cloud => {
            let socket = format!("{below}/ch-api.sock");
            let all =
                ["--api-socket", &socket, "--memory", "size=436207616,shared=on", "--cpus", "boot=2,max=8"];
            ("cloud-hypervisor", words(&all))
        }
        Hypervisor::Firecracker => {
            let socket = format!("{below}/fc.sock");
            ("firecracker", words(&["--id", sandbox, "--api-sock", &socket]))
        }
    }
}

/// Does the process of that number live? One that has ended and was not waited for does not.
#[must_use]
pub fn is_there(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// `inherit`: it has the shim's listening socket too, which is this process's descriptor 0.
fn spawn(
    dir: &Path,
    name: &str,
    arguments: Vec<String>,
    inherit: bool,
    network: Option<&Path>,
) -> Result<Child> {
    let bin = dir.join("kata-bin");
    fs::create_dir_all(&bin).context("a folder for the household")?;
    let path = bin.join(name);
    if !path.exists() {
        linked(&env::current_exe().context("own executable")?, &path)?;
    }
    let mut command = match network {
        // It becomes what it runs: the child's number is the hypervisor's.
        Some(network) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", network.display())).arg(&path);
            command
        }
        None => Command::new(&path),
    };
    command
        .args(arguments)
        .env(HOME, dir)
        .stdin(if inherit { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", path.display()))
}

/// The program `from` under another name: a file of its own, so that /proc shows that name.
///
/// # Errors
/// It can neither be linked nor copied.
pub fn linked(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Is this process one of a household, by the name that it was run as? Then that is what it does.
#[must_use]
pub fn ran() -> bool {
    let run_as = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = run_as.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(home) = env::var_os(HOME).map(PathBuf::from) else { return false };
    match name {
        "virtiofsd" if env::args().any(|word| word == "--child") => {
            let parent = parent_id();
            rest(|| home.exists() && parent_id() == parent);
        }
        "virtiofsd" => {
            let child = Command::new(&run_as).args(env::args_os().skip(1)).arg("--child").spawn();
            rest(|| home.exists());
            if let Ok(mut child) = child {
                let _gone = child.wait();
            }
        }
        "qemu-system-x86_64" => vcpus(&home, |n| format!("CPU {n}/KVM")),
        "cloud-hypervisor" => vcpus(&home, |n| format!("vcpu{n}")),
        "firecracker" => vcpus(&home, |n| format!("fc_vcpu {n}")),
        _ => return false,
    }
    true
}

fn vcpus(home: &Path, name: impl Fn(u64) -> String) {
    for n in 0..VCPUS {
        let work = || {
            let until = Instant::now() + WORK;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            loop {
                thread::park();
            }
        };
        let _named = thread::Builder::new().name(name(n)).spawn(work);
    }
    rest(|| home.exists());
}

/// Until nobody needs it any more.
fn rest(wanted: impl Fn() -> bool) {
    while wanted() {
        thread::sleep(LOOK);
    }
}

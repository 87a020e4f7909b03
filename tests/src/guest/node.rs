//! The guest as a node: our programs where a package would put them, its own containerd as a unit, configured as a
//! Kubernetes node is (systemd cgroups), with the wrapper in front of the runc shim.
//!
//! It changes the machine that it runs on, and puts nothing back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::oracle::{Tapes, sink};
use crate::rig::cri::Cri;
use crate::rig::image::{self, IMAGE, PAUSE};
use crate::rig::node::PATIENT;
use crate::rig::run::{Finished, run};
use crate::rig::tools::Tools;
use crate::rig::vm::kubeadm::containerd_toml;
use crate::rig::vm::plan::PAYLOAD;
use crate::rig::{Version, collector, eventually, tools};

/// For anything on an emulated machine, whose host may be busy: a patience, no promise.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The socket of the node's containerd.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
const LINES: &str = "/var/log/shimtap/lines.jsonl";

/// Runs `systemctl WORDS`.
pub fn systemctl(words: &[&str]) -> Result<Finished> {
    let mut command = Command::new("systemctl");
    command.args(words);
    run(command, LIMIT)?.ok().with_context(|| format!("systemctl {words:?}"))
}

/// One property of a unit.
pub fn property(unit: &str, name: &str) -> Result<String> {
    Ok(systemctl(&["show", "--value", "--property", name, unit])?.text().trim().to_owned())
}

/// Puts our programs, the unit and a configuration in place, and starts the collector with the file sink.
pub fn start_collector() -> Result<()> {
    start_collector_told(&format!("[file]\npath = \"{LINES}\"\n"))
}

/// The same with these sections.
pub fn start_collector_told(sections: &str) -> Result<()> {
    for program in [tools::wrapper()?, tools::collector()?] {
        let to = Path::new("/usr/bin").join(program.file_name().context("a program without a name")?);
        if !to.exists() {
            fs::copy(&program, &to).with_context(|| format!("install {}", to.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        }
    }
    // A sample each second: nobody has to wait ten for one.
    write("/etc/shimtap/collector.toml", &format!("{sections}[stats]\ninterval_secs = 1\n"))?;
    let unit = fs::read_to_string(Path::new(PAYLOAD).join("packaging/shimtap.service"));
    write("/etc/systemd/system/shimtap.service", &unit.context("read our unit")?)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", "shimtap.service"])?;
    eventually(LIMIT, "the collector to be ready", || Ok(get("/readyz").ok().map(drop)))
}

/// Starts the node's containerd in that version, with nothing of an earlier one, and connects to its CRI.
pub fn start_containerd(version: Version) -> Result<Cri> {
    let tools = version.tools()?;
    systemctl(&["stop", "containerd.service"])?;
    write("/etc/containerd/config.toml", &containerd_toml(&tools))?;
    // Beside the wrapper lies the distribution's shim, which an administrator with another containerd has to overrule.
    let inner = format!("[inner]\n\"containerd-shim-runc-v2\" = \"{}\"\n", tools.runc_shim.display());
    write("/etc/shimtap/shim.toml", &format!("{PATIENT}{inner}"))?;
    let shims = tools.runc_shim.parent().context("the shim has no folder")?;
    let drop_in = format!(
        "[Service]\nExecStart=\nExecStart={}\nEnvironment=PATH={}:/usr/sbin:/usr/bin:/sbin:/bin\n",
        tools.containerd.display(),
        shims.display()
    );
    write("/etc/systemd/system/containerd.service.d/version.conf", &drop_in)?;
    // Whatever another check has left there: an uninstallation leaves a link to the shim of containers that live on.
    let hook = Path::new("/opt/containerd/bin/containerd-shim-runc-v2");
    fs::create_dir_all("/opt/containerd/bin").context("create the hook's folder")?;
    if fs::symlink_metadata(hook).is_ok() {
        fs::remove_file(hook).context("remove an earlier hook")?;
    }
    symlink("/usr/bin/containerd-shim-tap-v2", hook).context("put the hook")?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", "containerd.service"])?;
    connect(&tools)
}

/// Connects to the CRI of the node's containerd, which then has the containers' images: those of an earlier one stay in its root,
/// and an import takes many seconds here.
pub fn connect(tools: &Tools) -> Result<Cri> {
    let logs = Path::new("/var/log/pods").join(tools.release.to_string());
    let cri = Cri::connect(Path::new(SOCKET), "rig.slice", &logs)?;
    if !(cri.has_image(IMAGE)? && cri.has_image(PAUSE)?) {
        import(tools, "k8s.io")?;
    }
    cri.await_image(IMAGE)?;
    cri.await_image(PAUSE)?;
    Ok(cri)
}

/// Imports the containers' images for the clients of a namespace.
pub fn import(tools: &Tools, namespace: &str) -> Result<()> {
    let mut import = Command::new(&tools.ctr);
    import.args(["-a", SOCKET, "-n", namespace, "images", "import"]).arg(image::archive()?);
    run(import, LIMIT)?.ok().context("import the image").map(drop)
}

/// Pid of a container's first process.
pub fn pid_of(version: Version, id: &str) -> Result<i32> {
    let mut ctr = Command::new(version.tools()?.ctr);
    ctr.args(["-a", SOCKET, "-n", "k8s.io", "tasks", "ls"]);
    let list = run(ctr, LIMIT)?.ok().context("list the tasks")?.text();
    let rows = list.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row =
        rows.into_iter().find(|row| row.first() == Some(&id)).with_context(|| format!("no task {id}"))?;
    row.get(1).and_then(|pid| pid.parse().ok()).context("a task without a pid")
}

/// What the collector's file holds.
pub fn lines() -> Result<Tapes> {
    sink(Path::new(LINES))
}

/// Body of `GET path` from the collector.
pub fn get(path: &str) -> Result<String> {
    collector::get("127.0.0.1:9851", path)
}

/// Writes a file, and makes its folder.
pub fn write(path: &str, text: &str) -> Result<()> {
    let path = PathBuf::from(path);
    fs::create_dir_all(path.parent().context("a file without a folder")?)
        .with_context(|| format!("create the folder of {}", path.display()))?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

//! What a private containerd is told: the configuration file of each release line, and where the wrapper
//! is put in.
//!
//! Keys that differ between releases stand here and nowhere else.

use std::path::{Path, PathBuf};

use crate::rig::image::PAUSE;
use crate::rig::tools::Tools;

/// With which shim a node runs its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// containerd's own runc shim: the truth that everything is compared with.
    Unwrapped,
    /// Ours in front of it.
    Wrapped(Hook),
}

/// How containerd is made to start the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// By its path: `ctr run --runtime /path`, `runtime_path` under CRI.
    Path,
    /// By a name that containerd finds in PATH: `io.containerd.tap-runc.v2`.
    Name,
    /// As `containerd-shim-runc-v2` in the folder of the opt plugin, in front of the real one.
    Opt,
}

/// A shim that is not containerd's own, behind the wrapper or without it. Its hook is its name, whatever the other hooks are.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// As containerd knows it: `runsc.v1` of `io.containerd.runsc.v1`.
    pub name: &'static str,
    /// The shim.
    pub program: PathBuf,
    /// Programs that it looks for in PATH.
    pub beside: Vec<PathBuf>,
}

impl Foreign {
    /// The file that containerd looks for, here with a word in front of the shim's name.
    pub fn file(&self, front: &str) -> String {
        format!("containerd-shim-{front}{}", self.name.replace('.', "-"))
    }

    /// What containerd is told to run, with `shim`.
    pub fn runtime(&self, shim: Shim) -> String {
        let front = if shim == Shim::Unwrapped { "" } else { "tap-" };
        format!("io.containerd.{front}{}", self.name)
    }
}

/// Where one containerd has its things.
#[derive(Debug)]
pub struct Layout<'a> {
    /// The rig's folder.
    pub dir: &'a Path,
    /// The wrapper's binary; used by `Hook::Path` under CRI.
    pub wrapper: &'a Path,
    /// More lines of CRI's runtime handler.
    pub runtime_lines: &'a str,
    /// Another shim than containerd's own.
    pub foreign: Option<&'a Foreign>,
}

/// The configuration file for `tools` with `shim`.
pub fn containerd_toml(tools: &Tools, shim: Shim, at: &Layout<'_>) -> String {
    let by_path = format!("runtime_path = \"{}\"", at.wrapper.display());
    let (kind, path) = match shim {
        Shim::Wrapped(Hook::Path) => ("io.containerd.runc.v2", by_path.as_str()),
        Shim::Wrapped(Hook::Name) => ("io.containerd.tap-runc.v2", ""),
        Shim::Unwrapped | Shim::Wrapped(Hook::Opt) => ("io.containerd.runc.v2", ""),
    };
    let foreign = at.foreign.map(|foreign| foreign.runtime(shim));
    let (kind, path) = foreign.as_deref().map_or((kind, path), |kind| (kind, ""));
    // A handler called runc has options by default, which come in a form that the runc shim does not take as
    // soon as the type is not its own.
    let by_name = shim == Shim::Wrapped(Hook::Name) || foreign.is_some();
    let handler = if by_name { "tap" } else { "runc" };
    let table = if tools.is_v2() { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
    let runtime = format!(
        "[plugins.\"{table}\".containerd]\ndefault_runtime_name = \"{handler}\"\n\
         [plugins.\"{table}\".containerd.runtimes.{handler}]\nruntime_type = \"{kind}\"\n{path}\n{}\
         pod_annotations = [\"shimtap.io/*\"]\n",
        at.runtime_lines
    );
    let rest = if tools.is_v2() { of_2(at.dir, &runtime) } else { of_1(at.dir, &runtime) };
    let version = if tools.is_v2() { 3 } else { 2 };
    format!("version = {version}\n{}{rest}", of_all(at.dir))
}

/// The network of pods that have one of their own: a pair of interfaces and an address. Subnets differ by process, since their
/// routes are the machine's.
pub fn cni_conflist(dir: &Path) -> String {
    let (high, low) = (std::process::id() / 250 % 50 + 200, std::process::id() % 250);
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "rig",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "subnet": format!("10.{high}.{low}.0/24"),
                "dataDir": dir.join("cni-kept"),
            },
        }],
    });
    network.to_string()
}

/// What both lines have in common.
fn of_all(dir: &Path) -> String {
    let dir = dir.display();
    let unused = [
        "io.containerd.snapshotter.v1.btrfs",
        "io.containerd.snapshotter.v1.zfs",
        "io.containerd.snapshotter.v1.devmapper",
        "io.containerd.snapshotter.v1.aufs",
        "io.containerd.snapshotter.v1.blockfile",
        "io.containerd.snapshotter.v1.erofs",
        "io.containerd.nri.v1.nri",
        "io.containerd.tracing.processor.v1.otlp",
    ];
    format!(
        r#"root = "{dir}/root"
state = "{dir}/state"
oom_score = 0
disabled_plugins = {unused:?}
[grpc]
address = "{dir}/c.sock"
[ttrpc]
address = "{dir}/c.sock.ttrpc"
[debug]
level = "info"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
"#
    )
}

/// containerd 2: sockets in a folder of our own, CRI in three plugins.
fn of_2(dir: &Path, runtime: &str) -> String {
    let dir = dir.display();
    format!(
        r#"[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{dir}/s"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
conf_dir = "{dir}/cni"
{runtime}
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
"#
    )
}

/// containerd 1.6 and 1.7.
fn of_1(dir: &Path, runtime: &str) -> String {
    let dir = dir.display();
    format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_tcp_service = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"
{runtime}
"#
    )
}

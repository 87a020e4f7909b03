//! containerd's configuration on a node of Kubernetes: as kubeadm's documentation has it, with the paths of Debian's packages.
//!
//! With a root of its own for each release, since one may run after the other on the same machine.

use crate::rig::image::PAUSE;
use crate::rig::tools::Tools;

/// containerd's main file for this release of it.
pub fn containerd_toml(tools: &Tools) -> String {
    let root = format!("/var/lib/containerd-{}", tools.release);
    let cri = if tools.is_v2() { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
    let runc = format!(
        "[plugins.\"{cri}\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"{cri}\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
    );
    if tools.is_v2() {
        format!(
            "version = 3\nroot = \"{root}\"\n\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{PAUSE}\"\n\
             [plugins.\"{cri}\".cni]\nbin_dirs = [\"/usr/lib/cni\"]\n{runc}"
        )
    } else {
        format!(
            "version = 2\nroot = \"{root}\"\n[plugins.\"{cri}\"]\nsandbox_image = \"{PAUSE}\"\n\
             [plugins.\"{cri}\".cni]\nbin_dir = \"/usr/lib/cni\"\n{runc}"
        )
    }
}

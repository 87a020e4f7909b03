//! Two pods that a collector knows: `web`, a real one of runc under containerd, and `vm`, a stand-in for one of Kata's, both with
//! a container `app` in the namespace `rig`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shimtap_tests::{
    rig::{
        Node,
        cri::{self, Wanted},
        eventually,
    },
    standin::{
        client::{
            kata::wrapped_as_kata,
            pod::{Fifos, Pod},
            sandbox::{self, Sandbox},
        },
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        script::Script,
    },
};

const LIMIT: Duration = Duration::from_secs(60);

/// What the containers are limited to; `web` shows its own, `vm` what its spec says.
pub const QUOTA_US: i64 = 20_000;
/// Memory likewise.
pub const MEMORY_BYTES: i64 = 64 << 20;

/// A pod in a VM with this name, one of `shim`'s; its container writes what `script` says.
pub fn in_a_vm(node: &Node, pod: &str, shim: Profile, guest: &Guest, script: Script) -> Result<Pod> {
    let script = Script { guest: Some(guest.clone()), ..script };
    let started = wrapped_as_kata(&format!("{pod}-app"), shim, &script, &node.collector_socket())?;
    for (key, value) in specification(pod, &format!("sandbox-of-{pod}"), guest) {
        started.specify(key, value)?;
    }
    Ok(started)
}

/// A pod in a VM with this name, of the Rust shim, with all that it has on its host: state, hypervisor, virtiofsd, and a cgroup.
pub fn with_its_household(node: &Node, pod: &str, guest: &Guest) -> Result<Sandbox> {
    let script = Script { guest: Some(guest.clone()), ..Script::stayer() };
    let mut wanted = sandbox::Wanted { name: pod, script, ..sandbox::Wanted::default() };
    wanted.spec = specification(pod, &wanted.id(), guest);
    let mut sandbox = wanted.run(&node.collector_socket())?;
    sandbox.confine("qemu-system-x86_64")?;
    Ok(sandbox)
}

/// A pod in a VM on a network of its own: a sandbox whose hypervisor is in it, and a container `app` beside that sandbox's own.
#[derive(Debug)]
pub struct Networked {
    /// The sandbox.
    pub sandbox: Sandbox,
    _app: Fifos,
}

/// The same of `shim`, with this name; `app` does what `script` says. Its shim says that it is of a release that may be asked
/// often.
pub fn with_a_network(
    node: &Node,
    pod: &str,
    shim: Profile,
    network: &Path,
    script: &Script,
) -> Result<Networked> {
    let pause = Script { guest: Some(Guest::idle(Cgroup::V2)), ..Script::stayer() };
    let mut wanted = sandbox::Wanted {
        name: pod,
        profile: shim,
        network: Some(network),
        script: pause,
        ..sandbox::Wanted::default()
    };
    let id = wanted.id();
    let annotations = json!({
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": id,
        "io.kubernetes.cri.sandbox-namespace": "rig",
        "io.kubernetes.cri.sandbox-name": pod,
    });
    let namespaces = json!([{ "type": "network", "path": network }]);
    wanted.spec = vec![("annotations", annotations), ("linux", json!({ "namespaces": namespaces }))];
    let sandbox = wanted.run(&node.collector_socket())?;
    let guest = script.guest.clone().unwrap_or_default();
    let app = sandbox.pod.run_beside(&format!("{id}-app"), script, &specification(pod, &id, &guest))?;
    Ok(Networked { sandbox, _app: app })
}

impl Networked {
    /// Ends `app`, and then the sandbox: a shim stays as long as it has a container.
    pub fn end(self) -> Result<()> {
        let pod = &self.sandbox.pod;
        pod.end_beside(&format!("{}-app", pod.id))?;
        self.sandbox.end()
    }
}

/// As CRI says whose container it is, and what it may have.
fn specification(pod: &str, sandbox: &str, guest: &Guest) -> Vec<(&'static str, Value)> {
    let annotations = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": sandbox,
        "io.kubernetes.cri.sandbox-namespace": "rig",
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.image-name": "docker.io/library/web:1",
    });
    let limits = json!({
        "cpu": { "quota": QUOTA_US, "period": 100_000, "shares": 256 },
        "memory": { "limit": guest.limit },
    });
    vec![("annotations", annotations), ("linux", json!({ "resources": limits }))]
}

/// The pod of runc with a network of its own, whose container runs `script` and sees `host` as `/host`; gives pod and container
/// id.
pub fn of_runc(node: &Node, host: &Path, script: &str) -> Result<(cri::Pod, String)> {
    let cri = node.cri()?;
    let pod = cri.run_pod_with_its_own_network("web")?;
    let wanted = Wanted {
        name: "app",
        command: &["sh", "-c", script],
        cpu_quota_us: QUOTA_US,
        memory_limit_bytes: MEMORY_BYTES,
        host: Some(host),
        ..Wanted::default()
    };
    let id = cri.run(&pod, &wanted)?;
    Ok((pod, id))
}

/// Waits until a container of [`of_runc`] has said so with a file of this name in `/host`.
pub fn said(host: &Path, name: &str) -> Result<()> {
    eventually(LIMIT, name, || Ok(host.join(name).exists().then_some(()))).context("the container of runc")
}

//! What `kubectl top` shows of a Kata-like pod: the working set that containerd's CRI gives of a shim with Kata's fault, without
//! the repair and with it.
//!
//! containerd is a real one, and so is its way from a Stats answer to CRI's figure. The shim is a stand-in that answers as
//! Kata's Rust shim does; its guest's kernel says what the right figure is.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    on_each_containerd,
    rig::{Hook, Node, Setup, Shim, Version, cri::Wanted, eventually, node::PATIENT},
    standin::{
        client::{
            lab::Lab,
            wrapped::{STANDIN, binary},
        },
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
    },
};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(kubectl_top_of_a_pod_with_page_cache_is_right_where_it_is_mended);

/// A shim for containerd: the stand-in, with what a lab's environment would tell it.
fn shim(dir: &Path, guest: &Guest) -> Result<String> {
    let path = dir.join("containerd-shim-like-kata");
    let home = dir.join("standin");
    fs::create_dir_all(&home).context("the stand-in's folder")?;
    let script = format!(
        "#!/bin/sh\nexport STANDIN_DIR='{}' {}={} {}='{}'\nexec {} \"$@\"\n",
        home.display(),
        Profile::KEY,
        Profile::Rust.word(),
        Guest::KEY,
        serde_json::to_string(guest).context("the guest")?,
        binary(STANDIN)?.display(),
    );
    fs::write(&path, script).context("write the shim")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    Ok(path.display().to_string())
}

/// Working set and usage of a container, by CRI.
fn shown(version: Version, dir: &Path, guest: &Guest, repair: &str) -> Result<(u64, u64)> {
    let inner = shim(dir, guest)?;
    let names = ["containerd-shim-tap-v2", "containerd-shim-runc-v2"];
    let table: String = names.iter().map(|name| format!("\"{name}\" = \"{inner}\"\n")).collect();
    let toml = format!("{PATIENT}[inner]\n{table}[stats]\nrepair = {repair}\n");
    let hook = if version.tools()?.honours_runtime_path() { Hook::Path } else { Hook::Opt };
    Setup::new(version, Shim::Wrapped(hook)).shim_toml(&toml).run(|node: &Node| {
        let cri = node.cri()?;
        let pod = cri.run_pod("like-kata")?;
        let id = cri.run(&pod, &Wanted { name: "c", command: &["sleep", "1000"], ..Wanted::default() })?;
        let shown = eventually(LIMIT, "its memory in CRI", || cri.memory_bytes(&id));
        cri.remove_pod(&pod)?;
        shown
    })
}

fn kubectl_top_of_a_pod_with_page_cache_is_right_where_it_is_mended(version: Version) -> Result<()> {
    let guest = Guest::worked(Cgroup::V2);
    let truth = guest.truth();
    let right = |name: &str| truth.get(name).copied().context("a figure of the guest's");
    let (set, usage) = (right("container_memory_working_set_bytes")?, right("container_memory_usage_bytes")?);
    let lab = Lab::new()?;
    let as_is = shown(version, lab.dir(), &guest, "false")?;
    ensure!(as_is.0 == as_is.1, "without the repair the working set is without its cache: {as_is:?}");
    let mended = shown(version, lab.dir(), &guest, "true")?;
    let near =
        |have: u64, want: f64| u32::try_from(have).is_ok_and(|have| (f64::from(have) - want).abs() < 0.5);
    ensure!(near(mended.0, set) && near(mended.1, usage), "{mended:?}, and the guest says {set} of {usage}");
    Ok(())
}

//! What `kubectl top` shows of a Kata-like pod: the working set that containerd's CRI gives of a shim with Kata's fault, without
//! the repair and with it.
//!
//! containerd is a real one, and so is its way from a Stats answer to CRI's figure. The shim is a stand-in that answers as
//! Kata's Rust shim does; its guest's kernel says what the right figure is.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    on_each_containerd,
    rig::{Hook, Node, Setup, Shim, Version, cri::Wanted, eventually, node::PATIENT},
    standin::{
        client::{kata::for_containerd, lab::Lab},
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
    },
};

const LIMIT: Duration = Duration::from_secs(60);

on_each_containerd!(kubectl_top_of_a_pod_with_page_cache_is_right_where_it_is_mended);

/// Working set and usage of a container, by CRI.
fn shown(version: Version, dir: &Path, guest: &Guest, repair: &str) -> Result<(u64, u64)> {
    let inner = for_containerd(dir, Profile::Rust, guest, &[])?;
    let toml = format!("{PATIENT}{inner}[stats]\nrepair = {repair}\n");
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

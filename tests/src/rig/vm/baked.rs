//! A machine booted from an image that `packaging/image/debian.sh` has made of the node's own system and a package of this build.
//!
//! The system is that of [`Base`], taken out of its disk: what a node's image consists of before we come. What debootstrap
//! does is not repeated; everything that is ours is. (Set-user-id bits are lost on the way out: nobody in there but root.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::base::administrator;
use super::kubeadm::containerd_toml;
use super::{Base, Machine, Plan, Report, Suite, home, one_at_a_time, payload};
use crate::rig::Version;
use crate::rig::node::PATIENT;
use crate::rig::packages::{self, Release};
use crate::rig::run::{Finished, run};

const LIMIT: Duration = Duration::from_secs(240);
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/image/debian.sh");

/// Makes the image, boots it, and reads what the guest says of it. `limit` is for the boot.
///
/// # Errors
/// The recipe failed, or the machine did not come so far.
pub fn boot(limit: Duration) -> Result<Report> {
    let base = Base::ready().context("build the node's disk")?;
    let _alone = one_at_a_time()?;
    let dir = home().join("baked");
    let disk = payload::build(&dir, &Plan { suites: vec![Suite::baked(limit)] }, &[])?;
    let image = dir.join("image");
    bake(&base, &image).context("make the image")?;
    let baked =
        Base { disk: image.join("disk.img"), kernel: image.join("vmlinuz"), initrd: image.join("initrd") };
    let said = Machine::new(&baked, &disk).run(&dir, limit);
    fs::remove_dir_all(&image).with_context(|| format!("remove {}", image.display()))?;
    Report::parse(&said?)
}

fn bake(base: &Base, image: &Path) -> Result<()> {
    let root = image.join("root");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let mut debugfs = administrator("debugfs");
    debugfs.args(["-R", &format!("rdump / {}", root.display())]).arg(&base.disk);
    run(debugfs, LIMIT).and_then(Finished::ok).context("debugfs (package e2fsprogs)")?;
    // The other tests start theirs by hand; a node's starts by itself, and knows what its pods are made of.
    let tools = Version::Packaged.tools()?;
    fs::write(root.join("etc/containerd/config.toml"), containerd_toml(&tools))
        .context("containerd's configuration")?;
    fs::create_dir_all(root.join("etc/shimtap")).context("create a folder")?;
    fs::write(root.join("etc/shimtap/shim.toml"), PATIENT).context("write shim.toml")?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants/containerd.service");
    symlink("/lib/systemd/system/containerd.service", &wants).context("enable containerd")?;
    let package = image.join("shimtap.deb");
    packages::deb(&package, Release::This)?;
    let mut recipe = Command::new("sh");
    recipe.arg(RECIPE).arg(&package).arg(image).arg(&root);
    run(recipe, LIMIT).and_then(Finished::ok).context("packaging/image/debian.sh")?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))
}

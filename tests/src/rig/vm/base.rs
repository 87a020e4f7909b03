//! The node's own disk: a minimal system of the same distribution as this machine's, with systemd, containerd and the
//! distribution's kernel, built by debootstrap and kept until its recipe changes.
//!
//! The same distribution, because the programs that are run in the guest were linked against this machine's C library;
//! and its mirror, because that is the one that can be reached. Nothing is started while it is built, and what is ours is on
//! another disk, so that a change of our code never builds this one anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::home;
use crate::rig::image::hex;
use crate::rig::run::{Finished, run};
use crate::rig::tools;

/// Downloads and unpacks about a hundred packages.
const LIMIT: Duration = Duration::from_secs(900);

/// What is installed: a system that boots, and what a node has.
const PACKAGES: [&str; 12] = [
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "iproute2",
    "procps",
    "containerd",
    "runc",
    "busybox-static",
    "containernetworking-plugins",
    "ca-certificates",
    "linux-image-cloud-amd64",
];

/// Files that are added to it.
const FILES: [(&str, &str); 6] = [
    ("etc/hostname", "node\n"),
    // On a busy host a disk may be found after systemd has given it up, which no word to the kernel changes.
    ("etc/systemd/system.conf.d/patient.conf", "[Manager]\nDefaultDeviceTimeoutSec=900\n"),
    ("etc/systemd/system/opt-shimtap.mount", include_str!("files/opt-shimtap.mount")),
    ("etc/systemd/system/guest.service", include_str!("files/guest.service")),
    ("etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf", include_str!("files/autologin.conf")),
    ("root/.profile", "cd /root; export PATH=/opt/shimtap/bin:$PATH TERM=linux\n"),
];

/// Links of systemd: what is started at boot, and what is never started (the target is `/dev/null`).
const LINKS: [(&str, &str); 9] = [
    ("multi-user.target.wants/guest.service", "../guest.service"),
    // Tests start the containerd that they want.
    ("containerd.service", "/lib/systemd/system/containerd.service"),
    ("apt-daily.timer", "/dev/null"),
    ("apt-daily-upgrade.timer", "/dev/null"),
    ("dpkg-db-backup.timer", "/dev/null"),
    ("e2scrub_all.timer", "/dev/null"),
    ("e2scrub_reap.service", "/dev/null"),
    ("fstrim.timer", "/dev/null"),
    ("getty@tty1.service", "/dev/null"),
];

/// Folders that nobody in the guest reads.
const UNREAD: [&str; 6] = [
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
];

/// Its size; it is sparse, and an eighth of it is used. The collector keeps 2 GiB of a disk free.
const SIZE: &str = "4G";

/// A disk with a system that boots.
#[derive(Debug, Clone)]
pub struct Base {
    /// The disk, an ext4 without partitions. Never written to.
    pub disk: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initial file system.
    pub initrd: PathBuf,
}

impl Base {
    /// The disk of the present recipe, built where it is not there yet: about a minute.
    pub fn ready() -> Result<Base> {
        ensure!(cfg!(target_arch = "x86_64"), "the node VM was only ever tried on x86-64");
        let home = home();
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let _alone = lock(&home.join("lock"))?;
        let suite = suite()?;
        let dir = home.join(format!("{suite}-{}", recipe(&suite)));
        if !dir.is_dir() {
            let work = home.join("work");
            let _ = fs::remove_dir_all(&work);
            tools::forget_old(&home);
            build(&work, &suite)?;
            fs::remove_dir_all(work.join("root")).context("remove the unpacked system")?;
            fs::rename(&work, &dir).with_context(|| format!("put {}", dir.display()))?;
        }
        Ok(Base { disk: dir.join("disk.img"), kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") })
    }
}

/// Changes whenever anything changes that the disk is made from, except for the mirror's content.
fn recipe(suite: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{suite} {PACKAGES:?} {FILES:?} {LINKS:?} {UNREAD:?} {SIZE}"));
    // The steps below are part of the recipe.
    digest.update(include_str!("base.rs"));
    hex(&digest.finalize()).get(..16).unwrap_or_default().to_owned()
}

fn build(work: &Path, suite: &str) -> Result<()> {
    let root = work.join("root");
    fs::create_dir_all(work).with_context(|| format!("create {}", work.display()))?;
    eprintln!("node VM: building its disk (a minute, once)");
    let mut debootstrap = administrator("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={}", PACKAGES.join(","))]);
    debootstrap.arg(suite).arg(&root).arg(mirror(suite)?);
    run(debootstrap, LIMIT).and_then(Finished::ok).context("debootstrap (package debootstrap)")?;
    for folder in UNREAD {
        fs::remove_dir_all(root.join(folder)).with_context(|| format!("remove {folder}"))?;
    }
    for (path, text) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file without a folder")?).context("create a folder")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let units = root.join("etc/systemd/system");
    // Packages enable what they bring.
    let _ = fs::remove_file(units.join("multi-user.target.wants/containerd.service"));
    for (name, target) in LINKS {
        let link = units.join(name);
        let _ = fs::remove_file(&link);
        symlink(target, &link).with_context(|| format!("link {}", link.display()))?;
    }
    fs::create_dir_all(root.join("opt/shimtap")).context("create opt/shimtap")?;
    for (kind, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")] {
        fs::copy(only(&root.join("boot"), kind)?, work.join(name)).with_context(|| format!("copy {name}"))?;
    }
    let mut mke2fs = administrator("mke2fs");
    // A disk that is thrown away after each boot needs no journal.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root);
    mke2fs.arg(work.join("disk.img")).arg(SIZE);
    run(mke2fs, LIMIT).and_then(Finished::ok).context("mke2fs (package e2fsprogs)").map(drop)
}

/// A command from the folders that only root has in its PATH.
pub(super) fn administrator(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

/// The file in `dir` whose name begins with `start`.
fn only(dir: &Path, start: &str) -> Result<PathBuf> {
    let files = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten();
    let mut files = files.filter(|file| file.file_name().to_string_lossy().starts_with(start));
    let file = files.next().with_context(|| format!("no {start}… in {}", dir.display()))?;
    Ok(file.path())
}

/// This machine's release of Debian, e.g. `bookworm`.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let id = value("ID").unwrap_or_default();
    ensure!(id == "debian", "the node VM is built from Debian's packages; this machine runs {id:?}");
    value("VERSION_CODENAME").context("/etc/os-release names no release")
}

/// Where this machine gets the packages of `suite` from.
fn mirror(suite: &str) -> Result<String> {
    let mut apt = Command::new("apt-get");
    let format = "$(REPO_URI) $(CODENAME) $(COMPONENT)";
    apt.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let said = run(apt, LIMIT)?.ok().context("ask apt for its sources")?.text();
    let rows = said.lines().map(|row| row.split(' ').collect::<Vec<_>>());
    let mut fitting = rows.filter(|row| row.get(1..) == Some(&[suite, "main"]));
    let row = fitting.next().with_context(|| format!("apt has no source for {suite} main"))?;
    row.first().map(|mirror| (*mirror).to_owned()).context("a source without an address")
}

/// Waits until nobody else has the lock of that name.
pub(super) fn lock(path: &Path) -> Result<Flock<fs::File>> {
    let file = fs::File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    locked.with_context(|| format!("lock {}", path.display()))
}

//! The .rpm by rpm's own word: what it holds, what it asks for, and what becomes of a machine where rpm installs, upgrades and removes it.
//!
//! The machine is this one's system with another layer over it, in namespaces of their own: what rpm and the scripts write is gone
//! with the test, and no systemd runs in it. Debian's libraries are not in rpm's database, so dependencies are read and not resolved.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use shimtap_tests::rig::eventually;
use shimtap_tests::rig::packages::{self, HELD, NEXT, Release, THIS};
use shimtap_tests::rig::run::{Finished, Running, run};

const LIMIT: Duration = Duration::from_secs(120);

/// What every system that has rpm and a GNU C library has, by the beginnings of their names.
const ASKED: [&str; 7] =
    ["/bin/sh", "ld-linux", "libc.so.6(", "libgcc_s.so.1(", "libm.so.6(", "rpmlib(", "rtld("];

const UNIT: &str = "shimtap.service";
/// Where the packages lie in the tree.
const PACKAGE: &str = "/this.rpm";
const NEXT_PACKAGE: &str = "/next.rpm";

/// Mounts it in the first argument, and holds it until its stdin ends.
const HOLDS: &str = "mount -t tmpfs none \"$1\" && mkdir \"$1/upper\" \"$1/work\" \"$1/all\" && \
    mount -t overlay overlay -o \"lowerdir=/,upperdir=$1/upper,workdir=$1/work\" \"$1/all\" && \
    mount -t tmpfs none \"$1/all/run\" && mount --rbind /dev \"$1/all/dev\" && \
    rm -rf \"$1/all/var/lib/shimtap\" \"$1/all/etc/shimtap\" \"$1/all/etc/containerd\" \"$1/all/opt/containerd\" && \
    echo ready && exec cat";
/// Runs the other arguments in the tree that the first one names, with no process but theirs.
const RUNS: &str = "tree=$1 && shift && mount -t proc proc \"$tree/proc\" && exec chroot \"$tree\" \"$@\"";

/// This machine's system, to be written to. Gone when it is dropped.
struct Tree {
    holder: Running,
    /// Where it is mounted, for those who see it.
    dir: PathBuf,
}

impl Tree {
    fn new(name: &str) -> Result<Tree> {
        let dir = std::env::temp_dir().join(format!("shimtap-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).context("create a folder")?;
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "sh", "-c", HOLDS, "-"]).arg(&dir);
        let tree = Tree { holder: Running::start(holder)?, dir };
        let ready =
            eventually(LIMIT, "the tree", || Ok((!tree.holder.stdout_so_far().is_empty()).then_some(())));
        ready.with_context(|| tree.holder.stderr_so_far())?;
        for program in ["systemctl", "systemd-tmpfiles"] {
            // Where scripts look for it: rpm has a PATH of its own for them.
            tree.program(&format!("/usr/bin/{program}"), &format!("echo {program} \"$@\" >>/said"))?;
        }
        Ok(tree)
    }

    /// A path of the tree as we see it.
    fn path(&self, path: &str) -> PathBuf {
        let seen = format!("/proc/{}/root{}/all{path}", self.holder.pid(), self.dir.display());
        PathBuf::from(seen)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("a file without a folder")?).context("create its folder")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Puts a script at a program's place.
    fn program(&self, path: &str, script: &str) -> Result<()> {
        self.write(path, &format!("#!/bin/sh\n{script}\n"))?;
        self.run(&["chmod", "755", path])?.ok().map(drop)
    }

    fn run(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--mount", "--"]);
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RUNS, "-"]);
        command.arg(self.dir.join("all")).args(words);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.env("PATH", path).env("LC_ALL", "C").current_dir("/");
        run(command, LIMIT)
    }

    /// Asks rpm.
    fn ask(&self, words: &[&str]) -> Result<String> {
        Ok(self.run(&[&["rpm"], words].concat())?.ok()?.text())
    }

    /// Has rpm change something.
    fn rpm(&self, words: &[&str]) -> Result<Finished> {
        self.run(&[&["rpm", "--nodeps"], words].concat())
    }

    /// What the scripts told systemd since this was asked last.
    fn told(&self) -> Result<Vec<String>> {
        let path = self.path("/said");
        let said = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "").context("forget it")?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Empty for everybody but who held it; a folder that stays is no reason to fail.
        let _ = fs::remove_dir(&self.dir);
    }
}

fn packed(tree: &Tree, path: &str, release: Release) -> Result<()> {
    packages::rpm(&tree.path(path), release)
}

/// Demands that the scripts told systemd this and nothing else.
fn told(tree: &Tree, wanted: &[&str]) -> Result<()> {
    let told = tree.told()?;
    ensure!(told == wanted, "systemd was told {told:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root, rpm and cargo-generate-rpm: `sudo ./dev test` has them"]
fn in_a_package_of_fedora_everything_is_in_its_place() -> Result<()> {
    let tree = Tree::new("rpm-held")?;
    packed(&tree, PACKAGE, Release::This)?;
    let asked = |words: &[&str]| -> Result<String> {
        tree.ask(&[&["--query", "--package"], words, &[PACKAGE]].concat())
    };
    let rows = asked(&["--qf", "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]"])?;
    let rows = rows.lines().map(|row| row.splitn(3, ' ').collect::<Vec<_>>());
    let entries: BTreeMap<&str, (&str, &str)> = rows
        .filter_map(|row| match row.as_slice() {
            [mode, owner, path] => Some((*path, (*mode, *owner))),
            _ => None,
        })
        .collect();
    for (path, mode) in HELD {
        let (is, owner) = entries.get(path).with_context(|| format!("no {path} in {entries:#?}"))?;
        ensure!(*is == mode && *owner == "root/root", "{path} is {is} of {owner}");
    }
    for (path, (mode, owner)) in &entries {
        ensure!(
            *owner == "root/root" && !mode.contains('s') && !mode.contains('t'),
            "{path} is {mode} of {owner}"
        );
        ensure!(mode.get(8..9) != Some("w"), "{path} may be written by everybody");
        ensure!(!["/etc", "/run", "/var"].iter().any(|place| path.starts_with(place)), "it holds {path}");
    }
    let requires = asked(&["--requires"])?;
    let odd: Vec<&str> =
        requires.lines().filter(|row| !ASKED.iter().any(|name| row.starts_with(name))).collect();
    ensure!(odd.is_empty() && requires.contains("libc.so.6("), "it asks for {odd:?} among\n{requires}");
    ensure!(asked(&["--qf", "%{NAME} %{VERSION} %{LICENSE}"])? == format!("shimtap {THIS} Apache-2.0"));
    Ok(())
}

/// Where no systemd runs it is enabled and nothing else; where one runs it is started, restarted by an upgrade, and stopped by a
/// removal, which is refused for as long as containerd needs the wrapper. An administrator's file stays.
#[test]
#[ignore = "needs root, rpm and cargo-generate-rpm: `sudo ./dev test` has them"]
fn in_a_package_of_fedora_scripts_do_what_those_of_debian_do() -> Result<()> {
    let tree = Tree::new("rpm-scripts")?;
    packed(&tree, PACKAGE, Release::This)?;
    packed(&tree, NEXT_PACKAGE, Release::Next)?;
    let is = |version: &str| -> Result<()> {
        let said = tree.ask(&["--query", "shimtap"])?;
        ensure!(said.starts_with(&format!("shimtap-{version}-")), "{said} is installed and not {version}");
        let differs = tree.ask(&["--verify", "--nodeps", "shimtap"])?;
        ensure!(differs.is_empty(), "what is installed is not what was packed:\n{differs}");
        Ok(())
    };
    tree.write("/etc/shimtap/collector.toml", "# kept by hand\n")?;
    tree.rpm(&["--install", PACKAGE])?.ok()?;
    is(THIS)?;
    told(&tree, &[&format!("systemctl enable {UNIT}")])?;
    ensure!(tree.run(&["shimtap", "--version"])?.ok()?.text() == format!("shimtap {THIS}\n"));

    fs::create_dir_all(tree.path("/run/systemd/system")).context("a systemd that runs")?;
    let (tmpfiles, reload) = ("systemd-tmpfiles --create shimtap.conf", "systemctl daemon-reload");
    tree.rpm(&["--upgrade", NEXT_PACKAGE])?.ok()?;
    is(NEXT)?;
    told(&tree, &[tmpfiles, reload, &format!("systemctl try-restart {UNIT}")])?;
    tree.rpm(&["--upgrade", "--oldpackage", PACKAGE])?.ok().context("back again")?;
    is(THIS)?;
    told(&tree, &[tmpfiles, reload, &format!("systemctl try-restart {UNIT}")])?;

    is_refused_while_it_is_needed(&tree)?;
    is(THIS)?;
    told(&tree, &[])?;
    let files = tree.ask(&["--query", "--list", "shimtap"])?;
    tree.rpm(&["--erase", "shimtap"])?.ok()?;
    told(&tree, &[&format!("systemctl --no-reload disable {UNIT}"), &format!("systemctl stop {UNIT}")])?;
    let left: Vec<&str> = files.lines().filter(|file| tree.path(file).is_file()).collect();
    ensure!(left.is_empty() && !files.is_empty(), "a removal left {left:?}");
    ensure!(tree.path("/etc/shimtap/collector.toml").is_file(), "it took an administrator's file");

    tree.rpm(&["--install", PACKAGE])?.ok().context("again")?;
    told(&tree, &[&format!("systemctl enable {UNIT}"), tmpfiles, reload, &format!("systemctl start {UNIT}")])
}

fn is_refused_while_it_is_needed(tree: &Tree) -> Result<()> {
    let refused = |why: &str| -> Result<()> {
        let came = tree.rpm(&["--erase", "shimtap"])?;
        ensure!(came.code != 0 && came.stderr.contains(why), "not refused for {why:?}: {came:?}");
        Ok(())
    };
    tree.write("/run/shimtap-shim/s/a.alive", "")?;
    let lock = fs::File::open(tree.path("/run/shimtap-shim/s/a.alive")).context("a wrapper's lock")?;
    let held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    refused("end them first")?;
    // A wrapper that is gone has left its file, and nobody minds.
    drop(held);
    tree.write("/var/lib/shimtap/install.json", "{}")?;
    refused("shimtap uninstall")?;
    fs::remove_file(tree.path("/var/lib/shimtap/install.json")).context("remove the record")?;
    let main = "/etc/containerd/config.toml";
    tree.write(main, include_str!("../../packaging/containerd/2.x-runtime-path.toml"))?;
    refused(main)?;
    fs::remove_file(tree.path(main)).context("remove what was done by hand")
}

/// The recipe that is installed puts the package into an image that has containerd.
#[test]
#[ignore = "needs root, rpm, containerd and cargo-generate-rpm: `sudo ./dev test` has them"]
fn in_a_package_of_fedora_is_what_provisions_an_image() -> Result<()> {
    let tree = Tree::new("rpm-image")?;
    packed(&tree, PACKAGE, Release::This)?;
    tree.write("/provision.sh", include_str!("../../packaging/image/provision.sh"))?;
    tree.write(
        "/etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n",
    )?;
    tree.program("/usr/local/bin/rpm", "exec /usr/bin/rpm --nodeps \"$@\"")?;
    let provision = || tree.run(&["sh", "/provision.sh", PACKAGE]);
    let said = provision()?.ok()?.text();
    ensure!(said.contains("wrap        runc"), "it said {said}");
    told(&tree, &[&format!("systemctl enable {UNIT}")])?;
    // Twice is as good as once.
    let said = provision()?.ok().context("a second time")?.text();
    ensure!(!said.contains("wrap        runc"), "it was wrapped twice: {said}");
    let plan = tree.run(&["shimtap", "install", "--dry-run"])?.ok()?.text();
    ensure!(plan.contains("is wrapped  runc"), "{plan}");
    Ok(())
}

//! The packages hold what they should, where it belongs, with the rights that it needs and no more.
//!
//! Made of this test's own build by the same packagers as `./dev package`, which builds for a release. Nothing is installed here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::tools;

const LIMIT: Duration = Duration::from_secs(120);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What must be there, and its mode.
const WANTED: [(&str, &str); 6] = [
    ("/usr/bin/shimtap", "-rwxr-xr-x"),
    ("/usr/bin/containerd-shim-tap-v2", "-rwxr-xr-x"),
    ("/usr/lib/systemd/system/shimtap.service", "-rw-r--r--"),
    ("/usr/lib/tmpfiles.d/shimtap.conf", "-rw-r--r--"),
    ("/usr/share/shimtap/containerd/2.x-runtime-path.toml", "-rw-r--r--"),
    ("/usr/share/shimtap/kubernetes/runtimeclass.yaml", "-rw-r--r--"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A packager that takes this build for one for a release.
fn packager(program: &str, dir: &Path) -> Result<Command> {
    let release = dir.join("target/release");
    fs::create_dir_all(&release).context("create a folder")?;
    for built in [tools::collector()?, tools::wrapper()?] {
        let name = built.file_name().context("a program without a name")?;
        symlink(&built, release.join(name)).context("name a program")?;
    }
    let ours = tools::cache_dir().join("cargo/bin").join(program);
    let program = if ours.is_file() { ours } else { PathBuf::from(program) };
    let mut command = Command::new(program);
    command.current_dir(root()).env("CARGO_TARGET_DIR", dir.join("target"));
    Ok(command)
}

fn said(program: &str, words: &[&str], file: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).arg(file);
    Ok(run(command, LIMIT)?.ok()?.text())
}

/// In a folder that goes with it.
fn in_a_folder(name: &str, test: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("shimtap-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).context("create a folder")?;
    let came = test(&dir);
    fs::remove_dir_all(&dir).context("remove the folder")?;
    came
}

/// Mode, owner and path of each entry of a .deb.
fn entries(deb: &Path) -> Result<BTreeMap<String, (String, String)>> {
    let list = said("dpkg-deb", &["--contents"], deb)?;
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = words.get(5)?.strip_prefix('.')?.trim_end_matches('/').to_owned();
        Some((path, ((*words.first()?).to_owned(), (*words.get(1)?).to_owned())))
    };
    Ok(list.lines().filter_map(row).collect())
}

#[test]
#[ignore = "needs cargo-deb, which ./dev test builds"]
fn in_a_package_of_debian_everything_is_in_its_place() -> Result<()> {
    in_a_folder("deb", |dir| {
        let deb = dir.join("shimtap.deb");
        let mut command = packager("cargo-deb", dir)?;
        command.args(["deb", "--no-build", "--fast", "-p", "shimtap", "--output"]);
        command.arg(&deb);
        run(command, LIMIT)?.ok().context("cargo-deb")?;
        let entries = entries(&deb)?;
        for (path, mode) in WANTED {
            let (is, owner) = entries.get(path).with_context(|| format!("no {path} in {entries:#?}"))?;
            ensure!(is == mode && owner == "0/0", "{path} is {is} of {owner}");
        }
        for (path, (mode, owner)) in &entries {
            ensure!(
                owner == "0/0" && !mode.contains('s') && !mode.contains('t'),
                "{path} is {mode} of {owner}"
            );
            ensure!(mode.get(8..9) != Some("w"), "{path} may be written by everybody");
            // What an administrator or a running node has there is not ours to bring.
            ensure!(!["/etc", "/run", "/var"].iter().any(|place| path.starts_with(place)), "it holds {path}");
        }
        let field = |name: &str| -> Result<String> {
            let mut command = Command::new("dpkg-deb");
            command.arg("--field").arg(&deb).arg(name);
            Ok(run(command, LIMIT)?.ok()?.text().trim().to_owned())
        };
        ensure!(field("Package")? == "shimtap", "its name is {}", field("Package")?);
        ensure!(field("Version")?.starts_with(VERSION), "its version is {}", field("Version")?);
        ensure!(field("Depends")?.contains("libc6"), "it depends on {:?}", field("Depends")?);
        its_scripts_are_sound(&deb, dir)
    })
}

/// The scripts are there, executable, understood by a shell, and refuse to take a wrapper away that containerd needs.
fn its_scripts_are_sound(deb: &Path, dir: &Path) -> Result<()> {
    let control = dir.join("control");
    let mut command = Command::new("dpkg-deb");
    command.arg("--control").arg(deb).arg(&control);
    run(command, LIMIT)?.ok()?;
    for name in ["postinst", "prerm", "postrm"] {
        let script = control.join(name);
        said("sh", &["-n"], &script).with_context(|| format!("{name} is no script"))?;
    }
    // On a node that is not this one: its folders are below ours.
    let prerm = fs::read_to_string(control.join("prerm")).context("read prerm")?;
    let elsewhere = prerm.replace("/var/lib/", &format!("{}/lib/", dir.display()));
    let elsewhere = elsewhere.replace("/run/", &format!("{}/run/", dir.display()));
    fs::write(control.join("prerm"), elsewhere).context("write prerm")?;
    let ends = |verb: &str| -> Result<(i32, String)> {
        let mut command = Command::new("sh");
        command.arg(control.join("prerm")).arg(verb);
        let ended = run(command, LIMIT)?;
        Ok((ended.code, ended.stderr))
    };
    ensure!(ends("remove")?.0 == 0, "it refuses where nothing is installed: {:?}", ends("remove")?);
    let locks = dir.join("run/shimtap-shim/s");
    fs::create_dir_all(&locks).context("a wrapper's folder")?;
    let lock = fs::File::create(locks.join("a.alive")).context("a wrapper's lock")?;
    ensure!(ends("remove")?.0 == 0, "it refuses for a wrapper that is gone: {:?}", ends("remove")?);
    let held =
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let (code, why) = ends("remove")?;
    ensure!(code == 1 && why.contains("end them first"), "{code}: {why}");
    ensure!(ends("upgrade")?.0 == 0, "an upgrade is refused: {:?}", ends("upgrade")?);
    drop(held);
    fs::create_dir_all(dir.join("lib/shimtap")).context("a record's folder")?;
    fs::write(dir.join("lib/shimtap/install.json"), "{}").context("a record")?;
    let (code, why) = ends("remove")?;
    ensure!(code == 1 && why.contains("shimtap uninstall"), "{code}: {why}");
    Ok(())
}

/// The header of an .rpm names its files in clear text; what unpacks it is seldom on a Debian machine.
#[test]
#[ignore = "needs cargo-generate-rpm, which ./dev test builds"]
fn in_a_package_of_fedora_everything_is_named() -> Result<()> {
    in_a_folder("rpm", |dir| {
        let rpm = dir.join("shimtap.rpm");
        let mut command = packager("cargo-generate-rpm", dir)?;
        command.args(["generate-rpm", "-p", "collector", "--payload-compress", "none", "--output"]).arg(&rpm);
        command.arg("--target-dir").arg(dir.join("target"));
        run(command, LIMIT)?.ok().context("cargo-generate-rpm")?;
        let bytes = fs::read(&rpm).context("read it")?;
        ensure!(bytes.starts_with(&[0xed, 0xab, 0xee, 0xdb]), "it is no rpm");
        let head = String::from_utf8_lossy(bytes.get(..64 << 10).unwrap_or(&bytes)).into_owned();
        for (path, _) in WANTED {
            let name = path.rsplit('/').next().unwrap_or(path);
            ensure!(head.contains(name), "its header does not name {name}");
        }
        ensure!(head.contains("shimtap uninstall"), "it would take a wrapper away that containerd needs");
        Ok(())
    })
}

/// Both formats say the same to whoever removes them.
#[test]
fn removal_is_refused_alike() -> Result<()> {
    let read = |path: &str| {
        fs::read_to_string(root().join("packaging").join(path)).with_context(|| format!("read {path}"))
    };
    let guard = |text: &str| -> Result<String> {
        let from = text.find("if [ -e /var/lib/shimtap/install.json ]").context("no guard")?;
        Ok(text.get(from..).unwrap_or_default().to_owned())
    };
    let (deb, rpm) = (guard(&read("deb/prerm")?)?, guard(&read("rpm/preun.sh")?)?);
    ensure!(deb == rpm, "they differ:\n{deb}\n{rpm}");
    Ok(())
}

#[test]
#[ignore = "needs systemd-analyze (package systemd): `sudo ./dev test` runs it"]
fn the_unit_is_as_hard_as_readme_says() -> Result<()> {
    let unit = root().join("packaging/systemd/shimtap.service");
    let said = said("systemd-analyze", &["security", "--offline=true", "--no-pager"], &unit)?;
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).context("no figure")?;
    let figure: f64 =
        overall.split_whitespace().filter_map(|word| word.parse().ok()).next_back().context("no number")?;
    ensure!(figure <= 2.4, "{overall}");
    let readme = fs::read_to_string(root().join("README.md")).context("read README")?;
    ensure!(readme.contains(&format!("exposure {figure}")), "README does not say {figure}");
    Ok(())
}

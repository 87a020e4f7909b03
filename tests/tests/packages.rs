//! The packages hold what they should, where it belongs, with the rights that it needs and no more.
//!
//! Made of this test's own build by the same packagers as `./dev package`, which builds for a release. Nothing is installed here;
//! the node VM does that, and `rpm.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::packages::{self, HELD, Release, THIS};
use shimtap_tests::rig::run::run;

const LIMIT: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
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
        packages::deb(&deb, Release::This)?;
        let entries = entries(&deb)?;
        for (path, mode) in HELD {
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
        ensure!(field("Version")?.starts_with(THIS), "its version is {}", field("Version")?);
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
    let elsewhere = elsewhere.replace(" /opt/", &format!(" {}/opt/", dir.display()));
    let elsewhere = elsewhere.replace(" /etc/", &format!(" {}/etc/", dir.display()));
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
    fs::remove_file(dir.join("lib/shimtap/install.json")).context("forget it")?;
    what_was_done_by_hand_is_seen(dir, ends)
}

/// The ways of README and of docs/docker.md, in which no pod need run and no record is.
fn what_was_done_by_hand_is_seen(dir: &Path, ends: impl Fn(&str) -> Result<(i32, String)>) -> Result<()> {
    let wrapper = dir.join("containerd-shim-tap-v2");
    let shim = dir.join("containerd-shim-runc-v2");
    for program in [&wrapper, &shim] {
        fs::write(program, "").context("a program")?;
    }
    for bin in ["opt/containerd/bin", "lib/containerd/opt/bin"].map(|bin| dir.join(bin)) {
        fs::create_dir_all(&bin).context("a folder of links")?;
        let link = bin.join("containerd-shim-runc-v2");
        symlink(&wrapper, &link).context("a link")?;
        let (code, why) = ends("remove")?;
        ensure!(code == 1 && why.contains(&link.display().to_string()), "{code}: {why}");
        ensure!(ends("upgrade")?.0 == 0, "an upgrade is refused: {:?}", ends("upgrade")?);
        fs::remove_file(&link).context("undo it")?;
        symlink(&shim, &link).context("undone for as long as containers run")?;
        ensure!(ends("remove")?.0 == 0, "it refuses for a link to the real shim: {:?}", ends("remove")?);
    }
    let packaged = root().join("packaging/containerd");
    let examples = ["1.x-name.toml", "1.x-runtime-path.toml", "2.x-name.toml", "2.x-runtime-path.toml"];
    let mut cases =
        examples.map(|name| (format!("etc/containerd/conf.d/{name}"), packaged.join(name), 1)).to_vec();
    // They name it in their comments alone.
    let quiet = ["1.x-opt.toml", "2.x-opt.toml"];
    cases.extend(quiet.map(|name| (format!("etc/containerd/{name}"), packaged.join(name), 0)));
    let kept = ("etc/containerd/config.toml.bak".to_owned(), packaged.join("1.x-name.toml"), 0);
    cases.push(kept);
    let json = dir.join("daemon.json");
    let text = "{\"runtimes\": {\"tap\": {\"runtimeType\": \"/usr/bin/containerd-shim-tap-v2\"}}}";
    fs::write(&json, text).context("docker's file")?;
    cases.push(("etc/docker/daemon.json".to_owned(), json, 1));
    for (name, text, refused) in cases {
        let file = dir.join(&name);
        fs::create_dir_all(file.parent().context("a folder")?).context("make it")?;
        fs::copy(text, &file).with_context(|| format!("put {name}"))?;
        let (code, why) = ends("remove")?;
        ensure!(code == refused && (code == 0 || why.contains(&name)), "{name}: {code}: {why}");
        fs::remove_file(&file).context("undo it")?;
    }
    Ok(())
}

/// What stands in the manifest is all that there is of a package, so what one format forgets is seen here. Debian's licence
/// file has a place of its own.
#[test]
fn both_formats_hold_the_same() -> Result<()> {
    let text = fs::read_to_string(root().join("collector/Cargo.toml")).context("read the manifest")?;
    let manifest: toml::Value = toml::from_str(&text).context("the manifest")?;
    let of = |format: &str| -> Result<Vec<&toml::Value>> {
        let metadata = manifest.get("package").and_then(|package| package.get("metadata"));
        let assets = metadata.and_then(|all| all.get(format)?.get("assets")?.as_array());
        Ok(assets.with_context(|| format!("no assets of {format}"))?.iter().collect())
    };
    let text = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str).unwrap_or("?").to_owned();
    // A pattern goes to a folder, a file to a name.
    let place = |source: &str, to: &str| {
        let to = to.trim_start_matches('/');
        let file = source.rsplit('/').next().unwrap_or(source);
        // Where zsh looks for what packages bring is Debian's own.
        let to = to.replace("vendor-completions", "site-functions");
        if to.ends_with('/') && !file.contains('*') { format!("{to}{file}") } else { to }
    };
    let row = |source: String, to: String, mode: String| (source.clone(), place(&source, &to), mode);
    let deb =
        of("deb")?.into_iter().map(|asset| row(text(asset.get(0)), text(asset.get(1)), text(asset.get(2))));
    let deb: BTreeSet<_> = deb.collect();
    let rpm = of("generate-rpm")?
        .into_iter()
        .map(|asset| row(text(asset.get("source")), text(asset.get("dest")), text(asset.get("mode"))));
    let rpm: BTreeSet<_> = rpm.filter(|(source, ..)| source != "../LICENSE").collect();
    let odd: Vec<_> = deb.symmetric_difference(&rpm).collect();
    ensure!(odd.is_empty() && !deb.is_empty(), "only one of the two holds {odd:#?}");
    Ok(())
}

/// Both formats say the same to whoever removes them.
#[test]
fn removal_is_refused_alike() -> Result<()> {
    let read = |path: &str| {
        fs::read_to_string(root().join("packaging").join(path)).with_context(|| format!("read {path}"))
    };
    let guard = |text: &str| -> Result<String> {
        let from = text.find("if [ -e /var/lib/shimtap/install.json ]").context("no guard")?;
        let to = text.rfind("\ndone\n").context("no end of the guard")?;
        Ok(text.get(from..to).context("a guard that ends before it begins")?.to_owned())
    };
    let (deb, rpm) = (guard(&read("deb/prerm")?)?, guard(&read("rpm/preun.sh")?)?);
    ensure!(deb == rpm, "they differ:\n{deb}\n{rpm}");
    Ok(())
}

/// Read from the file, where systemd counts something that it does not where the unit runs: README has the figure of the node VM.
#[test]
#[ignore = "needs systemd-analyze (package systemd): `sudo ./dev test` runs it"]
fn the_unit_does_not_get_softer() -> Result<()> {
    let unit = root().join("packaging/systemd/shimtap.service");
    let said = said("systemd-analyze", &["security", "--offline=true", "--no-pager"], &unit)?;
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).context("no figure")?;
    let figure: f64 =
        overall.split_whitespace().filter_map(|word| word.parse().ok()).next_back().context("no number")?;
    ensure!(figure <= 2.4, "{overall}");
    Ok(())
}

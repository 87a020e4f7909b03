//! The files of a release as `./dev package` has just made them: checksums, bills of materials, what each program says of itself, the
//! tarball's list, and that all three formats hold the same programs, which run.
//!
//! `./dev package` runs it with SHIMTAP_RELEASE (the files' folder) and SHIMTAP_RELEASE_TARGET (what they were built for). Programs
//! for another processor are run by qemu's user mode where that is installed, and it says so where it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shimtap_tests::rig::packages::{HELD, THIS};
use shimtap_tests::rig::run::{Finished, run};
use shimtap_tests::rig::tools::in_path;

const LIMIT: Duration = Duration::from_secs(120);
const PROGRAMS: [&str; 2] = ["shimtap", "containerd-shim-tap-v2"];
/// Crates that a program was built with, by name and version.
type Crates = BTreeSet<(String, String)>;

/// A release's files.
struct Released {
    dir: PathBuf,
    /// The processor that it is for, as rustc calls it.
    arch: String,
}

impl Released {
    fn here() -> Result<Released> {
        let told =
            |name: &str| std::env::var(name).with_context(|| format!("no {name}: ./dev package sets it"));
        let target = told("SHIMTAP_RELEASE_TARGET")?;
        let arch = target.split('-').next().unwrap_or_default().to_owned();
        Ok(Released { dir: PathBuf::from(told("SHIMTAP_RELEASE")?), arch })
    }

    fn name(&self) -> String {
        format!("shimtap-{THIS}-linux-{}", self.arch)
    }

    fn tarball(&self) -> PathBuf {
        self.dir.join(format!("{}.tar.gz", self.name()))
    }

    /// The only file with that ending.
    fn only(&self, ending: &str) -> Result<PathBuf> {
        let mut found = files(&self.dir)?.into_iter().filter(|path| path.to_string_lossy().ends_with(ending));
        let file =
            found.next().with_context(|| format!("no file with {ending} in {}", self.dir.display()))?;
        ensure!(found.next().is_none(), "more than one file with {ending}");
        Ok(file)
    }

    /// Unpacks the tarball into a folder that is gone afterwards.
    fn unpacked(&self, name: &str, test: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let dir = std::env::temp_dir().join(format!("shimtap-released-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).context("create a folder")?;
        let unpacked = said("tar", &[&"-xzf", &self.tarball(), &"-C", &dir]);
        let came = unpacked.and_then(|_| test(&dir.join(self.name())));
        fs::remove_dir_all(&dir).context("remove the folder")?;
        came
    }

    fn bill(&self, program: &str) -> Result<Value> {
        let path = self.dir.join(format!("{program}-{THIS}-{}.cdx.json", self.arch));
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
    }
}

fn said(program: &str, words: &[&dyn AsRef<std::ffi::OsStr>]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C");
    Ok(run(command, LIMIT)?.ok().with_context(|| program.to_owned())?.text())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    entries.map(|entry| Ok(entry.context("list it")?.path())).collect()
}

fn text<'v>(of: &'v Value, key: &str) -> &'v str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The checksum of each crate of the registry that is locked, by name and version; of our own there is none.
fn locked() -> Result<BTreeMap<(String, String), Option<String>>> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("read Cargo.lock")?;
    let lock: toml::Value = toml::from_str(&lock).context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("no packages")?;
    let text = |of: &toml::Value, key: &str| of.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let one = |of: &toml::Value| Some(((text(of, "name")?, text(of, "version")?), text(of, "checksum")));
    Ok(packages.iter().filter_map(one).collect())
}

/// What a program says that it consists of: the section that cargo-auditable writes, without what only built it.
fn consists_of(program: &Path) -> Result<Crates> {
    let sections = said("readelf", &[&"-SW", &program])?;
    let row = sections.lines().find(|row| row.contains(".dep-v0")).context("it has no .dep-v0")?;
    let words: Vec<&str> = row.split_whitespace().skip_while(|word| *word != ".dep-v0").collect();
    let number = |at: usize| -> Result<usize> {
        let word = words.get(at).with_context(|| row.to_owned())?;
        usize::from_str_radix(word, 16).with_context(|| row.to_owned())
    };
    let bytes = fs::read(program).context("read it")?;
    let section = bytes.get(number(3)?..).and_then(|rest| rest.get(..number(4).ok()?));
    let mut json = String::new();
    let section = section.context("its section is outside of it")?;
    flate2::read::ZlibDecoder::new(section).read_to_string(&mut json).context("unpack .dep-v0")?;
    let said: Value = serde_json::from_str(&json).context("the JSON of .dep-v0")?;
    let packages = said.get("packages").and_then(Value::as_array).context("no packages")?;
    let linked = packages.iter().filter(|package| text(package, "kind") != "build");
    Ok(linked
        .map(|package| (text(package, "name").to_owned(), text(package, "version").to_owned()))
        .collect())
}

#[test]
#[ignore = "looks at what ./dev package has made, which runs it"]
fn in_a_release_checksums_are_those_of_all_files() -> Result<()> {
    let released = Released::here()?;
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&released.dir);
    run(check, LIMIT)?.ok().context("sha256sum --check")?;
    let sums = fs::read_to_string(released.dir.join("SHA256SUMS")).context("read SHA256SUMS")?;
    let named: BTreeSet<PathBuf> =
        sums.lines().filter_map(|row| Some(released.dir.join(row.split_once("  ")?.1))).collect();
    let there: BTreeSet<PathBuf> =
        files(&released.dir)?.into_iter().filter(|path| !path.ends_with("SHA256SUMS")).collect();
    ensure!(named == there && there.len() == 5, "named are {named:#?}, there are {there:#?}");
    Ok(())
}

#[test]
#[ignore = "looks at what ./dev package has made, which runs it"]
fn in_a_release_bills_name_every_crate_of_their_program() -> Result<()> {
    let released = Released::here()?;
    let locked = locked()?;
    released.unpacked("bills", |tree| {
        for program in PROGRAMS {
            let bill = released.bill(program)?;
            ensure!(text(&bill, "bomFormat") == "CycloneDX" && text(&bill, "specVersion") == "1.5");
            let components = bill.get("components").and_then(Value::as_array).context("no components")?;
            let mut billed = Crates::new();
            for component in components {
                let one = (text(component, "name").to_owned(), text(component, "version").to_owned());
                let sum = locked.get(&one).with_context(|| format!("{program}: {one:?} is not locked"))?;
                let says = component.pointer("/hashes/0/content").and_then(Value::as_str);
                ensure!(
                    says == sum.as_deref(),
                    "{program}: {one:?} is locked as {sum:?} and billed as {says:?}"
                );
                ensure!(component.get("licenses").is_some(), "{program}: {one:?} has no licence");
                billed.insert(one);
            }
            let is = consists_of(&tree.join("bin").join(program)).with_context(|| program.to_owned())?;
            // It is the subject of its own bill.
            let own = |(name, _): &&(String, String)| name != "shimtap" && name != "containerd-shim-tap";
            let missing: Vec<_> = is.iter().filter(own).filter(|one| !billed.contains(*one)).collect();
            ensure!(missing.is_empty(), "the bill of {program} does not name {missing:?}");
            println!("{program}: {} crates, {} billed", is.len(), billed.len());
            ensure!(is.len() > 40, "{program} says that it consists of {is:?}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "looks at what ./dev package has made, which runs it"]
fn in_a_release_the_tarball_holds_what_it_should() -> Result<()> {
    let released = Released::here()?;
    let list = said("tar", &[&"--numeric-owner", &"-tvzf", &released.tarball()])?;
    let mut found = BTreeSet::new();
    for row in list.lines() {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [mode, owner, .., path] = words.as_slice() else { anyhow::bail!("no row: {row}") };
        ensure!(*owner == "0/0" && !mode.contains('s') && mode.get(8..9) != Some("w"), "{row}");
        let path = path.strip_prefix(&format!("{}/", released.name())).with_context(|| row.to_owned())?;
        ensure!(!path.starts_with("bin/") || path == "bin/" || mode.starts_with("-rwxr-xr-x"), "{row}");
        if !path.is_empty() && !path.ends_with('/') {
            found.insert(path.to_owned());
        }
    }
    let mut wanted: BTreeSet<String> = ["LICENSE", "README.md", "CHANGELOG.md"].map(str::to_owned).into();
    wanted.extend(PROGRAMS.iter().map(|program| format!("bin/{program}")));
    wanted.extend(PROGRAMS.iter().map(|program| format!("{program}-{THIS}-{}.cdx.json", released.arch)));
    wanted.extend(["shimtap.bash", "_shimtap", "shimtap.fish"].map(|file| format!("completions/{file}")));
    for folder in ["packaging", "docs"] {
        below(&root(), Path::new(folder), &mut wanted)?;
    }
    let pages: BTreeSet<String> = found.iter().filter(|path| path.starts_with("man/")).cloned().collect();
    ensure!(pages.contains("man/shimtap.1") && pages.contains("man/shimtap-top.1"), "pages: {pages:?}");
    let rest: BTreeSet<String> = found.difference(&pages).cloned().collect();
    let odd: Vec<&String> = rest.symmetric_difference(&wanted).collect();
    ensure!(odd.is_empty(), "only in the tarball or only in the tree: {odd:#?}");
    Ok(())
}

/// Every file below `folder` of `root`, by its path from there.
fn below(root: &Path, folder: &Path, out: &mut BTreeSet<String>) -> Result<()> {
    for path in files(&root.join(folder))? {
        let named = folder.join(path.file_name().context("a file without a name")?);
        if path.is_dir() {
            below(root, &named, out)?;
        } else {
            out.insert(named.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[test]
#[ignore = "looks at what ./dev package has made, which runs it"]
fn in_a_release_all_formats_hold_the_same_programs() -> Result<()> {
    let released = Released::here()?;
    released.unpacked("programs", |tree| {
        let deb = tree.join("deb");
        said("dpkg-deb", &[&"--extract", &released.only(".deb")?, &deb])?;
        for (path, _) in HELD {
            // Debian packs pages.
            let packed = format!("{path}.gz");
            ensure!(
                [path, packed.as_str()].iter().any(|path| deb.join(path.trim_start_matches('/')).is_file()),
                "the .deb has no {path}"
            );
        }
        let rpm = released.only(".rpm")?;
        let digests = match in_path("rpm") {
            Some(_) => said("rpm", &[&"-qp", &"--qf", &"[%{FILEDIGESTS} %{FILENAMES}\n]", &rpm])?,
            None => String::new(),
        };
        for program in PROGRAMS {
            let file = tree.join("bin").join(program);
            let ours = fs::read(&file).context("read it")?;
            ensure!(
                ours == fs::read(deb.join("usr/bin").join(program)).context("read the .deb's")?,
                "{program} of the .deb differs"
            );
            let sum = said("sha256sum", &[&file])?;
            let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
            let row = format!("{sum} /usr/bin/{program}");
            if digests.is_empty() {
                println!("rpm is not installed: the .rpm's programs are not compared");
            } else {
                ensure!(digests.lines().any(|line| line == row), "{program} of the .rpm is not {row}");
            }
        }
        they_run(&released.arch, &tree.join("bin"))
    })
}

fn they_run(arch: &str, bin: &Path) -> Result<()> {
    let foreign = arch != std::env::consts::ARCH;
    let emulator = format!("qemu-{arch}");
    if foreign && in_path(&emulator).is_none() {
        println!("{emulator} is not installed: the programs are not run");
        return Ok(());
    }
    let runs = |program: &str, words: &[&str]| -> Result<Finished> {
        let program = bin.join(program);
        let mut command = if foreign {
            let mut command = Command::new(&emulator);
            command.args(["-L", &format!("/usr/{arch}-linux-gnu")]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(words);
        run(command, LIMIT)
    };
    ensure!(runs("shimtap", &["--version"])?.ok()?.text() == format!("shimtap {THIS}\n"));
    let told = std::env::temp_dir().join(format!("shimtap-released-{}.toml", std::process::id()));
    let path = told.to_str().context("a path of text")?;
    fs::write(&told, "[file]\npath = \"/var/log/shimtap/lines.jsonl\"\n").context("write a configuration")?;
    let good = runs("shimtap", &["check", "--config", path]);
    fs::write(&told, "[file]\npaht = 1\n").context("write a bad one")?;
    let bad = runs("shimtap", &["check", "--config", path]);
    fs::remove_file(&told).context("remove it")?;
    good?.ok().context("a good configuration")?;
    ensure!(bad?.code != 0, "a bad configuration passes");
    let words = runs("shimtap", &["completions", "bash"])?.ok()?.text();
    ensure!(words.contains("uninstall"), "its completions are {words}");
    let shim = runs("containerd-shim-tap-v2", &["-v"])?;
    println!("containerd-shim-tap-v2 -v: {} {}{}", shim.code, shim.text(), shim.stderr);
    Ok(())
}

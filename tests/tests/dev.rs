//! `./dev` says in one sentence what is missing, builds with the toolchain of who called sudo, and leaves nothing in that one's
//! home that only root may change; and `./dev test` runs each test once, and says at the end what failed.
//!
//! The script runs in a copy of its own, with programs in PATH that only say who they are: nothing is built.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::program::script;

/// A copy of the script, a home, and a place for a distribution's programs.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("shimtap-dev-{name}-{}", std::process::id()));
        let place = Self(dir);
        for sub in ["tree/target", "tree/tests/dev", "bin", "home"] {
            fs::create_dir_all(place.0.join(sub)).with_context(|| format!("make {sub}"))?;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let parts = ["tools.sh", "test.sh", "suites.sh", "again.sh", "package.sh", "unshown.txt"]
            .map(|part| format!("tests/dev/{part}"));
        for file in ["dev", "Cargo.toml"].into_iter().chain(parts.iter().map(String::as_str)) {
            fs::copy(root.join(file), place.0.join("tree").join(file))
                .with_context(|| format!("copy {file}"))?;
        }
        // Whoever asks for a home gets this one.
        place.program(
            "bin/getent",
            &format!("echo someone:x:1:1::{}:/bin/sh", place.0.join("home").display()),
        )?;
        Ok(place)
    }

    fn program(&self, path: &str, line: &str) -> Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().context("it has a folder")?).context("its folder")?;
        script(&path, &format!("#!/bin/sh\n{line}\n"))
    }

    /// A cargo and a rustc of this version. Cargo says where it is, and fetches a file.
    fn toolchain(&self, bin: &str, version: &str) -> Result<()> {
        let fetch = "mkdir -p \"$CARGO_HOME/registry\" && : >\"$CARGO_HOME/registry/fetched\"";
        self.program(
            &format!("{bin}/cargo"),
            &format!("echo \"built by $0\"; [ -z \"${{CARGO_HOME:-}}\" ] || {{ {fetch}; }}"),
        )?;
        self.program(&format!("{bin}/rustc"), &format!("echo 'rustc {version} (0123456789 2024-01-01)'"))
    }

    fn dev(&self, word: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg(self.0.join("tree/dev")).arg(word).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.0.join("bin").display()));
        command.env("HOME", self.0.join("no-home"));
        command
    }

    /// `dev model`, which needs a toolchain and nothing else.
    fn model(&self, sudo: Option<&str>) -> Result<Output> {
        let mut command = self.dev("model");
        if let Some(uid) = sudo {
            command.envs([("SUDO_USER", "someone"), ("SUDO_UID", uid), ("SUDO_GID", uid)]);
        }
        command.output().context("run dev")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _only_in_tmp = fs::remove_dir_all(&self.0);
    }
}

/// Demands that it failed, and said nothing but this.
fn says(output: &Output, sentence: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it went on");
    ensure!(said.lines().count() == 1 && said.starts_with("dev: ") && said.contains(sentence), "{said:?}");
    Ok(())
}

#[test]
fn a_toolchain_that_is_too_old_is_named_in_one_sentence() -> Result<()> {
    let place = Place::new("old")?;
    for (version, is_new) in
        [("1.66.0", false), ("1.87.1", false), ("1.88.0", true), ("1.100.0", true), ("2.0.0", true)]
    {
        place.toolchain("bin", version)?;
        let output = place.model(None)?;
        if is_new {
            ensure!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        } else {
            says(&output, &format!("Rust {version} (")).with_context(|| version.to_owned())?;
            says(&output, "install 1.88 or newer")?;
        }
    }
    place.program("bin/rustc", "echo 'error: no default toolchain is configured' >&2; exit 1")?;
    says(&place.model(None)?, "has no rustc that works (error: no default toolchain is configured)")
}

#[test]
fn a_missing_toolchain_is_named_in_one_sentence() -> Result<()> {
    if ["/usr/bin/cargo", "/bin/cargo", "/usr/local/go/bin/cargo"].iter().any(|path| Path::new(path).exists())
    {
        println!("skipped: the distribution's cargo is installed (runs where it is not)");
        return Ok(());
    }
    let place = Place::new("missing")?;
    says(&place.model(None)?, "cargo is not installed: install Rust 1.88 or newer")
}

/// sudo's PATH has a distribution's cargo in it, if there is one, and never the caller's.
#[test]
fn under_sudo_the_callers_own_toolchain_builds() -> Result<()> {
    let place = Place::new("sudo")?;
    place.toolchain("bin", "1.66.0")?;
    place.toolchain("home/.cargo/bin", "1.95.0")?;
    let output = place.model(Some("12345"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("home/.cargo/bin/cargo"), "{said:?}");
    Ok(())
}

#[test]
fn what_root_fetched_is_handed_back() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root leaves files that are root's (runs as root)");
        return Ok(());
    }
    let place = Place::new("back")?;
    place.toolchain("home/.cargo/bin", "1.95.0")?;
    let theirs = place.0.join("home/.cargo/theirs");
    fs::write(&theirs, "").context("a file of somebody else")?;
    chown(&theirs, Some(777), Some(777)).context("chown")?;
    fs::write(place.0.join("tree/target/built"), "").context("a file of ours")?;
    ensure!(place.model(Some("12345"))?.status.success(), "dev failed");
    let owner =
        |path: &str| Ok::<_, anyhow::Error>(fs::metadata(place.0.join(path)).context(path.to_owned())?.uid());
    for path in ["home/.cargo/registry/fetched", "home/.cargo/registry", "tree/target/built"] {
        ensure!(owner(path)? == 12_345, "{path} belongs to {}", owner(path)?);
    }
    ensure!(owner("home/.cargo/theirs")? == 777, "what was not root's stays whose it is");
    ensure!(owner("home")? == 0, "nor is anything else touched");
    Ok(())
}

/// What the README begins with: it builds, goes on with the distribution's containerd where go builds none, and ends as its program does.
#[test]
fn the_demonstration_is_built_and_told_its_words() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: `dev demo` wants root (runs as root)");
        return Ok(());
    }
    let place = Place::new("demo")?;
    place.toolchain("bin", "1.95.0")?;
    for (program, status) in [("apt-get", 0), ("go", 1)] {
        place.program(&format!("bin/{program}"), &format!("exit {status}"))?;
    }
    let demo = "echo \"demo is told '$*', built things lie in $SHIMTAP_RIG_CACHE\"; exit 3";
    place.program("tree/target/debug/demo", demo)?;
    for words in [&[][..], &["--once"]] {
        let output = place.dev("demo").args(words).output().context("run dev")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let rig = place.0.join("tree/target/rig");
        let told = format!("demo is told '{}', built things lie in {}", words.concat(), rig.display());
        let mut lines = said.lines();
        ensure!(lines.next().is_some_and(|line| line.starts_with("built by ")), "{said:?}");
        ensure!(lines.next() == Some(&told) && lines.next().is_none(), "{said:?}");
        ensure!(output.status.code() == Some(3), "{}", output.status);
        let noted = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(noted.contains("using the distribution's containerd"), "{noted:?}");
    }
    let output = place.dev("demo").arg("--twice").output().context("run dev")?;
    ensure!(output.status.code() == Some(64) && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

/// Parts of `dev test` that need a network, a VM, or what go builds.
const LEFT_OUT: [&str; 9] =
    ["PACKAGED", "PINNED", "BACKENDS", "ONE_SEVEN", "CRICTL", "DOCKER", "NERDCTL", "VM", "DENY"];

/// What libtest says at the end: passed, failed and filtered out.
fn result(passed: u32, failed: u32, filtered: u32) -> String {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    format!(
        "echo 'test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out'"
    )
}

/// A machine on which cargo has built these test programs: name, and what each does.
fn tested(place: &Place, suites: &[(&str, String)]) -> Result<Output> {
    place.toolchain("bin", "1.95.0")?;
    // Whatever it looks for is there, or installed in no time.
    place.program("bin/apt-get", "exit 0")?;
    let tests = place.0.join("tree/tests");
    let mut built = String::new();
    for (name, does) in suites {
        let program = place.0.join("tree/target").join(name);
        place.program(&format!("tree/target/{name}"), &format!("echo \"{name} is told $*\"\n{does}"))?;
        built += &format!(
            "{{\"reason\":\"compiler-artifact\",\"manifest_path\":\"{}/Cargo.toml\",\"target\":{{\"kind\":[\"test\"],\
             \"name\":\"{name}\",\"test\":true}},\"profile\":{{\"test\":true}},\"features\":[],\"executable\":\"{}\"}}\n",
            tests.display(),
            program.display()
        );
    }
    fs::write(place.0.join("built"), built).context("write what cargo says")?;
    let says = format!("case \"$*\" in *--message-format*) cat {} ;; esac", place.0.join("built").display());
    place.program("bin/cargo", &says)?;
    let mut command = place.dev("test");
    command.envs(LEFT_OUT.map(|part| (format!("SHIMTAP_SKIP_{part}"), "1")));
    command.env("SHIMTAP_SKIP_PACKAGES", "1").env("SHIMTAP_SKIP_PROMTOOL", "1");
    command.output().context("run dev")
}

#[test]
fn each_test_runs_once_and_the_last_line_counts_them() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: `dev test` wants root (runs as root)");
        return Ok(());
    }
    let place = Place::new("test")?;
    // It has two that run alone, and four more.
    let both = format!(
        "case \"$*\" in *'--skip a_grandchild'*) {} ;; *) {} ;; esac",
        result(4, 0, 2),
        result(2, 0, 4)
    );
    let suites = [("streams", both), ("otlp", result(3, 0, 1)), ("good", result(5, 0, 0))];
    let output = tested(&place, &suites)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Format, lints and a build; four, two, three and five tests.
    let last: Vec<&str> = said.lines().rev().take(2).collect();
    ensure!(last.first() == Some(&"17 passed, 0 failed, 1 skipped"), "{said}");
    ensure!(last.get(1).is_some_and(|line| line.starts_with("ran on containerd none, ")), "{said}");
    let told = |name: &str| said.lines().filter(|line| line.starts_with(&format!("{name} is told "))).count();
    ensure!([told("streams"), told("otlp"), told("good")] == [2, 1, 1], "{said}");
    ensure!(said.contains("good 0 (0)") || said.contains("good 1 (0)"), "no seconds: {said}");
    Ok(())
}

/// They pass, to libtest, and whoever reads the last lines is to know that they asked nothing.
#[test]
fn what_asked_nothing_is_named_at_the_end_and_counts_as_skipped() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: `dev test` wants root (runs as root)");
        return Ok(());
    }
    let place = Place::new("nothing")?;
    // As libtest shows what tests said that passed.
    let shown = |said: &[(&str, &str)]| {
        let each =
            said.iter().map(|(test, said)| format!("echo '---- {test} stdout ----'\necho '{said}'\necho\n"));
        let each: String = each.collect();
        let shown =
            format!("echo\necho successes:\necho\n{each}echo successes:\necho '    all of them'\necho");
        // Only whoever asks for it is shown that.
        format!("case \"$*\" in *--show-output*) {shown} ;; esac")
    };
    let disks = shown(&[
        ("full", "skipped: no mounts (runs as root)"),
        ("talks", "of this and that"),
        ("thin", "skipped: no mounts (runs as root)"),
    ]);
    let other = shown(&[("core", "skipped: no cores")]);
    let fails = format!("echo failures:\necho why\n{}\nexit 101", result(1, 1, 0));
    let suites = [("disks", format!("{disks}\n{}", result(4, 0, 0))), ("other", format!("{other}\n{fails}"))];
    let output = tested(&place, &suites)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = "asked nothing (skipped by themselves): no cores: other core; no mounts (runs as root): disks full, disks thin";
    ensure!(said.lines().any(|line| line == named), "{said}");
    // Format, lints and a build; four and one tests, of which three asked nothing.
    ensure!(said.lines().last() == Some("5 passed, 1 failed, 3 skipped"), "{said}");
    ensure!(
        !said.contains("of this and that") && !said.contains("successes:"),
        "not what is of no use: {said}"
    );
    ensure!(said.contains("\nfailures:\nwhy\ntest result: FAILED."), "{said}");
    Ok(())
}

#[test]
fn what_fails_is_named_at_the_end_and_shown_in_one_piece() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: `dev test` wants root (runs as root)");
        return Ok(());
    }
    let place = Place::new("fails")?;
    let fails = format!("echo one\nsleep 0.2\necho two\n{}\nexit 101", result(1, 1, 0));
    let suites = [("fails", fails), ("good", result(5, 0, 0)), ("dies", "kill -9 $$".to_owned())];
    let output = tested(&place, &suites)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!output.status.success(), "{said}");
    ensure!(said.contains("\none\ntwo\ntest result: FAILED. 1 passed; 1 failed"), "{said}");
    ensure!(said.contains("\nfailed: dies; fails\n"), "{said}");
    ensure!(said.lines().last() == Some("9 passed, 2 failed, 0 skipped"), "{said}");
    Ok(())
}

/// Two tests of which one fails, beside others and, if `always`, alone.
fn fails_beside_others(always: bool) -> String {
    let [beside, fails, passes] = [result(1, 1, 0), result(0, 1, 1), result(1, 0, 1)];
    let alone = if always { format!("{fails}; exit 101") } else { passes };
    format!(
        "case \"$*\" in *'--exact two'*) {alone} ;; *) echo 'test one ... ok\ntest two ... FAILED'; {beside}; exit 101 ;; esac"
    )
}

#[test]
fn what_fails_beside_others_is_tried_again_alone_and_named() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: `dev test` wants root (runs as root)");
        return Ok(());
    }
    let unsteady = "unsteady (failed beside others, passed alone; the failure stands above): busy two";
    for (always, most, last) in [
        (false, 1, "10 passed, 0 failed, 0 skipped"),
        (true, 1, "9 passed, 1 failed, 0 skipped"),
        (false, 6, "14 passed, 6 failed, 0 skipped"),
    ] {
        let place = Place::new("again")?;
        let mut suites = vec![("good", result(5, 0, 0)), ("busy", fails_beside_others(always))];
        // More than a few: that is not the machine.
        suites.extend(
            ["b", "c", "d", "e", "f"].iter().take(most - 1).map(|name| (*name, fails_beside_others(always))),
        );
        let output = tested(&place, &suites)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let forgiven = !always && most == 1;
        ensure!(output.status.success() == forgiven, "{said}");
        ensure!(said.lines().last() == Some(last), "{said}");
        ensure!(said.lines().any(|line| line == unsteady) == forgiven, "{said}");
        ensure!(said.contains("\nfailed: ") != forgiven, "{said}");
        ensure!(said.contains("test two ... FAILED"), "its failure stays: {said}");
    }
    Ok(())
}

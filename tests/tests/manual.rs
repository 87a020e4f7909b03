//! Manual pages are read by man, and completions by bash, as packages bring them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shimtap_tests::rig::run::run;
use shimtap_tests::rig::tools;

const LIMIT: Duration = Duration::from_secs(60);

/// A folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("shimtap-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).context("create a folder")?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shimtap(words: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::collector()?);
    command.args(words);
    Ok(run(command, LIMIT)?.ok()?.text())
}

fn pages(dir: &Path) -> Result<Vec<PathBuf>> {
    shimtap(&["man", dir.to_str().context("a path of text")?])?;
    let entries = fs::read_dir(dir).context("list the pages")?;
    entries.map(|entry| Ok(entry.context("list the pages")?.path())).collect()
}

/// Commands that `--help` lists.
fn commands() -> Result<Vec<String>> {
    let help = shimtap(&["--help"])?;
    let rows = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let rows = rows.take_while(|line| line.starts_with("  "));
    Ok(rows.filter_map(|row| row.split_whitespace().next().map(str::to_owned)).collect())
}

#[test]
#[ignore = "needs shimtap built and groff (package groff-base): `sudo ./dev test` runs it"]
fn every_command_has_a_page_that_renders_without_a_warning() -> Result<()> {
    let dir = Folder::new("man")?;
    let pages = pages(&dir.0)?;
    let commands = commands()?;
    ensure!(commands.len() > 10 && commands.iter().any(|name| name == "top"), "{commands:?}");
    for command in &commands {
        let page = dir.0.join(format!("shimtap-{command}.1"));
        ensure!(pages.contains(&page), "no page for {command}: {pages:?}");
    }
    ensure!(pages.len() == commands.len() + 1, "one page each and one for all: {pages:?}");
    for page in &pages {
        let mut groff = Command::new("groff");
        groff.args(["-ww", "-man", "-Tutf8", "-K", "utf8", "-P-cbou"]).arg(page);
        let said = run(groff, LIMIT)?.ok().context("groff (package groff-base)")?;
        ensure!(said.stderr.is_empty(), "{}: {}", page.display(), said.stderr);
        let text = said.text();
        ensure!(
            text.contains("SYNOPSIS")
                && text.contains("OPTIONS")
                && text.contains(concat!("shimtap ", env!("CARGO_PKG_VERSION"))),
            "{}: {text}",
            page.display()
        );
    }
    Ok(())
}

/// What bash offers for a line.
fn completed(file: &Path, words: &[&str]) -> Result<Vec<String>> {
    let script = r#"
        set -eu; source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        function="$(complete -p shimtap | sed 's/.*-F \([^ ]*\) .*/\1/')"
        "$function" shimtap "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]).arg(file).args(words);
    let said = run(bash, LIMIT)?.ok().context("bash")?;
    ensure!(said.stderr.is_empty(), "bash said {}", said.stderr);
    Ok(said.text().lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs shimtap built: `sudo ./dev test` runs it"]
fn bash_completes_commands_options_and_values() -> Result<()> {
    let dir = Folder::new("completions")?;
    let file = dir.0.join("shimtap.bash");
    fs::write(&file, shimtap(&["completions", "bash"])?).context("write it")?;
    let offered = |words: &[&str], wanted: &str| -> Result<()> {
        let all = completed(&file, words)?;
        ensure!(all.iter().any(|word| word == wanted), "{words:?}: {all:?}");
        Ok(())
    };
    for command in commands()? {
        offered(&["shimtap", ""], &command)?;
    }
    offered(&["shimtap", "to"], "top")?;
    offered(&["shimtap", "top", "--in"], "--interval")?;
    offered(&["shimtap", "top", "--sort", "m"], "memory")?;
    offered(&["shimtap", "install", "--hook", ""], "opt")?;
    for (shell, sign) in [("zsh", "#compdef shimtap"), ("fish", "complete -c shimtap")] {
        ensure!(shimtap(&["completions", shell])?.contains(sign), "nothing for {shell}");
    }
    Ok(())
}

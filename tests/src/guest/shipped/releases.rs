//! One release after the other on a node with running pods: the next one, back again, and none. Wrappers stay as they are, so the
//! collector of each release meets wrappers of the other.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::fresh::Fresh;
use super::package::{dpkg, install, purge, shimtap, sweep, unit_is};
use super::patiently;
use crate::guest::node::{LIMIT, lines, property, systemctl, write};
use crate::line::{number_of, tape};
use crate::oracle::{cri_log, one_tape, whole_but_for_ends_of_containerd};
use crate::rig::Version;
use crate::rig::cri::{Cri, Pod, Wanted};
use crate::rig::packages::{NEXT, THIS};
use crate::rig::vm::plan::{DEB, NEXT_DEB};

const UNIT: &str = "shimtap.service";
const WIDTH: usize = 100;

/// A pod whose container writes until it is told to end.
struct Writing {
    pod: Pod,
    id: String,
    name: &'static str,
}

/// Up, down, and away.
pub fn come_and_go_under_running_pods() -> Result<()> {
    sweep()?;
    let node = Fresh::start(Version::Packaged)?;
    write("/etc/shimtap/collector.toml", "[file]\npath = \"/var/log/shimtap/lines.jsonl\"\n")?;
    install(DEB)?;
    shimtap(&["install", "--yes", "--restart"])?.ok()?;
    node.cri.await_ready()?;
    let first = Writing::start(&node.cri, "first")?;
    are_attached(&[(&first, THIS)])?;

    replace(NEXT_DEB)?;
    are_attached(&[(&first, THIS)])?;
    let second = Writing::start(&node.cri, "second")?;
    are_attached(&[(&first, THIS), (&second, NEXT)])?;

    replace(DEB)?;
    are_attached(&[(&first, THIS), (&second, NEXT)])?;
    is_upgraded()?;
    are_attached(&[(&first, THIS), (&second, THIS)])?;
    for writing in [&first, &second] {
        // No release has cost a line; the restart of containerd below may. The last line may be on its way.
        patiently(&format!("{}'s lines in containerd's log", writing.name), || {
            let log = writing.log(&node.cri).ok();
            Ok(log.filter(|(log, written)| log == written))
        })?;
    }

    is_refused("shimtap uninstall")?;
    shimtap(&["uninstall", "--yes", "--restart"])?.ok()?;
    node.cri.await_ready()?;
    if Path::new("/var/lib/shimtap/install.json").exists() {
        // The link that the bundles name: it goes when they are gone.
        is_refused("shimtap uninstall")?;
    } else {
        is_refused("end them first")?;
    }
    for writing in [first, second] {
        writing.ends_well(&node.cri)?;
    }
    if Path::new("/var/lib/shimtap/install.json").exists() {
        shimtap(&["uninstall", "--yes"])?.ok()?;
    }
    purge()?;
    node.end()
}

/// A removal leaves what the collector has kept; whoever installs it again has the unit as they had it.
pub fn leave_the_unit_as_it_was_wanted() -> Result<()> {
    sweep()?;
    install(DEB)?;
    unit_is(true, true)?;
    is_as_hard_as_readme_says()?;
    remove()?;
    ensure!(Path::new("/var/lib/shimtap").exists(), "a removal took what was kept");
    install(DEB)?;
    unit_is(true, true).context("installed again")?;
    systemctl(&["disable", "--now", UNIT])?;
    install(NEXT_DEB)?;
    unit_is(false, false).context("upgraded after it was disabled")?;
    remove()?;
    install(DEB)?;
    unit_is(false, false).context("installed again after it was disabled")?;
    purge()?;
    install(DEB)?;
    unit_is(true, true).context("installed after a purge")?;
    purge()
}

fn remove() -> Result<()> {
    dpkg(&["--remove", "shimtap"])?.ok().context("remove it")?;
    unit_is(false, false)?;
    ensure!(!Path::new("/usr/bin/shimtap").exists(), "it is still there");
    Ok(())
}

/// Puts the other release in its place: the collector is another one afterwards.
fn replace(deb: &str) -> Result<()> {
    let before = property(UNIT, "MainPID")?;
    install(deb)?;
    unit_is(true, true)?;
    ensure!(property(UNIT, "MainPID")? != before, "the collector of the other release still runs");
    Ok(())
}

/// Running wrappers are brought to the installed release. One that is too slow for what a wrapper waits goes on as it was, and is
/// asked again, as an administrator would: an emulated machine has that now and then.
fn is_upgraded() -> Result<()> {
    let mut said = String::new();
    let done = patiently("the wrappers to be upgraded", || {
        let came = shimtap(&["upgrade", "--all"])?;
        said = format!("{}{}", came.text(), came.stderr);
        ensure!(came.code == 0 || said.contains("is at work again"), "{said}");
        print!("{said}");
        Ok((came.code == 0).then_some(()))
    });
    done.with_context(|| said.clone())
}

/// The package is not given up, and goes on working.
fn is_refused(why: &str) -> Result<()> {
    let came = dpkg(&["--remove", "shimtap"])?;
    ensure!(came.code != 0 && came.stderr.contains(why), "not refused for {why:?}: {came:?}");
    let status = dpkg(&["--status", "shimtap"])?.ok()?.text();
    ensure!(
        status.contains("Status: install ok installed") || status.contains("Status: deinstall ok installed"),
        "{status}"
    );
    unit_is(true, true)
}

/// Waits until the collector has these wrappers, each of its release.
fn are_attached(wanted: &[(&Writing, &str)]) -> Result<()> {
    let wanted: BTreeMap<&str, &str> =
        wanted.iter().map(|(writing, release)| (writing.pod.id.as_str(), *release)).collect();
    let mut last = String::new();
    let came = patiently("the wrappers", || {
        let said = shimtap(&["ps", "--json"])?;
        if said.code != 0 {
            // It has only just been started.
            return Ok(None);
        }
        last = said.text();
        let ps: Value = serde_json::from_str(&last).context("the JSON of ps")?;
        let wrappers = ps.get("wrappers").and_then(Value::as_array).context("wrappers")?;
        let text =
            |of: &'_ Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let there: BTreeMap<String, String> =
            wrappers.iter().map(|wrapper| (text(wrapper, "pod"), text(wrapper, "version"))).collect();
        let all = wanted.iter().all(|(pod, release)| there.get(*pod).is_some_and(|is| is == release));
        Ok((all && there.len() == wanted.len()).then_some(()))
    });
    came.with_context(|| format!("not {wanted:?} but {last}"))
}

/// systemd says of the unit where it runs what README says.
fn is_as_hard_as_readme_says() -> Result<()> {
    let said = {
        let mut command = std::process::Command::new("systemd-analyze");
        command.args(["security", "--no-pager", UNIT]);
        crate::rig::run::run(command, LIMIT)?.ok().context("systemd-analyze")?.text()
    };
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).context("no figure")?;
    let figure = overall.split_whitespace().find(|word| word.parse::<f64>().is_ok()).context("no number")?;
    let readme = std::fs::read_to_string("/usr/share/doc/shimtap/README.md").context("read README")?;
    ensure!(readme.contains(&format!("exposure {figure}")), "README does not say {overall}");
    Ok(())
}

impl Writing {
    fn start(cri: &Cri, name: &'static str) -> Result<Writing> {
        let pod = cri.run_pod(name)?;
        let script = format!("speaker lines=100000000 rate=50 width={WIDTH} until=/enough; exit 4");
        let command = ["sh", "-c", script.as_str()];
        let id = cri.run(&pod, &Wanted { name, command: &command, ..Wanted::default() })?;
        Ok(Writing { pod, id, name })
    }

    /// Ends it: its status is its own, containerd's log is whole but for what containerd's restart took, and the file has all of it.
    fn ends_well(self, cri: &Cri) -> Result<()> {
        let told = cri.exec(&self.id, &["touch", "/enough"], 0)?;
        ensure!(told.exit_code == 0, "{} could not be told: {told:?}", self.name);
        ensure!(cri.await_exit(&self.id)?.exit_code == 4, "{}'s exit status is lost", self.name);
        let (log, written) = self.log(cri)?;
        whole_but_for_ends_of_containerd(&log, &written, WIDTH, 1).with_context(|| self.name)?;
        let end = u64::try_from(written.len())?;
        let whole = patiently(&format!("all of {}'s lines in the file", self.name), || {
            Ok(one_tape(&lines()?, &self.id, "stdout")?.filter(|tape| tape.end() >= end).cloned())
        })?;
        let judgement = whole.judge(&written)?;
        ensure!(judgement.gaps.is_empty() && judgement.delivered == end, "{}: {judgement:?}", self.name);
        cri.remove_pod(&self.pod)
    }

    /// containerd's log, and what was written up to its last line.
    fn log(&self, cri: &Cri) -> Result<(Vec<u8>, Vec<u8>)> {
        let log = cri_log(&cri.log_path(&self.pod, self.name))?.stdout;
        let lines = log.strip_suffix(b"\n").with_context(|| format!("{}'s last line is torn", self.name))?;
        let last = lines.rsplit(|byte| *byte == b'\n').next().and_then(number_of);
        let count = last.with_context(|| format!("{}'s last line has no number", self.name))? + 1;
        Ok((log, tape(1, count, WIDTH)))
    }
}

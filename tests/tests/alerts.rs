//! The alerts that are shipped are rules that Prometheus takes, each of them fires and does not fire where it should
//! (tests/alerts/alerts.test.yml), and each has words for who is woken by it. The scrape configurations that are shipped are such
//! that Prometheus takes, whole.
//!
//! On a real collector they are asked for, and with it, in `dashboards`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use shimtap_tests::{
    oracle::{
        families::{asked_for, documented, foreign},
        yaml::{self, ALERTS, alerts, list, text},
    },
    rig::run::run,
};

const LIMIT: Duration = Duration::from_secs(60);
const TESTS: &str = "tests/alerts/alerts.test.yml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn names() -> Result<BTreeSet<String>> {
    alerts()?.iter().map(|alert| Ok(text(alert, "alert")?.to_owned())).collect()
}

fn promtool(words: &[&str], file: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(words).arg(path(file));
    run(command, LIMIT).context("is promtool installed (package prometheus)?")?.ok().map(drop)
}

#[test]
#[ignore = "needs promtool (package prometheus): `sudo ./dev test` runs it where that is installed"]
fn promtool_takes_the_rules_and_their_tests_pass() -> Result<()> {
    promtool(&["check", "rules"], ALERTS)?;
    promtool(&["test", "rules"], TESTS)
}

/// As they are but for where the nodes are listed: Debian's build of Prometheus knows no cluster. What it is asked there is one
/// word, which stands here.
#[test]
#[ignore = "needs promtool (package prometheus): `sudo ./dev test` runs it where that is installed"]
fn promtool_takes_the_scrape_configurations() -> Result<()> {
    for (name, clusters) in [("prometheus", 3), ("kube-prometheus", 3), ("azure-managed", 0)] {
        let file = format!("packaging/prometheus/{name}.yml");
        let shipped = fs::read_to_string(path(&file)).with_context(|| format!("read {file}"))?;
        let whole = yaml::parse(&shipped)?;
        // Azure's agent reads a text within.
        let text = whole["data"]["prometheus-config"].as_str().unwrap_or(&shipped);
        let asks = text.matches("kubernetes_sd_configs:\n      - role: node\n").count();
        ensure!(
            asks == clusters && text.matches("kubernetes_sd_configs").count() == clusters,
            "{file}: {asks}"
        );
        let local = text.replace(
            "kubernetes_sd_configs:\n      - role: node\n",
            "static_configs:\n      - targets: ['node:10250']\n",
        );
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scrape-{name}.yml"));
        fs::write(&made, &local).context("write it")?;
        check(&made).with_context(|| file.clone())?;
        // It does look: a key that it does not know is refused, anywhere.
        fs::write(&made, local.replacen("honor_labels:", "honour_labels:", 1)).context("write it")?;
        ensure!(check(&made).is_err(), "{file}: promtool takes anything");
    }
    Ok(())
}

/// Files that it names need not be here.
fn check(file: &Path) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(["check", "config", "--syntax-only"]).arg(file);
    run(command, LIMIT).context("is promtool installed (package prometheus)?")?.ok().map(drop)
}

#[test]
fn each_alert_says_what_is_wrong_and_what_to_do() -> Result<()> {
    let (documented, page) =
        (documented()?, fs::read_to_string(path("docs/alerts.md")).context("read docs/alerts.md")?);
    let mut headings: BTreeSet<&str> = page.lines().filter_map(|row| row.strip_prefix("### ")).collect();
    for alert in alerts()? {
        let name = text(&alert, "alert")?;
        ensure!(headings.remove(name), "docs/alerts.md has no place for {name}");
        let notes = &alert["annotations"];
        let url = format!("/docs/alerts.md#{}", name.to_lowercase());
        ensure!(text(notes, "runbook_url")?.ends_with(&url), "{name}: {notes:?}");
        for note in ["summary", "description"] {
            ensure!(text(notes, note)?.len() > 20, "{name} has no {note}");
        }
        ensure!(["warning", "critical"].contains(&text(&alert["labels"], "severity")?), "{name}");
        let asked = asked_for(text(&alert, "expr")?);
        ensure!(asked.is_subset(&documented), "{name} asks for {asked:?}");
        let foreign = foreign(text(&alert, "expr")?);
        ensure!(foreign.is_empty(), "{name}: nobody brings {foreign:?}");
    }
    ensure!(headings.is_empty(), "there are no alerts {headings:?}");
    Ok(())
}

/// A rule whose test is left out would never be seen to fire, and one whose series are not in the quiet case would be quiet
/// whatever it says.
#[test]
fn each_alert_is_tested_to_fire_and_to_be_quiet() -> Result<()> {
    let whole = yaml::read(TESTS)?;
    let cases = list(&whole, "tests")?;
    let mut fire = BTreeSet::new();
    for case in cases {
        for test in list(case, "promql_expr_test")? {
            for sample in list(test, "exp_samples")? {
                let labels = text(sample, "labels")?;
                let name = labels.split("alertname=\"").nth(1).and_then(|rest| rest.split('"').next());
                fire.insert(name.with_context(|| labels.to_owned())?.to_owned());
            }
        }
    }
    ensure!(fire == names()?, "of {:?} only {fire:?} are seen to fire", names()?);
    let quiet = cases.first().context("no quiet case")?;
    let series = list(quiet, "input_series")?;
    let shown: String = series.iter().map(|series| text(series, "series")).collect::<Result<_>>()?;
    for alert in alerts()? {
        let asked = asked_for(text(&alert, "expr")?);
        let missing: Vec<_> = asked.difference(&asked_for(&shown)).cloned().collect();
        ensure!(missing.is_empty(), "{}: the quiet case has no {missing:?}", text(&alert, "alert")?);
    }
    Ok(())
}

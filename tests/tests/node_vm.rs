//! A whole node in a VM: cgroup v2, systemd, another kernel. One boot; each suite that the guest ran is a test here.
//!
//! The suites are the ordinary ones, the same programs that run outside, and the guest's own checks
//! (`src/guest/checks`). What they say is in `target/rig/vm/last/report.log`. See docs/node-vm.md.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use shimtap_tests::rig::Version;
use shimtap_tests::rig::vm::plan::Program;
use shimtap_tests::rig::vm::{self, Plan, Report, Suite};

/// From power-on to power-off, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(900);
/// What one suite may take.
const SUITE_LIMIT: Duration = Duration::from_secs(400);

/// The suites: name, integration test (none = the guest's own checks), and which of its tests (none = all).
const SUITES: [(&str, Option<&str>, &[&str]); 2] =
    [("checks", None, &[]), ("kernel_facts", Some("kernel_facts"), &[])];

/// What the guest said; the first test that asks boots it.
static REPORT: OnceLock<Result<Report, String>> = OnceLock::new();

mod vm_suites {
    use super::{Result, passed};

    macro_rules! suites {
        ($($suite:ident),* $(,)?) => {
            $(
                #[test]
                #[ignore = "boots a virtual machine: `sudo ./dev test` runs it"]
                fn $suite() -> Result<()> {
                    passed(stringify!($suite))
                }
            )*
        };
    }

    suites!(checks, kernel_facts);
}

fn passed(suite: &str) -> Result<()> {
    let report = REPORT.get_or_init(|| vm::run(&plan(), LIMIT).map_err(|fault| format!("{fault:?}")));
    let report = report.as_ref().map_err(|fault| anyhow!("{fault}"))?;
    let outcome = report.passed(suite).with_context(|| format!("on {}", report.node))?;
    println!("{}: {} tests in {} s on {}", suite, outcome.tests(), outcome.secs, report.node);
    Ok(())
}

fn plan() -> Plan {
    let has_pinned = Version::Pinned.tools().is_ok();
    let suite = |(name, test, only): &(&str, Option<&str>, &[&str])| {
        let mut arguments: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
        if test.is_some() {
            arguments.extend(["--include-ignored", "--test-threads=2"].map(str::to_owned));
            if !has_pinned {
                arguments.extend(["--skip", "pinned::"].map(str::to_owned));
            }
        }
        let program = test.map_or(Program::Checks, |test| Program::Test(test.to_owned()));
        Suite { name: (*name).to_owned(), program, arguments, limit_secs: SUITE_LIMIT.as_secs() }
    };
    Plan { suites: SUITES.iter().map(suite).collect() }
}

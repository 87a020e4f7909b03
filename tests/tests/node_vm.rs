//! A whole node in a VM: cgroup v2, systemd, another kernel. One boot; each suite that the guest ran is a test here.
//!
//! The suites are the ordinary ones, the same programs that run outside, and the guest's own checks
//! (`src/guest/checks`). What they say is in `target/rig/vm/last/report.log`. See docs/node-vm.md.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use shimtap_tests::rig::vm::{self, Plan, Report, Suite};

/// From power-on to power-off, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(1500);
/// What one suite may take.
const SUITE_LIMIT: Duration = Duration::from_secs(700);

/// The suites: the integration test (none = the guest's own checks), and which of its tests. Others take minutes on an
/// emulated machine: `./dev vm NAME` runs them.
const SUITES: [(&str, Option<&str>); 3] =
    [("checks", None), ("kernel_facts", None), ("numbers", Some("every_number"))];

/// What the guest said; the first test that asks boots it.
static REPORT: OnceLock<Result<Report, String>> = OnceLock::new();

mod in_the_vm {
    use std::time::Duration;

    use shimtap_tests::chaos::dice::{self, Dice};
    use shimtap_tests::rig::vm::power;

    use super::{LIMIT, Result, passed};

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

    suites!(checks, kernel_facts, numbers);

    /// A machine of its own: it does not live through it.
    #[test]
    #[ignore = "boots virtual machines: `sudo ./dev test` runs it"]
    fn a_power_cut_under_load() -> Result<()> {
        if std::env::var_os("SHIMTAP_VM_POWER").is_none() {
            println!("left out: SHIMTAP_VM_POWER=1 runs it (two boots, minutes on a busy machine)");
            return Ok(());
        }
        let seed = dice::seed()?;
        println!("SHIMTAP_SEED={seed}");
        let late = Dice::new(seed, "power").pause(Duration::from_secs(3));
        let report = power::cut(late, LIMIT)?;
        println!("{}", report.passed(power::VERDICT)?.output);
        Ok(())
    }
}

fn passed(name: &str) -> Result<()> {
    let report = REPORT.get_or_init(|| vm::run(&plan(), LIMIT).map_err(|fault| format!("{fault:?}")));
    let report = report.as_ref().map_err(|fault| anyhow!("{fault}"))?;
    let suite = plan().suites.into_iter().find(|suite| suite.name.split(':').next() == Some(name));
    let suite = suite.with_context(|| format!("{name} is not in the plan"))?;
    report.passed(&suite.name).with_context(|| format!("on {}", report.node)).map(drop)
}

fn plan() -> Plan {
    let suites = SUITES.iter().map(|(name, filter)| match *name {
        "checks" => Suite::checks(name, SUITE_LIMIT),
        test => Suite::of_test(test, *filter, SUITE_LIMIT),
    });
    Plan { suites: suites.collect() }
}

//! A whole node in a VM: cgroup v2, systemd, another kernel. One boot for most; each suite that the guest ran is a test here.
//!
//! The suites are the ordinary ones, the same programs that run outside, and the guest's own checks
//! (`src/guest/checks`). What needs a machine of its own has one, and is asked for by a variable of `./dev test`, which names it
//! where it is left out; here nothing is left out. What they say is in `target/rig/vm/*/report.log`. See docs/node-vm.md.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use shimtap_tests::rig::vm::{self, Plan, Report, Suite};

/// From power-on to power-off, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(2100);
/// What one suite may take.
const SUITE_LIMIT: Duration = Duration::from_secs(1200);
/// What a suite may take that has a boot of its own: an hour of a machine that leaves it a tenth of a processor.
const ALONE_LIMIT: Duration = Duration::from_secs(3600);
/// What its boot may take.
const ALONE_BOOT: Duration = Duration::from_secs(4200);
/// What a boot from an image, and what is asked of it, may take.
const BAKED_LIMIT: Duration = Duration::from_secs(1800);

/// The suites of the common boot: the integration test (none = the guest's own checks), and which of its tests. Others take
/// minutes on an emulated machine: `./dev vm NAME` runs them.
const SUITES: [(&str, Option<&str>); 3] =
    [("checks", None), ("kernel_facts", None), ("numbers", Some("every_number"))];

/// What the guest said; the first test that asks boots it.
static REPORT: OnceLock<Result<Report, String>> = OnceLock::new();

mod in_the_vm {
    use shimtap_tests::chaos::dice::{self, Dice};
    use shimtap_tests::rig::vm::power::{self, Fsync};
    use shimtap_tests::rig::vm::{baked, plan};

    use super::{ALONE_BOOT, ALONE_LIMIT, BAKED_LIMIT, Duration, LIMIT, Result, Suite, passed, vm};

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

    /// Whoever installs the package on a fresh node has what they came for, and can take it away again.
    #[test]
    #[ignore = "boots a virtual machine: `sudo SHIMTAP_VM_SHIPPED=1 ./dev test` runs it"]
    fn shipped() -> Result<()> {
        let suite = Suite::shipped(None, ALONE_LIMIT);
        println!("{}", vm::run_alone(plan::SHIPPED, suite, ALONE_BOOT)?.passed(plan::SHIPPED)?.output);
        Ok(())
    }

    /// Its disk is what is tried.
    #[test]
    #[ignore = "boots a virtual machine: `sudo SHIMTAP_VM_SHIPPED=1 ./dev test` runs it"]
    fn an_image_with_the_package_in_it() -> Result<()> {
        println!("{}", baked::boot(BAKED_LIMIT)?.passed(plan::BAKED)?.output);
        Ok(())
    }

    /// Nobody else may live by its clock.
    #[test]
    #[ignore = "boots a virtual machine: `sudo SHIMTAP_VM_CLOCK=1 ./dev test` runs it"]
    fn a_clock_that_is_stepped() -> Result<()> {
        let suite = Suite::clock(dice::seed()?, ALONE_LIMIT);
        println!("{}", vm::run_alone(plan::CLOCK, suite, ALONE_BOOT)?.passed(plan::CLOCK)?.output);
        Ok(())
    }

    /// It does not live through it.
    #[test]
    #[ignore = "boots virtual machines: `sudo SHIMTAP_VM_POWER=1 ./dev test` runs it"]
    fn a_power_cut_under_load() -> Result<()> {
        cut(Fsync::Interval)
    }

    /// What was acknowledged is on the disk, not only what was brought there some time ago.
    #[test]
    #[ignore = "boots virtual machines: `sudo SHIMTAP_VM_POWER=1 ./dev test` runs it"]
    fn a_power_cut_with_fsync_always() -> Result<()> {
        cut(Fsync::Always)
    }

    fn cut(fsync: Fsync) -> Result<()> {
        let seed = dice::seed()?;
        println!("SHIMTAP_SEED={seed}");
        let late = Dice::new(seed, "power").pause(Duration::from_secs(3));
        let report = power::cut(fsync, late, LIMIT)?;
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

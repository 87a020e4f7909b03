//! Trouble of every kind under load, and nothing is lost silently: the short schedule of the judge.
//!
//! Seeded: `SHIMTAP_SEED=n` repeats order, moments and places (not the scheduler). `./dev soak` runs the same cases, and
//! larger ones, for as long as it is told. docs/judge.md says what is judged. The case that steps the clock has a machine of its own:
//! `node_vm::in_the_vm::clock`.

use anyhow::{Context, Result};
use shimtap_tests::chaos::dice;
use shimtap_tests::judge::{self, cases};
use shimtap_tests::rig::Version;

/// Each on one containerd, in turns: what they ask of is the collector, and both have had their share then.
macro_rules! cases {
    ($($module:ident $version:ident: $($name:ident),* $(,)?;)*) => {
        $(mod $module {
            $(
                #[test]
                #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
                fn $name() -> anyhow::Result<()> {
                    super::holds(stringify!($name), super::Version::$version)
                }
            )*
        })*
    };
}

cases! {
    pinned Pinned: processes, sinks, refuses, damage, spool_full, heads;
    packaged Packaged: crowd, limited, file_disk, journal_disk, output, spool_damage;
}

fn holds(name: &str, version: Version) -> Result<()> {
    let seed = dice::seed()?;
    println!("SHIMTAP_SEED={seed}");
    let made = cases::named(name).with_context(|| format!("there is no case {name}"))?;
    println!("{:#?}", judge::run(&made(version, seed))?);
    Ok(())
}

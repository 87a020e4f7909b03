//! The rig: a private, real containerd with real shims, in a directory of its own, and what a test needs
//! to drive it and to prove afterwards that nothing was left behind.
//!
//! It never mocks containerd or a shim, never touches the machine's own containerd, and ends only
//! processes that carry its own mark.

pub mod backend;
pub mod busy;
pub mod collector;
mod config;
pub mod cri;
pub mod ctr;
pub mod deaths;
pub mod disk;
pub mod docker;
pub mod endpoint;
pub mod image;
pub mod leftovers;
pub mod logger;
pub mod node;
pub mod packages;
pub mod patience;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod pty;
pub mod run;
mod seed;
pub mod tools;
pub mod vm;

pub use config::{Foreign, Hook, Shim};
pub use node::{Node, Setup};
pub use patience::{eventually, now_and_then};
pub use tools::Version;

use anyhow::Result;

/// Runs `scenario` on a node without and on a node with the wrapper and demands the same answer of both,
/// which is the promise that the workload does not notice. Both nodes must end with nothing left.
pub fn same_with_and_without<T, F>(version: Version, hook: Hook, scenario: F) -> Result<T>
where
    T: PartialEq + std::fmt::Debug,
    F: Fn(&Node) -> Result<T>,
{
    let plain = Setup::new(version, Shim::Unwrapped).run(&scenario)?;
    let wrapped = Setup::new(version, Shim::Wrapped(hook)).run(&scenario)?;
    anyhow::ensure!(
        plain == wrapped,
        "with the wrapper the answer differs\nwithout: {plain:#?}\nwith:    {wrapped:#?}"
    );
    Ok(wrapped)
}

/// Makes one test per containerd out of each scenario, a function from [`Version`] to `anyhow::Result<()>`.
///
/// They are marked as ignored because they need root and a real containerd; `./dev test` runs them all.
#[macro_export]
macro_rules! on_each_containerd {
    ($($scenario:ident),* $(,)?) => {
        $crate::on_each_containerd!(@module packaged, Packaged, $($scenario),*);
        $crate::on_each_containerd!(@module pinned, Pinned, $($scenario),*);
    };
    (@module $module:ident, $version:ident, $($scenario:ident),*) => {
        mod $module {
            $(
                #[test]
                #[ignore = "needs root and a real containerd: `sudo ./dev test` runs it"]
                fn $scenario() -> anyhow::Result<()> {
                    super::$scenario($crate::rig::Version::$version)
                }
            )*
        }
    };
}

//! Telling the collector that a pod runs unwrapped: in a process of its own, since `start` must not wait for it.

use std::process::ExitCode;

use crate::{
    args::{self, Arguments},
    config::Config,
    link,
    sys::process,
};

/// What `ps` shows, for the moment it lives.
pub const VERB: &str = "tap-tell";

/// In its environment: why.
const WHY: &str = "SHIMTAP_UNWRAPPED";
/// Longest reason that is told.
const WHY_MAX: usize = 400;

/// Starts that process, detached; failing means that the collector does not learn it from us.
pub fn spawn(config: &Config, arguments: &Arguments, why: &str) {
    let argv = args::ours(VERB, &arguments.namespace, &arguments.id);
    let why = why.chars().filter(|c| *c != '\0').take(WHY_MAX).collect();
    let env = [("SHIMTAP_COLLECTOR".to_owned(), config.collector.clone()), (WHY.to_owned(), why)];
    let _ = process::spawn_self(&argv, &env, &[]);
}

/// That process.
pub fn tell(arguments: &Arguments) -> ExitCode {
    let why = std::env::var(WHY).unwrap_or_default();
    link::tell_unwrapped(&Config::load().collector, &arguments.namespace, &arguments.id, &why);
    ExitCode::SUCCESS
}

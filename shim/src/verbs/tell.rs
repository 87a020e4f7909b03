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

/// Starts that process, detached; failing means that the collector does not learn it from us.
pub fn spawn(config: &Config, arguments: &Arguments) {
    let argv = args::ours(VERB, &arguments.namespace, &arguments.id);
    let env = [("SHIMTAP_COLLECTOR".to_owned(), config.collector.clone())];
    let _ = process::spawn_self(&argv, &env, &[]);
}

/// That process.
pub fn tell(arguments: &Arguments) -> ExitCode {
    link::tell_unwrapped(&Config::load().collector, &arguments.namespace, &arguments.id);
    ExitCode::SUCCESS
}

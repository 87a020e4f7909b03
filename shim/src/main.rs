//! `containerd-shim-tap-v2`: one small process between containerd and the real shim of a pod.
//!
//! This file only tells the verbs apart. What must never happen anywhere below: a container that waits for us, fails
//! because of us, or writes to a descriptor that we lost.

mod args;
mod block;
mod config;
mod events;
mod inner;
mod keeper;
mod link;
mod relay;
mod run_dir;
mod spool;
mod sys;
mod tee;
mod verbs;
mod worker;

use std::{env, process::ExitCode};

use args::{Action, Arguments};

fn main() -> ExitCode {
    let argv: Vec<_> = env::args_os().collect();
    if argv.get(1).is_some_and(|word| word == keeper::VERB) {
        return ExitCode::from(u8::try_from(keeper::main()).unwrap_or(u8::MAX));
    }
    let arguments = Arguments::parse(&argv);
    if argv.get(1).is_some_and(|word| word == verbs::TELL) {
        return verbs::tell(&arguments);
    }
    // A wrapper that was started by a wrapper stands aside.
    if env::var_os(inner::MARKER).is_some() {
        return verbs::passthrough(&argv);
    }
    match arguments.action {
        Action::Start => verbs::start(&argv, &arguments),
        Action::Delete => verbs::delete(&argv, &arguments),
        Action::Other => verbs::passthrough(&argv),
    }
}

//! `containerd-shim-tap-v2`: one small process between containerd and the real shim of a pod.
//!
//! This file only tells the verbs apart. What must never happen anywhere below: a container that waits for us, fails
//! because of us, or writes to a descriptor that we lost.
//!
//! A library only so that fuzzing can reach the readers of the block; nobody but the program beside it may use it.

mod args;
mod block;
mod build_id;
mod config;
mod events;
mod go_build;
mod inner;
mod keeper;
mod limits;
mod link;
mod relay;
mod run_dir;
mod spool;
mod sys;
mod tee;
mod upgrade;
mod verbs;
mod worker;

use std::{env, process::ExitCode};

use args::{Action, Arguments};

/// What fuzzing reaches (`shim/fuzz`).
#[cfg(fuzzing)]
pub use block::damage::{Patient, open_stranger};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<_> = env::args_os().collect();
    if argv.get(1).is_some_and(|word| word == keeper::VERB) {
        return ExitCode::from(u8::try_from(keeper::main()).unwrap_or(u8::MAX));
    }
    if argv.get(1).is_some_and(|word| word == worker::VERB) {
        return ExitCode::from(u8::try_from(worker::main_of_image()).unwrap_or(u8::MAX));
    }
    if argv.get(1).is_some_and(|word| word == upgrade::VERB) {
        return upgrade::main(&argv);
    }
    if argv.get(1).is_some_and(|word| word == upgrade::check::VERB) {
        return upgrade::check::main();
    }
    if let [_, rest @ ..] = argv.as_slice()
        && rest.first().is_some_and(|word| word == verbs::TELL)
    {
        // Flags end at the first positional word, which is the verb's name here.
        return verbs::tell(&Arguments::parse(rest));
    }
    if argv.get(1).is_some_and(|word| word == tee::logger_uri::VERB) {
        return verbs::logger(&argv);
    }
    let arguments = Arguments::parse(&argv);
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

//! `delete`: the inner shim's delete, then ours.
//!
//! It also runs at every normal end, while other containers of the pod live: only its own id, idempotent, quick. The
//! inner shim's output and exit status are the answer, whatever becomes of the rest.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
};

use super::{end_like, passthrough, repair, wrap};
use crate::{
    args::Arguments,
    config::{Config, in_full},
    inner,
    keeper::{TASK_LINK, remove_task},
    run_dir::RunDir,
    sys::{fd, launch},
};

/// Runs the verb.
pub fn delete(argv: &[OsString], arguments: &Arguments) -> ExitCode {
    let path = match inner::locate(&Config::load(), argv) {
        Ok(path) => path,
        Err(error) => {
            eprintln!("{}", in_full(&error));
            return ExitCode::FAILURE;
        }
    };
    // Its own stdout and stderr are ours: containerd reads a DeleteResponse from the one and logs the other.
    let status = launch::with_us(&inner::command(&path, argv), None).and_then(launch::wait);
    clean_up(arguments);
    match status {
        Ok(status) => end_like(status),
        // Descriptors or processes are short: it needs less than the two of us.
        Err(_) => passthrough(argv),
    }
}

fn clean_up(arguments: &Arguments) {
    let run_dir = RunDir::from_env();
    let Ok(task_dir) = run_dir.task(&arguments.namespace, &arguments.id) else { return };
    let key = key_of_task(&task_dir).or_else(|| repair::key_of_start(&run_dir, arguments));
    let Some(key) = key else { return };
    if is_dead(&run_dir.alive(&key)) {
        // Of several deletes one repairs and the others find nothing left; without the lock it is done all the same.
        let _lock = wrap::lock(&run_dir, &key);
        repair::repair(&run_dir, &key, &arguments.namespace);
    }
    remove_task(&task_dir);
}

/// Whose wrapper a task belongs to; `None` where it was never wrapped or is cleaned up.
fn key_of_task(task_dir: &Path) -> Option<String> {
    let link = fs::read_link(task_dir.join(TASK_LINK)).ok()?;
    link.file_name()?.to_str().map(str::to_owned)
}

/// Are keeper and worker both gone? They share one lock for as long as either lives.
fn is_dead(alive: &Path) -> bool {
    match File::open(alive) {
        Ok(file) => fd::try_lock(file.as_fd()) == Ok(true),
        // Swept by a keeper that ended in order, or never there.
        Err(_) => false,
    }
}

//! `delete`: the inner shim's delete, then ours.
//!
//! It also runs at every normal end, while other containers of the pod live: only its own id, idempotent, quick. The
//! inner shim's output and exit status are the answer, whatever becomes of the rest.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
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
    let begun = launch::with_us(&inner::command(&path, argv), None);
    // While it is at work: on a node of many pods this reads a file of each.
    let task = Task::of(arguments);
    let status = begun.and_then(launch::wait);
    if let Some(task) = task {
        task.clean_up(arguments);
    }
    match status {
        Ok(status) => end_like(status),
        // Descriptors or processes are short: it needs less than the two of us.
        Err(_) => passthrough(argv),
    }
}

/// What there is of ours for the id: looked up before the inner shim's delete has ended, done after it.
struct Task {
    run_dir: RunDir,
    dir: PathBuf,
    /// Of its wrapper.
    key: String,
}

// === impl Task ===

impl Task {
    /// `None` where nothing of it is ours.
    fn of(arguments: &Arguments) -> Option<Self> {
        let run_dir = RunDir::from_env();
        let dir = run_dir.task(&arguments.namespace, &arguments.id).ok()?;
        let key = key_of_task(&dir).or_else(|| repair::key_of_start(&run_dir, arguments))?;
        Some(Self { run_dir, dir, key })
    }

    fn clean_up(&self, arguments: &Arguments) {
        if is_dead(&self.run_dir.alive(&self.key)) {
            // Of several deletes one repairs and the others find nothing left; without the lock it is done all the same.
            let _lock = wrap::lock(&self.run_dir, &self.key);
            repair::repair(&self.run_dir, &self.key, &arguments.namespace);
        }
        remove_task(&self.dir);
    }
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

//! `-info`, `-v`, and whatever a later containerd may ask: the inner shim answers, in our place.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use crate::{
    config::{Config, in_full},
    inner,
};

/// Becomes the inner shim. Only returns where that is impossible.
pub fn passthrough(argv: &[OsString]) -> ExitCode {
    match inner::locate(&Config::load(), argv) {
        Ok(path) => {
            let error = inner::command(&path, argv).exec();
            eprintln!("shimtap: running the real shim {}: {error}", path.display());
        }
        Err(error) => eprintln!("{}", in_full(&error)),
    }
    ExitCode::FAILURE
}

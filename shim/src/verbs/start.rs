//! `start`: the inner shim's start, and then ours around it.
//!
//! containerd reads stdout and stderr as one pipe until every holder has closed it: exactly the answer is written
//! there, once. A failed inner start is our failed start, byte for byte. Once an inner shim exists nothing of ours
//! can make this fail: the worst is that its own answer is handed out and the pod runs unwrapped.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{ExitCode, ExitStatus},
};

use super::{end_like, prepare, tell, wrap};
use crate::{
    args::Arguments,
    config::{Config, in_full},
    inner,
    sys::launch,
};

/// Runs the verb.
pub fn start(argv: &[OsString], arguments: &Arguments) -> ExitCode {
    let config = Config::load();
    let path = match inner::locate(&config, argv) {
        Ok(path) => path,
        Err(error) => {
            print(in_full(&error).as_bytes());
            return ExitCode::FAILURE;
        }
    };
    let mut prepared = None;
    let prepare = || prepared = Some(prepare::prepare(&config, arguments, &path));
    match run_inner(&path, argv, prepare) {
        Ran::Ended(status, answer) if status.success() => {
            let prepared = prepared.unwrap_or_else(|| prepare::prepare(&config, arguments, &path));
            let ours = wrap::wrap(arguments, &path, config.ready_ms, &answer, prepared);
            print(&ours.unwrap_or_else(|refusal| {
                let why = in_full(&refusal);
                note(&why);
                tell::spawn(&config, arguments, &why);
                answer
            }));
            ExitCode::SUCCESS
        }
        Ran::Ended(status, output) => {
            print(&output);
            end_like(status)
        }
        Ran::NotBegun(error) => {
            let why = format!("nothing could be put before the real shim: {error}");
            note(&why);
            tell::spawn(&config, arguments, &why);
            // It needs less than the two of us: no pipe, no process beside it.
            print(not_run(&path, &inner::command(&path, argv).exec()).as_bytes());
            ExitCode::FAILURE
        }
        Ran::Lost(error) => {
            print(not_run(&path, &error).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn not_run(path: &Path, error: &io::Error) -> String {
    format!("shimtap: running the real shim {}: {error}", path.display())
}

/// What became of the inner shim's `start`.
enum Ran {
    /// Its exit status and all it wrote, stdout and stderr in the order of writing.
    Ended(ExitStatus, Vec<u8>),
    /// Descriptors, memory or processes are short: it was not started, so that it still can be.
    NotBegun(io::Error),
    /// It was started, and how that ended is not known.
    Lost(io::Error),
}

/// Does something else while it is at work: a start of runc's shim takes some 20 ms, of which most is waiting.
fn run_inner(path: &Path, argv: &[OsString], meanwhile: impl FnOnce()) -> Ran {
    let begun = || -> io::Result<_> {
        let (reader, writer) = io::pipe()?;
        Ok((launch::with_us(&inner::command(path, argv), Some(writer.as_fd()))?, reader))
    };
    let (child, mut reader) = match begun() {
        Ok(begun) => begun,
        Err(error) => return Ran::NotBegun(error),
    };
    meanwhile();
    let mut output = Vec::new();
    // As containerd does: until everybody has closed it.
    let ended = reader.read_to_end(&mut output).and_then(|_| Ok(launch::wait(child)?));
    match ended {
        Ok(status) => Ran::Ended(status, output),
        Err(error) => Ran::Lost(error),
    }
}

fn print(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    // Nobody is left to tell if containerd has gone.
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Says why a pod runs unwrapped where a person looks: containerd's own log, through the bundle's `log` FIFO.
fn note(text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let fifo = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open("log");
    if let Ok(mut log) = fifo {
        let _ = writeln!(log, "level=warning msg=\"shimtap: this pod runs unwrapped\" error={text:?}");
    }
}

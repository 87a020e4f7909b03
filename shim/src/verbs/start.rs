//! `start`: the inner shim's start, and then ours around it.
//!
//! containerd reads stdout and stderr as one pipe until every holder has closed it: exactly the answer is written
//! there, once. A failed inner start is our failed start, byte for byte. Once an inner shim exists nothing of ours
//! can make this fail: the worst is that its own answer is handed out and the pod runs unwrapped.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
};

use super::{end_like, tell, wrap};
use crate::{
    args::Arguments,
    config::{Config, in_full},
    inner,
    sys::process,
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
    match run_inner(&path, argv) {
        Ran::Ended(status, answer) if status.success() => {
            let ours = wrap::wrap(&config, arguments, &path, &answer);
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

fn run_inner(path: &Path, argv: &[OsString]) -> Ran {
    let begun = || -> io::Result<_> {
        let (reader, writer) = io::pipe()?;
        let second = writer.try_clone()?;
        let mut command = inner::command(path, argv);
        process::die_with_us(&mut command);
        command.stdin(Stdio::inherit()).stdout(OwnedFd::from(writer)).stderr(OwnedFd::from(second));
        // Our ends of the pipe are in the command, and go with it.
        Ok((command.spawn()?, File::from(OwnedFd::from(reader))))
    };
    let (mut child, mut reader) = match begun() {
        Ok(begun) => begun,
        Err(error) => return Ran::NotBegun(error),
    };
    let mut output = Vec::new();
    // As containerd does: until everybody has closed it.
    let ended = reader.read_to_end(&mut output).and_then(|_| child.wait());
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

//! `start`: the inner shim's start, and then ours around it.
//!
//! containerd reads stdout and stderr as one pipe until every holder has closed it: exactly the answer is written
//! there, once. A failed inner start is our failed start, byte for byte. Once an inner shim exists nothing of ours
//! can make this fail: the worst is that its own answer is handed out and the pod runs unwrapped.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
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
        Ok((status, answer)) if status.success() => {
            let ours = wrap::wrap(&config, arguments, &path, &answer);
            print(&ours.unwrap_or_else(|refusal| {
                let why = in_full(&refusal);
                note(&why);
                tell::spawn(&config, arguments, &why);
                answer
            }));
            ExitCode::SUCCESS
        }
        Ok((status, output)) => {
            print(&output);
            end_like(status)
        }
        Err(error) => {
            print(format!("shimtap: running the real shim {}: {error}", path.display()).as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// The inner shim's exit status and all it wrote, stdout and stderr in the order of writing.
fn run_inner(path: &Path, argv: &[OsString]) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (reader, writer) = io::pipe()?;
    let second = writer.try_clone()?;
    let mut command = inner::command(path, argv);
    process::die_with_us(&mut command);
    command.stdin(Stdio::inherit()).stdout(OwnedFd::from(writer)).stderr(OwnedFd::from(second));
    let mut child = command.spawn()?;
    // Our ends of the pipe are in the command.
    drop(command);
    let mut output = Vec::new();
    // As containerd does: until everybody has closed it.
    File::from(OwnedFd::from(reader)).read_to_end(&mut output)?;
    Ok((child.wait()?, output))
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

//! A logger (`binary://`), started as containerd's runc shim does it: the read ends of two pipes as descriptors 3 and 4, a third
//! pipe as 5 whose end says that it is ready, and nothing but two variables in its environment.

use std::{
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{fcntl::OFlag, unistd::pipe2};

/// A logger that runs, and where its container writes: stdout, stderr.
#[derive(Debug)]
pub struct Logger {
    /// The process.
    pub child: Child,
    /// Write ends.
    pub ends: (OwnedFd, OwnedFd),
}

/// Whether that stdio field names one.
#[must_use]
pub fn is_named_by(field: &str) -> bool {
    field.starts_with("binary://") || field.starts_with("binary-v2://")
}

/// Starts it and waits until it is ready.
///
/// # Errors
/// It cannot be started, or the URI cannot be read.
pub fn start(uri: &str, id: &str) -> Result<Logger> {
    let (_, rest) = uri.split_once("://").context("no URI")?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut command = Command::new(decoded(path)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.arg(decoded(key)?).arg(decoded(value)?);
    }
    command.env_clear().env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", "standin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let pipes = [pipe2(OFlag::O_CLOEXEC)?, pipe2(OFlag::O_CLOEXEC)?, pipe2(OFlag::O_CLOEXEC)?];
    let [(out, out_end), (err, err_end), (ready, ready_end)] = pipes;
    let given = [out.as_raw_fd(), err.as_raw_fd(), ready_end.as_raw_fd()];
    let put = move || -> std::io::Result<()> {
        // Out of the way first: they may have each other's numbers.
        let mut above = [0; 3];
        for (slot, fd) in above.iter_mut().zip(given) {
            // SAFETY: fcntl and dup2 take plain numbers and are async-signal-safe.
            #[expect(unsafe_code, reason = "between fork and exec")]
            let duplicate = unsafe { nix::libc::fcntl(fd, nix::libc::F_DUPFD_CLOEXEC, 10) };
            *slot = nix::errno::Errno::result(duplicate)?;
        }
        for (number, fd) in (3..).zip(above) {
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "between fork and exec")]
            let put = unsafe { nix::libc::dup2(fd, number) };
            nix::errno::Errno::result(put)?;
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and makes async-signal-safe calls only.
    #[expect(unsafe_code, reason = "std's Command puts no descriptors in place")]
    unsafe {
        command.pre_exec(put);
    }
    let child = command.spawn().with_context(|| format!("failed to start binary process {path}"))?;
    drop((out, err, ready_end));
    // One byte, or the end: both mean that it is ready.
    let _ = std::fs::File::from(ready).read(&mut [0; 1]).context("wait until it is ready")?;
    Ok(Logger { child, ends: (out_end, err_end) })
}

fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next(), rest.next()].map(|d| d.map_or(' ', char::from));
            u8::from_str_radix(&digits.iter().collect::<String>(), 16).context("a %XX")?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).context("text")
}

//! A program at a terminal: keys go in, and what a person would see comes out.
//!
//! The terminal is the kernel's, its screen is what a parser of terminal output makes of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::rig::eventually;

/// A terminal takes NUL for nothing.
const LAST: &[u8] = b"\0";

/// A program that runs at a terminal of its own. Killed when dropped.
pub struct Terminal {
    child: Child,
    keys: File,
    /// Kept, so that its settings can be asked for when the program has ended.
    terminal: File,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl Seen {
    /// Takes what came behind everything, where it has come.
    fn take_last(&mut self) -> bool {
        let all = self.bytes.strip_suffix(LAST).map(<[u8]>::len);
        if let Some(all) = all {
            self.bytes.truncate(all);
        }
        all.is_some()
    }
}

impl Terminal {
    /// Starts `command` at a terminal of so many lines and columns.
    pub fn start(mut command: Command, lines: u16, columns: u16) -> Result<Terminal> {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).context("make a terminal")?;
        let (keys, terminal) = (File::from(pair.master), File::from(pair.slave));
        let end = || terminal.try_clone().map(Stdio::from).context("duplicate the terminal");
        command.env("TERM", "xterm-256color").stdin(end()?).stdout(end()?).stderr(end()?);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        // The command keeps its three ends until it is dropped.
        drop(command);
        let parser = vt100::Parser::new(size.ws_row.try_into()?, size.ws_col.try_into()?, 0);
        let seen = Arc::new(Mutex::new(Seen { parser, bytes: Vec::new() }));
        let sink = Arc::clone(&seen);
        let mut output = keys.try_clone().context("duplicate the terminal")?;
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            // Fails when nobody has the other end any more.
            while let Ok(count) = output.read(&mut buffer) {
                let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
                let mut seen = lock(&sink);
                seen.parser.process(part);
                seen.bytes.extend_from_slice(part);
            }
        });
        Ok(Terminal { child, keys, terminal, seen })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids fit in 22 bits")
    }

    /// Presses keys, as the bytes that a terminal sends for them.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("press keys")
    }

    /// What is on the screen, a line each, without the blanks at its end.
    pub fn screen(&self) -> Vec<String> {
        let seen = lock(&self.seen);
        let columns = seen.parser.screen().size().1.get();
        seen.parser.screen().rows(0, columns).map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the screen is what `is_it` looks for, which makes an answer of it.
    pub fn await_screen<T>(
        &self,
        limit: Duration,
        what: &str,
        mut is_it: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T> {
        eventually(limit, what, || Ok(is_it(&self.screen())))
            .with_context(|| format!("the screen:\n{}", self.screen().join("\n")))
    }

    /// Everything that was written to it.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.seen).bytes.clone()
    }

    /// True while it shows the screen of a program that has taken the whole of it.
    pub fn is_taken(&self) -> bool {
        lock(&self.seen).parser.screen().alternate_screen()
    }

    /// True where it echoes and gives lines to programs, as a shell expects it.
    pub fn is_a_shell_s(&self) -> Result<bool> {
        let settings = tcgetattr(&self.terminal).context("ask for the terminal's settings")?;
        Ok(settings.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO))
    }

    /// Waits for the program's end, `limit` at most; its exit status as a shell shows it.
    pub fn finish(&mut self, limit: Duration) -> Result<i32> {
        let child = &mut self.child;
        let ended = eventually(limit, "its end", || child.try_wait().context("ask for its exit"));
        let status = ended.with_context(|| format!("the screen:\n{}", self.screen().join("\n")))?;
        // What it wrote last is on its way: behind it comes a byte that nobody shows.
        self.terminal.write_all(LAST).context("write to the terminal")?;
        eventually(limit, "all that it wrote", || Ok(lock(&self.seen).take_last().then_some(())))?;
        Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only where the program has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! What a scripted process does: the lines it writes, at which pace, and how it ends.
//!
//! The stand-in reads a script out of the bundle's `config.json` (key `standin`) or out of an exec's process
//! spec (same key). The test that wrote it computes the expected bytes with [`Output::bytes`]; nothing here may
//! depend on time or chance.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::kata::guest::Guest;

/// The key of the script in `config.json` and in an exec's spec.
pub const KEY: &str = "standin";

/// The lines of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// How many lines.
    pub lines: u64,
    /// Length of each line with its newline; never less than the numbered prefix needs.
    pub line_bytes: usize,
    /// How many lines go into one write(2).
    pub lines_per_write: u64,
    /// Pause after each write, in microseconds.
    pub pause_us: u64,
    /// How many of the last lines are written after the exit was announced, as the copier of a real shim does
    /// when it lags behind its container.
    pub lines_after_exit: u64,
}

impl Default for Output {
    fn default() -> Self {
        Self { lines: 0, line_bytes: 64, lines_per_write: 1, pause_us: 0, lines_after_exit: 0 }
    }
}

impl Output {
    /// `lines` lines of `line_bytes` each, one per write, as fast as they go.
    #[must_use]
    pub fn lines(lines: u64, line_bytes: usize) -> Self {
        Self { lines, line_bytes, ..Self::default() }
    }

    /// Line `n` (from 0) of the stream called `name`, newline included.
    #[must_use]
    pub fn line(&self, name: &str, n: u64) -> Vec<u8> {
        let mut line = format!("{name} {n:010} ").into_bytes();
        // The filler differs from line to line: a swapped or repeated piece must show.
        let fill = b'a' + u8::try_from(n % 26).unwrap_or(0);
        while line.len() + 1 < self.line_bytes {
            line.push(fill);
        }
        line.push(b'\n');
        line
    }

    /// Everything the stream called `name` will carry.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        (0..self.lines).flat_map(|n| self.line(name, n)).collect()
    }
}

/// What one process does from Start to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Written to the FIFO of stdout.
    pub stdout: Output,
    /// Written to the FIFO of stderr.
    pub stderr: Output,
    /// Status of an exit by itself.
    pub exit_status: u32,
    /// Time between the last line and the exit.
    pub exit_delay_ms: u64,
    /// Goes on until it is killed, whatever was written.
    pub until_killed: bool,
    /// Goes on until the sandbox's hypervisor is gone, and ends with `exit_status` then.
    pub ends_with_vm: bool,
    /// Time for which the FIFOs stay open after the exit, as by a grandchild that holds stdout.
    pub hold_open_ms: u64,
    /// Nothing is told of the exit before everything is written, whoever kills it: as Kata's shims, which hang for ever where
    /// nobody reads (kata-containers#13676).
    pub written_first: bool,
    /// Nobody opens the FIFOs before Start: as Kata's shims.
    pub opened_at_start: bool,
    /// gRPC code with which Start is refused, with nothing opened at it; 0 lets it pass.
    pub start_refused: i32,
    /// gRPC code with which Create is refused, after the FIFOs were opened; 0 lets it pass.
    pub create_refused: i32,
    /// Time between the exit and the answer to a Wait, as of a shim that is slow to tell.
    pub wait_delay_ms: u64,
    /// Time before Kill does anything and is answered.
    pub kill_delay_ms: u64,
    /// Time before Stats is answered.
    pub stats_delay_ms: u64,
    /// gRPC code with which Stats is refused; 0 lets it pass.
    pub stats_refused: i32,
    /// The FIFOs are closed when everything is written, though the process lives on: as Kata's shims do where a policy
    /// answers a read with nothing (empty means end of file since PR 12376).
    pub closes_early: bool,
    /// What the container's guest counts, where the stand-in passes for a shim that has one.
    pub guest: Option<Guest>,
    /// What it counts from the second Stats on, where that is something else.
    pub guest_later: Option<Guest>,
    /// What its counters grow by in a second, from the container's start on.
    pub guest_grows: Option<Guest>,
}

impl Script {
    /// Says much on both streams, one line or seven per write, and exits with a status that can be told from others.
    #[must_use]
    pub fn talker() -> Self {
        Self {
            stdout: Output::lines(2_000, 80),
            stderr: Output { lines_per_write: 7, ..Output::lines(900, 33) },
            exit_status: 7,
            ..Self::default()
        }
    }

    /// Says nothing and stays until it is killed.
    #[must_use]
    pub fn stayer() -> Self {
        Self { until_killed: true, ..Self::default() }
    }

    /// Takes the script out of a JSON object; without one the process writes nothing and waits to be killed.
    ///
    /// # Errors
    /// The text is not JSON, or its script has unknown keys.
    pub fn of_json(text: &[u8]) -> Result<Self> {
        let spec: serde_json::Value = serde_json::from_slice(text).context("spec is not JSON")?;
        match spec.get(KEY) {
            Some(script) => serde_json::from_value(script.clone()).context("script in the spec"),
            None => Ok(Self::stayer()),
        }
    }

    /// The script in a bundle's `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or see [`Script::of_json`].
    pub fn of_bundle(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        Self::of_json(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?)
    }
}

//! A container of a pod that writes numbered lines for as long as its test needs it, on a machine however busy.
//!
//! It never ends by itself before it is told to: a test that lets it write for some seconds has a dead container under its hands
//! where those seconds are over sooner than the test's next step comes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cri::{Cri, Pod, Status, Wanted};
use super::{Node, eventually};
use crate::line::tape;

const LIMIT: Duration = Duration::from_secs(60);
/// More than anybody waits for, at a pace that containerd follows easily.
const COMMAND: [&str; 7] = [
    "speaker",
    "lines=100000000",
    "rate=1000",
    "width=100",
    "count=/host/count",
    "until=/host/enough",
    "exit=3",
];

/// Such a container. A node has one at most.
#[derive(Debug)]
pub struct Busy {
    /// containerd's id of it.
    pub id: String,
    host: PathBuf,
}

impl Busy {
    /// The name of its container.
    pub const NAME: &str = "busy";
    /// The bytes of a line.
    pub const WIDTH: usize = 100;
    /// What it ends with.
    pub const STATUS: i32 = 3;

    /// Starts it in a pod.
    pub fn start(node: &Node, cri: &Cri, pod: &Pod) -> Result<Busy> {
        let host = node.host_dir();
        let wanted = Wanted { name: Self::NAME, command: &COMMAND, host: Some(&host), ..Wanted::default() };
        Ok(Busy { id: cri.run(pod, &wanted)?, host })
    }

    /// How many lines it has written, as it says itself.
    fn written(&self) -> u64 {
        fs::read_to_string(self.host.join("count")).unwrap_or_default().parse().unwrap_or(0)
    }

    /// Waits until it has written so many more lines.
    pub fn await_lines(&self, more: u64) -> Result<()> {
        let start = self.written();
        eventually(
            LIMIT,
            &format!("{more} more lines"),
            || Ok((self.written() >= start + more).then_some(())),
        )
    }

    /// Tells it that it is enough and waits for its end, which must be its own: how containerd has it, and all that it wrote.
    pub fn finish(&self, cri: &Cri) -> Result<(Status, Vec<u8>)> {
        fs::write(self.host.join("enough"), "").context("tell a container that it is enough")?;
        let status = cri.await_exit(&self.id)?;
        ensure!(status.exit_code == Self::STATUS, "it ended otherwise: {status:?}");
        Ok((status, tape(1, self.written(), Self::WIDTH)))
    }
}

//! The command line that all benches understand.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use shimtap_tests::rig::Version;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// A shorter run, to see that the bench works; its figures are not to be cited.
    pub quick: bool,
    /// Which containerd.
    pub version: Version,
    /// Turns of each side, where the bench's own number is not wanted.
    pub turns: Option<usize>,
    /// The scheduler is asked to prefer us.
    pub favour: bool,
    /// Only the part of the bench that has this name, where it has parts.
    pub only: Option<String>,
    /// Another build of the collector, to be asked the same in turns.
    pub against: Option<PathBuf>,
}

/// What may follow a bench's name.
pub const USAGE: &str = "[--quick] [--packaged] [--turns N] [--favour] [--only PART] [--against PROGRAM]
  --quick     a shorter run: shows that it works, is not to be cited
  --packaged  the distribution's containerd instead of the pinned one
  --turns N   how often each side is measured
  --favour    takes most of the CPU from whoever else uses the machine
  --only PART of node: heavy, flood or slow; of throughput: absent, attached or file; of start: absent or attached;
              of death: worker or keeper;
              of cadvisor: how many pods, instead of 50 and then 250;
              of sink: busy, json, steady, slow or many; of latency: file or http
  --against PROGRAM  of sink and latency: another build of the collector, measured in turns with this one";

impl Options {
    /// Reads the words after the bench's name.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            quick: false,
            version: Version::Pinned,
            turns: None,
            favour: false,
            only: None,
            against: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(words.next().context("--only needs a name")?),
                "--against" => {
                    options.against = Some(words.next().context("--against needs a program")?.into());
                }
                "--favour" => options.favour = true,
                "--packaged" => options.version = Version::Packaged,
                "--turns" => {
                    let number = words.next().context("--turns needs a number")?;
                    options.turns = Some(number.parse().with_context(|| format!("--turns {number}"))?);
                }
                other => bail!("{other} is not known; known are {USAGE}"),
            }
        }
        Ok(options)
    }

    /// How many turns: as asked, else `quick` or `full`.
    pub fn turns(&self, quick: usize, full: usize) -> usize {
        self.turns.unwrap_or(if self.quick { quick } else { full })
    }

    /// Is this part of the bench asked for?
    pub fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    /// One of two values, for a quick and for a full run.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

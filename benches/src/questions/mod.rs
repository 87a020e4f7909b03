//! The questions, one per file. A question prints its figures beside their targets and judges nothing.

pub mod death;
pub mod idle;
pub mod journal;
pub mod memory;
pub mod node;
pub mod relay;
pub mod sink;
pub mod start;
pub mod steady;
pub mod throughput;

use anyhow::Result;

use crate::options::Options;

/// How a question is asked.
pub type Ask = fn(&Options) -> Result<()>;

/// A question: its name, how it is asked, what it asks.
pub type Question = (&'static str, Ask, &'static str);

/// All questions.
pub const ALL: [Question; 10] = [
    ("start", start::run, "how much longer does `ctr run … true` take?"),
    ("throughput", throughput::run, "how fast does 1 GiB go through stdout?"),
    ("steady", steady::run, "does a steady 50 MB/s get through whole?"),
    ("memory", memory::run, "how much memory does a wrapper hold, and where?"),
    ("idle", idle::run, "how often is the wrapper of a quiet pod woken?"),
    ("relay", relay::run, "how long does the relay hold up a request?"),
    ("death", death::run, "how long is a frame held up by the death of worker or keeper?"),
    ("sink", sink::run, "what does the collector use per line, and how fast is it?"),
    ("journal", journal::run, "how fast is the journal written, read and opened, beside dd and fjall?"),
    ("node", node::run, "what does a whole node pay under many containers' lines?"),
];

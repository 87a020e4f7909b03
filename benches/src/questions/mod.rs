//! The questions, one per file. A question prints its figures beside their targets and judges nothing.

pub mod cadvisor;
pub mod death;
pub mod exposition;
pub mod floor;
pub mod idle;
pub mod journal;
pub mod latency;
pub mod life;
pub mod memory;
pub mod node;
pub mod peers;
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
pub const ALL: [Question; 16] = [
    ("start", start::run, "how much longer does `ctr run … true` take?"),
    ("throughput", throughput::run, "how fast does 1 GiB go through stdout?"),
    ("steady", steady::run, "does a steady 50 MB/s get through whole?"),
    ("memory", memory::run, "how much memory does a wrapper hold, and where?"),
    ("idle", idle::run, "how often is the wrapper of a quiet pod woken?"),
    ("floor", floor::run, "how much more than a bare tee does a wrapper use?"),
    ("relay", relay::run, "how long does the relay hold up a request?"),
    ("life", life::run, "how long does the relay hold up what makes and ends a container?"),
    ("death", death::run, "how long is a frame held up by the death of worker or keeper?"),
    ("sink", sink::run, "what does the collector use per line, and how fast is it?"),
    ("exposition", exposition::run, "what do the metrics of 250 containers cost, and how large are they?"),
    ("journal", journal::run, "how fast is the journal written, read and opened, beside dd and fjall?"),
    ("latency", latency::run, "how long does a line take from its write to a sink?"),
    ("node", node::run, "what does a whole node pay under many containers' lines?"),
    (
        "cadvisor",
        cadvisor::run,
        "what does a node pay for metrics where cAdvisor collects them, and with us?",
    ),
    ("peers", peers::run, "what does a node pay where others tail the files?"),
];

//! What a node shall be, told before it is started.
//!
//! Nothing happens here before `start`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Node;
use crate::rig::collector::Settings;
use crate::rig::{Foreign, Shim, Version};

/// What a node is made of, before it is started.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(super) version: Version,
    pub(super) shim: Shim,
    pub(super) alone: bool,
    pub(super) collector: bool,
    pub(super) told: Settings,
    pub(super) shim_toml: Option<String>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) runtime_lines: String,
    pub(super) foreign: Option<Foreign>,
}

/// What every node's wrapper is told: on a machine that compiles and tests at the same time, a start that finds no worker
/// within the default time would run the pod unwrapped, and the test would be about nothing. And tests kill faster than any
/// fault would: what safe mode does is asked where it is meant.
pub const PATIENT: &str = "[start]\nready_ms = 20000\n[safe_mode]\ndeaths = 0\n";

impl Setup {
    /// A node with `version` of containerd that runs its containers with `shim`, and no collector.
    pub fn new(version: Version, shim: Shim) -> Setup {
        Setup {
            version,
            shim,
            alone: false,
            collector: false,
            told: Settings::default(),
            shim_toml: Some(PATIENT.to_owned()),
            run_dir: None,
            runtime_lines: String::new(),
            foreign: None,
        }
    }

    /// No other node runs beside this one: for scenarios that measure time.
    pub fn alone(mut self) -> Setup {
        self.alone = true;
        self
    }

    /// A collector is started before containerd.
    pub fn with_collector(mut self) -> Setup {
        self.collector = true;
        self
    }

    /// A collector is started before containerd, with this section instead of that of the file sink.
    pub fn with_sink(mut self, section: &str) -> Setup {
        self.told.sinks = Some(section.to_owned());
        self.with_collector()
    }

    /// What a collector is told, whenever one is started.
    pub fn telling(mut self, told: Settings) -> Setup {
        self.told = told;
        self
    }

    /// The wrapper's configuration instead of [`PATIENT`].
    pub fn shim_toml(mut self, text: &str) -> Setup {
        self.shim_toml = Some(text.to_owned());
        self
    }

    /// Where the wrapper keeps its files instead of in the rig's folder.
    pub fn run_dir(mut self, dir: &Path) -> Setup {
        self.run_dir = Some(dir.to_owned());
        self
    }

    /// More lines of CRI's runtime handler.
    pub fn runtime_lines(mut self, lines: &str) -> Setup {
        self.runtime_lines = lines.to_owned();
        self
    }

    /// Containers are run by this shim instead of containerd's own.
    pub fn foreign(mut self, shim: &Foreign) -> Setup {
        self.foreign = Some(shim.clone());
        self
    }

    /// Starts the node, runs `scenario` on it, and demands that nothing is left afterwards.
    pub fn run<T>(self, scenario: impl FnOnce(&Node) -> Result<T>) -> Result<T> {
        let what = format!("{:?}, {:?}", self.version, self.shim);
        let node = self.start().with_context(|| format!("start a node: {what}"))?;
        let answer = scenario(&node).with_context(|| format!("on {what}\n{}", node.log_tail()))?;
        node.finish().with_context(|| format!("afterwards on {what}"))?;
        Ok(answer)
    }

    /// Starts the node. Most tests use `run`, which also looks at what is left.
    pub fn start(self) -> Result<Node> {
        Node::start(self)
    }
}

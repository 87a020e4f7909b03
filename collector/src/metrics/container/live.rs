//! The part of a container that changes: where its task is in its life, and what was said of it last.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::{
        lifecycle::KILLED,
        sample::{Said, Sample, SampleSource},
        shortage::Shortage,
        spec::Spec,
        stream::StreamCounts,
    },
    execs::Execs,
};
use crate::{closed::closed, enrich::ShimKind, node::HostFigures};

closed! {
    /// Where a task is in its life.
    pub enum State {
        /// Create was answered, Start was not.
        Created => "created",
        /// Start was answered.
        Running => "running",
        /// Its init process has ended.
        Exited => "exited",
        /// It was deleted.
        Deleted => "deleted",
        /// Its wrapper went away and did not come back.
        Lost => "lost",
    }
}

/// The part that changes.
#[derive(Debug, Default)]
pub struct Live {
    /// Where it is in its life.
    pub state: Option<State>,
    /// Unix ns of Create's answer; 0 = unknown.
    pub created_ns: u64,
    /// Unix ns of Start's answer; 0 = not yet.
    pub started_ns: u64,
    /// Unix ns of the exit; 0 = not known.
    pub exited_ns: u64,
    /// Exit status of the init process.
    pub exit_status: Option<u32>,
    /// Process id on this host; 0 = unknown.
    pub pid: u32,
    /// Somebody has sent its init process a signal.
    pub killed: bool,
    /// Its shim died while it ran; that is counted once.
    pub(super) shim_died: bool,
    /// Its shim refuses its statistics again and again.
    pub stats_refused: bool,
    /// Limits, as far as they are known.
    pub spec: Spec,
    /// What this host's kernel said of it last.
    pub host: Option<HostFigures>,
    /// The newest statistics; no counter is below, or absent after, an earlier one.
    pub sample: Option<Box<Sample>>,
    /// What the newest said itself, and nothing that was said before: for differences, which of a counter that was only
    /// kept would be 0 and known to nobody.
    pub said: Option<Box<Said>>,
    /// The same of those before them, so that what they count can be shown per second at the first look.
    pub said_earlier: Option<Box<Said>>,
    /// How often containerd said that the kernel killed a process of it for want of memory.
    pub oom_events: u64,
    pub(super) shortage: Shortage,
    /// Its execs that are not deleted.
    pub(super) execs: Execs,
    /// How the newest statistics were obtained.
    pub source: Option<SampleSource>,
    /// Its streams.
    pub streams: Vec<Arc<StreamCounts>>,
    /// When its end was learnt.
    pub ended: Option<Instant>,
    /// The connection that told of it last; 0 = that has ended.
    pub(super) owner: u64,
    /// Since when no connection tells of it.
    pub(super) detached: Option<Instant>,
}

// === impl State ===

impl State {
    /// True where the task has ended, whatever way.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Exited | Self::Deleted | Self::Lost)
    }
}

// === impl Live ===

impl Live {
    /// True from Create to the exit.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.is_some_and(|state| state == State::Running || state == State::Created)
    }

    /// Kills for want of memory that containerd told of. `None` where none was told and that says nothing: of a shim that is not
    /// known to tell (Kata's are), and of an end by SIGKILL that nobody asked for, which a guest's own shortage is like, and that is
    /// told by nobody (seen). While it runs it is 0, or nobody's question for an increase would ever have an answer.
    pub(in crate::metrics) fn kills_told(&self, shim: ShimKind) -> Option<u64> {
        let is_open = self.exit_status == Some(KILLED) && !self.killed;
        (self.oom_events > 0 || (shim.is_kata() && !is_open)).then_some(self.oom_events)
    }

    /// True where it runs and a wrapper is there that would tell of its end.
    #[must_use]
    pub fn is_told_of(&self) -> bool {
        self.is_running() && self.owner != 0
    }

    /// It is over, in this way.
    pub(super) fn end(&mut self, state: State) {
        self.state = Some(state);
        self.ended.get_or_insert_with(Instant::now);
    }
}

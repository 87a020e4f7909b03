//! What a look at a node came to: findings, as values.
//!
//! Ids are a closed list and keep their meaning: people silence them and machines look for them.

use serde::Serialize;

use crate::closed::closed;

closed! {
    /// How bad it is.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Severity {
        /// Good to know, and as somebody wanted it.
        Note => "note",
        /// Something is not seen, or will not go on as it is.
        Warning => "warning",
        /// Something is being lost, or pods are in danger.
        Fault => "fault",
    }
}

closed! {
    /// Who can change it.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Whose {
        /// How the node was set up.
        Setup => "setup",
        /// containerd.
        Containerd => "containerd",
        /// The collector.
        Collector => "collector",
        /// Where records go.
        Sink => "sink",
        /// The machine.
        Node => "node",
        /// What runs beside us.
        Neighbour => "neighbour",
        /// shimtap: a bug.
        Shimtap => "shimtap",
    }
}

closed! {
    /// What kind it is.
    #[derive(Serialize)]
    #[serde(into = "&'static str")]
    pub enum Id {
        /// Nothing of containerd could be asked.
        ContainerdUnknown => "containerd_unknown",
        /// A release that nothing was tried on.
        ContainerdUntried => "containerd_untried",
        /// Files were changed since it was started.
        ContainerdNotRestarted => "containerd_not_restarted",
        /// It reads `runtime_path` and does nothing with it.
        RuntimePathIgnored => "runtime_path_ignored",
        /// A handler that starts its shim directly.
        HandlerNotWrapped => "handler_not_wrapped",
        /// No handler with its shim is wrapped.
        NotWrapped => "not_wrapped",
        /// It is wrapped by two ways at once.
        HandlerWrappedTwice => "handler_wrapped_twice",
        /// Runs since before its handler was wrapped.
        StartedBefore => "started_before",
        /// The wrapper stood aside.
        StartedUnwrapped => "started_unwrapped",
        /// Wrapped, and the collector does not know it.
        NotAttached => "not_attached",
        /// Two wrappers for one pod.
        WrappersDoubled => "wrappers_doubled",
        /// Its wrapper only moves bytes.
        SafeMode => "safe_mode",
        /// A stream that no copy is made of.
        NotCaptured => "not_captured",
        /// A rule or annotation does not want it.
        NotSelected => "not_selected",
        /// Something is taken out of its lines.
        Redacted => "redacted",
        /// Output that is not here.
        Gaps => "gaps",
        /// Nobody answers.
        CollectorAway => "collector_away",
        /// Collector and command of two releases.
        CollectorRelease => "collector_release",
        /// Wrappers of another release.
        WrapperRelease => "wrapper_release",
        /// There is no sink.
        NoSink => "no_sink",
        /// A sink cannot deliver.
        SinkStalled => "sink_stalled",
        /// A sink is behind.
        SinkLag => "sink_lag",
        /// Records were refused for good.
        SinkRejected => "sink_rejected",
        /// Records were gone before the sink had them.
        SinkLost => "sink_lost",
        /// The journal cannot be written.
        JournalStalled => "journal_stalled",
        /// The journal is kept small by the disk's reserve.
        JournalReserve => "journal_reserve",
        /// The collector cannot ask containerd's API.
        ContainerdApi => "containerd_api",
        /// Spool files are not written for want of room.
        SpoolReserve => "spool_reserve",
        /// A folder is not root's alone.
        Permissions => "permissions",
        /// shim.toml cannot be used.
        ShimToml => "shim_toml",
        /// shim.toml names a shim that is not there.
        InnerMissing => "inner_missing",
        /// A wrapper starts a shim that its handler does not name any more.
        InnerStale => "inner_stale",
        /// Pipes are short.
        PipeBudget => "pipe_budget",
        /// The clock has gone back, or nobody keeps it.
        Clock => "clock",
        /// A scraper that may end Kata's pods.
        KataMonitor => "kata_monitor",
        /// containerd asks Kata's agents too often.
        StatsPeriod => "stats_period",
    }
}

/// One thing that was found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is.
    pub id: Id,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// Which ones: containers, handlers, sinks, paths.
    pub which: Vec<String>,
    /// Who can change it.
    pub whose: Whose,
    /// What to do.
    pub remedy: String,
}

// === impl Id ===

impl From<Id> for &'static str {
    fn from(id: Id) -> Self {
        id.label()
    }
}

// === impl Finding ===

impl Finding {
    /// Of this kind, about nobody in particular so far.
    pub fn new(
        id: Id,
        severity: Severity,
        whose: Whose,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { id, severity, what: what.into(), which: Vec::new(), whose, remedy: remedy.into() }
    }

    /// About these.
    pub fn about(mut self, which: impl IntoIterator<Item = String>) -> Self {
        self.which = which.into_iter().collect();
        self.which.sort();
        self.which.dedup();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closed::Closed;

    #[test]
    fn the_page_knows_every_kind() {
        let page = include_str!("../../../docs/doctor.md");
        let rows: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let kinds: Vec<&str> = Id::ALL.iter().map(|id| id.label()).collect();
        let missing: Vec<_> = kinds.iter().filter(|kind| !rows.contains(kind)).collect();
        let unknown: Vec<_> = rows.iter().filter(|row| !kinds.contains(row)).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
    }
}

//! What a wrapper says of its own two processes: who was replaced and why, and whether it is in safe mode.

use std::collections::{BTreeMap, VecDeque};

use nix::sys::signal::Signal;
use shimtap_proto::link;

use crate::closed::closed;

closed! {
    /// Why a worker or keeper was replaced, as a label value.
    pub enum RestartLabel {
        /// Nobody could read its exit status.
        Unknown => "unknown",
        /// By a signal from outside.
        Killed => "killed",
        /// By a signal that a fault of its own raises.
        Crashed => "crashed",
        /// It ended by itself with an error.
        Failed => "failed",
        /// Its relay thread gave no sign of life.
        Hung => "hung",
        /// Its link thread gave none.
        LinkHung => "link_hung",
        /// On purpose.
        Replaced => "replaced",
        /// The keeper was gone.
        KeeperLost => "keeper_lost",
        /// The keeper did not answer.
        KeeperHung => "keeper_hung",
        /// What a newer wrapper says and this release does not know.
        Other => "other",
    }
}

/// Figures of one wrapper, or sums over several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// By reason; only those that occurred.
    pub restarts: BTreeMap<RestartLabel, u64>,
    /// Time without a worker, in ns.
    pub without_worker_ns: u64,
}

/// One worker or keeper that was replaced. Absent = not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Unix ns.
    pub time_ns: u64,
    /// Why.
    pub reason: RestartLabel,
    /// Its process id.
    pub pid: Option<u32>,
    /// What it died of: `SIGSEGV`, or the number of one without a name.
    pub signal: Option<String>,
    /// Of one that ended by itself.
    pub exit_status: Option<u32>,
    /// How long there was no worker, in ns.
    pub without_worker_ns: Option<u64>,
}

/// The last deaths of one wrapper, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Deaths(VecDeque<Death>);

/// So many are kept. A wrapper tells of the last eight in a row (docs/protocol.md).
const KEPT: usize = 8;

// === impl RestartLabel ===

impl RestartLabel {
    /// Which of the wrapper's two processes it was.
    #[must_use]
    pub const fn process(self) -> &'static str {
        match self {
            Self::KeeperLost | Self::KeeperHung => "keeper",
            _ => "worker",
        }
    }

    /// From the wire.
    #[must_use]
    pub fn of(reason: protobuf::EnumOrUnknown<link::RestartReason>) -> Self {
        use link::RestartReason as R;
        match reason.enum_value() {
            Ok(R::RESTART_REASON_UNKNOWN) => Self::Unknown,
            Ok(R::RESTART_REASON_KILLED) => Self::Killed,
            Ok(R::RESTART_REASON_CRASHED) => Self::Crashed,
            Ok(R::RESTART_REASON_FAILED) => Self::Failed,
            Ok(R::RESTART_REASON_HUNG) => Self::Hung,
            Ok(R::RESTART_REASON_LINK_HUNG) => Self::LinkHung,
            Ok(R::RESTART_REASON_REPLACED) => Self::Replaced,
            Ok(R::RESTART_REASON_KEEPER_LOST) => Self::KeeperLost,
            Ok(R::RESTART_REASON_KEEPER_HUNG) => Self::KeeperHung,
            Ok(R::RESTART_REASON_UNSPECIFIED) | Err(_) => Self::Other,
        }
    }
}

// === impl Death ===

impl Death {
    /// From an event of kind `WORKER_RESTART`, in which 0 is not known.
    #[must_use]
    pub fn of(event: &link::Event) -> Self {
        let known = |value: u32| (value != 0).then_some(value);
        let reason = RestartLabel::of(event.restart);
        let signal = known(event.signal);
        Self {
            time_ns: event.time_ns,
            reason,
            pid: known(event.pid),
            signal: signal.map(signal_name),
            // One that failed has said its status, whatever that was.
            exit_status: known(event.exit_status).or((reason == RestartLabel::Failed).then_some(0)),
            without_worker_ns: (event.duration_ns != 0).then_some(event.duration_ns),
        }
    }
}

fn signal_name(number: u32) -> String {
    let known = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
    known.map_or_else(|| number.to_string(), |signal| signal.as_str().to_owned())
}

// === impl Deaths ===

impl Deaths {
    /// Another one; the oldest gives way.
    pub fn add(&mut self, death: Death) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(death);
    }

    /// Newest first.
    pub fn newest_first(&self) -> Vec<Death> {
        self.0.iter().rev().cloned().collect()
    }
}

// === impl Survival ===

impl Survival {
    /// From a report.
    #[must_use]
    pub fn of(report: &link::Report) -> Self {
        let mut survival = Self { without_worker_ns: report.without_worker_ns, ..Self::default() };
        for restarts in &report.restarts {
            let sum = survival.restarts.entry(RestartLabel::of(restarts.reason)).or_default();
            *sum = sum.saturating_add(restarts.count);
        }
        survival
    }

    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        for (reason, count) in &other.restarts {
            let sum = self.restarts.entry(*reason).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.without_worker_ns = self.without_worker_ns.saturating_add(other.without_worker_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(restart: link::RestartReason, signal: u32, exit_status: u32) -> link::Event {
        link::Event { restart: restart.into(), signal, exit_status, ..Default::default() }
    }

    #[test]
    fn what_is_not_known_of_a_death_is_absent() {
        use link::RestartReason as R;
        let unknown = Death::of(&event(R::RESTART_REASON_UNKNOWN, 0, 0));
        assert_eq!((&unknown.signal, unknown.exit_status, unknown.pid), (&None, None, None));
        assert_eq!(unknown.without_worker_ns, None);
        let crashed = Death::of(&event(R::RESTART_REASON_CRASHED, 11, 0));
        assert_eq!((crashed.signal.as_deref(), crashed.exit_status), (Some("SIGSEGV"), None));
        let odd = Death::of(&event(R::RESTART_REASON_KILLED, 40, 0));
        assert_eq!(odd.signal.as_deref(), Some("40"), "a real-time signal has no name");
        let failed = Death::of(&event(R::RESTART_REASON_FAILED, 0, 0));
        assert_eq!((failed.signal, failed.exit_status), (None, Some(0)), "it said so");
    }

    #[test]
    fn the_last_eight_are_kept() {
        let mut deaths = Deaths::default();
        for pid in 1..=20 {
            let event = link::Event { pid, ..event(link::RestartReason::RESTART_REASON_KILLED, 9, 0) };
            deaths.add(Death::of(&event));
        }
        let pids: Vec<_> = deaths.newest_first().into_iter().filter_map(|death| death.pid).collect();
        assert_eq!(pids, (13..=20).rev().collect::<Vec<u32>>());
    }
}

//! What a wrapper says of its own two processes: who was replaced and why, and whether it is in safe mode.

use std::collections::BTreeMap;

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

// === impl RestartLabel ===

impl RestartLabel {
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

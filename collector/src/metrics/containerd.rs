//! Whether containerd can be asked for what it knows of containers, and how that went.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use super::{
    families as f, labels,
    registry::Registry,
    text::{Text, Value},
    totals::Counter,
};
use crate::closed::{Closed, Counts, closed};

closed! {
    /// How we stand with containerd.
    pub enum ContainerdState {
        /// Nobody asks it.
        Off => "off",
        /// There is no socket of it.
        Absent => "absent",
        /// It does not answer.
        Down => "down",
        /// It answers.
        Up => "up",
    }
}

closed! {
    /// What containerd is asked.
    pub enum ContainerdCall {
        /// For its release, right after connecting.
        Version => "version",
        /// For the record of a container.
        Get => "get",
        /// For all records of a namespace.
        List => "list",
        /// For events, until the connection ends.
        Subscribe => "subscribe",
    }
}

closed! {
    /// What came of it.
    pub enum ContainerdResult {
        /// An answer.
        Ok => "ok",
        /// It knows none of that name.
        NotFound => "not_found",
        /// Nobody is there.
        Unreachable => "unreachable",
        /// No answer in time.
        Mute => "mute",
        /// The answer is larger than it may be.
        TooLarge => "too_large",
        /// It ended the answer.
        Ended => "ended",
        /// It refused for another reason.
        Refused => "refused",
    }
}

/// How it stands and went.
#[derive(Debug, Default)]
pub struct ContainerdTotals {
    /// Kills for want of memory that it told of.
    pub oom_events: Counter,
    /// Where it is asked; not set where nobody asks.
    pub socket: OnceLock<PathBuf>,
    calls: [Counts<ContainerdResult>; 4],
    state: Mutex<Option<(ContainerdState, String)>>,
}

// === impl ContainerdTotals ===

impl ContainerdTotals {
    /// A call came to its end.
    pub fn called(&self, call: ContainerdCall, result: ContainerdResult) {
        if let Some(counts) = self.calls.get(call.index()) {
            counts.add(result, 1);
        }
    }

    /// How many calls of that kind came to their end.
    #[cfg(test)]
    pub(crate) fn calls_of(&self, call: ContainerdCall) -> u64 {
        self.calls.get(call.index()).map_or(0, Counts::total)
    }

    /// This is how it stands from here on, and why.
    pub fn set(&self, state: ContainerdState, why: &str) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some((state, why.to_owned()));
    }

    /// How it stands, and why.
    #[must_use]
    pub fn state(&self) -> (ContainerdState, String) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.unwrap_or((ContainerdState::Off, String::new()))
    }
}

/// Writes the families.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let containerd = &registry.totals.containerd;
    let (now, _) = containerd.state();
    let mut writer = text.family(&f::CONTAINERD_STATE);
    for state in ContainerdState::ALL {
        let mut row = String::new();
        labels::push(&mut row, "state", Some(state.label()));
        writer.sample(&row, Value::Whole(u64::from(*state == now)), None);
    }
    let mut writer = text.family(&f::CONTAINERD_CALLS);
    for call in ContainerdCall::ALL {
        for (result, n) in containerd.calls.get(call.index()).into_iter().flat_map(Counts::iter) {
            let mut row = String::new();
            labels::push(&mut row, "call", Some(call.label()));
            labels::push(&mut row, "result", Some(result.label()));
            writer.sample(&row, Value::Whole(n), None);
        }
    }
    text.family(&f::CONTAINERD_OOM).sample("", Value::Whole(containerd.oom_events.get()), None);
    let unnamed = registry.containers().iter().filter(|container| !container.extra.is_settled()).count();
    let unnamed = u64::try_from(unnamed).unwrap_or(u64::MAX);
    text.family(&f::CONTAINERD_WAITING).sample("", Value::Whole(unnamed), None);
}

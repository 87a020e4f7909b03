//! Streams whose end nobody told: the journal's, without those that go on after all.
//!
//! What is not known (there is no journal yet) is absent, not none.

use super::{
    container::ContainerKey,
    families as f, labels,
    registry::Registry,
    text::{Text, Value},
};
use crate::{
    closed::{Closed, Counts},
    event::{Ending, StreamName},
    journal::OpenEnded,
};

// === impl Registry ===

impl Registry {
    /// Every stream that ended open, in no order; `None` as long as nobody knows.
    #[must_use]
    pub fn open_ended(&self) -> Option<Vec<OpenEnded>> {
        let mut all = self.journal.get()?.open_ended();
        all.retain(|stream| !self.is_carried(&stream.origin.name));
        Some(all)
    }

    /// A wrapper that was given up has come back, and its stream has said nothing since: the journal does not know.
    fn is_carried(&self, name: &StreamName) -> bool {
        let key = ContainerKey {
            namespace: name.namespace.clone(),
            container: name.container.clone(),
            incarnation: name.incarnation,
        };
        let Some(task) = self.task(&key) else { return false };
        let live = task.live();
        let mut its = live.streams.iter().filter(|it| it.stream == name.stream && it.process == name.process);
        its.any(|stream| stream.ending().is_none())
    }
}

/// One sample per reason.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let Some(streams) = registry.open_ended() else { return };
    let counts = Counts::<Ending>::default();
    for stream in streams {
        counts.add(stream.ending, 1);
    }
    let mut writer = text.family(&f::STREAMS_OPEN_ENDED);
    for ending in Ending::ALL.iter().filter(|ending| ending.is_open()) {
        let mut row = String::new();
        labels::push(&mut row, "reason", Some(ending.label()));
        writer.sample(&row, Value::Whole(counts.get(*ending)), None);
    }
}

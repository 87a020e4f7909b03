//! What an operator is told in the log of wrappers, and which pod it concerns: safe mode, each death with what it was of, workers
//! that die one after the other, pods that run without a wrapper.
//!
//! Figures of the same stand in `restarts` and `wrapper`. A report that says nothing new says nothing here, so that a
//! wrapper that comes back does not tell old news.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    report::{Report, WrapperCount},
    restarts::{Death, RestartLabel},
    wrapper::About,
};
use crate::limited::Limited;

/// So many replaced workers or keepers within `WINDOW` are no accident; safe mode comes at five in ten seconds.
const OFTEN: u64 = 3;
/// Once in this time it is said.
const WINDOW: Duration = Duration::from_secs(600);

/// Something that was not so before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It moves bytes without looking into them.
    SafeModeEntered,
    /// It looks again.
    SafeModeLeft,
    /// That many workers and keepers were replaced within ten minutes.
    RestartsOften(u64),
    /// A worker or keeper was replaced.
    Died(Death),
    /// A pod runs without a wrapper, and why; empty where an older release does not say.
    Unwrapped(String),
}

/// What was seen of one wrapper's restarts.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// When the present window began, and how many restarts there had been by then.
    window: Option<(Instant, u64)>,
    /// It was said in this window.
    said: bool,
}

// === impl Watch ===

impl Watch {
    /// What `now` says that `before` did not; `why` is what it says of a pod that runs unwrapped.
    pub fn look(&mut self, before: &Report, now: &Report, why: &str) -> Vec<Notice> {
        let mut notices = Vec::new();
        match (before.safe_mode, now.safe_mode) {
            (false, true) => notices.push(Notice::SafeModeEntered),
            (true, false) => notices.push(Notice::SafeModeLeft),
            _ => {}
        }
        let restarts = now.survival.restarts.values();
        notices.extend(self.often(restarts.fold(0, |sum, count| count.saturating_add(sum))));
        let unwrapped = WrapperCount::UnwrappedStarts;
        if now.count(unwrapped) > before.count(unwrapped) {
            notices.push(Notice::Unwrapped(why.to_owned()));
        }
        notices
    }

    fn often(&mut self, restarts: u64) -> Option<Notice> {
        let (since, before) = match self.window {
            Some(window) if window.0.elapsed() < WINDOW => window,
            // What the first report counts may be long ago.
            _ => {
                self.said = false;
                *self.window.insert((Instant::now(), restarts))
            }
        };
        self.window = Some((since, before));
        let within = restarts.saturating_sub(before);
        if within < OFTEN || std::mem::replace(&mut self.said, true) {
            return None;
        }
        Some(Notice::RestartsOften(within))
    }
}

// === impl Notice ===

static SAFE: Limited = Limited::new();
static OFTEN_SAID: Limited = Limited::new();
static UNWRAPPED: Limited = Limited::new();
static DIED: Limited = Limited::new();
static REPLACED: Limited = Limited::new();

impl Notice {
    /// Writes it to the log.
    pub fn say(&self, about: &About) {
        let About { namespace, id, generation, .. } = about;
        match self {
            Self::SafeModeEntered => SAFE.say(|hidden| {
                warn!(%namespace, %id, generation, hidden, "wrapper is in safe mode, its pod's output is not copied");
            }),
            Self::SafeModeLeft => {
                SAFE.say(|hidden| info!(%namespace, %id, generation, hidden, "wrapper has left safe mode"));
            }
            Self::RestartsOften(restarts) => OFTEN_SAID.say(|hidden| {
                warn!(%namespace, %id, restarts, generation, hidden, "wrapper is restarted often");
            }),
            Self::Died(death) if death.reason == RestartLabel::Replaced => REPLACED.say(|hidden| {
                info!(%namespace, %id, pid = death.pid, hidden, "wrapper has begun anew");
            }),
            Self::Died(Death { reason, pid, signal, exit_status, .. }) => DIED.say(|hidden| {
                let (process, reason, signal) = (reason.process(), reason.label(), signal.as_deref());
                warn!(
                    %namespace, %id, process, reason, pid, signal, exit_status, hidden,
                    "wrapper has lost one of its two processes and replaced it"
                );
            }),
            Self::Unwrapped(why) => UNWRAPPED.say(|hidden| {
                let why = if why.is_empty() { "not said" } else { why };
                warn!(%namespace, %id, why, hidden, "pod runs unwrapped, nothing of it is collected");
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use shimtap_proto::link;

    use super::*;

    fn report(safe_mode: bool, restarts: u64) -> Report {
        let restarts = link::Restarts { count: restarts, ..Default::default() };
        Report::of(&link::Report { safe_mode, restarts: vec![restarts], ..Default::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn only_news_is_told() {
        let mut watch = Watch::default();
        let nothing = Report::default();
        // Restarts of an earlier time are no news, safe mode is.
        assert_eq!(watch.look(&nothing, &report(true, 9), ""), [Notice::SafeModeEntered]);
        assert_eq!(watch.look(&report(true, 9), &report(true, 9), ""), []);
        assert_eq!(watch.look(&report(true, 9), &report(false, 11), ""), [Notice::SafeModeLeft]);
        assert_eq!(watch.look(&report(false, 11), &report(false, 12), ""), [Notice::RestartsOften(3)]);
        assert_eq!(watch.look(&report(false, 12), &report(false, 15), ""), [], "said once in ten minutes");
        tokio::time::advance(WINDOW).await;
        assert_eq!(watch.look(&report(false, 15), &report(false, 17), ""), [], "a window of its own");
        assert_eq!(watch.look(&report(false, 17), &report(false, 20), ""), [Notice::RestartsOften(3)]);
    }

    #[tokio::test]
    async fn a_pod_without_a_wrapper_is_told_once() {
        let count = link::Count { name: "unwrapped_starts".to_owned(), value: 1, ..Default::default() };
        let told = Report::of(&link::Report { counts: vec![count], ..Default::default() });
        let mut watch = Watch::default();
        assert_eq!(watch.look(&Report::default(), &told, "why"), [Notice::Unwrapped("why".to_owned())]);
        assert_eq!(watch.look(&told, &told, "why"), []);
    }
}

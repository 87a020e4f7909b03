//! Expositions that were made a moment ago: whoever asks within `metrics.page_age_ms` gets the same bytes.
//!
//! However many scrapers come, an exposition is made once in that time; and however slowly one of them reads, it holds bytes that
//! nobody else waits for. Nothing is kept for longer: the exposition of a large node takes megabytes.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::metrics::{Packing, Registry, Wanted, expose_cadvisor, expose_own};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Page {
    /// `/metrics`
    Own,
    /// `/metrics/cadvisor`
    Cadvisor(Wanted),
}

/// When each was made, and what it says.
type Kept = HashMap<(Page, Packing), (Instant, Bytes)>;

/// The copies.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    good_for: Duration,
    kept: Arc<Mutex<Kept>>,
}

// === impl Copies ===

impl Copies {
    /// Each good for so long.
    pub(super) fn new(good_for: Duration) -> Self {
        Self { good_for, kept: Arc::default() }
    }

    /// The page, made now or a moment ago. To be called on a runtime.
    pub(super) fn get(&self, registry: &Registry, page: Page, packing: Packing) -> io::Result<Bytes> {
        let mut kept = self.kept();
        if let Some((made, bytes)) = kept.get(&(page, packing))
            && made.elapsed() < self.good_for
        {
            return Ok(bytes.clone());
        }
        let made = match page {
            Page::Own => expose_own(registry, packing),
            Page::Cadvisor(wanted) => expose_cadvisor(registry, wanted, packing),
        };
        let bytes = Bytes::from(made?);
        if self.good_for.is_zero() {
            return Ok(bytes);
        }
        if kept.is_empty() {
            let copies = self.clone();
            tokio::spawn(async move {
                while copies.forget() {
                    sleep(copies.good_for).await;
                }
            });
        }
        kept.insert((page, packing), (Instant::now(), bytes.clone()));
        Ok(bytes)
    }

    /// Lets go of copies that are too old; false where none is left.
    fn forget(&self) -> bool {
        let mut kept = self.kept();
        kept.retain(|_, (made, _)| made.elapsed() < self.good_for);
        !kept.is_empty()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Backlog;

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_good_for_a_second_and_gone_after_the_next() {
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        const GOOD_FOR: Duration = Duration::from_secs(1);
        let copies = Copies::new(GOOD_FOR);
        let get = |packing| copies.get(&registry, Page::Own, packing).expect("memory");
        let first = get(Packing::Plain);
        registry.totals.redactions.add(1);
        assert_eq!(get(Packing::Plain), first);
        assert_ne!(get(Packing::Gzip), first, "another form is another page");
        sleep(GOOD_FOR).await;
        assert_ne!(get(Packing::Plain), first);
        sleep(GOOD_FOR * 3).await;
        assert!(copies.kept().is_empty());
    }

    #[tokio::test]
    async fn each_is_made_anew_where_none_may_be_old() {
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        let copies = Copies::new(Duration::ZERO);
        let get = || copies.get(&registry, Page::Own, Packing::Plain).expect("memory");
        let first = get();
        registry.totals.redactions.add(1);
        assert_ne!(get(), first);
        assert!(copies.kept().is_empty());
    }
}

//! One file at a time, so that what is in memory of files is bounded and each wrapper's are taken in order.
//!
//! A file for whose records there is no room, because the disk under their head of the journal is full or hangs, must not keep
//! others from their turn: what goes to the other head has room.

use std::time::Duration;

use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::event::Store;

/// A message that has waited for room for so long waits for a disk.
pub(super) const HOLD: Duration = Duration::from_secs(3);

/// The turn of one file.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Mutex<()>,
    mine: Option<MutexGuard<'t, ()>>,
    is_awaited: bool,
    crowded: Vec<Store>,
}

// === impl Turn ===

impl<'t> Turn<'t> {
    /// Waits for it. `is_awaited`: a wrapper is there whose own output comes behind this file, so that it is not put off.
    pub(super) async fn of(turns: &'t Mutex<()>, is_awaited: bool) -> Self {
        Self { turns, mine: Some(turns.lock().await), is_awaited, crowded: Vec::new() }
    }

    /// Nothing is to be taken for these heads of the journal: enough waits for them.
    pub(super) fn without(self, crowded: &[Store]) -> Self {
        Self { crowded: crowded.to_vec(), ..self }
    }

    /// Those heads.
    pub(super) fn crowded(&self) -> &[Store] {
        &self.crowded
    }

    /// Does its wrapper wait for it?
    pub(super) const fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Lets a message be taken, which is to be cancel-safe. Where there is no room for it somebody who is awaited goes on waiting,
    /// and others have their turn meanwhile; with `None` a file that nobody waits for is to be tried again later.
    pub(super) async fn take<T>(&mut self, taking: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(taking);
        if let Ok(taken) = timeout(HOLD, &mut taking).await {
            return Some(taken);
        }
        if !self.is_awaited {
            return None;
        }
        drop(self.mine.take());
        let taken = taking.await;
        self.mine = Some(self.turns.lock().await);
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_without_room_lets_others_have_their_turn() {
        let turns = Mutex::default();
        let mut nobodys = Turn::of(&turns, false).await;
        assert_eq!(nobodys.take(ready(1)).await, Some(1));
        assert_eq!(nobodys.take(pending::<()>()).await, None);
        assert!(turns.try_lock().is_err(), "it is its turn still");
        drop(nobodys);
        let mut awaited = Turn::of(&turns, true).await;
        let waiting = awaited.take(pending::<()>());
        assert!(timeout(HOLD * 2, waiting).await.is_err(), "it is waited for");
        let mut other = Turn::of(&turns, true).await;
        assert_eq!(other.take(ready(2)).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_had_to_wait_has_its_turn_again_for_the_next_message() {
        let turns = Mutex::default();
        let mut awaited = Turn::of(&turns, true).await;
        assert_eq!(awaited.take(tokio::time::sleep(HOLD * 2)).await, Some(()));
        assert!(turns.try_lock().is_err());
    }
}

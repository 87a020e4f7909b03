//! How far each stream is, over all connections that ever carried it.
//!
//! The table is keyed by the stream's durable name, so that a wrapper which comes back, or a worker's successor,
//! goes on exactly where its predecessor stopped. What an earlier process knew is asked of the journal, which knows it
//! for good; ended streams are remembered here up to a bound.

mod taken;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::home::Home;
use crate::{
    event::{Ending, HoleReason, Origin, Progress, Store, StreamName},
    journal::Known,
    metrics::{StreamCounts, Totals},
    process::{Clock, Edge, Tape, TapeFault},
    rules::{Budget, Censor, Verdict},
};

/// What an earlier process, or this one some time ago, knew of streams.
pub trait Memory: std::fmt::Debug + Send + Sync {
    /// How far a stream was; `None` where it was never heard of.
    fn stream(&self, name: &StreamName) -> Option<Known>;
}

/// All streams.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    totals: Arc<Totals>,
    memory: Arc<dyn Memory>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<StreamName, Arc<Slot>>,
    ended: VecDeque<StreamName>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    /// Whose it is.
    pub(super) origin: Arc<Origin>,
    /// What of it is durable.
    pub(super) progress: Arc<Progress>,
    /// What is shown of it.
    pub(super) counts: Arc<StreamCounts>,
    totals: Arc<Totals>,
    /// Raw offset behind the last record that went to the sink.
    submitted: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tape: Tape,
    censor: Censor,
    /// Gives the records of its container their times.
    clock: Arc<Clock>,
    /// What rules leave its container of lines.
    budget: Arc<Budget>,
    /// The connection that carries it now.
    owner: u64,
    /// Since when none does.
    detached: Option<Instant>,
    /// The last record was a piece of a line that goes on.
    within: bool,
    /// The head of the journal that has it.
    home: Home,
}

/// Where a wrapper is to go on with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The next byte that is wanted; `None`: the oldest that there is.
    pub(super) next: Option<u64>,
    /// False: none is.
    pub(super) capture: bool,
    /// Something is taken out of it: as it is it must not reach a disk.
    pub(super) redacted: bool,
}

/// The owner of a stream that no connection carries; connections are numbered from 1.
const NOBODY: u64 = 0;

/// How long a stream's next bytes wait for those before them to be durable, where a rule moves it; then it is moved later.
const MOVE_PATIENCE: Duration = Duration::from_millis(200);
/// It takes one write of the journal; this often is looked.
const MOVE_POLL: Duration = Duration::from_millis(2);

/// Why a stream did not take a message.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another connection carries it now.
    Superseded,
    /// The message cannot be true.
    Fault(TapeFault),
}

// === impl Streams ===

impl Streams {
    /// An empty table that remembers `remembered` ended streams, and asks `memory` for those that it does not know.
    #[must_use]
    pub fn new(totals: Arc<Totals>, memory: Arc<dyn Memory>, remembered: usize) -> Self {
        Self { table: Mutex::default(), totals, memory, remembered }
    }

    /// Takes streams that an earlier process left open: should their wrappers not come back, they end.
    pub fn expect(&self, open: Vec<Known>) {
        let mut table = self.table();
        for known in open {
            let origin = Arc::clone(&known.row.origin);
            let slot = Slot::new(&origin, Some(known), &self.totals);
            slot.state().detached = Some(Instant::now());
            table.slots.insert(origin.name.clone(), Arc::new(slot));
        }
    }

    /// The stream of that name, known or new; connection `owner` carries it from here on. `clock` and `budget` are its
    /// container's.
    pub(super) fn attach(
        &self,
        origin: &Arc<Origin>,
        clock: &Arc<Clock>,
        budget: &Arc<Budget>,
        owner: u64,
    ) -> Arc<Slot> {
        let mut table = self.table();
        let slot = table
            .slots
            .entry(origin.name.clone())
            .or_insert_with(|| Arc::new(Slot::new(origin, self.memory.stream(&origin.name), &self.totals)));
        let slot = Arc::clone(slot);
        // It was taken for ended, and is not.
        table.ended.retain(|name| *name != origin.name);
        let mut state = slot.state();
        state.owner = owner;
        state.detached = None;
        slot.counts.carried();
        drop(table);
        clock.raise(state.clock.last());
        state.clock = Arc::clone(clock);
        state.budget = Arc::clone(budget);
        drop(state);
        slot
    }

    /// The stream will not go on, unless another connection has it by now. It is forgotten when enough others have ended after it.
    pub(super) fn ended(&self, slot: &Slot) {
        let mut table = self.table();
        let mut state = slot.state();
        if state.owner != NOBODY {
            return;
        }
        // No wrapper is waited for: as an orphan it would end again, and take two places among those that are remembered.
        state.detached = None;
        drop(state);
        table.ended.push_back(slot.origin.name.clone());
        while table.ended.len() > self.remembered {
            let Some(oldest) = table.ended.pop_front() else { break };
            table.slots.remove(&oldest);
        }
    }

    /// Streams that no connection has carried for `patience`: what is left of them can be had by
    /// [`Slot::abandon`], once.
    pub(super) fn orphans(&self, patience: Duration) -> Vec<Arc<Slot>> {
        let slots: Vec<_> = self.table().slots.values().cloned().collect();
        slots.into_iter().filter(|slot| slot.is_orphan(patience)).collect()
    }

    /// Ended streams that are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> Vec<StreamName> {
        self.table().ended.iter().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn place(&self) -> Place {
        Place {
            next: Some(self.tape.next()),
            capture: !self.censor.is_off(),
            redacted: self.censor.redacts(),
        }
    }
}

// === impl Slot ===

impl Slot {
    /// A stream that an earlier process left as `known`, or a new one.
    fn new(origin: &Arc<Origin>, known: Option<Known>, totals: &Arc<Totals>) -> Self {
        let counts = Arc::new(StreamCounts::new(origin.name.stream, &origin.name.process, None));
        let clock = Clock::default();
        let (mut tape, mut progress) = (Tape::default(), Progress::default());
        let (mut submitted, mut within, mut home) = (0, false, Home::default());
        if let Some(known) = known {
            home = Home::resumed(&known);
            let row = known.row;
            within = matches!(row.edge, Edge::Within(_));
            let orderly = row.ending.is_some_and(Ending::is_orderly);
            tape = Tape::resumed(row.end, row.edge, orderly.then_some(row.end));
            progress = Progress::resumed(row.end, orderly);
            submitted = row.end;
            clock.raise(row.last_ns);
            counts.resume(&row);
        }
        let censor = Censor::resumed(within);
        let state = State { tape, censor, clock: Arc::new(clock), within, home, ..State::default() };
        Self {
            origin: Arc::clone(origin),
            progress: Arc::new(progress),
            counts,
            totals: Arc::clone(totals),
            submitted: AtomicU64::new(submitted),
            state: Mutex::new(state),
        }
    }

    /// What becomes of it from here on; gives what its wrapper has to know of that, if anything.
    pub(super) fn judge(&self, owner: u64, verdict: Verdict) -> Option<Place> {
        let mut state = self.owned(owner).ok()?;
        let before = state.place();
        state.home.wanted = verdict.store();
        let switched = state.censor.judge(verdict);
        let redacts = state.censor.redacts();
        state.tape.keep_whole(redacts);
        let now = state.place();
        self.counts.off.store(!now.capture, Ordering::Relaxed);
        // Switched on again: what was not collected is not asked for now. Else it goes on where it is.
        let next = now.next.filter(|_| switched && !now.capture);
        (switched || before.redacted != now.redacted).then_some(Place { next, ..now })
    }

    /// The head of the journal that its last records went to, and before the first the one that they will go to.
    pub(super) fn home(&self) -> Store {
        self.state().home.next(false)
    }

    /// The head that its next records go to as things are.
    pub(super) fn next_home(&self) -> Store {
        let state = self.state();
        state.home.next(!state.within && self.is_durable())
    }

    /// Waits, where it is to be moved to the journal's other head, until it may; a while at most. Cancel-safe.
    pub(super) async fn settled(&self) {
        let begun = Instant::now();
        while self.must_settle() && begun.elapsed() < MOVE_PATIENCE {
            sleep(MOVE_POLL).await;
        }
    }

    fn must_settle(&self) -> bool {
        let state = self.state();
        state.home.is_moving() && !state.within && !self.is_durable()
    }

    /// True where all that went out is durable.
    fn is_durable(&self) -> bool {
        self.progress.durable() >= self.submitted()
    }

    /// Raw offset of the next byte that was not taken.
    pub(super) fn next(&self) -> u64 {
        self.state().tape.next()
    }

    /// The next byte that is wanted, and whether any is.
    pub(super) fn place(&self) -> Place {
        self.state().place()
    }

    /// True where pieces of a line would hide what is to be taken out of it: then they are given only where its wrapper's window
    /// fills.
    pub(super) fn wants_whole_lines(&self) -> bool {
        self.state().censor.redacts()
    }

    /// Raw offset behind the last record that went to the sink.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Where the stream ends, once that is known.
    pub(super) fn end(&self) -> Option<u64> {
        self.state().tape.end()
    }

    /// Bytes of the unfinished line: they join the next batch.
    pub(super) fn held(&self) -> usize {
        self.state().tape.held()
    }

    /// Some collector has acknowledged every byte below `offset`, so that its wrapper need not have them any more.
    pub(super) fn acknowledged(&self, offset: u64) {
        self.state().tape.acknowledged(offset);
    }

    /// Bytes that turn out to be missing from here on are missing for this reason, as far as we know.
    pub(super) fn expect_loss(&self, reason: HoleReason) {
        self.state().tape.expect_loss(reason);
    }

    /// Connection `owner` ended.
    pub(super) fn detach(&self, owner: u64) {
        let mut state = self.state();
        if state.owner == owner {
            state.owner = NOBODY;
            state.detached = Some(Instant::now());
        }
    }

    fn is_orphan(&self, patience: Duration) -> bool {
        self.state().detached.is_some_and(|since| since.elapsed() >= patience)
    }

    fn owned(&self, owner: u64) -> Result<MutexGuard<'_, State>, Refused> {
        let state = self.state();
        if state.owner == owner { Ok(state) } else { Err(Refused::Superseded) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The one writer: takes batches from the connections, packs them into frames, appends, and acknowledges.
//!
//! A thread of its own, because writing blocks and a stalled disk must stop nothing else. A batch is done when the
//! write(2) of its frame has come back (and fdatasync(2), where the configuration wants that); a failing disk is waited
//! for, never given up. Each byte of output is copied once, into the payload that is packed.

use std::{io::Write, path::Path, sync::Arc, thread, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    Journal, JournalFault,
    format::{
        entry::{put_batch, put_stream},
        frame::{Head, Kind, Packer},
    },
    part::length,
    recover::Endings,
    settle,
    tail::FreshBatch,
};
use crate::{
    config::Fsync,
    event::{Ending, Origin, Record, Store},
    limited::Limited,
    priority,
    sinks::{Exit, Source, Waiting},
};

/// Payload after which a frame is appended without looking for more: what lz4 can refer back to.
const FRAME_BYTES: usize = 64 << 10;
/// How long batches are gathered for one frame while few come. Wrappers send at common ticks, so this is enough for all of a
/// node to be in one frame, and its write and the sinks' wake-up serve all of them; more only makes lines late
/// (docs/adr/0025).
const GATHER: Duration = Duration::from_millis(10);
/// First pause after a failure; doubled each time up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A disk that has room again is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often a quiet journal looks for what is too old.
const TIDY: Duration = Duration::from_secs(60);

static FAILED: Limited = Limited::new();

/// The running thread.
#[derive(Debug)]
pub struct JournalThread {
    journal: Arc<Journal>,
    thread: thread::JoinHandle<()>,
    settling: Vec<thread::JoinHandle<()>>,
    stop: Stop,
    settled: watch::Sender<bool>,
}

/// Ends the wait for a failing disk, for good.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<bool>);

/// What the thread owns.
#[derive(Debug)]
struct Appender {
    journal: Arc<Journal>,
    source: Exit,
    stop: Stop,
    packer: Packer,
    frame: Frame,
    /// What a failed attempt left behind the last whole frame is still there: behind it nothing would be found.
    is_torn: bool,
}

/// The frame in the making.
#[derive(Debug, Default)]
struct Frame {
    payload: Vec<u8>,
    first: u64,
    next: u64,
    /// Raw bytes of output in it.
    output: u64,
    /// Its only stream; 0 where there are several.
    sole: u32,
    /// What readers get, and the table, when it was written.
    batches: Vec<FreshBatch>,
    /// What is acknowledged then.
    waiting: Vec<Waiting>,
}

// === impl JournalThread ===

impl JournalThread {
    /// Starts it; it ends when the entrance of `source` is gone and everything was appended. `endings` come first.
    ///
    /// # Errors
    /// The thread cannot be had.
    pub fn start(journal: &Arc<Journal>, source: Exit, endings: Endings) -> Result<Self, JournalFault> {
        let fault = |source| JournalFault::Thread { source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fault)?;
        let stop = Stop(watch::Sender::new(false));
        let appender = Appender {
            journal: Arc::clone(journal),
            source,
            stop: stop.clone(),
            packer: Packer::default(),
            frame: Frame::default(),
            is_torn: false,
        };
        let name = match journal.head.store {
            Store::Memory => "journal",
            Store::Disk => "journal-disk",
        };
        let run = move || {
            priority::yield_to_workloads();
            runtime.block_on(appender.run(endings));
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run).map_err(fault)?;
        let settled = watch::Sender::new(false);
        let settling = settle::start(journal, &settled.subscribe())?;
        Ok(Self { journal: Arc::clone(journal), thread, settling, stop, settled })
    }

    /// True once everything was appended and the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes the last places of sinks, which have had their time; true once that was done.
    #[must_use]
    pub fn settle(&self) -> bool {
        self.settled.send_replace(true);
        self.settling.iter().all(thread::JoinHandle::is_finished)
    }

    /// Where it writes.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.journal.dir()
    }

    /// Since when it hangs in a write, if it does.
    pub(super) fn hangs(&self) -> Option<Instant> {
        self.journal.counts().stalled.hangs()
    }

    /// Gives up waiting for a failing disk: what is not appended stays unacknowledged.
    pub fn give_up(&self) {
        self.stop.0.send_replace(true);
    }
}

// === impl Stop ===

impl Stop {
    /// Waits for `time`; true where it was told to give up.
    async fn pause(&self, time: Duration) -> bool {
        let mut set = self.0.subscribe();
        tokio::select! {
            () = sleep(time) => false,
            _ = set.wait_for(|set| *set) => true,
        }
    }
}

// === impl Appender ===

impl Appender {
    async fn run(mut self, endings: Endings) {
        let whole = self.run_until_told(endings).await;
        if !whole || !self.append(Kind::Clean).await {
            let dir = self.journal.dir().display();
            warn!(%dir, bytes = self.frame.output, "giving up unwritten output; it stays unacknowledged");
        }
        self.journal.close();
    }

    /// Until the entrance is gone and everything was appended; false where it was told to give up.
    async fn run_until_told(&mut self, endings: Endings) -> bool {
        for (origin, ending) in endings {
            self.journal.count_unfinished(&origin);
            self.take_records(origin, Vec::new(), Some(ending), Instant::now());
        }
        if !self.frame.is_empty() && !self.append(Kind::Entries).await {
            return false;
        }
        self.journal.begin_boot();
        loop {
            let first = tokio::select! {
                first = self.source.recv() => first,
                // On a quiet node output gets old as well.
                () = sleep(TIDY) => {
                    let _at_it = self.journal.counts().stalled.begin();
                    self.tidy();
                    continue;
                }
            };
            let Some(first) = first else { break };
            self.source.gather(GATHER).await;
            self.take(first);
            loop {
                let next = self.source.try_recv();
                if !self.frame.is_empty()
                    && (next.is_none() || self.frame.payload.len() >= FRAME_BYTES)
                    && !self.append(Kind::Entries).await
                {
                    return false;
                }
                match next {
                    Some(next) => self.take(next),
                    None => break,
                }
            }
        }
        true
    }

    /// Takes a batch into the frame.
    fn take(&mut self, mut waiting: Waiting) {
        let batch = &mut waiting.batch;
        let (records, origin) = (std::mem::take(&mut batch.records), Arc::clone(&batch.origin));
        self.take_records(origin, records, batch.ending, batch.received);
        self.frame.waiting.push(waiting);
    }

    fn take_records(
        &mut self,
        origin: Arc<Origin>,
        records: Vec<Record>,
        ending: Option<Ending>,
        received: Instant,
    ) {
        let mut state = self.journal.state();
        let seq = if self.frame.is_empty() { state.next } else { self.frame.next };
        let (row, is_new) = state.table.row_of(&origin);
        let stream = row.id;
        if is_new {
            put_stream(&mut self.frame.payload, row);
        }
        drop(state);
        put_batch(&mut self.frame.payload, 0, stream, &records, ending);
        self.frame.push(FreshBatch { seq, stream, origin, records, ending, received });
    }

    /// Appends the frame, however long the disk refuses it, and acknowledges; false where it was told to give up.
    async fn append(&mut self, kind: Kind) -> bool {
        let journal = Arc::clone(&self.journal);
        // Until there is room in the files again: a disk that hangs does so anywhere.
        let _at_it = journal.counts().stalled.begin();
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        while let Err(fault) = self.try_append(kind) {
            self.journal.counts().error(&fault.errno());
            self.journal.counts().stalled.refused(true);
            if !failing {
                warn!(error = %fault, "the journal cannot be written; holding back acknowledgements");
            }
            failing = true;
            if fault.is_out_of_room() && self.journal.make_room() {
                continue;
            }
            if self.stop.pause(backoff).await {
                return false;
            }
            backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
        }
        if failing {
            self.journal.counts().stalled.refused(false);
            info!(dir = %self.journal.dir().display(), "the journal is writable again");
        }
        self.acknowledge();
        self.tidy();
        true
    }

    /// Between frames: the table and the files agree.
    fn tidy(&self) {
        if let Err(fault) = self.journal.tidy() {
            self.journal.counts().error(&fault.errno());
            FAILED.say(|hidden| warn!(error = %fault, hidden, "cannot tidy the journal"));
        }
    }

    /// One attempt. What a failed one leaves behind the last whole frame is taken off again.
    fn try_append(&mut self, kind: Kind) -> Result<(), JournalFault> {
        let journal = &self.journal;
        let newest = journal.newest()?;
        if self.is_torn {
            let path = &newest.path;
            let cut = newest.file.set_len(newest.size);
            cut.map_err(|source| JournalFault::Io { doing: "cutting off", path: path.clone(), source })?;
            self.is_torn = false;
        }
        let (first, next) = match kind {
            Kind::Entries => (self.frame.first, self.frame.next),
            Kind::Clean => (newest.next, newest.next),
        };
        let output = newest.output.saturating_add(self.frame.output);
        let head = Head { kind, sole: self.frame.sole, first, next, time_ns: journal.frame_time(), output };
        let bytes = self.packer.frame(&head, &self.frame.payload);
        let written = (&*newest.file).write_all(bytes).and_then(|()| match journal.config.fsync {
            Fsync::Always => journal.sync(&newest.file),
            Fsync::Interval => Ok(()),
        });
        if let Err(source) = written {
            // The file is opened for appending: only a shorter file takes the torn frame off.
            self.is_torn = newest.file.set_len(newest.size).is_err();
            return Err(JournalFault::Io { doing: "appending to", path: newest.path, source });
        }
        let fresh = std::mem::take(&mut self.frame.batches);
        journal.appended(&head, length(bytes.len()), fresh);
        Ok(())
    }

    /// The frame is durable: its wrappers are told.
    fn acknowledge(&mut self) {
        for waiting in self.frame.waiting.drain(..) {
            waiting.batch.done();
            self.journal.totals.ack_delay.observe(waiting.batch.received.elapsed());
        }
        self.frame.clear();
    }
}

// === impl Frame ===

impl Frame {
    fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    fn push(&mut self, batch: FreshBatch) {
        if self.batches.is_empty() {
            (self.first, self.sole) = (batch.seq, batch.stream);
        }
        if self.sole != batch.stream {
            self.sole = 0;
        }
        self.next = batch.seq.saturating_add(1);
        self.output = self.output.saturating_add(batch.output());
        self.batches.push(batch);
    }

    fn clear(&mut self) {
        self.payload.clear();
        (self.first, self.next, self.output, self.sole) = (0, 0, 0, 0);
    }
}

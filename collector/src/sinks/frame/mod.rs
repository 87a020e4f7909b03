//! What all sinks share: batches into requests, trying again, counting, and saying what is done.
//!
//! A sink is two things: how records become a request ([`Encode`]) and how a request gets where it belongs
//! ([`Deliver`]). Everything else stands here, once. Each sink has a thread of its own, so that one that blocks or
//! computes holds nothing but itself. At most two requests are in memory: one on its way, one being gathered.

mod carry;
mod gather;
mod retry;
mod trouble;

use std::{borrow::Cow, future::Future, io, sync::Arc, thread, time::Duration};

use tokio::sync::watch;
use tracing::warn;

pub use gather::Limits;
pub use retry::Pace;
pub use trouble::Trouble;

use super::Source;
use crate::{
    event::{Batch, Record},
    metrics::SinkTotals,
    priority,
};
use carry::Carry;
use gather::{Ceiling, Gather};

/// How records become a request.
pub trait Encode: Clone + Send + 'static {
    /// A request in the making, and made.
    type Parcel: Default + Send;

    /// More bytes than a record will take, roughly.
    fn weight(record: &Record) -> usize;

    /// Appends one record of `batch`.
    fn add(&mut self, parcel: &mut Self::Parcel, batch: &Batch, record: &Record);

    /// Encoded bytes so far, before compression.
    fn size(&self, parcel: &Self::Parcel) -> usize;

    /// Nothing more will be added.
    fn seal(&mut self, parcel: &mut Self::Parcel);

    /// Makes a delivered one empty again; keeps of its memory what the next one will want.
    fn clear(&mut self, parcel: &mut Self::Parcel);
}

/// How a request gets where it belongs.
pub trait Deliver<Parcel>: Send + 'static {
    /// Tries once. Counts what goes over the wire; records are counted by the frame. After [`Verdict::Later`] it is
    /// called again with what it has left of the parcel. It may be dropped half-way at the end of the process.
    fn deliver(&mut self, parcel: &mut Parcel) -> impl Future<Output = Verdict> + Send;
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// It is durable there, but for `rejected` records that are refused for good.
    Taken {
        /// Never more than the request has.
        rejected: u64,
    },
    /// Not now; try again.
    Later {
        /// What kind.
        trouble: Trouble,
        /// For `shimtap_sink_errors_total` where the kind says too little: an errno's name.
        label: Option<Cow<'static, str>>,
        /// For a person.
        error: String,
        /// How long the other end wants to be left alone.
        after: Option<Duration>,
    },
    /// Too large in one piece.
    TooLarge,
    /// Not now and not later.
    Never {
        /// What kind.
        trouble: Trouble,
        /// For a person.
        error: String,
    },
}

/// What a sink needs of its surroundings.
#[derive(Debug)]
pub struct Frame<S> {
    /// Where batches come from.
    pub source: S,
    /// How large requests become.
    pub limits: Limits,
    /// How long pauses are.
    pub pace: Pace,
    /// What it counts.
    pub sink: Arc<SinkTotals>,
    /// True for a sink that needs sockets.
    pub network: bool,
}

/// A sink that runs.
#[derive(Debug)]
pub struct Worker {
    name: &'static str,
    thread: thread::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

// === impl Frame ===

impl<S: Source + 'static> Frame<S> {
    /// Starts the sink's thread, which ends when no more will come and all of it is delivered.
    ///
    /// # Errors
    /// The system refuses a thread, or what a runtime needs.
    pub fn start<E, D>(self, encoder: E, deliver: D) -> io::Result<Worker>
    where
        E: Encode,
        D: Deliver<E::Parcel>,
    {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // Where no socket is waited for, the thread sleeps on a futex: that costs less than epoll.
        let runtime = if self.network { runtime.enable_all() } else { runtime.enable_time() }.build()?;
        let name = self.sink.name;
        let (stop, mut stopped) = watch::channel(false);
        let ceiling = Arc::new(Ceiling::new(&self.limits));
        let gather = Gather::new(self.source, encoder.clone(), self.limits, Arc::clone(&ceiling));
        let carry = Carry::new(encoder, deliver, ceiling, self.pace, self.sink);
        let thread = thread::Builder::new().name(format!("{name}-sink")).spawn(move || {
            priority::yield_to_workloads();
            runtime.block_on(async {
                tokio::select! {
                    () = work(gather, carry) => {}
                    _ = stopped.wait_for(|stop| *stop) => {
                        warn!(sink = name, "giving up what is not delivered; it stays unacknowledged");
                    }
                }
            });
            // A look-up of a name cannot be interrupted, and nobody waits for it.
            runtime.shutdown_background();
        })?;
        Ok(Worker { name, thread, stop })
    }
}

/// The next request is gathered and packed while the last one is on its way.
async fn work<S, E, D>(mut gather: Gather<S, E>, mut carry: Carry<E, D>)
where
    S: Source,
    E: Encode,
    D: Deliver<E::Parcel>,
{
    let mut next = gather.next().await;
    while let Some(load) = next {
        let spare;
        (spare, next) = tokio::join!(carry.carry(load), gather.next());
        gather.recycle(spare);
    }
}

// === impl Worker ===

impl Worker {
    /// The value of the label `sink`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// True once everything was delivered and the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Gives up waiting for a destination that fails: what is not delivered stays unacknowledged.
    pub fn give_up(&self) {
        self.stop.send_replace(true);
    }
}

//! What a state word may say: of connections, requests, tasks, streams. A number is never given another meaning, since a
//! worker of another release may read it.

use std::sync::atomic::Ordering;

use crate::sys::atomic::AtomicU32;

/// Words of a state machine: an enum stored in an `AtomicU32`.
macro_rules! states {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $(#[$fmeta:meta])* $first:ident, $($(#[$vmeta:meta])* $variant:ident,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        $vis enum $name { $(#[$fmeta])* $first, $($(#[$vmeta])* $variant,)* }
        impl $name {
            /// All, in the order of their numbers.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant,)*];
            /// Reads the word with acquire order; a value of no state reads as the first one.
            pub fn load(word: &AtomicU32) -> Self {
                let raw = word.load(Ordering::Acquire);
                Self::ALL.iter().copied().find(|s| *s as u32 == raw).unwrap_or(Self::$first)
            }
            /// Does this release know the state that the word names?
            pub fn is_known(word: &AtomicU32) -> bool {
                let raw = word.load(Ordering::Acquire);
                Self::ALL.iter().any(|s| *s as u32 == raw)
            }
            /// Stores the word with release order.
            pub fn store(self, word: &AtomicU32) {
                word.store(self as u32, Ordering::Release);
            }
        }
    };
}

pub(super) use states;

states! {
    /// One direction of a connection.
    pub enum DirState {
        /// Between two frames; pipe empty; SO_PEEK_OFF 0.
        Idle,
        /// SO_PEEK_OFF of the source counts what is left of a frame that goes over unchanged.
        Pass,
        /// SO_PEEK_OFF of the source counts what is left of a frame that is read into the first frame area.
        Assemble,
        /// The next piece of `out_len` bytes goes from the area into the (empty) pipe.
        Put,
        /// The pipe holds that piece; `put_end` is where it ends.
        Out,
        /// All of it has left; what the frame meant is to be concluded.
        Finish,
        /// No framing any more: bytes move as they come.
        Raw,
        /// The source has ended and the target was told.
        Ended,
    }
}

states! {
    /// A connection that the keeper accepted.
    pub enum ConnState {
        /// Not in use (or accepted and not yet seen by a worker).
        Free,
        /// Accepted; not a byte yet, so no connection to the inner shim.
        Quiet,
        /// Both ends are there.
        Up,
        /// To be given back.
        Closing,
    }
}

states! {
    /// A request in flight.
    pub enum PendingState {
        Free,
        /// Waits for its answer.
        Open,
        /// Answered by the inner shim; the answer is in `held`.
        Held,
        /// The held (or our own) answer is on its way out.
        Leaving,
        /// Answered by us; the inner shim's late answer is to be swallowed.
        Swallow,
    }
}

states! {
    /// A container's init process.
    pub enum TaskState {
        Free,
        /// Create is in flight.
        Creating,
        Created,
        Running,
        Exited,
        /// Its Delete was answered. Kept until the collector has everything.
        Deleted,
    }
}

states! {
    /// A captured stream.
    pub enum StreamState {
        Free,
        /// Descriptors are being made, Create is not yet accepted.
        Setup,
        Live,
        /// All was passed on and containerd's end was closed.
        Ended,
    }
}

states! {
    /// Where a stream's bytes are (docs/adr/0002).
    pub enum Phase {
        /// Pipe and tap empty: the next move is inner FIFO → pipe.
        Fill,
        /// Bytes in the pipe, none of them copied.
        Tee,
        /// The tap holds a copy of the first `teed` of `filled` bytes.
        Drain,
        /// The copy is in the ring up to `next`; the pipe still has bytes to pass on.
        Pass,
    }
}

states! {
    /// How far the upgrade of this wrapper has come (docs/adr/0011).
    pub enum Upgrade {
        /// Nobody has asked for one.
        None,
        /// The keeper is to become the image in its slot.
        Asked,
        /// It has; the worker is next.
        KeeperDone,
        /// Both have.
        Done,
        /// The kernel would not run the image; why is in `upgrade_errno`.
        Refused,
        /// The keeper of the new image was replaced by one of the old.
        KeeperLost,
        /// Somebody died before anything was changed.
        Interrupted,
        /// Workers of the new image died one after the other, so the keeper has become the old image again.
        FellBack,
    }
}

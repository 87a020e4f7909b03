//! The kinds of events as label values, and their way from the wire.

use shimtap_proto::link;

use crate::closed::closed;

closed! {
    /// The kind of an event as a label value.
    pub enum EventLabel {
        /// Create was answered.
        Create => "create",
        /// Start was answered.
        Start => "start",
        /// Exec was answered.
        Exec => "exec",
        /// Kill was answered.
        Kill => "kill",
        /// A process ended.
        Exit => "exit",
        /// Delete was answered.
        Delete => "delete",
        /// Pause was answered.
        Pause => "pause",
        /// Resume was answered.
        Resume => "resume",
        /// Update was answered.
        Update => "update",
        /// Shutdown was answered.
        Shutdown => "shutdown",
        /// The wrapper's worker was replaced.
        WorkerRestart => "worker_restart",
        /// The inner shim is gone, and said nothing of this task's end.
        Lost => "lost",
        /// A kind that this release does not know.
        Unknown => "unknown",
    }
}

// === impl EventLabel ===

impl EventLabel {
    /// From the wire.
    pub(super) fn of(event: &link::Event) -> Self {
        use link::EventKind as K;
        match event.kind.enum_value() {
            Ok(K::EVENT_KIND_CREATE) => Self::Create,
            Ok(K::EVENT_KIND_START) => Self::Start,
            Ok(K::EVENT_KIND_EXEC) => Self::Exec,
            Ok(K::EVENT_KIND_KILL) => Self::Kill,
            Ok(K::EVENT_KIND_EXIT) => Self::Exit,
            Ok(K::EVENT_KIND_DELETE) => Self::Delete,
            Ok(K::EVENT_KIND_PAUSE) => Self::Pause,
            Ok(K::EVENT_KIND_RESUME) => Self::Resume,
            Ok(K::EVENT_KIND_UPDATE) => Self::Update,
            Ok(K::EVENT_KIND_SHUTDOWN) => Self::Shutdown,
            Ok(K::EVENT_KIND_WORKER_RESTART) => Self::WorkerRestart,
            Ok(K::EVENT_KIND_LOST) => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

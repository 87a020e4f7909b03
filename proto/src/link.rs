//! The messages of the link between wrapper and collector, and the names both sides need to find each other.
//!
//! The message types are generated from `proto/shimtap/v1/collector.proto`; `docs/protocol.md` tells their order.

pub use crate::gen_collector::{
    Ack, Close, Count, Data, Event, EventKind, FromCollector, FromWrapper, Gap, GapReason, Gone, Hello,
    InnerFile, InnerShim, MethodReport, NotCaptured, Open, Ready, Report, RestartReason, Restarts, Settings,
    Stall, Stats, StatsSource, Stdio, Stream, StreamAck, StreamPosition, Welcome, from_collector,
    from_wrapper,
};

/// Service name on the wire.
pub const SERVICE: &str = "shimtap.v1.Collector";
/// The one method: a bidirectional stream of [`FromWrapper`] and [`FromCollector`].
pub const METHOD: &str = "Attach";
/// The version of the link protocol that this release speaks.
pub const PROTOCOL: u32 = 1;
/// Where the collector listens unless told otherwise.
pub const COLLECTOR_SOCKET: &str = "/run/shimtap/collector.sock";
/// Largest message either side may send, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Most bytes of container output in one [`Data`].
pub const DATA_MAX: usize = 64 << 10;
/// Most bytes of all its streams together that a wrapper sends ahead of acknowledgements: 10 ms at 50 MB/s, which two busy
/// cores need for an answer now and then (docs/costs.md).
pub const WINDOW: u64 = 512 << 10;
/// Upper bounds, in nanoseconds, of [`MethodReport`]'s buckets; one more counts what is above the last.
pub const BUCKETS_NS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

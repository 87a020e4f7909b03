//! Which sinks there are, by the names of their sections.
//!
//! The test that asks every sink the same questions (tests/compliance.rs) is compiled with this file, and is not while one of these
//! has no subject there. So nothing may be used here but [`closed`].

use crate::closed::closed;

closed! {
    /// A kind of sink.
    pub enum SinkKind {
        /// Lines in a file.
        File => "file",
        /// Lines on standard output.
        Stdout => "stdout",
        /// Requests to an OTLP endpoint.
        Otlp => "otlp",
    }
}

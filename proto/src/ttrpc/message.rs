//! The two envelopes: what a request and a response frame carry as body.
//!
//! Views borrow from the frame and are read-only: nothing is ever encoded back from them, so that what they do
//! not know (metadata, details, later fields) is not lost.

use super::wire::{self, Value, WireFault, fields};

/// A `ttrpc.Request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestView<'a> {
    /// Full name of the service.
    pub service: &'a str,
    /// Name of the method.
    pub method: &'a str,
    /// The request message of that method.
    pub payload: &'a [u8],
    /// Time left for the call when it was sent, in nanoseconds; 0 = no limit.
    pub timeout_nano: i64,
}

/// A `ttrpc.Response`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseView<'a> {
    /// [`Code`](super::Code); 0 where the response has no status, which is the normal form of success.
    pub code: u32,
    /// The status's text.
    pub message: &'a str,
    /// The answer message of the method.
    pub payload: &'a [u8],
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    /// Reads a whole body. The last occurrence of a repeated field counts, a known number with another wire
    /// type is an unknown field, both as in protobuf.
    ///
    /// # Errors
    /// [`WireFault`] where the body is not such a message; the sender is at fault.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(body) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(value)) => view.service = wire::text(1, value)?,
                (2, Value::Len(value)) => view.method = wire::text(2, value)?,
                (3, Value::Len(value)) => view.payload = value,
                (4, Value::Varint(value)) => view.timeout_nano = value.cast_signed(),
                _ => {}
            }
        }
        Ok(view)
    }
}

// === impl ResponseView ===

impl<'a> ResponseView<'a> {
    /// Reads a whole body, by the rules of [`RequestView::decode`]; several statuses are merged, as in protobuf.
    ///
    /// # Errors
    /// [`WireFault`] where the body is not such a message; the sender is at fault.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireFault> {
        let mut view = Self::default();
        for field in fields(body) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(status)) => view.merge_status(status)?,
                (2, Value::Len(value)) => view.payload = value,
                _ => {}
            }
        }
        Ok(view)
    }

    fn merge_status(&mut self, status: &'a [u8]) -> Result<(), WireFault> {
        for field in fields(status) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => self.code = wire::low_u32(value),
                (2, Value::Len(value)) => self.message = wire::text(2, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

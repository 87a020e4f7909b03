//! What a shim's `start` prints: where its daemon listens, in one of three forms.
//!
//! | form | printed by |
//! |---|---|
//! | plain address | runc's shim up to 1.7, Kata |
//! | JSON `{"version","address","protocol"}` | runc's shim 2.0 to 2.2 |
//! | protobuf `containerd.runtime.bootstrap.v1.BootstrapResult` | runc's shim from 2.3 |
//!
//! The wrapper answers in the same form with its own address. It must never change anything else of the answer,
//! and never claim to understand one that containerd would read otherwise: what is doubtful is a
//! [`BootstrapFault`], or has no [`Answer::unix_path`], and is handed out as the inner shim printed it.

mod json;

use crate::ttrpc::rewrite::{Edit, edit_message};
use crate::ttrpc::wire::{self, Value, WireFault, fields};

/// Longest path of a unix socket, in bytes (`sun_path` without its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Which of the three forms an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The address as text; white space around it does not count.
    Plain,
    /// A JSON object.
    Json,
    /// A `BootstrapResult`.
    Protobuf,
}

/// A shim's answer to `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    raw: Vec<u8>,
    form: Form,
    version: u32,
    protocol: String,
    address: String,
}

/// Why bytes are not an answer; the inner shim is at fault (or newer than we are), and what it printed is to be
/// handed out as it is.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapFault {
    /// Nothing, or nothing but white space.
    #[error("reading a shim's start answer: it printed nothing")]
    Empty,
    /// None of the three forms.
    #[error(
        "reading a shim's start answer: {len} bytes that are neither an address nor JSON nor a BootstrapResult"
    )]
    Unreadable {
        /// Bytes printed.
        len: usize,
    },
    /// A JSON object that lacks an address, or whose members have other types.
    #[error("reading a shim's start answer: its JSON does not name an address")]
    Json(#[source] serde_json::Error),
}

/// What a form is read into.
#[derive(Default)]
struct Parts {
    version: u32,
    protocol: String,
    address: String,
}

// === impl Answer ===

impl Answer {
    /// Reads what `start` printed, trying the forms in containerd's order: protobuf as it is, then JSON, then the
    /// trimmed text.
    ///
    /// # Errors
    /// [`BootstrapFault`] where it is none of them.
    pub fn parse(printed: &[u8]) -> Result<Self, BootstrapFault> {
        let unreadable = BootstrapFault::Unreadable { len: printed.len() };
        let (form, parts) = if let Ok(Some(parts)) = protobuf(printed) {
            (Form::Protobuf, parts)
        } else {
            let Ok(text) = std::str::from_utf8(printed) else { return Err(unreadable) };
            let trimmed = text.trim();
            if trimmed.is_empty() {
                return Err(BootstrapFault::Empty);
            }
            if trimmed.starts_with('{') {
                let members = json::Members::parse(text).map_err(BootstrapFault::Json)?;
                let json::Members { version, protocol, address, .. } = members;
                (Form::Json, Parts { version, protocol, address })
            } else if trimmed.contains(|c: char| c.is_control() || c.is_whitespace()) {
                // A warning in front of the address: containerd will not find its way in either.
                return Err(unreadable);
            } else {
                let parts = Parts { version: 2, protocol: "ttrpc".to_owned(), address: trimmed.to_owned() };
                (Form::Plain, parts)
            }
        };
        let Parts { version, protocol, address } = parts;
        Ok(Self { raw: printed.to_vec(), form, version, protocol, address })
    }

    /// Which form it has.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Version of the Task service that the shim serves; 2 for a plain address, 0 where the answer has none, the
    /// largest number where it does not fit.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// What is spoken at the address; `ttrpc` for a plain one, empty where the answer does not say.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The address, without white space around it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The bytes that the shim printed.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The socket's path, where shimtap can stand in front of it: version 2 or 3 of the Task service over ttrpc
    /// over `unix:///absolute/path`. `None` for grpc, abstract sockets, vsock, hvsock and what is not known yet.
    #[must_use]
    pub fn unix_path(&self) -> Option<&str> {
        if !matches!(self.version, 2 | 3) || self.protocol != "ttrpc" {
            return None;
        }
        self.address
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/') && !path.ends_with('/'))
            .filter(|path| path.len() <= SOCKET_PATH_MAX && !path.contains('\0'))
    }

    /// The answer with another address: same form, every byte that is not the address the same.
    #[must_use]
    pub fn with_address(&self, address: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + address.len());
        // Each branch reads again what `parse` has read; where that could fail the answer is left alone.
        let done = match self.form {
            Form::Plain => self.put_plain(&mut out, address),
            Form::Json => self.put_json(&mut out, address),
            Form::Protobuf => {
                let edit = Edit { field: 2, new: address.as_bytes() };
                edit_message(&mut out, &self.raw, &[edit]).is_ok().then_some(())
            }
        };
        if done.is_some() { out } else { self.raw.clone() }
    }

    fn put_plain(&self, out: &mut Vec<u8>, address: &str) -> Option<()> {
        let text = std::str::from_utf8(&self.raw).ok()?;
        let before = text.len() - text.trim_start().len();
        out.extend_from_slice(self.raw.get(..before)?);
        out.extend_from_slice(address.as_bytes());
        out.extend_from_slice(self.raw.get(text.trim_end().len()..)?);
        Some(())
    }

    fn put_json(&self, out: &mut Vec<u8>, address: &str) -> Option<()> {
        let text = std::str::from_utf8(&self.raw).ok()?;
        let literal = serde_json::to_string(address).ok()?;
        let mut at = 0;
        for range in json::Members::parse(text).ok()?.address_literals {
            out.extend_from_slice(self.raw.get(at..range.start)?);
            out.extend_from_slice(literal.as_bytes());
            at = range.end;
        }
        out.extend_from_slice(self.raw.get(at..)?);
        Some(())
    }
}

/// Reads a `BootstrapResult`. `None` where it has no address: short texts can be valid protobuf by accident, and
/// an empty one always is.
fn protobuf(printed: &[u8]) -> Result<Option<Parts>, WireFault> {
    let mut parts = Parts::default();
    for field in fields(printed) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Varint(value)) => parts.version = u32::try_from(value).unwrap_or(u32::MAX),
            (2, Value::Len(value)) => wire::text(2, value)?.clone_into(&mut parts.address),
            (3, Value::Len(value)) => wire::text(3, value)?.clone_into(&mut parts.protocol),
            _ => {}
        }
    }
    Ok(Some(parts).filter(|parts| !parts.address.is_empty()))
}

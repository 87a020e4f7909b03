//! Which method a request names, from the first bytes of its body.
//!
//! This runs on the relay's path for every request, on whatever MSG_PEEK has shown so far. It must never
//! allocate, never look at more bytes than it needs, and never answer [`Peek::Incomplete`] where waiting could
//! not change the answer (a relay that waits for bytes that do not come has hung a pod).

use super::method::{Method, TaskApi};
use super::wire::{self, WireFault};

/// Most bytes of a body that are looked at. Service and method of the Task API take at most 37, and every known
/// sender writes them first; the rest is room for fields that ttrpc may grow in front of them.
pub const PEEK_MAX: usize = 192;

/// What the first bytes of a request's body say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Not decided; more bytes of this body will decide.
    Incomplete,
    /// A method of the Task service. The body may still be malformed behind it, or name another method later
    /// (the last one counts): who acts on more than the name decodes the whole with
    /// [`RequestView`](super::RequestView).
    Task(TaskApi, Method),
    /// Anything else, malformed bodies included.
    Other,
}

/// Why a walk through the window stopped without an answer.
enum Stop {
    /// The window ends inside a field (or just behind one).
    End,
    /// What it holds will never name a method of the Task service.
    Never,
}

/// Reads service (field 1) and method (field 2) in any order, skipping other fields before them, out of the
/// first bytes of a body of `body_len` bytes.
///
/// [`Peek::Incomplete`] only while `body_prefix` is shorter than both `body_len` and [`PEEK_MAX`].
#[must_use]
pub fn peek_method(body_prefix: &[u8], body_len: usize) -> Peek {
    let horizon = body_len.min(PEEK_MAX);
    let window = body_prefix.get(..horizon).unwrap_or(body_prefix);
    match walk(window, horizon) {
        Ok((api, method)) => Peek::Task(api, method),
        Err(Stop::End) if window.len() < horizon => Peek::Incomplete,
        Err(_) => Peek::Other,
    }
}

fn walk(window: &[u8], horizon: usize) -> Result<(TaskApi, Method), Stop> {
    let (mut api, mut method) = (None, None);
    let mut at: usize = 0;
    loop {
        if let (Some(api), Some(method)) = (api, method) {
            return Ok((api, method));
        }
        let (number, wire_type, taken) = wire::tag(window.get(at..).ok_or(Stop::End)?)?;
        at += taken;
        let rest = window.get(at..).ok_or(Stop::End)?;
        let len = match wire_type {
            0 => wire::varint(rest)?.1,
            1 => 8,
            5 => 4,
            2 => {
                let (len, taken) = wire::varint(rest)?;
                at += taken;
                usize::try_from(len).map_err(|_| Stop::Never)?
            }
            _ => return Err(Stop::Never),
        };
        // A field that ends beyond the horizon is beyond a short body (malformed), or hides what comes after it.
        let end = at.checked_add(len).filter(|&end| end <= horizon).ok_or(Stop::Never)?;
        let decides = match (number, wire_type) {
            (1, 2) => method.is_some(),
            (2, 2) => api.is_some(),
            _ => false,
        };
        if end == horizon && !decides {
            return Err(Stop::Never);
        }
        match (number, wire_type) {
            (1, 2) => api = Some(name(window, at..end, TaskApi::ALL, TaskApi::service)?),
            (2, 2) => method = Some(name(window, at..end, Method::ALL, Method::name)?),
            _ => {}
        }
        at = end;
    }
}

/// The one of `all` whose name lies in `range`; gives up as soon as what is there fits none of them.
fn name<T: Copy, const N: usize>(
    window: &[u8],
    range: std::ops::Range<usize>,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<T, Stop> {
    let there = window.get(range.start..range.end.min(window.len())).ok_or(Stop::End)?;
    let fits = |one: &T| name(*one).len() == range.len() && name(*one).as_bytes().starts_with(there);
    let found = all.into_iter().find(fits).ok_or(Stop::Never)?;
    if there.len() == range.len() { Ok(found) } else { Err(Stop::End) }
}

// === impl Stop ===

impl From<WireFault> for Stop {
    fn from(fault: WireFault) -> Self {
        match fault {
            WireFault::Truncated { .. } => Self::End,
            _ => Self::Never,
        }
    }
}

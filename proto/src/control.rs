//! What is said to a wrapper on its own socket, beside ttrpc, and what its upgrade verb says of each wrapper.
//!
//! A request is [`REQUEST`] bytes whose first one is above every frame's: a ttrpc frame begins with its length, at most
//! 4 MiB, so with a zero. Answers are one line of JSON each; descriptors travel beside (SCM_RIGHTS). It is a format between
//! releases: numbers are never reused, fields are only ever added, and none may be needed by the other side.

use serde::{Deserialize, Serialize};

/// The first bytes of every request.
pub const MAGIC: [u8; 8] = *b"shimtap?";
/// Length of a request in bytes: [`MAGIC`], [`VERSION`], a word whose low byte is the number of an [`Ask`] and whose other
/// three are what it is about.
pub const REQUEST: usize = 16;
/// The largest handle of a stream that a request can name.
pub const HANDLE_MAX: u32 = u32::MAX >> 8;
/// Version of these requests.
const VERSION: u32 = 1;
/// Numbers of [`Ask`].
const WHO: u32 = 1;
const BECOME: u32 = 2;
const LOGGER: u32 = 3;

/// What a wrapper is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who are you? The answer brings the memory block.
    Who,
    /// Become the image that comes along.
    Become,
    /// A logger is about to run whose container's stdout is the stream of this handle; its ends of the container's stdout
    /// and stderr come along. The answer brings what it is to read instead, or says why it shall read those.
    Logger(u32),
}

/// What a wrapper says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Release of the worker that answers.
    pub version: String,
    /// Layout of its memory block.
    pub layout: u32,
    /// How many workers there were.
    pub generation: u64,
    /// Process ids.
    pub keeper_pid: u32,
    /// See `keeper_pid`.
    pub worker_pid: u32,
    /// Are bytes moved without a look into them?
    pub safe_mode: bool,
    /// How far the last upgrade came.
    pub upgrade: Step,
    /// What the kernel said where it came to nothing; 0 = nothing.
    pub errno: i32,
    /// Why a request is not followed.
    pub refused: Option<String>,
    /// How many descriptors come along, where that is not the same every time; 0 = it does not say.
    pub descriptors: usize,
}

/// How far an upgrade has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The keeper is to become the new image.
    Asked,
    /// It has; the worker is next.
    KeeperDone,
    /// Both have.
    Done,
    /// The kernel would not run the image.
    Refused,
    /// The keeper of the new image died or did not answer; one of the old image has taken its place.
    KeeperLost,
    /// The wrapper was otherwise disturbed before anything was changed.
    Interrupted,
    /// Workers of the new image died one after the other; the old image has taken over again.
    FellBack,
    /// Nobody has asked for one; or a word that this release does not know.
    #[default]
    #[serde(other)]
    None,
}

/// First line that the upgrade verb of a wrapper's binary prints: which release it would bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Version.
    pub wrapper: String,
    /// Layout of the memory block that it writes.
    pub layout: u32,
}

/// One line for each wrapper that it was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// containerd namespace.
    pub namespace: String,
    /// The id whose `start` made the wrapper.
    pub id: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Release before; absent where it is not known.
    pub from: Option<String>,
    /// Release now.
    pub to: Option<String>,
    /// How many workers there were by now.
    pub generation: Option<u64>,
    /// Why, whose fault, and what to do next; empty where there is nothing to say.
    pub why: String,
}

/// What came of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Keeper and worker are of the new image and at work.
    Upgraded,
    /// It would be tried (dry run).
    Possible,
    /// It is of that release already.
    Same,
    /// Nothing was touched.
    Refused,
    /// It was tried and came to nothing; the old image is at work.
    Failed,
    /// Nobody answered in time.
    Mute,
    /// Nobody is there any more: its pod has ended.
    Gone,
}

// === impl Ask ===

impl Ask {
    /// Bytes of the request.
    #[must_use]
    pub fn encode(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        let word = match self {
            Self::Who => WHO,
            Self::Become => BECOME,
            Self::Logger(handle) => LOGGER | handle << 8,
        };
        let words = [VERSION, word].map(u32::to_le_bytes);
        let parts = MAGIC.iter().chain(words.iter().flatten());
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// `None` where it is no request, or one of a later version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = u32::from_le_bytes(*bytes.last_chunk()?);
        [Self::Who, Self::Become, Self::Logger(word >> 8)].into_iter().find(|ask| ask.encode() == bytes)
    }
}

// === impl Outcome ===

impl Outcome {
    /// Is the wrapper as it was asked to be, or needs to be nothing any more?
    #[must_use]
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Upgraded | Self::Possible | Self::Same | Self::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ttrpc::BODY_MAX;

    #[test]
    fn requests_come_back_and_are_no_frames() {
        for ask in [Ask::Who, Ask::Become, Ask::Logger(1), Ask::Logger(HANDLE_MAX)] {
            let bytes = ask.encode();
            assert_eq!(Ask::decode(&bytes), Some(ask));
            let length = bytes.first_chunk().map(|b| u32::from_be_bytes(*b));
            assert!(length.is_some_and(|length| length > BODY_MAX), "no frame has that length");
        }
    }

    #[test]
    fn what_is_not_asked_for_now_is_no_request() {
        let mut later = Ask::Who.encode();
        later[8] = 2;
        assert_eq!(Ask::decode(&later), None, "a later version");
        let mut unknown = Ask::Who.encode();
        unknown[12] = 9;
        for bytes in [&b""[..], b"shimtap?", &[0; REQUEST], &unknown] {
            assert_eq!(Ask::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn answers_of_other_releases_are_read() {
        let answer: Answer = serde_json::from_str(r#"{"version":"9.0.0","colour":"red"}"#).unwrap();
        assert_eq!((answer.version.as_str(), answer.upgrade), ("9.0.0", Step::None));
        let answer: Answer = serde_json::from_str(r#"{"upgrade":"of_a_later_release"}"#).unwrap();
        assert_eq!(answer.upgrade, Step::None);
    }
}

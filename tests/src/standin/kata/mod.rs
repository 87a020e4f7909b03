//! Kata's two shims as far as a Stats answer goes, and what they have on their host (`household`, `run_files`): what the guest's kernel counts, what the agent in the guest makes of
//! it, and what each shim puts into the message. The three steps stand apart, so that what the kernel said remains
//! there to judge by.
//!
//! Every fault is one of Kata's, with the place where it was read (paths are Kata's, release 4.1.0 where nothing else is
//! said) or seen (`collector/tests/fixtures/kata`). Nothing here may share code with what reads the message.

pub mod agent;
pub mod go;
pub mod guest;
pub mod household;
pub mod oom;
pub mod run_files;
pub mod rust;

use std::env;

use anyhow::{Result, bail};
use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};

use guest::{Cgroup, Guest};

/// Which shim the stand-in passes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// runc's.
    #[default]
    Runc,
    /// Kata's Go shim on a host with this cgroup version.
    Go(Cgroup),
    /// Kata's Rust shim; the host makes no difference to it.
    Rust,
}

impl Profile {
    /// The variable that names it.
    pub const KEY: &str = "STANDIN_PROFILE";

    /// As the environment says; without a word runc's.
    ///
    /// # Errors
    /// The word is none.
    pub fn of_env() -> Result<Self> {
        let word = env::var(Self::KEY).unwrap_or_default();
        Ok(match word.as_str() {
            "" | "runc" => Self::Runc,
            "kata-go-v1" => Self::Go(Cgroup::V1),
            "kata-go-v2" => Self::Go(Cgroup::V2),
            "kata-rust" => Self::Rust,
            _ => bail!("{} {word:?} is not known", Self::KEY),
        })
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Go(Cgroup::V1) => "kata-go-v1",
            Self::Go(Cgroup::V2) => "kata-go-v2",
            Self::Rust => "kata-rust",
        }
    }

    /// What a Stats answer carries of this guest; none from a shim that has no guest.
    ///
    /// # Errors
    /// The message does not encode.
    pub fn stats(self, guest: &Guest) -> Result<Option<Any>> {
        let agent = agent::stats(guest);
        let (kind, value) = match self {
            Self::Runc => return Ok(None),
            Self::Go(Cgroup::V1) => (V1, go::v1(&agent).write_to_bytes()?),
            Self::Go(Cgroup::V2) => (V2, go::v2(&agent).write_to_bytes()?),
            Self::Rust => (V1, rust::v1(&agent).write_to_bytes()?),
        };
        Ok(Some(Any { type_url: kind.to_owned(), value, ..Default::default() }))
    }
}

/// Name of the first version's message.
const V1: &str = "io.containerd.cgroups.v1.Metrics";
/// Name of the second version's message.
const V2: &str = "io.containerd.cgroups.v2.Metrics";

#[cfg(test)]
mod tests;

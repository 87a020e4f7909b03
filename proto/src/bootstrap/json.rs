//! The JSON form, read so that the place of the address is known.
//!
//! containerd reads it with Go's `encoding/json`: member names match without regard to case, the last of several
//! counts, unknown ones are ignored. It must never be written anew: only the address's literal is replaced.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members that containerd reads.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) version: u32,
    pub(super) protocol: String,
    pub(super) address: String,
    /// Where the address's literals lie in the text, quotes included, in order; all but the last are for nothing.
    pub(super) address_literals: Vec<Range<usize>>,
}

/// Reads an object's members; keeps where `text` starts, to tell where a value lies in it.
struct MembersVisitor {
    text_start: usize,
}

// === impl Members ===

impl Members {
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let visitor = MembersVisitor { text_start: text.as_ptr().addr() };
        let members = serde::Deserializer::deserialize_map(&mut reader, visitor)?;
        reader.end()?;
        Ok(members)
    }
}

// === impl MembersVisitor ===

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with version, address and protocol")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key::<String>()? {
            let raw = map.next_value::<&'de RawValue>()?;
            if name.eq_ignore_ascii_case("version") {
                members.version = value(raw)?;
            } else if name.eq_ignore_ascii_case("protocol") {
                members.protocol = value(raw)?;
            } else if name.eq_ignore_ascii_case("address") {
                members.address = value(raw)?;
                let start = raw.get().as_ptr().addr().saturating_sub(self.text_start);
                members.address_literals.push(start..start + raw.get().len());
            }
        }
        if members.address.is_empty() {
            return Err(A::Error::missing_field("address"));
        }
        Ok(members)
    }
}

fn value<'de, T: Deserialize<'de>, E: serde::de::Error>(raw: &'de RawValue) -> Result<T, E> {
    serde_json::from_str(raw.get()).map_err(E::custom)
}

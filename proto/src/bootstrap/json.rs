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

/// Reads an object's members; keeps the text, to tell where a value lies in it.
struct MembersVisitor<'de> {
    text: &'de str,
}

// === impl Members ===

impl Members {
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let visitor = MembersVisitor { text };
        let members = serde::Deserializer::deserialize_map(&mut reader, visitor)?;
        reader.end()?;
        Ok(members)
    }
}

// === impl MembersVisitor ===

impl MembersVisitor<'_> {
    /// Where `raw` lies in the text. A raw value borrows from the text it was read from, so that the distance of
    /// the two is its offset; looked at again, because a wrong one would corrupt the answer.
    fn range(&self, raw: &RawValue) -> Option<Range<usize>> {
        let start = raw.get().as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let range = start..start.checked_add(raw.get().len())?;
        (self.text.get(range.clone())? == raw.get()).then_some(range)
    }
}

impl<'de> Visitor<'de> for MembersVisitor<'de> {
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
                members.address_literals.push(self.range(raw).ok_or_else(|| A::Error::custom("moved"))?);
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

//! The message that nearly all bytes come in, read where it lies: a `Data` of 64 KiB is not copied on its way.
//!
//! Only what every wrapper sends is understood here. Whatever is unlike it (a field twice, another layout of a
//! number, a fault) is left to the general decoder, so that there is one judge of what a message means; the tests hold
//! the two against each other.

use bytes::Bytes;
use shimtap_proto::{
    link,
    ttrpc::wire::{Value, fields, varint},
};

/// `FromWrapper.data`.
const DATA: u32 = 3;
/// From this size on the bytes stay where they were received. Smaller ones are copied, so that a few lines in the sink's
/// queue do not keep a whole buffer from being used again.
const SHARE_MIN: usize = 16 << 10;

/// [`link::Data`], its bytes shared.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Data {
    pub(super) handle: u32,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    pub(super) time_offset: Vec<u64>,
    pub(super) time_ns: Vec<u64>,
}

// === impl Data ===

impl Data {
    /// The `Data` that a `FromWrapper` consists of; `None` where it is something else, or unusual.
    pub(super) fn of(message: &Bytes) -> Option<Self> {
        let mut outer = fields(message);
        let only =
            outer.next()?.ok().filter(|field| field.number == DATA && field.range.end == message.len())?;
        let Value::Len(body) = only.value else { return None };
        let (mut data, mut bytes) = (Self::default(), None);
        // Fields come in the order of their numbers, each once.
        let mut last = 0;
        for field in fields(body) {
            let field = field.ok().filter(|field| field.number > last)?;
            last = field.number;
            match (field.number, field.value) {
                (1, Value::Varint(handle)) => data.handle = u32::try_from(handle).ok()?,
                (2, Value::Varint(offset)) => data.offset = offset,
                (3, Value::Len(value)) => bytes = Some(value),
                (4, Value::Len(packed)) => data.time_offset = varints(packed)?,
                (5, Value::Len(packed)) => data.time_ns = fixed64s(packed)?,
                _ => return None,
            }
        }
        data.bytes = match bytes.unwrap_or_default() {
            few if few.len() < SHARE_MIN => Bytes::copy_from_slice(few),
            many => message.slice_ref(many),
        };
        Some(data)
    }
}

impl From<link::Data> for Data {
    fn from(data: link::Data) -> Self {
        let link::Data { handle, offset, bytes, time_offset, time_ns, .. } = data;
        Self { handle, offset, bytes: bytes.into(), time_offset, time_ns }
    }
}

fn varints(mut packed: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    while !packed.is_empty() {
        let (number, taken) = varint(packed).ok()?;
        numbers.push(number);
        packed = packed.get(taken..)?;
    }
    Some(numbers)
}

fn fixed64s(packed: &[u8]) -> Option<Vec<u64>> {
    let (numbers, rest) = packed.as_chunks();
    rest.is_empty().then(|| numbers.iter().map(|number| u64::from_le_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::Message;
    use shimtap_proto::link::from_wrapper;

    use super::*;

    fn general(message: &[u8]) -> Option<Data> {
        match link::FromWrapper::parse_from_bytes(message).ok()?.body? {
            from_wrapper::Body::Data(data) => Some(data.into()),
            _ => None,
        }
    }

    fn encoded(data: link::Data) -> Vec<u8> {
        let body = Some(from_wrapper::Body::Data(data));
        link::FromWrapper { body, ..Default::default() }.write_to_bytes().expect("encodes")
    }

    #[test]
    fn many_bytes_stay_where_they_are_and_few_do_not() {
        for (length, stays) in [(SHARE_MIN - 1, false), (SHARE_MIN, true)] {
            let data = link::Data { handle: 1, bytes: vec![7; length], ..Default::default() };
            let message = Bytes::from(encoded(data));
            let taken = Data::of(&message).expect("as every wrapper sends it");
            assert_eq!(taken.bytes.len(), length);
            assert_eq!(message.as_ptr_range().contains(&taken.bytes.as_ptr()), stays);
        }
    }

    #[test]
    fn what_is_no_data_is_left_alone() {
        let gap = from_wrapper::Body::Gap(link::Gap { handle: 1, from: 2, to: 3, ..Default::default() });
        let gap =
            link::FromWrapper { body: Some(gap), ..Default::default() }.write_to_bytes().expect("encodes");
        assert_eq!(Data::of(&Bytes::from(gap)), None);
        assert_eq!(Data::of(&Bytes::new()), None);
    }

    proptest! {
        #[test]
        fn every_data_is_understood(
            handle: u32,
            offset: u64,
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            time_offset in prop::collection::vec(any::<u64>(), 0..4),
            time_ns in prop::collection::vec(any::<u64>(), 0..4),
        ) {
            let data = link::Data { handle, offset, bytes, time_offset, time_ns, ..Default::default() };
            let message = Bytes::from(encoded(data.clone()));
            prop_assert_eq!(Data::of(&message), Some(data.into()));
        }

        #[test]
        fn what_is_understood_is_what_the_general_decoder_says(
            handle: u32,
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            time_offset in prop::collection::vec(any::<u64>(), 0..3),
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            more in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let time_ns = vec![1; time_offset.len()];
            let data = link::Data { handle, bytes, time_offset, time_ns, ..Default::default() };
            let mut message = encoded(data);
            for (at, byte) in change {
                let at = at.index(message.len());
                message[at] = byte;
            }
            message.extend(more);
            if let Some(data) = Data::of(&Bytes::from(message.clone())) {
                prop_assert_eq!(Some(data), general(&message));
            }
        }
    }
}

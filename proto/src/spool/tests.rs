//! The format by literals, and against every cut and flipped bit.

use proptest::prelude::*;

use super::*;

const HEADER_OF_7: Header = Header { wrapper: 7, number: 3, boot: [9; 16], created_ns: 1 << 60 };

fn file(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut file = HEADER_OF_7.encode().to_vec();
    messages.iter().for_each(|m| file.extend(record(m).unwrap()));
    file
}

/// What comes out of a file that is pushed in pieces of `step` bytes, and how it ends.
fn read(file: &[u8], step: usize) -> (Vec<Vec<u8>>, Result<(), SpoolFault>) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for piece in file.chunks(step.max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(fault) => return (messages, Err(fault)),
            }
        }
    }
    (messages, decoder.finish())
}

#[test]
fn the_bytes_of_a_file() {
    let bytes = file(&[b"ab".to_vec()]);
    assert_eq!(bytes[..16], *b"shimtapS\x01\0\0\0\x03\0\0\0");
    assert_eq!(bytes[16..24], [7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..40], [9; 16]);
    assert_eq!(bytes[40..48], [0, 0, 0, 0, 0, 0, 0, 16]);
    assert_eq!(bytes[48..60], [0; 12]);
    assert_eq!(bytes[64..68], [2, 0, 0, 0]);
    // CRC-32 of 02 00 00 00 61 62, by another implementation.
    assert_eq!(bytes[68..72], crc_by_hand(&[2, 0, 0, 0, b'a', b'b']).to_le_bytes());
    assert_eq!(bytes[72..], *b"ab");
}

/// The polynomial of IEEE 802.3, a bit at a time.
fn crc_by_hand(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn names() {
    let name = file_name(0xabc, 18);
    assert_eq!(name, "0000000000000abc-00000012.spool");
    assert_eq!(parse_name(&name), Some((0xabc, 18)));
    for bad in ["", ".spool", "abc-12.spool", "0000000000000ABC-00000012.spool", "0000000000000abc-00000012"]
    {
        assert_eq!(parse_name(bad), None, "{bad}");
    }
}

#[test]
fn what_is_no_spool_file() {
    let fault = |bytes: &[u8]| read(bytes, 1).1.unwrap_err();
    assert_eq!(fault(b"{\"a\": 1}"), SpoolFault::Foreign);
    assert_eq!(fault(b"shim"), SpoolFault::Truncated(4));
    assert_eq!(read(b"", 1).1, Err(SpoolFault::Truncated(0)));
    assert_eq!(fault(&[0; 200]), SpoolFault::Foreign, "a power cut may leave zeros");
    let mut later = HEADER_OF_7.encode();
    later[8] = 2;
    assert_eq!(fault(&later), SpoolFault::Header, "a flipped bit is no later version");
    let sum = crc32fast::hash(&later[..60]).to_le_bytes();
    later[60..].copy_from_slice(&sum);
    assert_eq!(fault(&later), SpoolFault::Version(2));
}

#[test]
fn messages_that_are_none() {
    assert_eq!(record(b""), None);
    assert_eq!(record(&vec![0; MESSAGE_MAX + 1]), None);
    assert!(record(&vec![0; MESSAGE_MAX]).is_some());
    let mut zeros = file(&[b"ab".to_vec()]);
    let end = u64::try_from(zeros.len()).unwrap();
    zeros.extend([0; 4096]);
    assert_eq!(read(&zeros, 100), (vec![b"ab".to_vec()], Err(SpoolFault::Length(0, end))));
}

proptest! {
    #[test]
    fn comes_back_however_it_is_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
        step in 1usize..200,
    ) {
        prop_assert_eq!(read(&file(&messages), step), (messages, Ok(())));
    }

    /// Cut anywhere: every whole record before the cut, and that it is cut.
    #[test]
    fn a_torn_tail_costs_only_itself(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = file(&messages);
        let cut = cut.index(bytes.len());
        let (got, end) = read(&bytes[..cut], 64);
        prop_assert_eq!(&got[..], &messages[..got.len()]);
        let whole = file(&messages[..got.len()]).len();
        // One more would not have been whole.
        prop_assert!(cut < file(&messages[..got.len() + 1]).len());
        prop_assert_eq!(end.is_ok(), cut == whole);
    }

    /// One bit flipped anywhere: a prefix of what was written, and never anything else.
    #[test]
    fn a_flipped_bit_never_makes_a_message(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..10),
        place in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let mut bytes = file(&messages);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let (got, end) = read(&bytes, 64);
        prop_assert!(end.is_err());
        prop_assert!(got.len() < messages.len());
        prop_assert_eq!(&got[..], &messages[..got.len()]);
    }

    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..500), step in 1usize..64) {
        let _ = read(&noise, step);
        let mut behind = file(&[b"x".to_vec()]);
        behind.extend(&noise);
        prop_assert_eq!(&read(&behind, step).0[0], b"x");
    }
}

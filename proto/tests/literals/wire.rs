//! Protobuf's wire format.

use shimtap_proto::ttrpc::WireFault;
use shimtap_proto::ttrpc::wire::{
    FIELD_MAX, Field, Value, WireType, fields, put_len, put_number, put_varint, varint,
};

fn walk(message: &[u8]) -> Result<Vec<Field<'_>>, WireFault> {
    fields(message).collect()
}

#[test]
fn varints() {
    let table: [(&[u8], u64); 9] = [
        (b"\x00", 0),
        (b"\x01", 1),
        (b"\x7f", 127),
        (b"\x80\x01", 128),
        (b"\xac\x02", 300),
        // Overlong, and good all the same.
        (b"\x80\x00", 0),
        (b"\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00", 1),
        (b"\xff\xff\xff\xff\x0f", 0xffff_ffff),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", u64::MAX),
    ];
    for (bytes, value) in table {
        assert_eq!(varint(bytes), Ok((value, bytes.len())), "{bytes:02x?}");
        let longer = [bytes, b"\xff"].concat();
        assert_eq!(varint(&longer), Ok((value, bytes.len())), "{bytes:02x?} and more");
        for len in 0..bytes.len() {
            assert_eq!(
                varint(&bytes[..len]),
                Err(WireFault::Truncated { at: 0 }),
                "{bytes:02x?} cut at {len}"
            );
        }
    }
    let overflow = Err(WireFault::VarintOverflow { at: 0 });
    assert_eq!(varint(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), overflow);
    assert_eq!(varint(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"), overflow);
    assert_eq!(varint(&[0x80; 64]), overflow);
}

#[test]
fn every_wire_type_with_its_place() {
    let message = b"\x08\x96\x01\x12\x02hi\x1d\x01\x00\x00\x00\x21\x02\x00\x00\x00\x00\x00\x00\x00\x2a\x00";
    let expected = [
        (1, Value::Varint(150), 0..3, 1),
        (2, Value::Len(b"hi".as_slice()), 3..7, 4),
        (3, Value::Fixed32(1), 7..12, 8),
        (4, Value::Fixed64(2), 12..21, 13),
        (5, Value::Len(b"".as_slice()), 21..23, 22),
    ]
    .map(|(number, value, range, tag_end)| Field { number, value, range, tag_end });
    assert_eq!(walk(message), Ok(expected.to_vec()));
    let types: Vec<_> = expected.iter().map(|field| field.value.wire_type()).collect();
    use WireType::{Fixed32, Fixed64, Len, Varint};
    assert_eq!(types, [Varint, Len, Fixed32, Fixed64, Len]);
}

#[test]
fn overlong_tags_and_lengths() {
    // Field 1, Len, tag in three bytes, length 1 in two.
    assert_eq!(
        walk(b"\x8a\x80\x00\x81\x00x"),
        Ok(vec![Field { number: 1, value: Value::Len(b"x"), range: 0..6, tag_end: 3 }])
    );
}

#[test]
fn the_largest_field_number() {
    let mut message = Vec::new();
    put_number(&mut message, FIELD_MAX, 7);
    assert_eq!(message, b"\xf8\xff\xff\xff\x0f\x07");
    assert_eq!(walk(&message).unwrap()[0].number, FIELD_MAX);
}

#[test]
fn what_is_refused() {
    let table: [(&[u8], WireFault); 17] = [
        // Tags.
        (b"\x00", WireFault::FieldNumber { at: 0, number: 0 }),
        (b"\x02\x00", WireFault::FieldNumber { at: 0, number: 0 }),
        (b"\x80\x80\x80\x80\x10\x00", WireFault::FieldNumber { at: 0, number: 1 << 29 }),
        (b"\x80", WireFault::Truncated { at: 0 }),
        (&[0xff; 11], WireFault::VarintOverflow { at: 0 }),
        // Groups, and types that do not exist.
        (b"\x0b\x0c", WireFault::WireType { at: 0, wire_type: 3 }),
        (b"\x0c", WireFault::WireType { at: 0, wire_type: 4 }),
        (b"\x08\x00\x0e", WireFault::WireType { at: 2, wire_type: 6 }),
        (b"\x08\x00\x0f", WireFault::WireType { at: 2, wire_type: 7 }),
        // Values.
        (b"\x08", WireFault::Truncated { at: 0 }),
        (b"\x08\x01\x08\x80", WireFault::Truncated { at: 2 }),
        (b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", WireFault::VarintOverflow { at: 1 }),
        (b"\x0a", WireFault::Truncated { at: 0 }),
        (b"\x0a\x02x", WireFault::Truncated { at: 0 }),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x", WireFault::Truncated { at: 0 }),
        (b"\x0d\x01\x00\x00", WireFault::Truncated { at: 0 }),
        (b"\x09\x01\x00\x00\x00\x00\x00\x00", WireFault::Truncated { at: 0 }),
    ];
    for (bytes, fault) in table {
        assert_eq!(walk(bytes), Err(fault), "{bytes:02x?}");
    }
}

#[test]
fn ends_after_the_first_fault() {
    let mut walk = fields(b"\x08\x01\x0b\x08\x01");
    assert!(walk.next().is_some_and(|field| field.is_ok()));
    assert!(walk.next().is_some_and(|field| field.is_err()));
    assert_eq!(walk.next(), None);
    assert_eq!(walk.next(), None);
    assert_eq!(fields(b"").next(), None);
}

#[test]
fn puts() {
    let mut out = Vec::new();
    put_varint(&mut out, u64::MAX);
    assert_eq!(out, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    out.clear();
    put_len(&mut out, 16, b"abc");
    put_number(&mut out, 3, 300);
    assert_eq!(out, b"\x82\x01\x03abc\x18\xac\x02");
}

//! Frames put together of fields, and edits of them, against `invariants::rewrite`.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shimtap_proto::ttrpc::rewrite::Edit;
use shimtap_proto::ttrpc::wire::{put_number, put_varint};
use shimtap_proto::ttrpc::{Header, Kind};

#[derive(Arbitrary, Debug)]
struct Input {
    response: bool,
    stream_id: u32,
    flags: u8,
    pieces: Vec<Piece>,
    edits: Vec<(u8, Vec<u8>)>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Payload(Vec<Leaf>, bool),
    Other(Leaf),
}

#[derive(Arbitrary, Debug)]
enum Leaf {
    /// Number, value, whether its length is written with a byte too many.
    Len(u8, Vec<u8>, bool),
    Number(u8, u64),
    Fixed32(u8, u32),
    Raw(Vec<u8>),
}

fn put(out: &mut Vec<u8>, number: u32, value: &[u8], overlong: bool) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    if overlong && let Some(last) = out.last_mut() {
        *last |= 0x80;
        out.push(0);
    }
    out.extend(value);
}

fn leaf(out: &mut Vec<u8>, leaf: &Leaf) {
    match leaf {
        Leaf::Len(number, value, overlong) => put(out, u32::from(number % 16) + 1, value, *overlong),
        Leaf::Number(number, value) => put_number(out, u32::from(number % 16) + 1, *value),
        Leaf::Fixed32(number, value) => {
            put_varint(out, u64::from(number % 16 + 1) << 3 | 5);
            out.extend(value.to_le_bytes());
        }
        Leaf::Raw(bytes) => out.extend(bytes),
    }
}

fuzz_target!(|input: Input| {
    let mut body = Vec::new();
    for piece in &input.pieces {
        match piece {
            Piece::Payload(leaves, overlong) => {
                let mut payload = Vec::new();
                leaves.iter().for_each(|one| leaf(&mut payload, one));
                put(&mut body, if input.response { 2 } else { 3 }, &payload, *overlong);
            }
            Piece::Other(one) => leaf(&mut body, one),
        }
    }
    let header = Header {
        length: u32::try_from(body.len()).unwrap(),
        stream_id: input.stream_id,
        kind: if input.response { Kind::Response } else { Kind::Request },
        flags: input.flags,
    };
    let frame = [&header.encode()[..], &body].concat();
    let edits = input.edits.iter().map(|(field, new)| Edit { field: u32::from(field % 16) + 1, new });
    shimtap_proto_fuzz::rewrite(&frame, &edits.collect::<Vec<_>>());
});

//! Requests put together of fields in any order, against `invariants::peek`.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shimtap_proto::ttrpc::wire::{put_len, put_number};
use shimtap_proto::ttrpc::{Method, TaskApi};

#[derive(Arbitrary, Debug)]
enum Piece {
    Service(bool),
    Method(u8),
    Len(u8, Vec<u8>),
    Number(u8, u64),
    Raw(Vec<u8>),
}

fuzz_target!(|pieces: Vec<Piece>| {
    let mut body = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Service(v3) => {
                let api = if v3 { TaskApi::V3 } else { TaskApi::V2 };
                put_len(&mut body, 1, api.service().as_bytes());
            }
            Piece::Method(number) => {
                let name = Method::from_u8(number % 18).map_or("None", Method::name);
                put_len(&mut body, 2, name.as_bytes());
            }
            Piece::Len(number, value) => put_len(&mut body, u32::from(number), &value),
            Piece::Number(number, value) => put_number(&mut body, u32::from(number), value),
            Piece::Raw(bytes) => body.extend(bytes),
        }
    }
    shimtap_proto_fuzz::peek(&body);
});

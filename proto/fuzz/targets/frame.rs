//! Raw bytes against `invariants::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shimtap_proto_fuzz::frame(bytes));

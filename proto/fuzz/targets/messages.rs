//! Raw bytes against `invariants::messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shimtap_proto_fuzz::messages(bytes));

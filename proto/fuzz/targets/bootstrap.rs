//! Raw bytes against `invariants::bootstrap`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shimtap_proto_fuzz::bootstrap(bytes));

//! A memfd of any length and beginning, opened as a block: see `block::damage`.

#![no_main]

use containerd_shim_tap::open_stranger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, bool, &[u8])| {
    let (len, whole, beginning) = input;
    // The length of a block is one of billions: half of the inputs have it.
    let len = (!whole).then_some(len as usize % (1 << 20));
    open_stranger(len, beginning);
});

//! The lines that containers of the tests write: numbered, and provable from their number alone.
//!
//! The generator (`bin/speaker.rs`) and the oracle compute the same bytes from (seed, number, width), so
//! that what a container wrote need not be carried out of it. Nothing here may depend on time or machine.

/// Line `number` of the tape `seed`, newline included; `width` bytes long where that holds the
/// 29 bytes of number, check and newline, else 29.
///
/// Shape: eleven digits, a blank, sixteen hex digits that depend on seed and number, letters up to the width.
pub fn line(seed: u64, number: u64, width: usize) -> Vec<u8> {
    let check = mix(seed ^ mix(number));
    let mut bytes = format!("{number:011} {check:016x}").into_bytes();
    let mut state = check;
    while bytes.len() + 1 < width {
        state = mix(state);
        for byte in state.to_le_bytes() {
            if bytes.len() + 1 < width {
                bytes.push(b'a' + byte % 26);
            }
        }
    }
    bytes.push(b'\n');
    bytes
}

/// The first `count` lines of the tape `seed`, one after the other.
pub fn tape(seed: u64, count: u64, width: usize) -> Vec<u8> {
    (0..count).flat_map(|number| line(seed, number, width)).collect()
}

/// SplitMix64's finisher: two neighbouring numbers give unrelated words.
pub(crate) fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_width_and_its_number() {
        for width in [0, 28, 29, 30, 100, 4096] {
            let line = line(7, 42, width);
            assert_eq!(line.len(), width.max(29));
            assert!(line.starts_with(b"00000000042 "));
            assert!(line.ends_with(b"\n"));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }

    #[test]
    fn lines_of_other_tapes_and_numbers_differ() {
        assert_ne!(line(1, 5, 40)[12..], line(2, 5, 40)[12..]);
        assert_ne!(line(1, 5, 40)[12..], line(1, 6, 40)[12..]);
    }
}

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

/// The number of a line, whoever wrote it; none where it does not begin with one.
pub fn number_of(line: &[u8]) -> Option<u64> {
    str::from_utf8(line.get(..11)?).ok()?.parse().ok()
}

/// The first `count` lines of the tape `seed`, one after the other.
pub fn tape(seed: u64, count: u64, width: usize) -> Vec<u8> {
    (0..count).flat_map(|number| line(seed, number, width)).collect()
}

/// A tape whose lines describe themselves: whose they are, on which output, their number, their length and their hash.
///
/// Who finds such a line anywhere can say whether it is whole and whether it is in its place, and who knows the container's
/// mark can say what it wrote, however far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked<'a> {
    /// The container's mark, a word without blanks.
    pub mark: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// No line is more than so many bytes longer than its head.
    pub width: usize,
}

impl Marked<'_> {
    /// Line `number`, newline included: mark, output, eleven digits of number, seven of length in bytes, sixteen hex digits
    /// that depend on all of these, and letters that depend on them. Lengths differ from line to line.
    #[must_use]
    pub fn line(&self, number: u64) -> Vec<u8> {
        let whose =
            self.mark.bytes().chain(self.stream.bytes()).fold(0, |word, byte| mix(word ^ u64::from(byte)));
        let dice = mix(whose ^ mix(number));
        let letters = usize::try_from(dice).unwrap_or(0) % self.width.max(1);
        let head = self.mark.len() + self.stream.len() + 11 + 7 + 16 + 5;
        let length = head + letters + 1;
        let hash = mix(dice ^ u64::try_from(length).unwrap_or(0));
        let mut bytes =
            format!("{} {} {number:011} {length:07} {hash:016x} ", self.mark, self.stream).into_bytes();
        let mut state = hash;
        while bytes.len() + 1 < length {
            state = mix(state);
            bytes.extend(state.to_le_bytes().map(|byte| b'a' + byte % 26));
        }
        bytes.truncate(length - 1);
        bytes.push(b'\n');
        bytes
    }

    /// The first `count` lines.
    #[must_use]
    pub fn tape(&self, count: u64) -> Vec<u8> {
        (0..count).flat_map(|number| self.line(number)).collect()
    }

    /// At least the first `bytes` bytes, up to the end of a line.
    #[must_use]
    pub fn tape_of(&self, bytes: usize) -> Vec<u8> {
        let mut tape = Vec::new();
        for number in 0.. {
            if tape.len() >= bytes {
                break;
            }
            tape.extend(self.line(number));
        }
        tape
    }
}

/// `count` bytes that are no text: every value, ends of lines of every kind among them.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let words = (0_u64..).map(|n| mix(seed ^ mix(n)));
    words.flat_map(u64::to_le_bytes).take(count).collect()
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
        assert_eq!((number_of(&line(3, 42, 80)), number_of(b"42 is short")), (Some(42), None));
        for width in [0, 28, 29, 30, 100, 4096] {
            let line = line(7, 42, width);
            assert_eq!(line.len(), width.max(29));
            assert!(line.starts_with(b"00000000042 "));
            assert!(line.ends_with(b"\n"));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }

    #[test]
    fn a_marked_line_says_what_it_is() {
        let marked = Marked { mark: "a-1", stream: "stderr", width: 300 };
        for number in 0..500 {
            let line = marked.line(number);
            let text = std::str::from_utf8(&line).expect("letters");
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(words[..3], ["a-1", "stderr", &format!("{number:011}")]);
            assert_eq!(words[3].parse(), Ok(line.len()), "{text}");
            assert!(text.ends_with('\n') && text.trim_end().bytes().all(|byte| byte >= b' '));
        }
        assert_eq!(marked.tape(7), marked.tape_of(marked.tape(6).len() + 1));
        let other = Marked { mark: "a-2", ..marked };
        assert_ne!(marked.line(3)[10..], other.line(3)[10..]);
    }

    #[test]
    fn noise_has_every_byte() {
        let noise = noise(1, 1 << 16);
        assert_eq!(noise.len(), 1 << 16);
        assert!((0..=255_u8).all(|byte| noise.contains(&byte)));
    }

    #[test]
    fn lines_of_other_tapes_and_numbers_differ() {
        assert_ne!(line(1, 5, 40)[12..], line(2, 5, 40)[12..]);
        assert_ne!(line(1, 5, 40)[12..], line(1, 6, 40)[12..]);
    }
}

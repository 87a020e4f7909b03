//! The inside of a JSON string: what must not stand in one for itself, and the rest as fast as it can be copied.
//!
//! A quote, a backslash and what is below a blank are escaped, as JSON demands, and nothing else is.

/// Bytes looked at together: what a vector register of any processor holds.
const STEP: usize = 16;

/// True for a byte that stands for itself.
const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// True where all of it is ASCII that stands for itself.
pub(super) fn is_plain_ascii(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & is_plain(*byte) & byte.is_ascii())
}

/// Appends `text` to the inside of a string.
pub(super) fn push(out: &mut Vec<u8>, text: &str) {
    let (steps, rest) = text.as_bytes().as_chunks::<STEP>();
    for step in steps {
        if step.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
            out.extend_from_slice(step);
        } else if step.iter().fold(true, |printable, byte| printable & (*byte >= 0x20)) {
            push_printable(out, step);
        } else {
            push_any(out, step);
        }
    }
    push_any(out, rest);
}

/// Quotes and backslashes are all that is escaped here, with the same few instructions for every byte: in lines that
/// are JSON themselves every third word has one, and a branch that is taken that often is guessed wrong.
fn push_printable(out: &mut Vec<u8>, step: &[u8; STEP]) {
    let mut escaped = [b'\\'; 2 * STEP];
    let mut at = 0;
    for byte in step {
        // A backslash is there already.
        at += usize::from(!is_plain(*byte));
        if let Some(place) = escaped.get_mut(at) {
            *place = *byte;
        }
        at += 1;
    }
    out.extend_from_slice(escaped.get(..at).unwrap_or_default());
}

fn push_any(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control @ ..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.extend([control >> 4, control & 15].map(hex));
            }
            plain => out.push(*plain),
        }
    }
}

/// A digit below 16.
const fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}

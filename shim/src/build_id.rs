//! What a program's linker called its build: GNU's note, else Go's. A few kilobytes are read, whatever the program's size, and
//! nothing of it is run.

use std::{fs::File, io, path::Path};

use crate::go_build::{read, word};

/// More segments than that has no program.
const SEGMENTS_MAX: u64 = 64;
/// Longest note segment that is read: those of real programs have some hundred bytes.
const NOTES_MAX: usize = 4096;
/// Longest name of a build: Go's has 83 characters.
const NAME_MAX: usize = 128;
/// `PT_NOTE`, `NT_GNU_BUILD_ID`, and what Go's linker numbers its own.
const NOTE: u64 = 4;
const GNU: (&[u8], u64) = (b"GNU\0", 3);
const GO: (&[u8], u64) = (b"Go\0\0", 4);

/// The name of its build; `None` where it is no 64-bit ELF file or has none.
pub fn of(path: &Path) -> io::Result<Option<String>> {
    const SEGMENT: usize = 56;
    let file = File::open(path)?;
    let head = read(&file, 0, 64)?;
    let (Some(at), Some(count)) = (word(&head, 32, 8), word(&head, 56, 2)) else { return Ok(None) };
    if !head.starts_with(b"\x7fELF\x02\x01") || count > SEGMENTS_MAX {
        return Ok(None);
    }
    let segments = read(&file, at, usize::try_from(count).unwrap_or(0).saturating_mul(SEGMENT))?;
    let mut go = None;
    for segment in segments.chunks_exact(SEGMENT).filter(|segment| word(segment, 0, 4) == Some(NOTE)) {
        let place = word(segment, 8, 8).zip(word(segment, 32, 8).and_then(|len| usize::try_from(len).ok()));
        let Some((at, len)) = place else { continue };
        let notes = read(&file, at, len.min(NOTES_MAX))?;
        // Notes for 64-bit properties are laid out by eights.
        let by = if word(segment, 48, 8) == Some(8) { 8 } else { 4 };
        if let Some(id) = note(&notes, GNU, by) {
            return Ok(Some(id.iter().take(NAME_MAX / 2).map(|byte| format!("{byte:02x}")).collect()));
        }
        go = go.or_else(|| note(&notes, GO, by).and_then(plain));
    }
    Ok(go)
}

/// What the note of that name and kind says.
fn note<'n>(notes: &'n [u8], (name, kind): (&[u8], u64), by: usize) -> Option<&'n [u8]> {
    let mut rest = notes;
    loop {
        let len = |at| word(rest, at, 4).and_then(|len| usize::try_from(len).ok());
        let (name_len, len, its) = (len(0)?, len(4)?, word(rest, 8, 4)?);
        let says = 12usize.checked_add(name_len)?.checked_next_multiple_of(by)?;
        let end = says.checked_add(len)?;
        if its == kind && rest.get(12..12usize.checked_add(name_len)?)? == name {
            return rest.get(says..end).filter(|said| !said.is_empty());
        }
        rest = rest.get(end.checked_next_multiple_of(by)?..)?;
    }
}

fn plain(name: &[u8]) -> Option<String> {
    let is_plain = name.len() <= NAME_MAX && name.iter().all(u8::is_ascii_graphic);
    is_plain.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn one(name: &[u8], kind: u32, says: &[u8]) -> Vec<u8> {
        let len = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut bytes = [len(name.len()), len(says.len()), kind.to_le_bytes()].concat();
        bytes.extend(name);
        bytes.extend(says);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A program of nothing but one segment of notes.
    fn program(notes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&4u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&120u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&u64::try_from(notes.len()).unwrap().to_le_bytes());
        bytes[112..120].copy_from_slice(&4u64.to_le_bytes());
        bytes.extend(notes);
        bytes
    }

    fn said(bytes: &[u8]) -> Option<String> {
        let dir = std::env::temp_dir().join(format!("shimtap-build-id-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{:?}", std::thread::current().id()));
        fs::write(&path, bytes).unwrap();
        let said = of(&path).unwrap();
        fs::remove_file(&path).unwrap();
        said
    }

    #[test]
    fn gnus_note_comes_before_gos() {
        let abi = one(b"GNU\0", 1, &[0; 16]);
        let go = one(b"Go\0\0", 4, b"Ab-_9/x/y/z");
        let gnu = one(b"GNU\0", 3, &[0xde, 0xad, 0x00]);
        assert_eq!(said(&program(&[abi.clone(), go.clone()].concat())).as_deref(), Some("Ab-_9/x/y/z"));
        assert_eq!(said(&program(&[abi.clone(), go, gnu].concat())).as_deref(), Some("dead00"));
        assert_eq!(said(&program(&abi)), None);
    }

    #[test]
    fn what_is_cut_or_odd_says_nothing_and_never_fails() {
        let go = one(b"Go\0\0", 4, &[b'a'; NAME_MAX + 1]);
        assert_eq!(said(&program(&go)), None, "too long for a name");
        assert_eq!(said(&program(&one(b"Go\0\0", 4, b"a\x1b[2J"))), None, "nothing for a terminal");
        let whole = program(&one(b"GNU\0", 3, &[7; 20]));
        for len in 0..whole.len() {
            assert_eq!(said(&whole[..len]), None, "cut at {len}");
        }
        let mut endless = one(b"GNU\0", 3, &[7; 20]);
        endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(said(&program(&endless)), None);
        assert_eq!(of(Path::new("/etc/passwd")).unwrap(), None);
        assert!(of(Path::new("/no/such/file")).is_err());
    }

    #[test]
    fn a_real_program_has_one() {
        let of_gcc = of(Path::new("/bin/sh")).unwrap().unwrap_or_default();
        assert!(of_gcc.len() == 40 && of_gcc.bytes().all(|b| b.is_ascii_hexdigit()), "{of_gcc}");
    }
}

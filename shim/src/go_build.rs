//! Which package a program of Go's was built from, as it says itself (`go version -m`). A few hundred bytes are read, whatever the
//! program's size.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Longest part that is read: the package comes first in it.
const SECTION_MAX: usize = 4096;
/// More sections than that has no program.
const SECTIONS_MAX: u64 = 1024;

/// The path of its main package; `None` where it is no 64-bit ELF file of Go 1.18 or later.
pub fn main_package(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    Ok(build_info(&file)?.as_deref().and_then(package_of))
}

/// What the section `.go.buildinfo` begins with.
fn build_info(file: &File) -> io::Result<Option<Vec<u8>>> {
    const SECTION: u64 = 64;
    let head = read(file, 0, 64)?;
    let is_elf = head.starts_with(b"\x7fELF\x02\x01");
    let (Some(at), Some(count), Some(names)) = (word(&head, 40, 8), word(&head, 60, 2), word(&head, 62, 2))
    else {
        return Ok(None);
    };
    if !is_elf || count > SECTIONS_MAX {
        return Ok(None);
    }
    let len = usize::try_from(count * SECTION).unwrap_or(0);
    let sections = read(file, at, len)?;
    let sections: Vec<&[u8]> = sections.chunks_exact(64).collect();
    let names = usize::try_from(names).ok().and_then(|n| sections.get(n).copied()).and_then(place);
    let Some((names_at, names_len)) = names else { return Ok(None) };
    let names = read(file, names_at, names_len.min(1 << 16))?;
    let name = |s: &[u8]| word(s, 0, 4).and_then(|n| names.get(usize::try_from(n).ok()?..));
    let ours = |s: &&&[u8]| name(s).is_some_and(|n| n.starts_with(b".go.buildinfo\0"));
    let Some((at, len)) = sections.iter().find(ours).and_then(|s| place(s)) else { return Ok(None) };
    read(file, at, len.min(SECTION_MAX)).map(Some)
}

/// The main package in such a section.
fn package_of(section: &[u8]) -> Option<String> {
    const INLINE: u8 = 2;
    const SENTINEL: usize = 16;
    if !section.starts_with(b"\xff Go buildinf:") || section.get(15)? & INLINE == 0 {
        return None;
    }
    let (version, rest) = varint(section.get(32..)?)?;
    let (_, info) = varint(rest.get(version..)?)?;
    let text = info.get(SENTINEL..)?;
    let line = text.split(|b| *b == b'\n').next()?;
    String::from_utf8(line.strip_prefix(b"path\t")?.to_vec()).ok()
}

fn place(section: &[u8]) -> Option<(u64, usize)> {
    Some((word(section, 24, 8)?, usize::try_from(word(section, 32, 8)?).ok()?))
}

/// A little-endian number.
pub fn word(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// A length as Go writes it, and what follows.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(4).position(|b| b & 0x80 == 0)?;
    let (number, rest) = bytes.split_at_checked(end + 1)?;
    Some((number.iter().rev().fold(0, |n, b| n << 7 | usize::from(b & 0x7f)), rest))
}

/// At most `len` bytes.
pub fn read(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(u64::try_from(done).unwrap_or(0)))? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(flags: u8, info: &[u8]) -> Vec<u8> {
        let mut bytes = b"\xff Go buildinf:\x08".to_vec();
        bytes.push(flags);
        bytes.resize(32, 0);
        bytes.extend([7]);
        bytes.extend(b"go1.26.");
        bytes.extend([0x90, 0x02]);
        bytes.extend([0x30; 16]);
        bytes.extend(info);
        bytes
    }

    #[test]
    fn the_package_comes_first() {
        let info =
            b"path\tgithub.com/containerd/containerd/cmd/containerd-shim-runc-v2\nbuild\t-trimpath=true\n";
        let package = "github.com/containerd/containerd/cmd/containerd-shim-runc-v2";
        assert_eq!(package_of(&section(2, info)).as_deref(), Some(package));
        assert_eq!(package_of(&section(0, info)), None, "pointers, before 1.18");
        assert_eq!(package_of(&section(2, b"mod\tx\n")), None);
        let whole = section(2, info);
        for len in 0..60 {
            assert_eq!(package_of(whole.get(..len).unwrap()), None, "cut at {len}");
        }
    }

    #[test]
    fn what_is_no_program_of_go_s_says_nothing() {
        assert_eq!(main_package(Path::new("/proc/self/exe")).unwrap(), None, "of Rust");
        assert_eq!(main_package(Path::new("/etc/passwd")).unwrap(), None);
        assert_eq!(main_package(Path::new("/dev/null")).unwrap(), None);
        assert!(main_package(Path::new("/no/such/file")).is_err());
    }
}

//! One process of this host by /proc/PID/stat: who it is, and what it has used.

use std::{fs, path::Path};

/// When a process was made, in ticks since boot: with its number this names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born(u64);

/// What /proc/PID/stat says, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// What it calls itself; at most 15 bytes.
    pub(super) name: String,
    /// Its parent's number.
    pub(super) parent: u32,
    /// When it was made.
    pub(super) born: Born,
    /// CPU time of all its threads, also of those that ended, in ticks.
    pub(super) cpu_ticks: u64,
    /// Its threads.
    pub(super) threads: u64,
    /// Resident memory in pages.
    pub(super) resident_pages: u64,
}

/// Of the process with that number; `None` without one.
pub(super) fn born(root: &Path, pid: u32) -> Option<Born> {
    stat(root, pid).map(|stat| stat.born)
}

/// Of the process with that number; `None` without one. One that has ended and was not waited for is none.
pub(super) fn stat(root: &Path, pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name is in parentheses and may have anything in it, parentheses too.
    let (before, rest) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    // Fields are counted as in proc(5); the first after the name is the third.
    let field = |number: usize| -> Option<u64> { fields.get(number.checked_sub(3)?)?.parse().ok() };
    Some(Stat {
        name: name.to_owned(),
        parent: u32::try_from(field(4)?).ok()?,
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        born: Born(field(22)?),
        resident_pages: field(24)?,
    })
}

// === impl Born ===

impl Born {
    /// Ticks since boot.
    pub(super) const fn ticks(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_birth_whatever_it_is_called() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = root.path().join("proc/7");
        fs::create_dir_all(&dir).expect("a folder");
        let tail = "S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 5 0 4711 900 33";
        for name in ["sh", "a b", "x) S 1 (y)"] {
            fs::write(dir.join("stat"), format!("7 ({name}) {tail}")).expect("a file");
            assert_eq!(born(root.path(), 7), Some(Born(4711)), "{name}");
            let said = stat(root.path(), 7).expect("a process");
            let (parent, cpu_ticks, threads, resident_pages) = (1, 42, 5, 33);
            let name = name.to_owned();
            assert_eq!(said, Stat { name, parent, born: Born(4711), cpu_ticks, threads, resident_pages });
        }
        fs::write(dir.join("stat"), format!("7 (sh) {}", tail.replacen('S', "Z", 1))).expect("a file");
        assert_eq!(born(root.path(), 7), None, "it has ended");
        fs::write(dir.join("stat"), "7 (sh) S 1").expect("a file");
        assert_eq!(born(root.path(), 7), None);
        assert_eq!(born(root.path(), 8), None);
        assert!(born(Path::new("/"), std::process::id()).is_some());
    }
}

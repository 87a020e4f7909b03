//! Is it still the same process?

use std::{fs, path::Path};

/// When a process was made, in ticks since boot: with its number this names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born(u64);

/// Of the process with that number; `None` without one.
pub(super) fn born(root: &Path, pid: u32) -> Option<Born> {
    let stat = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The name is in parentheses and may have anything in it, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    // Field 22 of proc(5); the first after the name is the third.
    rest.split_whitespace().nth(19)?.parse().ok().map(Born)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_its_birth_whatever_it_is_called() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = root.path().join("proc/7");
        fs::create_dir_all(&dir).expect("a folder");
        let tail = "S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for name in ["(sh)", "(a b)", "(x) S 1 (y))"] {
            fs::write(dir.join("stat"), format!("7 {name} {tail}")).expect("a file");
            assert_eq!(born(root.path(), 7), Some(Born(4711)), "{name}");
        }
        fs::write(dir.join("stat"), "7 (sh) S 1").expect("a file");
        assert_eq!(born(root.path(), 7), None);
        assert_eq!(born(root.path(), 8), None);
        assert!(born(Path::new("/"), std::process::id()).is_some());
    }
}

//! What a keeper removes when all is over: its own files, and the socket its inner shim may have left.

use std::{fs, io::ErrorKind, path::Path};

use crate::{block::Block, run_dir::RunDir};

/// Removes socket, lock, description and task directories of this wrapper, and the inner shim's socket if it is
/// still the one we were made for. Failing leaves files, nothing worse.
pub fn sweep(block: &Block) {
    let who = &block.tables().identity;
    let run_dir = RunDir::at(who.run_dir.get());
    let key = who.key.get();
    let inner = who.inner_path.get();
    if RunDir::is_still(Path::new(&inner), &key) {
        let _ = fs::remove_file(&inner);
    }
    remove_tasks(&run_dir, &who.namespace.get(), &key);
    remove_files(&run_dir, &key);
}

/// Socket, description and lock of `key`; the lock last, since it says that somebody lives.
pub fn remove_files(run_dir: &RunDir, key: &str) {
    for file in [run_dir.socket(key), run_dir.description(key), run_dir.lock(key), run_dir.alive(key)] {
        let _ = fs::remove_file(file);
    }
}

/// The directories of all tasks that belong to `key`.
pub fn remove_tasks(run_dir: &RunDir, namespace: &str, key: &str) {
    let Ok(dir) = run_dir.tasks(namespace) else { return };
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        if belongs_to(&entry.path(), key) {
            remove_task(&entry.path());
        }
    }
    // Only goes when it is empty.
    let _ = fs::remove_dir(&dir);
}

/// The directory of a task, the link last: by it whoever comes after a death in here finds what is left.
pub fn remove_task(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.file_name() != TASK_LINK);
    let gone = |path: &Path| match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    let left = others.filter(|entry| !gone(&entry.path())).count();
    if left == 0 {
        let _ = fs::remove_file(dir.join(TASK_LINK));
        let _ = fs::remove_dir(dir);
    }
}

/// Does the task directory's `shim` link name this key?
pub fn belongs_to(task_dir: &Path, key: &str) -> bool {
    fs::read_link(task_dir.join(TASK_LINK)).is_ok_and(|to| to.file_name().is_some_and(|n| n == key))
}

/// The link in a task's directory.
pub const TASK_LINK: &str = "shim";

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    };

    use super::*;

    fn block_of(dir: &Path, inner: &Path) -> Block {
        let block = Block::create().unwrap();
        let who = &block.tables().identity;
        let key = RunDir::key_of(inner).unwrap().0;
        assert!(who.key.set(&key) && who.namespace.set("ns") && who.run_dir.set(dir.to_str().unwrap()));
        assert!(who.inner_path.set(inner.to_str().unwrap()));
        block
    }

    #[test]
    fn the_socket_of_a_later_shim_stays_though_it_has_the_number_of_the_earlier_one() {
        let dir = std::env::temp_dir().join(format!("shimtap-sweep-sock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("inner");
        let _listener = UnixListener::bind(&path).unwrap();
        let earlier = block_of(&dir, &path);
        // A file system that gives numbers again is not at hand everywhere: the same inode with another change time is
        // what a later shim's socket looks like there.
        let before = RunDir::key_of(&path).unwrap().0;
        while RunDir::is_still(&path, &before) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        sweep(&earlier);
        assert!(path.exists(), "a later shim's socket was removed");
        sweep(&block_of(&dir, &path));
        assert!(!path.exists(), "our own shim's stale socket was left");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn whose_a_task_is_stays_known_while_anything_of_it_is_left() {
        let dir = std::env::temp_dir().join(format!("shimtap-sweep-{}", std::process::id()));
        // What remove_file refuses stands for what a death leaves.
        fs::create_dir_all(dir.join("2.out")).unwrap();
        for name in ["1.out", "3.err"] {
            fs::write(dir.join(name), "").unwrap();
        }
        symlink("../../../s/key", dir.join(TASK_LINK)).unwrap();
        remove_task(&dir);
        assert!(belongs_to(&dir, "key"));
        assert!(!dir.join("1.out").exists() && !dir.join("3.err").exists());
        fs::remove_dir(dir.join("2.out")).unwrap();
        remove_task(&dir);
        assert!(!dir.exists());
    }
}

//! Beginning: which streams of a task are ours, made before Create is forwarded. A successor that decides the same Create
//! again finds what its predecessor had made.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use shimtap_proto::{
    link::NotCaptured,
    ttrpc::{rewrite::pad_path, task::Create},
};

use super::{logger, uri};
use crate::{
    block::{
        Phase, Slot, Stream, StreamState, Task, TaskState, counters::Counter, link_to, linked, note_used,
    },
    keeper::{TASK_LINK, belongs_to, protocol::Operation, remove_task},
    run_dir::{RunDir, private_dir},
    sys::Errno,
    worker::{Worker, hands::Wish},
};

/// A stream that has its entry and lacks its ends.
struct Begun<'a> {
    /// Which of the task's.
    n: usize,
    index: usize,
    inner: String,
    outer: &'a str,
}

/// The next state of a generator whose first one is the wrapper's 64 random bits (splitmix64, Steele et al. 2014): as
/// good as fresh random bits, and the same again when a successor decides the same Create.
fn incarnation(wrapper: u64, handle: u32) -> u64 {
    let mut z = wrapper.wrapping_add(u64::from(handle).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Worker {
    /// The task of a Create that is about to be forwarded, its streams captured as far as can be. `None`: it goes
    /// unobserved, which is counted.
    pub(crate) fn task_begin(
        &mut self,
        conn: usize,
        stream_id: u32,
        api: u32,
        create: &Create<'_>,
    ) -> Option<usize> {
        let index = self.task_entry(conn, stream_id)?;
        let task = self.task(index);
        if !task.id.set(create.id) || !task.bundle.set(create.bundle) {
            TaskState::Free.store(&task.state);
            self.block.tables().counters.add(Counter::NotCaptured);
            return None;
        }
        task.api.store(api, Ordering::Relaxed);
        task.terminal.store(u32::from(create.terminal), Ordering::Relaxed);
        let dir = self.make_task_dir(create.id);
        let results = if logger::names_logger(create.stdout) {
            self.capture_for_logger(index, create)
        } else {
            self.capture_fifos(index, create, dir.as_deref())
        };
        for (result, word) in results.into_iter().zip(&task.not_captured) {
            // Also where it is captured: a predecessor may have judged otherwise.
            let why = result.err().map_or(0, |reason| u32::try_from(reason as i32).unwrap_or(0));
            word.store(why, Ordering::Relaxed);
            if result.is_err_and(|reason| reason != NotCaptured::NOT_CAPTURED_EMPTY) {
                self.block.tables().counters.add(Counter::NotCaptured);
            }
        }
        Some(index)
    }

    fn capture_fifos(
        &mut self,
        task: usize,
        create: &Create<'_>,
        dir: Option<&Path>,
    ) -> [Result<(), NotCaptured>; 2] {
        let mut begin =
            |n, field| uri::fifo_path(field).and_then(|outer| self.capture_begin(task, n, outer, dir));
        let stdout = begin(0, create.stdout);
        // With a terminal stderr is a field without a stream; one FIFO for both is one stream.
        let mute = create.terminal || create.stderr == create.stdout;
        let stderr = if mute { Err(NotCaptured::NOT_CAPTURED_EMPTY) } else { begin(1, create.stderr) };
        let begun = [stdout, stderr];
        let wishes: Vec<Wish<'_>> = begun.iter().flatten().flat_map(Begun::wishes).collect();
        let came = self.hands.ensure_all(&wishes);
        let mut came = came.chunks_exact(2);
        begun.map(|begun| {
            let begun = begun?;
            let made = came.next().map_or(Err(Errno::EOWNERDEAD), |two| two.iter().copied().collect());
            self.capture_end(task, &begun, made)
        })
    }

    /// The entry of this Create: the one an earlier attempt began, a free one, or that of the task longest deleted.
    fn task_entry(&mut self, conn: usize, stream_id: u32) -> Option<usize> {
        let tables = self.block.tables();
        let begun = |t: &Task| {
            TaskState::load(&t.state) == TaskState::Creating
                && linked(&t.conn) == Some(conn)
                && t.stream_id.load(Ordering::Relaxed) == stream_id
        };
        if let Some(index) = tables.tasks().iter().position(begun) {
            return Some(index);
        }
        let free = |t: &Task| TaskState::load(&t.state) == TaskState::Free;
        let Some(index) = tables.tasks.iter().position(free).or_else(|| self.evict_deleted()) else {
            tables.counters.add(Counter::TableOverflow);
            return None;
        };
        note_used(&tables.tasks_used, index);
        let task = self.task(index);
        clear_task(task);
        let handle = self.block.next_handle();
        task.handle.store(handle, Ordering::Relaxed);
        let wrapper = tables.identity.wrapper.load(Ordering::Relaxed);
        task.incarnation.store(incarnation(wrapper, handle), Ordering::Relaxed);
        task.conn.store(link_to(Some(conn)), Ordering::Relaxed);
        task.stream_id.store(stream_id, Ordering::Relaxed);
        TaskState::Creating.store(&task.state);
        Some(index)
    }

    /// Makes room in a full table: what the collector has not taken of that task is lost to it.
    fn evict_deleted(&mut self) -> Option<usize> {
        let deleted = |(_, t): &(usize, &Task)| TaskState::load(&t.state) == TaskState::Deleted;
        let tables = self.block.tables();
        let tasks = tables.tasks().iter().enumerate().filter(deleted);
        let oldest = tasks.min_by_key(|(_, t)| t.deleted_ns.load(Ordering::Relaxed)).map(|(n, _)| n)?;
        let lost = |s: &Stream| s.pos.load(Ordering::Acquire).saturating_sub(tables.kept_elsewhere(s));
        let lost: u64 =
            self.task(oldest).streams.iter().filter_map(linked).map(|s| lost(self.stream(s))).sum();
        tables.counters.add_many(Counter::EvictedBytes, lost);
        if self.is_untold(self.task(oldest)) {
            tables.counters.add(Counter::EvictedTasks);
        }
        self.task_forget(oldest);
        Some(oldest)
    }

    pub(super) fn run_dir(&self) -> RunDir {
        RunDir::at(self.block.tables().identity.run_dir.get())
    }

    fn task_dir(&self, id: &str) -> Option<PathBuf> {
        self.run_dir().task(&self.block.tables().identity.namespace.get(), id).ok()
    }

    /// `c/<namespace>/<id>/` with the link by which `delete` finds whose it is.
    fn make_task_dir(&self, id: &str) -> Option<PathBuf> {
        let dir = self.task_dir(id)?;
        let key = self.block.tables().identity.key.get();
        if !is_new_dir(&dir).ok()? {
            if belongs_to(&dir, &key) {
                return Some(dir);
            }
            // What a wrapper left that ended without being able to clean up.
            let _ = fs::remove_dir_all(&dir);
            private_dir(&dir).ok()?;
        }
        symlink(Path::new("../../../s").join(key), dir.join(TASK_LINK)).ok().map(|()| dir)
    }

    pub(super) fn remove_task_dir(&self, task: &Task) {
        let key = self.block.tables().identity.key.get();
        if let Some(dir) = self.task_dir(&task.id.get()).filter(|dir| belongs_to(dir, &key)) {
            remove_task(&dir);
        }
    }

    /// The stream's entry, with the names of both its ends.
    fn capture_begin<'a>(
        &mut self,
        task: usize,
        n: usize,
        outer: &'a str,
        dir: Option<&Path>,
    ) -> Result<Begun<'a>, NotCaptured> {
        let dir = dir.ok_or(NotCaptured::NOT_CAPTURED_FAILED)?;
        let index = self.stream_entry(task, n).ok_or(NotCaptured::NOT_CAPTURED_NO_ROOM)?;
        match name_ends(self.stream(index), outer, dir) {
            Ok(inner) => Ok(Begun { n, index, inner, outer }),
            Err(errno) => Err(self.capture_failed(task, n, index, errno)),
        }
    }

    /// Both ends are open, or one of them could not be.
    fn capture_end(
        &mut self,
        task: usize,
        begun: &Begun<'_>,
        made: Result<(), Errno>,
    ) -> Result<(), NotCaptured> {
        made.map_err(|errno| self.capture_failed(task, begun.n, begun.index, errno))?;
        // What the inner shim writes while it creates is passed on at once.
        self.stream_await(begun.index);
        Ok(())
    }

    fn capture_failed(&mut self, task: usize, n: usize, index: usize, errno: Errno) -> NotCaptured {
        self.stream_forget(index);
        if let Some(word) = self.task(task).streams.get(n) {
            word.store(0, Ordering::Release);
        }
        match errno {
            Errno::ESPIPE => NotCaptured::NOT_CAPTURED_NOT_A_FIFO,
            _ => NotCaptured::NOT_CAPTURED_FAILED,
        }
    }

    pub(super) fn stream_entry(&mut self, task: usize, n: usize) -> Option<usize> {
        let number = u32::try_from(n).ok()?.saturating_add(1);
        let tables = self.block.tables();
        let begun = |s: &Stream| {
            StreamState::load(&s.state) == StreamState::Setup
                && linked(&s.task) == Some(task)
                && s.number.load(Ordering::Relaxed) == number
        };
        let index = match tables.streams().iter().position(begun) {
            Some(index) => index,
            None => {
                let free = |s: &Stream| StreamState::load(&s.state) == StreamState::Free;
                let index = tables.streams.iter().position(free)?;
                note_used(&tables.streams_used, index);
                let stream = self.stream(index);
                clear_stream(stream);
                stream.handle.store(self.block.next_handle(), Ordering::Relaxed);
                stream.task.store(link_to(Some(task)), Ordering::Relaxed);
                stream.number.store(number, Ordering::Relaxed);
                StreamState::Setup.store(&stream.state);
                index
            }
        };
        self.task(task).streams.get(n)?.store(link_to(Some(index)), Ordering::Release);
        Some(index)
    }

    /// What Create is to say instead of containerd's FIFOs: stdout, stderr; `None` = as it is.
    pub(crate) fn inner_uris(&self, task: usize, create: &Create<'_>) -> [Option<String>; 2] {
        if logger::names_logger(create.stdout) {
            // Without a URI of ours it goes as it is, and what was made for it is given up when it is answered: its streams
            // have no path, and an empty one would have the shim throw the output away.
            return [self.logger_uri(task), None];
        }
        let [stdout, stderr] = &self.task(task).streams;
        let path = |word| linked(word).map(|s| self.stream(s).inner_path.get());
        let first = path(stdout).map(|p| uri::with_path(create.stdout, &p));
        let shared = !create.terminal && create.stderr == create.stdout;
        let second =
            if shared { first.clone() } else { path(stderr).map(|p| uri::with_path(create.stderr, &p)) };
        [first, second]
    }

    /// containerd's name for a stdio field that names one of our FIFOs, or us as a logger.
    pub(crate) fn outer_uri(&self, field: &str) -> Option<String> {
        if logger::names_logger(field) {
            return self.outer_logger_uri(field);
        }
        let path = uri::fifo_path(field).ok()?;
        let ours = |s: &&Stream| StreamState::load(&s.state) != StreamState::Free && s.inner_path.is(path);
        let stream = self.block.tables().streams().iter().find(ours)?;
        Some(uri::with_path(field, &stream.outer_path.get()))
    }
}

/// Makes a directory of ours; false where it was there.
fn is_new_dir(dir: &Path) -> io::Result<bool> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        // The first one of its namespace, or it is there.
        Err(_) => {
            let was_there = dir.exists();
            private_dir(dir).map(|()| !was_there)
        }
    }
}

/// Notes the paths of both ends; gives the one of ours.
fn name_ends(stream: &Stream, outer: &str, dir: &Path) -> Result<String, Errno> {
    let suffix = if stream.number.load(Ordering::Relaxed) == 1 { "out" } else { "err" };
    let name = format!("{}.{suffix}", stream.handle.load(Ordering::Relaxed));
    let plain = dir.join(name).into_os_string().into_string().map_err(|_| Errno::EINVAL)?;
    // Of the same length as the path it replaces, no length in the frame changes.
    let inner = pad_path(&plain, outer.len()).unwrap_or(plain);
    let fits = stream.inner_path.set(&inner) && stream.outer_path.set(outer);
    if fits { Ok(inner) } else { Err(Errno::ENAMETOOLONG) }
}

// === impl Begun ===

impl Begun<'_> {
    /// Our reader first: a shim that opens without one gets ENXIO.
    fn wishes(&self) -> [Wish<'_>; 2] {
        let base = Slot::stream(self.index);
        [
            Wish { operation: Operation::InnerFifo, slot: base, path: &self.inner },
            Wish { operation: Operation::OuterReader, slot: base.plus(1), path: self.outer },
        ]
    }
}

fn clear_task(task: &Task) {
    task.id.set("");
    task.bundle.set("");
    let words = [
        &task.api,
        &task.terminal,
        &task.pid,
        &task.exit_status,
        &task.exit_known,
        &task.killed,
        &task.stats_mute,
        &task.announcement,
        &task.link_done,
        &task.final_stats,
    ];
    words
        .into_iter()
        .chain(&task.streams)
        .chain(&task.not_captured)
        .for_each(|w| w.store(0, Ordering::Relaxed));
    let times = [
        &task.created_ns,
        &task.started_ns,
        &task.exited_ns,
        &task.exited_mono_ns,
        &task.deleted_ns,
        &task.stats_asked_ns,
    ];
    times.into_iter().for_each(|w| w.store(0, Ordering::Relaxed));
}

fn clear_stream(stream: &Stream) {
    // First: a spool writer that has its eyes on the stream that was here must not speak of this one.
    stream.epoch.fetch_add(1, Ordering::AcqRel);
    let words =
        [&stream.pipe, &stream.teed, &stream.filled, &stream.unwanted, &stream.mark, &stream.spool_to];
    words.into_iter().for_each(|w| w.store(0, Ordering::Relaxed));
    let counts = [
        &stream.pos,
        &stream.next,
        &stream.start,
        &stream.ring,
        &stream.acked,
        &stream.sent,
        &stream.uncopied,
        &stream.spooled,
    ];
    counts.into_iter().for_each(|w| w.store(0, Ordering::Relaxed));
    for mark in &stream.marks {
        mark.time_ns.store(0, Ordering::Relaxed);
    }
    Phase::Fill.store(&stream.phase);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::PendingState, worker::model::stage::Stage};

    /// In a full table: a Wait that was asked of who had it and is answered later must not speak of who has it then.
    #[test]
    fn the_place_of_the_task_longest_deleted_is_taken_and_no_late_answer_comes_to_it() {
        let mut stage = Stage::new();
        let tables = stage.block.tables();
        let mut begin = |stream_id| stage.act(|worker| worker.task_entry(0, stream_id)).expect("a place");
        for (n, time) in (0..).zip(1..).take(tables.tasks.len()) {
            let task = &tables.tasks[begin(n)];
            task.deleted_ns.store(time, Ordering::Relaxed);
            TaskState::Deleted.store(&task.state);
        }
        let wait = &tables.pendings[0];
        note_used(&tables.pendings_used, 0);
        wait.task.store(link_to(Some(0)), Ordering::Release);
        PendingState::Open.store(&wait.state);
        assert_eq!(begin(1_000), 0);
        assert_eq!(linked(&wait.task), None);
    }
}

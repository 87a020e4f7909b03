//! What goes into the files: what the link would say, in the same order, for as long as there is no link.
//!
//! Single-threaded, in a process of its own. It reads the block as the link thread does and writes nothing into it but
//! the words marked "spool:", each after the write(2) that it speaks of.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

use protobuf::Message;
use shimtap_proto::link::{Gone, from_wrapper};

use super::{
    file::SpoolFile,
    place::{Kind, Place, Refusal},
};
use crate::{
    block::{
        Block, Stream, StreamState, Task, TaskState,
        counters::Counter,
        linked,
        spool::{Marker, Verdict},
    },
    events::EventRing,
    link::{self, Cursors, Next, Towards},
    sys::{Errno, Kernel, fd, monotonic_ns, process},
};

/// With nothing new for this long it ends; the next one is made when memory runs short again.
const QUIET: Duration = Duration::from_secs(2);
/// Rests between looks: short while much comes, so that the rings do not overflow meanwhile.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(64);
/// After a refusal nobody need try again before this.
const PAUSE_NS: u64 = 60_000_000_000;
/// Whoever only asks whether somebody writes holds the lock for microseconds.
const LOCK_TRIES: usize = 100;

/// Exit statuses; only tests and people look at them.
const DONE: i32 = 0;
const NOT_BEGUN: i32 = 1;

/// One life of the child.
struct Writer {
    block: &'static Block,
    wrapper: u64,
    generation: u64,
    cursors: Cursors,
    streams: BTreeMap<u32, Target>,
    events: EventRing,
    events_at: u64,
    events_kind: Kind,
    files: BTreeMap<Kind, SpoolFile>,
    refused: BTreeSet<Kind>,
    /// Tasks that a file speaks of, and those of which it has said all.
    opened: BTreeSet<(Kind, u32)>,
    gone: BTreeSet<(Kind, u32)>,
}

/// Where a stream's bytes go, and who says so to the ring.
#[derive(Clone, Copy)]
struct Target {
    kind: Kind,
    marker: Marker,
}

/// Why it stops in the middle.
enum Stop {
    /// A collector is attached: the link goes on from here.
    Attached,
    /// What goes there cannot be written.
    Refused(Kind),
}

/// The life of a child whose only descriptor of worth is the memfd. Returns its exit status.
pub fn main(memfd: BorrowedFd<'_>) -> i32 {
    process::set_name_and_undumpable(c"tap-spool");
    process::yield_to_others();
    match begin(memfd) {
        Ok(mut writer) => {
            writer.run();
            DONE
        }
        Err(_) => NOT_BEGUN,
    }
}

fn begin(memfd: BorrowedFd<'_>) -> Kernel<Writer> {
    // Behind a description of its own, whose lock says that it lives.
    let block: &'static Block = Box::leak(Box::new(Block::open(fd::reopen(memfd)?)?));
    let alone = (0..LOCK_TRIES).any(|_| {
        let locked = fd::try_lock(block.memfd()) == Ok(true);
        if !locked {
            thread::sleep(REST_MIN);
        }
        locked
    });
    if alone { Writer::new(block) } else { Err(Errno::EALREADY) }
}

fn verdict(stream: &Stream) -> Kind {
    Kind::of(Verdict::load(&stream.spool_to))
}

// === impl Writer ===

impl Writer {
    fn new(block: &'static Block) -> Kernel<Self> {
        let tables = block.tables();
        tables.counters.add(Counter::SpoolWriters);
        let taken = |s: &&Stream| StreamState::load(&s.state) != StreamState::Free;
        let all_on_disk = tables.streams().iter().filter(taken).all(|s| verdict(s) == Kind::Disk);
        // Their numbers run through all tasks, so they cannot be split; an exec's arguments may be what must not reach a disk.
        let known = tables.streams().iter().any(|s| taken(&s));
        let events_kind = if all_on_disk && known { Kind::Disk } else { Kind::Memory };
        Ok(Self {
            block,
            wrapper: tables.identity.wrapper.load(Ordering::Relaxed),
            generation: tables.spool.generation(),
            cursors: Cursors::new(block, Towards::Spool),
            streams: BTreeMap::new(),
            events: EventRing::new(block)?,
            events_at: tables.events_kept_elsewhere(),
            events_kind,
            files: BTreeMap::new(),
            refused: BTreeSet::new(),
            opened: BTreeSet::new(),
            gone: BTreeSet::new(),
        })
    }

    fn run(&mut self) {
        let spool = &self.block.tables().spool;
        let (mut rest, mut quiet) = (REST_MIN, Duration::ZERO);
        while quiet < QUIET && spool.generation() == self.generation {
            let asked = spool.asked.load(Ordering::Acquire);
            let Ok(wrote) = self.pass() else { return };
            if wrote {
                (rest, quiet) = (REST_MIN, Duration::ZERO);
                continue;
            }
            if asked != spool.done.load(Ordering::Acquire) {
                // The pod is over: what was not refused is written, and nothing more will come.
                if self.refused.is_empty() {
                    spool.done.store(asked, Ordering::Release);
                }
                return;
            }
            thread::sleep(rest);
            quiet = quiet.saturating_add(rest);
            rest = rest.saturating_mul(2).min(REST_MAX);
        }
    }

    /// Writes what there is; was there anything?
    fn pass(&mut self) -> Result<bool, Stop> {
        let mut wrote = self.refusable(Self::write_events)?;
        let block = self.block;
        for (index, task) in block.tables().tasks().iter().enumerate() {
            if matches!(TaskState::load(&task.state), TaskState::Free | TaskState::Creating) {
                continue;
            }
            for stream in task.streams.iter().filter_map(linked) {
                wrote |= self.refusable(|writer| writer.write_stream(index, task, stream))?;
            }
            for kind in Kind::ALL {
                wrote |= self.refusable(|writer| writer.write_gone(kind, task))?;
            }
        }
        Ok(wrote)
    }

    /// What is refused once is not tried again in this life.
    fn refusable(&mut self, write: impl FnOnce(&mut Self) -> Result<bool, Stop>) -> Result<bool, Stop> {
        match write(self) {
            Err(Stop::Refused(kind)) => {
                self.refused.insert(kind);
                Ok(false)
            }
            other => other,
        }
    }

    fn write_events(&mut self) -> Result<bool, Stop> {
        let mut wrote = false;
        if self.refused.contains(&self.events_kind) {
            return Ok(wrote);
        }
        while let Some((event, behind)) = self.events.at(self.events_at) {
            self.announce_task(event.task)?;
            self.append(self.events_kind, from_wrapper::Body::Event(event))?;
            self.events_at = behind;
            Marker::of_events(self.generation).store(&self.block.tables().spool.events, behind);
            wrote = true;
        }
        Ok(wrote)
    }

    /// Before an event of a task comes the task, where there is one.
    fn announce_task(&mut self, handle: u32) -> Result<(), Stop> {
        let tasks = self.block.tables().tasks().iter().enumerate();
        let mut known = tasks.filter(|(_, t)| {
            let begun = !matches!(TaskState::load(&t.state), TaskState::Free | TaskState::Creating);
            begun && t.handle.load(Ordering::Acquire) == handle
        });
        match known.next() {
            Some((index, task)) => self.open_task(self.events_kind, index, task),
            None => Ok(()),
        }
    }

    fn open_task(&mut self, kind: Kind, index: usize, task: &Task) -> Result<(), Stop> {
        if self.opened.insert((kind, task.handle.load(Ordering::Relaxed))) {
            let open = link::look_at(self.block, index, task);
            self.append(kind, from_wrapper::Body::Open(open))?;
        }
        Ok(())
    }

    fn write_stream(&mut self, index: usize, task: &Task, entry: usize) -> Result<bool, Stop> {
        let Some(stream) = self.block.tables().streams.get(entry) else { return Ok(false) };
        let handle = stream.handle.load(Ordering::Acquire);
        let Some(target) = self.target(handle, entry, stream) else { return Ok(false) };
        let mut wrote = false;
        while !self.refused.contains(&target.kind) {
            let Some(Next::Body(body)) = self.cursors.next_body(handle) else { break };
            self.open_task(target.kind, index, task)?;
            self.append(target.kind, *body)?;
            if let Some(at) = self.cursors.at(handle) {
                target.marker.store(&stream.spooled, at);
            }
            wrote = true;
        }
        Ok(wrote)
    }

    /// A stream that is new to this writer goes on where its bytes are kept elsewhere.
    fn target(&mut self, handle: u32, entry: usize, stream: &Stream) -> Option<Target> {
        if !self.streams.contains_key(&handle) {
            let marker = Marker::of(self.generation, stream, handle)?;
            let at = self.block.tables().kept_elsewhere(stream);
            let wanted = stream.unwanted.load(Ordering::Acquire) == 0;
            self.cursors.place(handle, entry, at, wanted);
            self.streams.insert(handle, Target { kind: verdict(stream), marker });
        }
        self.streams.get(&handle).copied()
    }

    /// The last word on a task, in each file that speaks of it.
    fn write_gone(&mut self, kind: Kind, task: &Task) -> Result<bool, Stop> {
        let handle = task.handle.load(Ordering::Relaxed);
        let tables = self.block.tables();
        let is_closed = |entry: usize| {
            let stream = tables.streams.get(entry).map(|s| s.handle.load(Ordering::Acquire));
            stream.is_none_or(|handle| self.cursors.is_closed(handle))
        };
        let is_over = TaskState::load(&task.state) == TaskState::Deleted
            && task.streams.iter().filter_map(linked).all(is_closed);
        let open = self.opened.contains(&(kind, handle)) && !self.refused.contains(&kind);
        if !is_over || !open || !self.gone.insert((kind, handle)) {
            return Ok(false);
        }
        let time_ns = task.deleted_ns.load(Ordering::Relaxed);
        self.append(kind, from_wrapper::Body::Gone(Gone { task: handle, time_ns, ..Default::default() }))?;
        Ok(true)
    }

    fn append(&mut self, kind: Kind, body: from_wrapper::Body) -> Result<(), Stop> {
        let spool = &self.block.tables().spool;
        if spool.generation() != self.generation {
            return Err(Stop::Attached);
        }
        self.try_append(kind, body).map_err(|refusal| {
            refusal.count(&self.block.tables().counters);
            spool.again_ns.store(monotonic_ns().saturating_add(PAUSE_NS), Ordering::Release);
            Stop::Refused(kind)
        })
    }

    fn try_append(&mut self, kind: Kind, body: from_wrapper::Body) -> Result<(), Refusal> {
        if !self.files.contains_key(&kind) {
            let file = self.make_file(kind)?;
            self.files.insert(kind, file);
        }
        let file = self.files.get_mut(&kind).ok_or(Errno::EBADF)?;
        let message = link::up(body).write_to_bytes().map_err(|_| Errno::EMSGSIZE)?;
        let bytes = file.append(&message)?;
        self.block.tables().counters.add_many(Counter::SpoolBytes, bytes);
        Ok(())
    }

    /// A new file, which begins as every connection does.
    fn make_file(&self, kind: Kind) -> Result<SpoolFile, Refusal> {
        let place = Place::open(self.block, kind)?;
        let files = &self.block.tables().spool.files;
        let mut file = SpoolFile::make(place, self.wrapper, || files.fetch_add(1, Ordering::AcqRel))?;
        let hello = link::up(from_wrapper::Body::Hello(link::hello(self.block)));
        file.append(&hello.write_to_bytes().map_err(|_| Errno::EMSGSIZE)?)?;
        Ok(file)
    }
}

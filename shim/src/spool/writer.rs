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
    place::{Place, Refusal},
};
use crate::{
    block::{
        Block, Stream, Task, TaskState,
        counters::Counter,
        linked,
        spool::{Kind, Marker},
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
/// After a refusal nobody need try again there before this.
const PAUSE_NS: u64 = 60_000_000_000;
/// Room beyond all limits for the last words of a pod whose files are full: all events that the block can hold, and as much
/// again for what each stream has lost and where it ended.
const LAST_WORDS: u64 = 256 << 10;
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
    /// The pod is over and there is no room: what is not in a file is said to be missing.
    gives_up: bool,
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
    let spool = &block.tables().spool;
    let generation = spool.asked_in.load(Ordering::Acquire);
    if !alone || generation != spool.generation() {
        return Err(Errno::EALREADY);
    }
    Writer::new(block, generation)
}

// === impl Writer ===

impl Writer {
    fn new(block: &'static Block, generation: u64) -> Kernel<Self> {
        let tables = block.tables();
        tables.counters.add(Counter::SpoolWriters);
        Ok(Self {
            block,
            wrapper: tables.identity.wrapper.load(Ordering::Relaxed),
            generation,
            cursors: Cursors::new(block, Towards::Spool),
            streams: BTreeMap::new(),
            events: EventRing::new(block)?,
            events_at: tables.events_kept_elsewhere(),
            events_kind: tables.events_go_to(),
            files: BTreeMap::new(),
            refused: Kind::ALL
                .into_iter()
                .filter(|kind| tables.spool.refuses(*kind, monotonic_ns()))
                .collect(),
            opened: BTreeSet::new(),
            gone: BTreeSet::new(),
            gives_up: false,
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
                if !self.refused.is_empty() && self.give_up().is_err() {
                    return;
                }
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
                wrote |= self.refusable(|writer| writer.write_gone(kind, index, task))?;
            }
        }
        Ok(wrote)
    }

    /// Writes, in the room that is kept for it, what was refused; of output only that it is missing. Nobody else could say
    /// how much the rings take along.
    fn give_up(&mut self) -> Result<(), Stop> {
        self.gives_up = true;
        self.refused.clear();
        self.files.values_mut().for_each(|file| file.widen(LAST_WORDS));
        while self.pass()? {}
        Ok(())
    }

    /// What a stream has to say next.
    fn next_body(&mut self, handle: u32) -> Option<from_wrapper::Body> {
        let missing = if self.gives_up { self.cursors.give_up(handle) } else { None };
        missing.or_else(|| match self.cursors.next_body(handle)? {
            Next::Body(body) => Some(*body),
            Next::Later(_) | Next::Asleep(_) | Next::Full => None,
        })
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
        let key = (kind, task.handle.load(Ordering::Relaxed));
        if !self.opened.contains(&key) {
            let open = link::look_at(self.block, index, task);
            self.append(kind, from_wrapper::Body::Open(open))?;
            self.opened.insert(key);
        }
        Ok(())
    }

    fn write_stream(&mut self, index: usize, task: &Task, entry: usize) -> Result<bool, Stop> {
        let Some(stream) = self.block.tables().streams.get(entry) else { return Ok(false) };
        let handle = stream.handle.load(Ordering::Acquire);
        let Some(target) = self.target(handle, entry, stream) else { return Ok(false) };
        let mut wrote = false;
        while !self.refused.contains(&target.kind) {
            let Some(body) = self.next_body(handle) else { break };
            let said = self.open_task(target.kind, index, task).and_then(|()| self.append(target.kind, body));
            // What was read and is not in the file is read again, by whoever may write it.
            if said.is_err() {
                self.streams.remove(&handle);
            }
            said?;
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
            self.streams.insert(handle, Target { kind: Kind::of_stream(stream), marker });
        }
        self.streams.get(&handle).copied()
    }

    /// The last word on a task, in each file that speaks of it: behind its exit, which would be nobody's behind it.
    fn write_gone(&mut self, kind: Kind, index: usize, task: &Task) -> Result<bool, Stop> {
        let handle = task.handle.load(Ordering::Relaxed);
        let tables = self.block.tables();
        let is_closed = |entry: usize| {
            let stream = tables.streams.get(entry).map(|s| s.handle.load(Ordering::Acquire));
            stream.is_none_or(|handle| self.cursors.is_closed(handle))
        };
        let is_over = TaskState::load(&task.state) == TaskState::Deleted
            && task.streams.iter().filter_map(linked).all(is_closed);
        let open = self.opened.contains(&(kind, handle)) && !self.refused.contains(&kind);
        if !is_over || !open || self.gone.contains(&(kind, handle)) || self.may_come_more(index) {
            return Ok(false);
        }
        let time_ns = task.deleted_ns.load(Ordering::Relaxed);
        self.append(kind, from_wrapper::Body::Gone(Gone { task: handle, time_ns, ..Default::default() }))?;
        self.gone.insert((kind, handle));
        Ok(true)
    }

    /// Is there an event that is not written, or an answer on its way that will make one of this task?
    fn may_come_more(&self, index: usize) -> bool {
        let tables = self.block.tables();
        let spool = &tables.spool;
        let pod_is_over = spool.asked.load(Ordering::Acquire) != spool.done.load(Ordering::Acquire);
        // In this order: the event that an answer makes is there before its request is not.
        let is_waited_for = !pod_is_over && tables.is_waited_for(index);
        let events_are_written = !self.refused.contains(&self.events_kind);
        is_waited_for || (events_are_written && self.events.at(self.events_at).is_some())
    }

    fn append(&mut self, kind: Kind, body: from_wrapper::Body) -> Result<(), Stop> {
        let spool = &self.block.tables().spool;
        if spool.generation() != self.generation {
            return Err(Stop::Attached);
        }
        self.try_append(kind, body).map_err(|refusal| {
            refusal.count(&self.block.tables().counters);
            let now = monotonic_ns();
            spool.refuse(kind, now, now.saturating_add(PAUSE_NS));
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
        let spare = if self.gives_up { LAST_WORDS } else { 0 };
        let next_number = || files.fetch_add(1, Ordering::AcqRel);
        let mut file = SpoolFile::make(place, self.wrapper, spare, next_number)?;
        let hello = link::up(from_wrapper::Body::Hello(link::hello(self.block)));
        file.append(&hello.write_to_bytes().map_err(|_| Errno::EMSGSIZE)?)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::{
            StreamState, note_used,
            spool::{Mark, Verdict},
        },
        spool::is_written,
    };

    #[test]
    fn one_at_a_time_and_only_for_the_generation_that_asked() {
        let block = Block::create().unwrap();
        assert_eq!(is_written(&block), Ok(false));
        let _writer = begin(block.memfd()).unwrap();
        assert_eq!(is_written(&block), Ok(true));
        assert_eq!(begin(block.memfd()).err(), Some(Errno::EALREADY), "one is there");

        // What it opened goes with its process, so a test needs another block.
        let block = Block::create().unwrap();
        block.tables().spool.begin_generation();
        let late = begin(block.memfd()).err();
        assert_eq!(late, Some(Errno::EALREADY), "a collector was attached before it began");
    }

    #[test]
    fn what_it_says_is_in_the_file_before_the_ring_hears_of_it() {
        let dir = std::path::Path::new("/dev/shm").join(format!("shimtap-writer-{}", std::process::id()));
        let block = Block::create().unwrap();
        let spool = &block.tables().spool;
        assert!(spool.memory_dir.set(dir.to_str().unwrap()));
        spool.limit_bytes.store(1 << 20, Ordering::Relaxed);
        let events = EventRing::new(Box::leak(Box::new(
            Block::open(block.memfd().try_clone_to_owned().unwrap()).unwrap(),
        )))
        .unwrap();
        for pid in 1..=3 {
            events.push(link_event(pid));
        }
        let mut writer = begin(block.memfd()).unwrap();
        assert!(matches!(writer.pass(), Ok(true)));
        assert!(matches!(writer.pass(), Ok(false)), "all was said");
        let head = block.tables().events_head.load(Ordering::Relaxed);
        assert_eq!(Mark::load(&spool.events).offset, head);
        assert_eq!(block.tables().events_kept_elsewhere(), head);
        let name = shimtap_proto::spool::file_name(0, 0);
        let mut decoder = shimtap_proto::spool::Decoder::default();
        decoder.push(&std::fs::read(dir.join(name)).unwrap());
        let mut said = 0;
        while let Ok(Some(message)) = decoder.next_message() {
            let body = shimtap_proto::link::FromWrapper::parse_from_bytes(message).unwrap().body.unwrap();
            let is_hello = matches!(body, from_wrapper::Body::Hello(_));
            assert_eq!(is_hello, said == 0, "a file begins with Hello");
            said += 1;
        }
        assert_eq!((said, decoder.finish()), (4, Ok(())));
        spool.begin_generation();
        events.push(link_event(4));
        assert!(matches!(writer.pass(), Err(Stop::Attached)), "nothing is written behind a collector's back");
        assert_eq!(block.tables().events_kept_elsewhere(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// What is refused on the disk says nothing of what goes to memory.
    #[test]
    fn a_refusal_is_of_the_place_that_it_met() {
        let dir = std::path::Path::new("/dev/shm").join(format!("shimtap-refusal-{}", std::process::id()));
        let block = Block::create().unwrap();
        let (tables, spool) = (block.tables(), &block.tables().spool);
        assert!(spool.disk_dir.set(dir.to_str().unwrap()));
        spool.limit_bytes.store(1 << 20, Ordering::Relaxed);
        spool.free_percent.store(100, Ordering::Relaxed);
        note_used(&tables.streams_used, 0);
        StreamState::Live.store(&tables.streams[0].state);
        Verdict::Disk.store(&tables.streams[0].spool_to);
        let memfd = block.memfd().try_clone_to_owned().unwrap();
        EventRing::new(Box::leak(Box::new(Block::open(memfd).unwrap()))).unwrap().push(link_event(1));
        let mut writer = begin(block.memfd()).unwrap();
        assert!(matches!(writer.pass(), Ok(false)));
        let now = monotonic_ns();
        assert!(spool.refuses(Kind::Disk, now) && !spool.refuses(Kind::Memory, now));
        assert!(!spool.refuses(Kind::Disk, now + PAUSE_NS));
        let next = Writer::new(writer.block, writer.generation).unwrap();
        assert_eq!(next.refused, [Kind::Disk].into(), "nor does the next writer try there so soon");
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn link_event(pid: u32) -> shimtap_proto::link::Event {
        shimtap_proto::link::Event { pid, ..Default::default() }
    }
}

//! Streams whose end is a logger (`binary://`): the shim starts it with the read ends of two pipes that the container writes to. Or
//! a file (`file://`), to which the shim itself would write: there we are the logger, and write to its end (`verbs::append`).
//!
//! We let the shim start ourselves instead (`verbs::logger`), in that process take the container's ends over, and become the
//! logger, in the same process, with the ends of pipes of ours. So the logger has the parent, environment, descriptors and
//! signals that it has without us. Whatever is in the way of that leaves the logger with the container's own ends, and the
//! stream is not captured: it must never be read by two.
//!
//! Of a stream's three slots the first is the container's end, the second the logger's (only until Create was answered: as long as
//! anybody but the logger holds it, nobody would notice the logger's end), the third our writer.

use std::{fs, os::fd::OwnedFd, sync::atomic::Ordering};

use shimtap_proto::{control::HANDLE_MAX, link::NotCaptured, ttrpc::task::Create};

use super::{
    logger_uri::{Given, Taker},
    uri,
};
use crate::{
    block::{Slot, Stream, StreamState, counters::Counter, linked},
    keeper::protocol::Operation,
    sys::{Kernel, look},
    verbs::Description,
    worker::Worker,
};

/// How long it may take to look at a logger, or at the file that is written to: a disk that hangs must not hold the relay.
const LOOK_MS: u16 = 500;

impl super::Tee {
    /// Does this stream's output go to a logger?
    pub(super) fn is_logger(&self, stream: usize) -> bool {
        self.running.get(stream).is_some_and(|running| running.logger)
    }
}

/// The same, by its entry.
pub(super) fn has_logger(stream: &Stream) -> bool {
    StreamState::load(&stream.state) != StreamState::Free && Taker::parse(&stream.outer_path.get()).is_some()
}

impl Worker {
    /// The streams of a Create whose stdout names a logger or a file; its stderr goes to the same, whatever that field says.
    pub(super) fn capture_for_logger(
        &mut self,
        task: usize,
        create: &Create<'_>,
    ) -> [Result<(), NotCaptured>; 2] {
        let wanted = if create.terminal { 1 } else { 2 };
        // What a predecessor has judged stays.
        if !self.has_logger_streams(task, wanted, create.stdout) && !self.may_stand_before_logger(create) {
            self.forget_logger_streams(task);
            return [Err(why_left_alone(create.stdout)); 2];
        }
        let mut results = [Err(NotCaptured::NOT_CAPTURED_EMPTY); 2];
        for (n, result) in results.iter_mut().enumerate().take(wanted) {
            *result = self.logger_stream(task, n, create.stdout);
        }
        let failed = results.iter().take(wanted).find_map(|r| r.as_ref().err()).copied();
        let Some(reason) = failed else { return results };
        self.forget_logger_streams(task);
        [Err(reason), Err(reason)]
    }

    /// Has a predecessor made all that this Create needs?
    fn has_logger_streams(&self, task: usize, wanted: usize, uri: &str) -> bool {
        self.task(task).streams.iter().take(wanted).all(|word| {
            linked(word).map(|index| self.stream(index)).is_some_and(|stream| {
                StreamState::load(&stream.state) == StreamState::Setup
                    && linked(&stream.task) == Some(task)
                    && stream.outer_path.is(uri)
            })
        })
    }

    /// Nothing is captured of this Create, also not by what a predecessor had made for it.
    fn forget_logger_streams(&mut self, task: usize) {
        for word in &self.task(task).streams {
            if let Some(stream) = linked(word) {
                // One that died half way may have left a link to what is another's by now.
                if linked(&self.stream(stream).task) == Some(task) {
                    self.stream_forget(stream);
                }
                word.store(0, Ordering::Release);
            }
        }
    }

    fn logger_stream(&mut self, task: usize, n: usize, uri: &str) -> Result<(), NotCaptured> {
        let index = self.stream_entry(task, n).ok_or(NotCaptured::NOT_CAPTURED_NO_ROOM)?;
        let stream = self.stream(index);
        stream.inner_path.set("");
        let fits = stream.outer_path.set(uri) && stream.handle.load(Ordering::Relaxed) <= HANDLE_MAX;
        self.tee.running(index).logger = true;
        if fits { Ok(()) } else { Err(NotCaptured::NOT_CAPTURED_FAILED) }
    }

    /// Is it certain that what comes of our URI is what would have come of this Create's?
    fn may_stand_before_logger(&self, create: &Create<'_>) -> bool {
        let who = &self.block.tables().identity;
        let description = fs::read(self.run_dir().description(&who.key.get()));
        let known = description
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Description>(&bytes).ok())
            .is_some_and(|description| description.starts_loggers);
        // What cannot be executed or opened fails its Create, with the shim's own words.
        known
            && own_program().is_some()
            && match Taker::parse(create.stdout) {
                Some(Taker::Program(logger)) => look::can_be_executed(&logger.program, LOOK_MS),
                // A logger gets no stdin and always a stderr; a terminal has no file.
                Some(Taker::File(path)) => {
                    let plain = !create.terminal && create.stdin.is_empty() && !create.stderr.is_empty();
                    plain && look::can_be_appended_to(&path, LOOK_MS)
                }
                None => false,
            }
    }

    /// What Create is to say instead of a logger's URI.
    pub(super) fn logger_uri(&self, task: usize) -> Option<String> {
        let stream = linked(self.task(task).streams.first()?).filter(|s| self.tee.is_logger(*s))?;
        let stream = self.stream(stream);
        let given = Given {
            handle: stream.handle.load(Ordering::Relaxed),
            socket: self.own_socket(),
            uri: stream.outer_path.get(),
        };
        Some(given.uri(&own_program()?))
    }

    fn own_socket(&self) -> std::path::PathBuf {
        self.run_dir().socket(&self.block.tables().identity.key.get())
    }

    /// What containerd had said, for a stdio field that leads to us.
    pub(super) fn outer_logger_uri(&self, field: &str) -> Option<String> {
        Given::from_uri(field).filter(|given| given.socket == self.own_socket()).map(|given| given.uri)
    }

    /// The logger of the stream with this handle is about to run, with the container's ends that came along. Where
    /// is what it is to read instead; on a refusal we hold none of these.
    pub(crate) fn logger_came(&mut self, handle: u32, ends: Vec<OwnedFd>) -> Result<Vec<Slot>, &'static str> {
        let tables = self.block.tables();
        let named = |s: &Stream| s.handle.load(Ordering::Relaxed) == handle;
        let first = tables.streams().iter().position(|s| named(s) && has_logger(s));
        let task = first.and_then(|stream| linked(&self.stream(stream).task));
        let Some(task) = task.map(|task| self.task(task)) else {
            return Err("no Create of that container is under way");
        };
        let streams: Vec<usize> = task.streams.iter().filter_map(linked).collect();
        let is_open = |s: &usize| StreamState::load(&self.stream(*s).state) == StreamState::Setup;
        if streams.is_empty() || !streams.iter().all(is_open) {
            // A question that was answered before and is heard once more: what was handed over then is in use.
            return Err("its Create is answered already");
        }
        let has_all = |s: &usize| (0..3).all(|n| self.hands.has(Slot::stream(*s).plus(n)));
        let taken = if self.is_safe() && !streams.iter().all(has_all) {
            Err("nothing is captured in safe mode")
        } else {
            self.take_ends(&streams, ends).map_err(|_| "descriptors are short")
        };
        if let Err(why) = taken {
            for stream in &streams {
                self.hands.give_back(Slot::stream(*stream), 3);
            }
            return Err(why);
        }
        Ok(streams.iter().map(|s| Slot::stream(*s).plus(1)).collect())
    }

    fn take_ends(&mut self, streams: &[usize], ends: Vec<OwnedFd>) -> Kernel<()> {
        let mut ends = ends.into_iter();
        for stream in streams {
            let slot = Slot::stream(*stream);
            // Asked a second time: what we have is the same.
            let end = ends.next();
            if !self.hands.has(slot) {
                self.hands.hold(slot, end.ok_or(crate::sys::Errno::EBADF)?)?;
            }
            self.hands.ensure(Operation::Pipe, slot.plus(1), "")?;
        }
        Ok(())
    }

    /// Create was accepted, so the logger runs, or has ended: from here on only it holds the end that it reads.
    pub(super) fn logger_is_ready(&mut self, task: usize, n: usize, index: usize) {
        if self.logger_may_read(index) {
            return;
        }
        // It reads the container's own ends.
        self.stream_forget(index);
        let task = self.task(task);
        if let (Some(stream), Some(reason)) = (task.streams.get(n), task.not_captured.get(n)) {
            stream.store(0, Ordering::Release);
            let why = NotCaptured::NOT_CAPTURED_FAILED as i32;
            reason.store(u32::try_from(why).unwrap_or(0), Ordering::Relaxed);
        }
        self.block.tables().counters.add(Counter::NotCaptured);
    }

    /// Where a logger has come, what it is handed over flows from here on, also when its Create has failed: what was
    /// written by then it would have had. False: none has come.
    pub(super) fn logger_may_read(&mut self, index: usize) -> bool {
        let slot = Slot::stream(index);
        let came = self.tee.is_logger(index) && self.hands.has(slot) && self.hands.has(slot.plus(2));
        if came && StreamState::load(&self.stream(index).state) == StreamState::Setup {
            self.hands.give_back(slot.plus(1), 1);
            StreamState::Live.store(&self.stream(index).state);
        }
        came
    }

    /// Nobody reads what its writer says any more: what the container writes from now on it is to hear of, as it would from
    /// its own pipe.
    pub(super) fn logger_is_gone(&mut self, index: usize) {
        self.tee.running(index).reader_gone = true;
    }
}

/// Our own program, where its name still leads to the image that runs: the shim starts it by its name.
fn own_program() -> Option<String> {
    let path = fs::read_link("/proc/self/exe").ok()?.into_os_string().into_string().ok()?;
    (path.starts_with('/') && !path.ends_with(" (deleted)")).then_some(path)
}

/// Does this field of Create name a logger, or a file?
pub(super) fn names_logger(field: &str) -> bool {
    [NotCaptured::NOT_CAPTURED_BINARY_URI, NotCaptured::NOT_CAPTURED_FILE_URI]
        .contains(&why_left_alone(field))
}

fn why_left_alone(field: &str) -> NotCaptured {
    uri::fifo_path(field).err().unwrap_or(NotCaptured::NOT_CAPTURED_FAILED)
}

#[cfg(test)]
mod tests;

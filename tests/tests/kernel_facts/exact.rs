//! The two moves of the wrapper in their smallest form, under hundreds of kills: a relay of frames through an
//! outbox pipe, counted by SO_PEEK_OFF, and a tee through a private pipe, counted by FIONREAD.
//!
//! This is the scheme, not the wrapper's code: one direction, one stream, descriptors inherited by fork. If it
//! is not exact here it cannot be exact there. Workers make system calls and touch shared memory, nothing else.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, SpliceFFlags, splice, tee},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        socket::{MsgFlags, recv},
        wait::WaitStatus,
    },
    unistd::{pipe2, read, write},
};

use super::{
    alone,
    sys::{Atomics, fionread, fork, peek_off, set_peek_off, shared, shared_block},
};

/// Deaths per test; `exact.c`, which this is a port of, took tens of thousands. SHIMTAP_EXACT_KILLS says another number:
/// fewer where the machine is emulated, more for a night.
fn kills_wanted() -> u32 {
    std::env::var("SHIMTAP_EXACT_KILLS")
        .map_or(400, |text| text.parse().expect("SHIMTAP_EXACT_KILLS is a number"))
}
/// Of every seven frames the relay changes one: it puts this before the body.
const MARK: &[u8; 5] = b"HELLO";
const HEADER: usize = 12;
/// At most this much of a changed frame goes into the empty outbox at a time.
const TURN: usize = 32 << 10;

/// Numbers that differ from run to run only if the seed does.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn wait(fd: &impl AsFd, events: PollFlags, ms: u16) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    let _timed_out_or_not = poll(&mut fds, PollTimeout::from(ms));
    fds.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty())
}

fn moved(from: &impl AsFd, to: &impl AsFd, most: usize) -> Result<usize, Errno> {
    splice(from, None, to, None, most, SpliceFFlags::SPLICE_F_NONBLOCK)
}

/// Starts a worker, kills it after a while, starts the next, until one ends by itself at the end of the input.
/// After [`kills_wanted`] deaths the source is told to stop.
fn under_kills(dice: &mut Dice, ended: &AtomicBool, stop: &AtomicBool, mut work: impl FnMut() -> i32) -> u32 {
    let wanted = kills_wanted();
    let mut kills = 0;
    loop {
        let child = fork(&mut work);
        // Not waiting for anything: the moment of death is what is random here.
        thread::sleep(Duration::from_micros(50 + dice.roll(1_500)));
        let status = if ended.load(SeqCst) {
            child.reap()
        } else {
            kills += 1;
            stop.store(kills >= wanted, SeqCst);
            child.kill()
        };
        match status {
            WaitStatus::Exited(_, 0) if ended.load(SeqCst) => return kills,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => {}
            other => panic!("worker: {other:?}"),
        }
    }
}

// === relay ===

const IDLE: u32 = 0;
const PASS: u32 = 1;
const ASSEMBLE: u32 = 2;
const PUT: u32 = 3;
const OUT: u32 = 4;

#[derive(Default)]
struct Relay {
    state: AtomicU32,
    length: AtomicUsize,
    new_length: AtomicUsize,
    position: AtomicUsize,
    after_turn: AtomicUsize,
    redone: AtomicUsize,
    ended: AtomicBool,
}

// SAFETY: every field is atomic.
#[expect(unsafe_code, reason = "a promise about all fields")]
unsafe impl Atomics for Relay {}

fn word(bytes: &[u8], n: usize) -> u32 {
    bytes.get(n * 4..n * 4 + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// What a worker of the relay has: all of it survives the worker.
struct RelayWorker<'a> {
    block: &'a Relay,
    input: &'a UnixStream,
    outbox: &'a (OwnedFd, OwnedFd),
    output: &'a UnixStream,
    old: &'a mut [u8],
    new: &'a mut [u8],
}

impl RelayWorker<'_> {
    fn run(&mut self) -> i32 {
        loop {
            match self.block.state.load(SeqCst) {
                IDLE => {
                    if self.idle() {
                        return 0;
                    }
                }
                PASS => self.pass(),
                ASSEMBLE => self.assemble(),
                PUT => self.put(),
                _ => self.out(),
            }
        }
    }

    /// Peeks a header; true at the end of the input.
    fn idle(&self) -> bool {
        let mut header = [0; HEADER];
        set_peek_off(self.input, 0);
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let got = recv(self.input.as_raw_fd(), &mut header, peek);
        set_peek_off(self.input, 0);
        match got {
            Ok(0) => {
                self.block.ended.store(true, SeqCst);
                return true;
            }
            Ok(HEADER) => {}
            _ => {
                wait(self.input, PollFlags::POLLIN, 5);
                return false;
            }
        }
        let length = HEADER + word(&header, 0) as usize;
        set_peek_off(self.input, length);
        self.block.length.store(length, SeqCst);
        let next = if word(&header, 1) % 7 == 3 { ASSEMBLE } else { PASS };
        self.block.state.store(next, SeqCst);
        false
    }

    fn left(&self) -> usize {
        usize::try_from(peek_off(self.input)).unwrap_or(0)
    }

    /// Socket to outbox to socket; the kernel counts.
    fn pass(&self) {
        loop {
            let left = self.left();
            if left == 0 {
                break;
            }
            if moved(self.input, &self.outbox.1, left) == Err(Errno::EAGAIN) && fionread(&self.outbox.0) == 0
            {
                wait(self.input, PollFlags::POLLIN, 100);
            }
            self.empty_outbox();
        }
        self.empty_outbox();
        self.block.state.store(IDLE, SeqCst);
    }

    fn empty_outbox(&self) {
        while fionread(&self.outbox.0) > 0 {
            if moved(&self.outbox.0, self.output, 1 << 20) == Err(Errno::EAGAIN) {
                wait(self.output, PollFlags::POLLOUT, 100);
            }
        }
    }

    /// Takes the frame straight into shared memory; where it goes on is told by the kernel.
    fn assemble(&mut self) {
        let length = self.block.length.load(SeqCst);
        loop {
            let left = self.left();
            if left == 0 {
                break;
            }
            let room = self.old.get_mut(length - left..length).expect("frames are smaller than the buffer");
            if recv(self.input.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT).is_err() {
                wait(self.input, PollFlags::POLLIN, 100);
            }
        }
        self.block.position.store(0, SeqCst);
        self.block.new_length.store(length + MARK.len(), SeqCst);
        self.block.state.store(PUT, SeqCst);
    }

    /// Writes a piece of the changed frame into the empty outbox, or finds that a dead worker has done so.
    fn put(&mut self) {
        let length = self.block.length.load(SeqCst);
        let old = self.old.get(..length).expect("a frame");
        let (header, body) = old.split_at(HEADER);
        let longer = word(header, 0) + 5;
        let new = self.new.get_mut(..length + MARK.len()).expect("room");
        new[..HEADER].copy_from_slice(header);
        new[..4].copy_from_slice(&longer.to_ne_bytes());
        new[HEADER..HEADER + MARK.len()].copy_from_slice(MARK);
        new[HEADER + MARK.len()..].copy_from_slice(body);
        let position = self.block.position.load(SeqCst);
        let mut there = fionread(&self.outbox.0);
        if there == 0 {
            let turn = TURN.min(new.len() - position);
            write(&self.outbox.1, &new[position..position + turn]).expect("an empty pipe takes a turn");
            there = fionread(&self.outbox.0);
        } else {
            self.block.redone.fetch_add(1, SeqCst);
        }
        self.block.after_turn.store(position + there, SeqCst);
        self.block.state.store(OUT, SeqCst);
    }

    fn out(&self) {
        self.empty_outbox();
        let after = self.block.after_turn.load(SeqCst);
        self.block.position.store(after, SeqCst);
        let done = after == self.block.new_length.load(SeqCst);
        self.block.state.store(if done { IDLE } else { PUT }, SeqCst);
    }
}

fn body_byte(sequence: u32, at: usize) -> u8 {
    u8::try_from((sequence as usize + at) & 0xff).expect("masked")
}

/// Sends frames of all sizes until told to stop; gives their number.
fn send_frames(mut to: UnixStream, stop: &AtomicBool, mut dice: Dice) -> u32 {
    let mut sequence = 0u32;
    while !stop.load(SeqCst) {
        let length = match dice.roll(100) {
            0..70 => dice.roll(300),
            70..95 => dice.roll(20_000),
            _ => dice.roll(400_000),
        };
        let length = u32::try_from(length).expect("small");
        let mut frame = [length, sequence, !sequence].map(u32::to_ne_bytes).concat();
        frame.extend((0..length as usize).map(|i| body_byte(sequence, i)));
        // Cut within the header, as a peer may do.
        let cut = if dice.roll(3) == 0 { 7 } else { 0 };
        let (head, rest) = frame.split_at(cut);
        to.write_all(head).and_then(|()| to.write_all(rest)).expect("the relay takes everything");
        sequence += 1;
    }
    to.shutdown(Shutdown::Write).expect("shutdown");
    sequence
}

/// Reads frames to the end and checks every byte; gives their number.
fn check_frames(mut from: UnixStream) -> u32 {
    let mut sequence = 0u32;
    loop {
        let mut header = [0; HEADER];
        match from.read(&mut header[..1]).expect("read") {
            0 => return sequence,
            _ => from.read_exact(&mut header[1..]).expect("a whole header"),
        }
        assert_eq!((word(&header, 1), word(&header, 2)), (sequence, !sequence), "lost or doubled");
        let mut body = vec![0; word(&header, 0) as usize];
        from.read_exact(&mut body).expect("a whole body");
        let body = if sequence % 7 == 3 { body.strip_prefix(MARK).expect("marked") } else { &body };
        let wrong = body.iter().enumerate().position(|(i, b)| *b != body_byte(sequence, i));
        assert_eq!(wrong, None, "frame {sequence}");
        sequence += 1;
    }
}

#[test]
fn a_relay_stays_exact_through_hundreds_of_deaths() {
    let _alone = alone();
    let (source, input) = UnixStream::pair().expect("pair");
    let (output, sink) = UnixStream::pair().expect("pair");
    output.set_nonblocking(true).expect("non-blocking");
    let outbox = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("pipe");
    let block = shared_block::<Relay>();
    let (old, new) = (shared(1 << 20), shared(1 << 20));
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let sender = thread::spawn(move || send_frames(source, &told, Dice(4711)));
    let receiver = thread::spawn(move || check_frames(sink));
    let kills = under_kills(&mut Dice(815), &block.ended, &stop, || {
        RelayWorker { block, input: &input, outbox: &outbox, output: &output, old, new }.run()
    });
    output.shutdown(Shutdown::Both).expect("shutdown");
    let (sent, received) = (sender.join().expect("sender"), receiver.join().expect("receiver"));
    println!("{kills} kills, {received} frames, {} puts found done by the dead", block.redone.load(SeqCst));
    assert_eq!(sent, received);
}

// === tee ===

const FILL: u32 = 0;
const TEE: u32 = 1;
const DRAIN: u32 = 2;
const ON: u32 = 3;

#[derive(Default)]
struct Tee {
    phase: AtomicU32,
    teed: AtomicUsize,
    filled: AtomicUsize,
    position: AtomicUsize,
    next: AtomicUsize,
    ended: AtomicBool,
}

// SAFETY: every field is atomic.
#[expect(unsafe_code, reason = "a promise about all fields")]
unsafe impl Atomics for Tee {}

struct TeeWorker<'a> {
    block: &'a Tee,
    inner: &'a OwnedFd,
    private: &'a (OwnedFd, OwnedFd),
    tap: &'a (OwnedFd, OwnedFd),
    outer: &'a OwnedFd,
    ring: &'a mut [u8],
}

impl TeeWorker<'_> {
    fn run(&mut self) -> i32 {
        loop {
            match self.block.phase.load(SeqCst) {
                FILL => {
                    if self.fill() {
                        return 0;
                    }
                }
                TEE => self.tee(),
                DRAIN => self.drain(),
                _ => self.on(),
            }
        }
    }

    /// Inner FIFO to private pipe; true at the end of the input.
    fn fill(&self) -> bool {
        if fionread(&self.private.0) == 0 {
            match moved(self.inner, &self.private.1, 1 << 16) {
                Ok(0) => {
                    self.block.ended.store(true, SeqCst);
                    return true;
                }
                Ok(_) => {}
                Err(_) => {
                    wait(self.inner, PollFlags::POLLIN, 100);
                    return false;
                }
            }
        }
        self.block.phase.store(TEE, SeqCst);
        false
    }

    fn tee(&self) {
        if fionread(&self.tap.0) == 0 {
            let teed = tee(&self.private.0, &self.tap.1, 1 << 16, SpliceFFlags::SPLICE_F_NONBLOCK);
            if teed.unwrap_or(0) == 0 {
                return;
            }
        }
        self.block.teed.store(fionread(&self.tap.0), SeqCst);
        self.block.filled.store(fionread(&self.private.0), SeqCst);
        self.block.phase.store(DRAIN, SeqCst);
    }

    /// Tap into the ring; what is still in the tap says where to go on.
    fn drain(&mut self) {
        let (position, teed) = (self.block.position.load(SeqCst), self.block.teed.load(SeqCst));
        loop {
            let left = fionread(&self.tap.0);
            if left == 0 {
                break;
            }
            let at = position + teed - left;
            let room = self.ring.get_mut(at..at + left).expect("the ring holds all of this test");
            let _again = read(&self.tap.0, room);
        }
        self.block.next.store(position + teed, SeqCst);
        self.block.phase.store(ON, SeqCst);
    }

    /// Private pipe to outer FIFO, as much as was teed.
    fn on(&self) {
        let rest = self.block.filled.load(SeqCst) - self.block.teed.load(SeqCst);
        loop {
            let left = fionread(&self.private.0);
            if left <= rest {
                break;
            }
            if moved(&self.private.0, self.outer, left - rest) == Err(Errno::EAGAIN) {
                wait(self.outer, PollFlags::POLLOUT, 100);
            }
        }
        self.block.position.store(self.block.next.load(SeqCst), SeqCst);
        self.block.phase.store(FILL, SeqCst);
    }
}

/// Writes numbered lines until told to stop; gives everything that was written.
fn write_lines(to: &OwnedFd, stop: &AtomicBool, mut dice: Dice, most: usize) -> Vec<u8> {
    let mut written = Vec::new();
    let mut n = 0u32;
    while !stop.load(SeqCst) && written.len() < most {
        let from = written.len();
        for _ in 0..=dice.roll(50) {
            written.extend_from_slice(format!("line {n}\n").as_bytes());
            n += 1;
        }
        let mut rest = &written[from..];
        while !rest.is_empty() {
            rest = &rest[write(to, rest).expect("the tee takes everything")..];
        }
    }
    written
}

#[test]
fn a_tee_stays_exact_through_hundreds_of_deaths() {
    let _alone = alone();
    let blocking = || pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let ours = || pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("pipe");
    let (inner, source) = blocking();
    let (sink, outer) = blocking();
    let (private, tap) = (ours(), ours());
    let block = shared_block::<Tee>();
    let ring = shared(512 << 20);
    let most = ring.len() / 2;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let raw_source = source.as_raw_fd();
    let writer = thread::spawn(move || write_lines(&source, &told, Dice(99), most));
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        std::fs::File::from(sink).read_to_end(&mut all).expect("read");
        all
    });
    let kills = under_kills(&mut Dice(42), &block.ended, &stop, || {
        // A worker that held the writing end of its own input would never see the end of it.
        let _closed_in_the_child_only = nix::unistd::close(raw_source);
        TeeWorker { block, inner: &inner, private: &private, tap: &tap, outer: &outer, ring }.run()
    });
    drop(outer);
    let (written, passed) = (writer.join().expect("writer"), reader.join().expect("reader"));
    let copied = &ring[..block.position.load(SeqCst)];
    println!("{kills} kills, {} bytes", written.len());
    assert!(kills >= kills_wanted(), "the source ended early");
    assert!(passed == written, "outer: {} bytes of {}", passed.len(), written.len());
    assert!(copied == written, "copy: {} bytes of {}", copied.len(), written.len());
}

//! The least that any program can do that stands between a FIFO and its reader and keeps a copy: epoll, splice(2), tee(2), and one
//! write to a socket per gather. Where it is to wait for nothing it passes on what is there whenever it is woken. What a wrapper
//! uses beyond this is its own (`bench floor`).
//!
//! No frames, no offsets, no ring, no second process, no keeping of anything over a death. It must never become cleverer
//! than that: it is a yardstick.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice, tee};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};

const USAGE: &str =
    "floor DIR FIRST PAIRS COALESCE_MS GATHER_MS: DIR/<n>.in to DIR/<n>.out, copies to DIR/copies.sock";
/// What a pipe of default size holds.
const PIPE: usize = 64 << 10;

/// One FIFO pair, and the pipe between.
struct Pair {
    from: File,
    to: File,
    between: (OwnedFd, OwnedFd),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, numbers @ ..] = words.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let numbers: Vec<u64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
    let [first, pairs, coalesce, gather] = numbers.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    match run(&PathBuf::from(dir), *first..first + pairs, *coalesce * 1_000_000, *gather * 1_000_000) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("floor: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, numbers: std::ops::Range<u64>, coalesce_ns: u64, gather_ns: u64) -> Result<()> {
    let open = |name: String, write: bool| {
        let path = dir.join(name);
        let mut how = File::options();
        how.read(!write).write(write).custom_flags(OFlag::O_NONBLOCK.bits());
        how.open(&path).with_context(|| format!("open {}", path.display()))
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll")?;
    let mut all = Vec::new();
    for (index, number) in numbers.enumerate() {
        let pair = Pair {
            from: open(format!("{number}.in"), false)?,
            to: open(format!("{number}.out"), true)?,
            between: nix::unistd::pipe().context("make a pipe")?,
        };
        let index = u64::try_from(index).context("an index")?;
        epoll.add(&pair.from, EpollEvent::new(EpollFlags::EPOLLIN, index)).context("wait for a FIFO")?;
        all.push(pair);
    }
    let mut socket = UnixStream::connect(dir.join("copies.sock")).context("connect")?;
    let tap = nix::unistd::pipe().context("make a pipe")?;
    let (mut copies, mut sent_ns) = (Vec::new(), now_ns()?);
    let mut events = vec![EpollEvent::empty(); all.len()];
    loop {
        epoll.wait(&mut events, EpollTimeout::NONE).or_else(again).context("wait")?;
        if coalesce_ns > 0 {
            std::thread::sleep(Duration::from_nanos(coalesce_ns - now_ns()? % coalesce_ns));
        }
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).or_else(again).context("look")?;
        for event in events.iter().take(count) {
            let pair = usize::try_from(event.data()).ok().and_then(|index| all.get(index));
            if !move_on(pair.context("an event of nobody")?, &tap, &mut copies)? {
                return Ok(());
            }
        }
        // Moves and messages share their ticks: no wake-up is for the message alone.
        let now = now_ns()?;
        if now - sent_ns + coalesce_ns / 2 >= gather_ns && !copies.is_empty() {
            socket.write_all(&copies).context("send a copy")?;
            copies.clear();
            sent_ns = now;
        }
    }
}

/// From one FIFO to the other, with a copy; false where its writer has gone.
fn move_on(pair: &Pair, tap: &(OwnedFd, OwnedFd), copies: &mut Vec<u8>) -> Result<bool> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
    let moved = match splice(&pair.from, None, &pair.between.1, None, PIPE, flags) {
        Ok(0) => return Ok(false),
        // The next wait finds it again.
        Err(Errno::EINTR) => return Ok(true),
        moved => moved.context("take")?,
    };
    tee(&pair.between.0, &tap.1, moved, flags).context("copy")?;
    let at = copies.len();
    copies.resize(at + moved, 0);
    nix::unistd::read(tap.0.as_fd(), copies.get_mut(at..).unwrap_or_default()).context("read the copy")?;
    let mut left = moved;
    while left > 0 {
        left -= splice(&pair.between.0, None, &pair.to, None, left, SpliceFFlags::empty()).or_else(again)?;
    }
    Ok(true)
}

/// A signal that was for somebody else is no fault.
fn again(errno: Errno) -> nix::Result<usize> {
    if errno == Errno::EINTR { Ok(0) } else { Err(errno) }
}

fn now_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    u64::try_from(Duration::from(now).as_nanos()).context("a time")
}

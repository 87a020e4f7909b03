//! Where the link thread sleeps: until somebody rings, a connection has something for it, or its time has come.
//!
//! It sleeps nowhere else for longer than a moment, so whoever prods it for a sign of life is answered here.

use std::{os::fd::BorrowedFd, time::Instant};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{Switchboard, wire::Wire};
use crate::sys::{Errno, Kernel};

/// What ended the sleep: nothing of it where the time had come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Somebody rang, which is forgotten already.
    pub rung: bool,
    /// Each connection: there is something to be read, or room for what it has to say, or it is broken.
    pub wires: [bool; 2],
}

/// Sleeps until one of these has something, or until then; `None` = however long it takes.
///
/// # Errors
/// poll(2) failed.
pub fn sleep(board: &Switchboard, wires: [Option<&Wire>; 2], until: Option<Instant>) -> Kernel<Heard> {
    let bell = board.link.as_fd();
    let [one, other] = wires.map(|wire| asks(wire, bell));
    let rings = PollFd::new(bell, PollFlags::POLLIN);
    let prods = PollFd::new(board.pulse.as_fd(), PollFlags::POLLIN);
    let [rung, prodded, one, other] = any([rings, prods, one, other], until)?;
    if rung {
        board.link.hear();
    }
    if prodded {
        board.pulse.answer();
    }
    Ok(Heard { rung, wires: [one, other] })
}

/// The same for one connection of somebody who has no switchboard: has it something?
///
/// # Errors
/// poll(2) failed.
pub fn sleep_on(wire: &Wire, until: Instant) -> Kernel<bool> {
    any([PollFd::new(wire.as_fd(), wire.wants())], Some(until)).map(|[has]| has)
}

/// Where there is no connection nothing is asked of `nobody`, a descriptor that never hangs up.
fn asks<'a>(wire: Option<&'a Wire>, nobody: BorrowedFd<'a>) -> PollFd<'a> {
    match wire {
        Some(wire) => PollFd::new(wire.as_fd(), wire.wants()),
        None => PollFd::new(nobody, PollFlags::empty()),
    }
}

fn any<const N: usize>(mut fds: [PollFd<'_>; N], until: Option<Instant>) -> Kernel<[bool; N]> {
    let left = until.map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now())));
    match ppoll(&mut fds, left, None) {
        Ok(_) => Ok(fds.map(|fd| fd.any().unwrap_or(true))),
        Err(Errno::EINTR) => Ok([false; N]),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn who_rings_wakes_it_once_and_who_prods_is_answered() {
        let board = Switchboard::new().expect("a board");
        board.pulse.begin();
        board.link.ring();
        board.link.ring();
        let heard = sleep(&board, [None, None], Some(Instant::now() + LONG)).expect("poll");
        assert_eq!(heard, Heard { rung: true, ..Heard::default() });
        assert_eq!(
            sleep(&board, [None, None], Some(Instant::now())),
            Ok(Heard::default()),
            "it is forgotten"
        );
        let turns = board.pulse.count();
        board.pulse.prod();
        assert_eq!(sleep(&board, [None, None], Some(Instant::now() + LONG)), Ok(Heard::default()));
        assert_eq!(board.pulse.count(), turns + 1, "it turns");
        assert_eq!(sleep(&board, [None, None], Some(Instant::now())), Ok(Heard::default()));
    }
}

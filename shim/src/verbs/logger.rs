//! The inner shim has started us as a container's logger (`binary://`): gives the container's ends to the wrapper, takes what the
//! logger is to read instead, and becomes the logger, in this process. Or it is the logger itself, and writes to a file (`file://`).
//!
//! Descriptor 3 is the container's stdout, 4 its stderr, 5 tells the shim that the logger is ready and is the logger's own
//! business. Where the wrapper refuses, or is not there, the logger gets the container's own ends. That may only be done when
//! it is certain that the wrapper does not hold them: two readers would tear the output apart.

use std::{
    ffi::OsString,
    mem::ManuallyDrop,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::dup2,
};
use shimtap_proto::control::{Answer, Ask};

use super::append;
use crate::{
    sys::{Errno, Kernel, fd, process},
    tee::logger_uri::{Given, Taker},
    upgrade::ask::{NoAnswer, Wrapper},
};

/// The container's stdout and stderr.
const ENDS: [i32; 2] = [3, 4];
/// Closed when the logger is ready.
const READY: i32 = 5;
/// What a shell says of a program that cannot be run.
const CANNOT_RUN: u8 = 126;
/// A worker answers within microseconds. The one that took our question may have died with it.
const PATIENCE_NS: u64 = 200_000_000;
/// A wrapper that hangs up so often without an answer is of a release that does not know the question.
const HANG_UPS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The verb. Where there is a logger it only returns when that cannot be run.
pub fn logger(argv: &[OsString]) -> ExitCode {
    let given = argv.get(2).and_then(|word| word.to_str()).and_then(Given::from_argument);
    let taker = given.as_ref().and_then(|given| Taker::parse(&given.uri));
    let (Some(given), Some(taker)) = (given, taker) else {
        return ExitCode::from(CANNOT_RUN);
    };
    let done = match taker {
        Taker::Program(logger) => {
            take_over(&given).and_then(|()| Err(process::become_program(&logger.program, &logger.arguments)))
        }
        Taker::File(path) => write_to(&path, &given),
    };
    done.map_or(ExitCode::from(CANNOT_RUN), |()| ExitCode::SUCCESS)
}

/// The shim holds its Create until it is told that the file is open.
fn write_to(path: &Path, given: &Given) -> Kernel<()> {
    // Else the file would get one of these numbers.
    if ![ENDS[0], ENDS[1], READY].into_iter().all(fd::is_open) {
        return Err(Errno::EBADF);
    }
    let file =
        append::open(path).map_err(|fault| fault.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    take_over(given)?;
    drop(fd::adopt(READY));
    append::append(&file, ENDS.map(fd::adopt))
}

/// Puts what the logger is to read in the place of the container's ends. An error: it has nothing to read, and its container is to hear
/// of that.
fn take_over(given: &Given) -> Kernel<()> {
    if !ENDS.into_iter().all(fd::is_open) {
        return Ok(());
    }
    // Never closed: they are what the logger reads, whatever comes of this.
    let mut ends = ENDS.map(|number| ManuallyDrop::new(fd::adopt(number)));
    let ours = hand_over(given, ends.each_ref().map(|end| end.as_fd()));
    for (end, ours) in ends.iter_mut().zip(ours) {
        put(&ours, end)?;
    }
    Ok(())
}

/// In the place of `end`, and read as the shim's own would be.
fn put(ours: &OwnedFd, end: &mut OwnedFd) -> Kernel<()> {
    fcntl(ours, FcntlArg::F_SETFL(OFlag::empty()))?;
    dup2(ours, end)
}

/// What the logger is to read instead; nothing where it is to read what it has.
fn hand_over(given: &Given, ends: [BorrowedFd<'_>; 2]) -> Vec<OwnedFd> {
    let mut asking = Asking::default();
    loop {
        let asked = Wrapper::connect(&given.socket)
            .and_then(|w| w.ask_within(Ask::Logger(given.handle), &ends, PATIENCE_NS));
        match asking.heard(asked) {
            Next::Read(ours) => return ours,
            Next::AskAgain => {}
            Next::Rest => std::thread::sleep(PAUSE),
        }
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
struct Asking {
    /// How often it hung up.
    hung_up: u32,
    /// A question may have been taken, or may yet be, whose answer never came: the wrapper may hold the container's ends.
    may_hold: bool,
}

#[derive(Debug)]
enum Next {
    /// These; what it has where there are none.
    Read(Vec<OwnedFd>),
    AskAgain,
    /// And then ask again.
    Rest,
}

// === impl Asking ===

impl Asking {
    fn heard(&mut self, asked: Result<(Answer, Vec<OwnedFd>), NoAnswer>) -> Next {
        match asked {
            Ok((answer, _)) if answer.refused.is_some() => Next::Read(Vec::new()),
            // An older release does not say how many they are.
            Ok((answer, ours))
                if !ours.is_empty() && (answer.descriptors == 0 || answer.descriptors == ours.len()) =>
            {
                Next::Read(ours)
            }
            // Neither of its processes lives, and so neither holds anything.
            Err(gone) if gone.is_gone() => Next::Read(Vec::new()),
            Err(NoAnswer::Mute) => {
                self.may_hold = true;
                Next::AskAgain
            }
            // Taken, but what came is not all of it: descriptors were short, or it cannot be read.
            Ok(_) | Err(NoAnswer::Answer(_)) => {
                self.may_hold = true;
                Next::Rest
            }
            Err(NoAnswer::HungUp | NoAnswer::Connect(_) | NoAnswer::Talk(_)) => {
                self.hung_up = self.hung_up.saturating_add(1);
                // Asked until it says so where it may hold them.
                if self.hung_up > HANG_UPS && !self.may_hold { Next::Read(Vec::new()) } else { Next::Rest }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(refused: Option<&str>, descriptors: usize) -> Answer {
        Answer { refused: refused.map(str::to_owned), descriptors, ..Answer::default() }
    }

    fn pipes(n: usize) -> Vec<OwnedFd> {
        (0..n).map(|_| fd::pipe().expect("descriptors are there").0).collect()
    }

    /// How many it is to read; `None`: it is to ask again.
    fn reads(next: &Next) -> Option<usize> {
        match next {
            Next::Read(ours) => Some(ours.len()),
            Next::AskAgain | Next::Rest => None,
        }
    }

    #[test]
    fn who_always_hangs_up_does_not_know_the_question() {
        let mut asking = Asking::default();
        for _ in 0..HANG_UPS {
            assert_eq!(reads(&asking.heard(Err(NoAnswer::HungUp))), None);
        }
        assert_eq!(reads(&asking.heard(Err(NoAnswer::HungUp))), Some(0));
    }

    #[test]
    fn who_may_hold_them_is_asked_until_it_says_so() {
        let unanswered =
            [Err(NoAnswer::Mute), Ok((answer(None, 2), pipes(1))), Ok((answer(None, 2), pipes(0)))];
        for first in unanswered {
            let mut asking = Asking::default();
            assert_eq!(reads(&asking.heard(first)), None);
            for _ in 0..3 * HANG_UPS {
                for no_answer in
                    [NoAnswer::HungUp, NoAnswer::Connect(Errno::EAGAIN), NoAnswer::Talk(Errno::EPIPE)]
                {
                    assert_eq!(reads(&asking.heard(Err(no_answer))), None);
                }
            }
            assert_eq!(reads(&asking.heard(Ok((answer(Some("no"), 0), Vec::new())))), Some(0));
            assert_eq!(reads(&asking.heard(Err(NoAnswer::Connect(Errno::ECONNREFUSED)))), Some(0));
        }
    }

    #[test]
    fn an_answer_brings_as_many_as_it_says() {
        for (said, came, read) in
            [(2, 2, Some(2)), (1, 1, Some(1)), (0, 2, Some(2)), (2, 1, None), (1, 2, None), (0, 0, None)]
        {
            let next = Asking::default().heard(Ok((answer(None, said), pipes(came))));
            assert_eq!(reads(&next), read, "{said} were said to come, {came} came");
        }
    }
}

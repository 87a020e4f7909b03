//! What must not be lost with its doer: descriptors whose making is noticed by somebody else.
//!
//! accept(2) takes a connection out of the queue, and the first writer of a FIFO lets its reader in: a keeper that is killed
//! before it has handed such a descriptor on would take it along, and the other side would see an end (docs/adr/0008).
//! So a child makes it and hands it on, that shares the keeper's table of descriptors while it lives: for either to be killed
//! leaves it with the other. What is wanted together is made by one child.

use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use crate::sys::{Errno, Kernel, fd, process};

/// Exit status of a child that has made it and could not tell the worker; no errno has this number.
const UNTOLD: i32 = 255;

/// A descriptor, and whether it was told of.
pub(super) type Made = Kernel<(OwnedFd, bool)>;

/// Makes a descriptor and tells of it. EINTR: the child was killed before it had made it.
pub(super) fn make(
    template: &OwnedFd,
    make: impl Fn() -> Kernel<OwnedFd>,
    tell: impl Fn(&OwnedFd) -> bool,
) -> Made {
    make_all(template, 1, |_| make(), |_, made| tell(made)).pop().unwrap_or(Err(Errno::EMFILE))
}

/// Makes up to `count` descriptors in one child and tells of each at once. What became of them, one after the other, up to the first
/// that could not be made; those after it were not tried.
pub(super) fn make_all(
    template: &OwnedFd,
    count: usize,
    make: impl Fn(usize) -> Kernel<OwnedFd>,
    tell: impl Fn(usize, &OwnedFd) -> bool,
) -> Vec<Made> {
    // A keeper in a test's process is one thread of many, which must not go on alone in a child.
    let in_threads = cfg!(any(test, fuzzing));
    make_by(
        |work| if in_threads { Err(Errno::EAGAIN) } else { process::with_shared_descriptors(work) },
        template,
        count,
        make,
        tell,
    )
}

/// With somebody who does the work and says how it ended: its exit status, or `None` where it was killed.
fn make_by(
    run: impl FnOnce(&dyn Fn() -> i32) -> Kernel<Option<i32>>,
    template: &OwnedFd,
    count: usize,
    make: impl Fn(usize) -> Kernel<OwnedFd>,
    tell: impl Fn(usize, &OwnedFd) -> bool,
) -> Vec<Made> {
    let numbers = match lowest_free(template, count) {
        Ok(numbers) => numbers,
        Err(errno) => return vec![Err(errno)],
    };
    let work = || {
        let mut status = 0;
        for n in 0..numbers.len() {
            match make(n) {
                // Not closed by the child: the table is the keeper's as well.
                Ok(made) => {
                    let made = ManuallyDrop::new(made);
                    status = if tell(n, &made) { status } else { UNTOLD };
                }
                // The next one would come to this number.
                Err(errno) => return errno as i32,
            }
        }
        status
    };
    let ended = run(&work);
    let one = |n: usize, number: i32| match ended {
        Ok(status) if fd::is_open(number) => Ok((fd::adopt(number), status == Some(0))),
        Ok(None | Some(0 | UNTOLD)) => Err(Errno::EINTR),
        Ok(Some(errno)) => Err(Errno::from_raw(errno)),
        // Processes are refused: then alone.
        Err(_) => make(n).map(|made| (made, false)),
    };
    let mut all = Vec::with_capacity(numbers.len());
    for (n, number) in numbers.into_iter().enumerate() {
        all.push(one(n, number));
        if all.last().is_some_and(Result::is_err) {
            break;
        }
    }
    all
}

/// The numbers that the next descriptors of this process come to, `count` of them or as many as it may have: whatever the child comes
/// to, what it made is there or nowhere.
fn lowest_free(template: &OwnedFd, count: usize) -> Kernel<Vec<i32>> {
    let mut free: Vec<OwnedFd> = Vec::with_capacity(count);
    while free.len() < count {
        match process::duplicate(template.as_fd()) {
            Ok(duplicate) => free.push(duplicate),
            Err(errno) if free.is_empty() => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(free.iter().map(AsRawFd::as_raw_fd).collect())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// What becomes of two, each as `Ok(was it told of)`, where the doer is `run`. With a table of descriptors of its own, as a
    /// keeper has one.
    fn two(
        run: impl FnOnce(&dyn Fn() -> i32, &dyn Fn(usize) -> Kernel<OwnedFd>) -> Kernel<Option<i32>>
        + Send
        + 'static,
        make: impl Fn(usize) -> Kernel<()> + Send + 'static,
        tell: impl Fn(usize) -> bool + Send + 'static,
    ) -> Vec<Kernel<bool>> {
        let body = move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let (template, _other) = fd::pipe().unwrap();
            let open = |n| make(n).and_then(|()| process::duplicate(template.as_fd()));
            let made = make_by(|work| run(work, &open), &template, 2, open, |n, _| tell(n));
            made.into_iter().map(|made| made.map(|(_, told)| told)).collect()
        };
        thread::spawn(body).join().unwrap()
    }

    #[test]
    fn both_are_made_and_told_of_by_one() {
        assert_eq!(two(|work, _| Ok(Some(work())), |_| Ok(()), |_| true), [Ok(true), Ok(true)]);
        let untold = two(|work, _| Ok(Some(work())), |_| Ok(()), |n| n == 1);
        assert_eq!(untold, [Ok(false), Ok(false)], "who was told is told again");
    }

    #[test]
    fn what_was_made_before_a_refusal_or_a_death_is_found() {
        let second = |n| if n == 1 { Err(Errno::ENXIO) } else { Ok(()) };
        let refused = two(|work, _| Ok(Some(work())), second, |_| true);
        assert_eq!(refused, [Ok(false), Err(Errno::ENXIO)]);
        let killed = two(
            |_, open| {
                let _stays = ManuallyDrop::new(open(0)?);
                Ok(None)
            },
            |_| Ok(()),
            |_| true,
        );
        assert_eq!(killed, [Ok(false), Err(Errno::EINTR)]);
        let first = |n| if n == 0 { Err(Errno::ENXIO) } else { Ok(()) };
        assert_eq!(two(|work, _| Ok(Some(work())), first, |_| true), [Err(Errno::ENXIO)], "and no further");
    }

    #[test]
    fn where_processes_are_refused_they_are_made_alone() {
        assert_eq!(two(|_, _| Err(Errno::EAGAIN), |_| Ok(()), |_| true), [Ok(false), Ok(false)]);
        let first = |n| if n == 0 { Err(Errno::ENXIO) } else { Ok(()) };
        assert_eq!(two(|_, _| Err(Errno::EAGAIN), first, |_| true), [Err(Errno::ENXIO)], "and no further");
    }
}

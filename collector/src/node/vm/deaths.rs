//! Which died, the shim or the VM: told apart by whose process is gone while containers were meant to run.
//!
//! Claimed only where it is certain. A process is gone when the one of that number and birth is; that something was meant to
//! run is known from the wrapper's words, which may come much later than the kernel's. So what nobody said counts only when
//! the wrapper has ended and was heard to its end. A wrapper ends a moment after its shim; but where it died first, containerd
//! ends the pod, shim and all. So one that is gone by then must have told that its shim was gone, or (one of an earlier release) of
//! the end of the streams that were open, which only one does that outlived its shim. Nothing is claimed of an end that
//! anybody asked for.
//!
//! A shim's death whose hypervisor ran on is not judged here: its wrapper told of it in as many words (`ingest/happened.rs`).

use std::{sync::Arc, time::Duration};

use crate::{
    closed::closed,
    event::Ending,
    metrics::{Container, StreamCounts},
    node::process::Born,
};

closed! {
    /// What died under its containers.
    pub enum Death {
        /// The shim: containerd takes its containers for dead, and their VM may run on.
        Shim => "shim",
        /// The hypervisor: the shim is there and has no guest any more.
        Vm => "vm",
    }
}

/// Words that are on the way at a process's end are with us in this time, where nothing is held up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What Kata's shims say of a container whose guest does not answer any more: 255 of the Go shim (read), 137 as after every
/// `delete` (seen).
const WITHOUT_GUEST: [u32; 2] = [255, 137];

/// A process by number and birth.
pub(super) type Known = (u32, Born);

/// The wrapper, at the moment of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Teller {
    /// A connection of it was not read to its end.
    pub(super) connected: bool,
    /// A process of it is there.
    pub(super) runs: bool,
    /// It has said that its shim is gone.
    pub(super) told: bool,
}

/// What was seen of a sandbox while it lived.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) shim: Option<Known>,
    pub(super) vmm: Option<Known>,
    /// Containers that ran when it was last looked at in full.
    pub(super) running: Vec<Arc<Container>>,
    /// Their own streams that were open then.
    pub(super) open: Vec<Arc<StreamCounts>>,
    /// Containers that it took along, until they are asked for.
    lost: Vec<Arc<Container>>,
    /// Who is gone, and since when by the thread's own time.
    gone: Option<(Death, Duration)>,
    /// Its wrapper was gone as well when that was seen.
    alone: bool,
    settled: bool,
}

// === impl Teller ===

impl Teller {
    /// Nothing more can come from it.
    pub(super) const fn is_over(self) -> bool {
        !self.connected && !self.runs
    }
}

// === impl Watched ===

impl Watched {
    /// Looks whether both are there. `lives` asks the kernel; `vmm` finds a hypervisor of this sandbox, by whatever number.
    /// `now` is any clock that never goes back. Gives a death once, when it is certain.
    pub(super) fn look(
        &mut self,
        lives: impl Fn(Known) -> bool,
        vmm: impl Fn() -> Option<Known>,
        teller: Teller,
        now: Duration,
    ) -> Option<Death> {
        if self.settled {
            return None;
        }
        let Some((death, since)) = self.gone else {
            self.gone = self.missing(&lives, &vmm).map(|death| (death, now));
            self.alone = !(teller.connected && teller.runs);
            if self.gone.is_none() && teller.is_over() {
                self.settle();
            }
            return None;
        };
        if now.saturating_sub(since) < PATIENCE {
            return None;
        }
        if death == Death::Vm
            && let Some(another) = vmm()
        {
            (self.vmm, self.gone) = (Some(another), None);
            return None;
        }
        let heard = teller.is_over() || (death == Death::Vm && self.all_lost_their_guest());
        if !heard {
            return None;
        }
        // Endings that a wrapper told of, and not those of a wrapper that went away.
        let told = |stream: &Arc<StreamCounts>| stream.ending().is_some_and(Ending::is_orderly);
        let outlived = !self.open.is_empty() && self.open.iter().all(told);
        // A shim that ended in order, because its VM had died, may be gone before anybody looks.
        let after_vm = self.vmm.is_some_and(|vmm| !lives(vmm)) && self.all_lost_their_guest();
        let death = if after_vm { Death::Vm } else { death };
        let certain = match death {
            Death::Shim => (!self.alone || outlived || teller.told) && self.shim_died(),
            Death::Vm => (!self.alone || after_vm || teller.told) && self.vm_died() && self.take_along(),
        };
        self.settle();
        certain.then_some(death)
    }

    /// Nothing more will be said of it.
    pub(super) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// The containers that ended with it and of whose end nobody told, once.
    pub(super) fn lost(&mut self) -> Vec<Arc<Container>> {
        std::mem::take(&mut self.lost)
    }

    /// Is it as it was when it was last looked at in full?
    pub(super) fn is_whole(&self) -> bool {
        self.gone.is_none() && !self.settled
    }

    /// Who is gone now. Both at once are the shim's death, where there is something to be claimed at all: it ended its
    /// containers. A hypervisor that left its place to another (a jailer, one that forks) is not gone.
    fn missing(&mut self, lives: &impl Fn(Known) -> bool, vmm: &impl Fn() -> Option<Known>) -> Option<Death> {
        if self.shim.is_some_and(|known| !lives(known)) {
            return Some(Death::Shim);
        }
        self.vmm.filter(|known| !lives(*known))?;
        let another = vmm();
        if another.is_some() {
            self.vmm = another;
        }
        another.is_none().then_some(Death::Vm)
    }

    /// That was that: nobody's records are held any longer.
    fn settle(&mut self) {
        self.settled = true;
        (self.running, self.open) = (Vec::new(), Vec::new());
    }

    /// Somebody still takes some for running, and nobody will say more of them.
    fn shim_died(&mut self) -> bool {
        self.take_along();
        !self.lost.is_empty()
    }

    /// Nobody says any more how these ended.
    fn take_along(&mut self) -> bool {
        let left = self.running.iter().filter(|container| container.lost_its_shim());
        self.lost = left.map(Arc::clone).collect();
        true
    }

    /// No container was killed or deleted, and those that ended ended as one does whose guest is gone. A single container may
    /// have ended by itself with that status.
    fn vm_died(&self) -> bool {
        let ended = self.ended();
        let killed = self.running.iter().any(|container| container.live().killed);
        let alike = ended.iter().all(|status| WITHOUT_GUEST.contains(status));
        let some_left = ended.len() < self.running.len();
        !self.running.is_empty() && !killed && alike && (some_left || ended.len() > 1)
    }

    /// All have ended as of a dead VM: nothing that may still come says otherwise.
    fn all_lost_their_guest(&self) -> bool {
        self.ended().len() == self.running.len() && self.vm_died()
    }

    /// Statuses of those that have ended.
    fn ended(&self) -> Vec<u32> {
        let ended = |container: &Arc<Container>| {
            let live = container.live();
            (!live.is_running()).then_some(live.exit_status.unwrap_or(0))
        };
        self.running.iter().filter_map(ended).collect()
    }
}

#[cfg(test)]
mod tests {
    use shimtap_proto::link;

    use super::*;
    use crate::{
        event::StreamKind,
        metrics::{Registry, Update},
        node::process,
        sinks::Backlog,
    };
    use std::path::Path;

    const HEARD: Teller = Teller { connected: true, runs: true, told: false };
    const OVER: Teller = Teller { connected: false, runs: false, told: false };

    fn known(pid: u32) -> Known {
        (pid, process::born(Path::new("/"), std::process::id()).expect("ourselves"))
    }

    fn container(id: &str) -> Arc<Container> {
        let open = link::Open { container: id.into(), started_ns: 5, pid: 9, ..Default::default() };
        let inner = link::InnerShim { binary: "containerd-shim-kata-v2".into(), ..Default::default() };
        let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
        registry.container(&open, &inner)
    }

    fn exited(status: u32) -> Update {
        Update::Exited { at_ns: 7, status }
    }

    /// What is claimed of a sandbox whose `gone` are gone, after `then`.
    fn judged(gone: &[u32], then: &[Option<Update>], killed: bool) -> Option<Death> {
        let running: Vec<_> = (0..then.len()).map(|n| container(&n.to_string())).collect();
        let mut watched = watched(&running);
        let none = || None;
        assert_eq!(watched.look(|_| true, none, HEARD, Duration::ZERO), None);
        assert!(watched.is_whole());
        let lives = |(pid, _): Known| !gone.contains(&pid);
        assert_eq!(
            watched.look(lives, none, HEARD, Duration::ZERO),
            None,
            "its last words may be on the way"
        );
        for (container, update) in running.iter().zip(then) {
            if killed {
                container.update(Update::Killed);
            }
            if let Some(update) = update {
                container.update(*update);
            }
        }
        let death = watched.look(lives, none, OVER, PATIENCE);
        assert_eq!(watched.look(lives, none, OVER, PATIENCE * 2), None, "said once");
        assert!(watched.running.is_empty() || gone.is_empty(), "nobody's records are held");
        death
    }

    fn watched(running: &[Arc<Container>]) -> Watched {
        Watched {
            shim: Some(known(10)),
            vmm: Some(known(20)),
            running: running.to_vec(),
            ..Watched::default()
        }
    }

    #[test]
    fn words_that_come_late_are_waited_for() {
        let dead = |(pid, _): Known| pid != 10;
        for gone in [10, 20] {
            let container = container("c");
            let mut watched = watched(&[Arc::clone(&container)]);
            let lives = |(pid, _): Known| pid != gone;
            assert_eq!(watched.look(lives, || None, HEARD, Duration::ZERO), None);
            assert_eq!(watched.look(lives, || None, HEARD, PATIENCE * 10), None, "its spool is read");
            container.update(Update::Killed);
            container.update(exited(137));
            assert_eq!(watched.look(lives, || None, OVER, PATIENCE * 11), None, "somebody ended it");
        }
        // A wrapper that is gone takes its shim along.
        let unread = Teller { connected: true, runs: false, told: false };
        for teller in [unread, OVER] {
            let mut watched = watched(&[container("c")]);
            assert_eq!(watched.look(dead, || None, teller, Duration::ZERO), None);
            assert_eq!(watched.look(dead, || None, OVER, PATIENCE), None, "{teller:?}");
        }
        // Unless it outlived it, if only for a moment: it told of the end of what its shim had held open.
        for (ended, death) in [(true, Some(Death::Shim)), (false, None)] {
            let stream = Arc::new(StreamCounts::new(StreamKind::Stdout, "", None));
            let mut watched = watched(&[container("c")]);
            watched.open = vec![Arc::clone(&stream)];
            if ended {
                stream.close(Ending::Exact);
            }
            assert_eq!(watched.look(dead, || None, OVER, Duration::ZERO), None);
            assert_eq!(watched.look(dead, || None, OVER, PATIENCE), death);
        }
        // It said so: when anybody looks makes no difference.
        let said = Teller { told: true, ..OVER };
        for (gone, death) in [(&[10][..], Death::Shim), (&[10, 20], Death::Shim), (&[20], Death::Vm)] {
            let all = [container("c")];
            let mut watched = watched(&all);
            let lives = |(pid, _): Known| !gone.contains(&pid);
            assert_eq!(watched.look(lives, || None, said, Duration::ZERO), None);
            assert_eq!(watched.look(lives, || None, said, PATIENCE), Some(death));
            assert_eq!(watched.lost().len(), 1);
        }
        // A VM that died, and a shim that ended in order after it, all between two looks.
        for (ended, death) in [(255, Some(Death::Vm)), (0, None)] {
            let all = [container("a"), container("b")];
            let mut watched = watched(&all);
            all.iter().for_each(|one| one.update(exited(ended)));
            assert_eq!(watched.look(|_| false, || None, OVER, Duration::ZERO), None);
            assert_eq!(watched.look(|_| false, || None, OVER, PATIENCE), death);
        }
    }

    #[test]
    fn a_hypervisor_that_left_its_place_to_another_is_not_dead() {
        let container = [container("a"), container("b")];
        let mut watched = watched(&container);
        let another = known(21);
        let lives = |(pid, _): Known| pid != 20;
        assert_eq!(watched.look(lives, || Some(another), HEARD, Duration::ZERO), None);
        assert!(watched.is_whole() && watched.vmm == Some(another));
        // That one dies: its successor is there a moment later.
        let lives = |(pid, _): Known| pid != 21;
        assert_eq!(watched.look(lives, || None, HEARD, Duration::ZERO), None);
        assert_eq!(watched.look(lives, || Some(known(22)), HEARD, PATIENCE), None);
        assert!(watched.is_whole());
        // All its containers say the same: nothing needs to be waited for.
        let lives = |(pid, _): Known| pid != 22;
        assert_eq!(watched.look(lives, || None, HEARD, PATIENCE), None);
        container.iter().for_each(|one| one.update(exited(255)));
        assert_eq!(watched.look(lives, || None, HEARD, PATIENCE * 2), Some(Death::Vm));
    }

    #[test]
    fn a_dead_shim_is_told_from_a_dead_vm_and_from_an_end() {
        let still = None;
        let own = |status| Some(exited(status));
        for (gone, then, killed, death) in [
            // The shim.
            (&[10][..], vec![still, still], false, Some(Death::Shim)),
            (&[10, 20], vec![still], false, Some(Death::Shim)),
            (&[10], vec![own(0), still], false, Some(Death::Shim)),
            (&[10], vec![own(0), own(137)], true, None),
            (&[10], vec![Some(Update::Deleted)], false, None),
            // The VM.
            (&[20], vec![still, still], false, Some(Death::Vm)),
            (&[20], vec![own(255), own(255)], false, Some(Death::Vm)),
            (&[10, 20], vec![own(255), own(255)], false, Some(Death::Vm)),
            (&[10, 20], vec![own(255), own(255)], true, None),
            (&[10], vec![own(255), own(255)], false, None),
            (&[20], vec![own(255), still], false, Some(Death::Vm)),
            (&[20], vec![own(255)], false, None),
            (&[20], vec![still], false, Some(Death::Vm)),
            (&[20], vec![own(0), own(255)], false, None),
            (&[20], vec![own(137), own(137)], true, None),
            (&[20], vec![Some(Update::Deleted), own(255)], false, None),
            (&[20], vec![], false, None),
            // Neither.
            (&[], vec![still], false, None),
        ] {
            assert_eq!(judged(gone, &then, killed), death, "{gone:?} {then:?} {killed}");
        }
    }
}

//! No wake-up is lost: the link thread that has armed, looked and seen nothing is rung for whatever came since.

use containerd_shim_tap_loom::alarm::Alarm;
use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// What the two threads share: the alarm, how far the stream is, and whether it was rung.
type Shared = Arc<(Alarm, AtomicU64, AtomicBool)>;

fn shared(alarm: Alarm) -> Shared {
    Arc::new((alarm, AtomicU64::new(0), AtomicBool::new(false)))
}

/// In a session.
fn attached() -> Alarm {
    let alarm = Alarm::new();
    alarm.attach(true);
    alarm
}

/// The relay thread.
fn moves_a_byte(shared: &Shared) -> JoinHandle<()> {
    let relay = Arc::clone(shared);
    thread::spawn(move || {
        let (alarm, pos, bell) = &*relay;
        pos.store(1, Ordering::Release);
        if alarm.goes_off(false) {
            bell.store(true, Ordering::Release);
        }
    })
}

#[test]
fn a_byte_that_is_not_seen_rings() {
    loom::model(|| {
        let shared = shared(attached());
        let relay = moves_a_byte(&shared);
        let (alarm, pos, bell) = &*shared;
        alarm.arm();
        let seen = pos.load(Ordering::Acquire) == 1;
        relay.join().unwrap();
        assert!(seen || bell.load(Ordering::Acquire), "it sleeps, and nobody wakes it");
    });
}

#[test]
fn it_rings_once_for_an_arming() {
    loom::model(|| {
        let alarm = Arc::new(attached());
        alarm.arm();
        let other = Arc::clone(&alarm);
        let other = thread::spawn(move || u32::from(other.goes_off(false)));
        let here = u32::from(alarm.goes_off(false));
        assert_eq!(other.join().unwrap() + here, 1);
    });
}

#[test]
fn much_that_comes_after_the_look_rings_though_a_timer_is_set() {
    loom::model(|| {
        let shared = shared(attached());
        let relay = Arc::clone(&shared);
        let relay = thread::spawn(move || {
            let (alarm, pos, bell) = &*relay;
            for _ in 0..2 {
                let unsent = pos.fetch_add(1, Ordering::AcqRel) + 1;
                if alarm.goes_off(unsent >= 2) {
                    bell.store(true, Ordering::Release);
                }
            }
        });
        let (alarm, pos, bell) = &*shared;
        alarm.arm();
        let seen = pos.load(Ordering::Acquire);
        alarm.only_much();
        relay.join().unwrap();
        assert!(seen == 2 || bell.load(Ordering::Acquire), "it sleeps until the timer, and much waits");
    });
}

#[test]
fn a_byte_between_two_sessions_is_seen_by_the_next_or_rings() {
    // The one before may have left it armed or not.
    for was_armed in [false, true] {
        loom::model(move || {
            let shared = shared(Alarm::new());
            if was_armed {
                shared.0.arm();
            }
            let relay = moves_a_byte(&shared);
            let (alarm, pos, bell) = &*shared;
            alarm.attach(true);
            alarm.arm();
            let seen = pos.load(Ordering::Acquire) == 1;
            relay.join().unwrap();
            assert!(seen || bell.load(Ordering::Acquire), "it sleeps, and nobody wakes it");
        });
    }
}

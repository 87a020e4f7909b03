//! Keeper and worker die, crash, stand still and spin under work of every kind, and nobody notices.
//!
//! Pieces of a size that a machine without time can afford; `./dev soak` does the same for as long as it is told. Seeded:
//! `SHIMTAP_SEED=n` repeats plan and work (not the scheduler).

use std::time::Duration;

use anyhow::{Result, ensure};
use shimtap_tests::chaos::{self, Ground, Order, dice, schedule::Mix};
use shimtap_tests::{on_each_containerd, rig::Version};

on_each_containerd!(wrappers_of_a_node_die);

fn wrappers_of_a_node_die(version: Version) -> Result<()> {
    green(&Order::new(Ground::Real(version), dice::seed()?, 80, 3))
}

/// Carries a piece out, says what it has seen, and demands that nothing was wrong.
fn green(order: &Order) -> Result<()> {
    println!("SHIMTAP_SEED={}", order.seed);
    let tally = chaos::run(order);
    println!("{tally:#?}");
    ensure!(tally.faults.is_empty(), "{}", tally.faults.join("\n"));
    ensure!(tally.died() > 0, "nobody died");
    Ok(())
}

#[test]
fn workers_and_keepers_of_three_pods_die() -> Result<()> {
    green(&Order::new(Ground::Standin, dice::seed()?, 130, 3).mix(Mix { hangs: 0, ..Mix::default() }))
}

#[test]
fn they_hang() -> Result<()> {
    let mix = Mix { hangs: 100, pause: Duration::from_millis(100), ..Mix::default() };
    green(&Order::new(Ground::Standin, dice::seed()?, 3, 4).mix(mix))
}

#[test]
fn they_die_often_enough_for_safe_mode() -> Result<()> {
    let mix = Mix { hangs: 0, pause: Duration::from_millis(100), ..Mix::default() };
    green(&Order::new(Ground::Standin, dice::seed()?, 60, 1).mix(mix).with_threshold())
}

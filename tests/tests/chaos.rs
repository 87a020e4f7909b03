//! Keeper and worker die, crash, stand still and spin under work of every kind, and nobody notices.
//!
//! Pieces of a size that a machine without time can afford; `./dev soak` does the same for as long as it is told. Seeded:
//! `SHIMTAP_SEED=n` repeats plan and work (not the scheduler).

use std::time::Duration;

use anyhow::{Result, ensure};
use shimtap_tests::chaos::{self, Ground, Order, dice, schedule::Mix};
use shimtap_tests::{on_each_containerd, rig::Version};

on_each_containerd!(wrappers_of_a_node_die);

/// What all of them order together.
const DEATHS: u64 = 1_000;

fn of_a_node(version: Version, seed: u64) -> Order {
    Order::new(Ground::Real(version), seed, 110, 3)
}

fn of_three_pods(seed: u64) -> Order {
    Order::new(Ground::Standin, seed, 240, 3).mix(Mix { hangs: 0, ..Mix::default() })
}

fn hanging(seed: u64) -> Order {
    let mix = Mix { hangs: 100, pause: Duration::from_millis(100), ..Mix::default() };
    Order::new(Ground::Standin, seed, 3, 4).mix(mix)
}

fn safe_mode(seed: u64) -> Order {
    let mix = Mix { hangs: 0, pause: Duration::from_millis(100), ..Mix::default() };
    Order::new(Ground::Standin, seed, 60, 1).mix(mix).with_threshold()
}

#[test]
fn the_pieces_are_a_thousand_deaths() {
    let nodes = [Version::Packaged, Version::Pinned].map(|version| of_a_node(version, 1));
    let pieces = nodes.into_iter().chain([of_three_pods(1), hanging(1), safe_mode(1)]);
    let deaths: u64 = pieces.map(|order| order.all_deaths()).sum();
    assert!(deaths >= DEATHS, "{deaths} are ordered");
}

fn wrappers_of_a_node_die(version: Version) -> Result<()> {
    green(&of_a_node(version, dice::seed()?))
}

/// Carries a piece out, says what it has seen, and demands that nothing was wrong.
fn green(order: &Order) -> Result<()> {
    println!("SHIMTAP_SEED={}", order.seed);
    let tally = chaos::run(&order.clone().among_others());
    println!("{tally:#?}");
    ensure!(tally.faults.is_empty(), "{}", tally.faults.join("\n"));
    // Who strikes ends one by one: each has its own last death.
    ensure!(tally.died() >= order.all_deaths(), "{} of {} died", tally.died(), order.all_deaths());
    Ok(())
}

#[test]
fn workers_and_keepers_of_three_pods_die() -> Result<()> {
    green(&of_three_pods(dice::seed()?))
}

#[test]
fn they_hang() -> Result<()> {
    green(&hanging(dice::seed()?))
}

#[test]
fn they_die_often_enough_for_safe_mode() -> Result<()> {
    green(&safe_mode(dice::seed()?))
}

//! The memory block of a running wrapper is damaged from outside and its worker dies: where the block shows it, the next one looks into
//! nothing (safe mode), and the pod goes on in any case.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use shimtap_proto::control::Ask;
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        audit::exactly_once,
        pod::{Fifos, Pod},
        upgrade::Control,
        wrapped::{block_of, wrapped},
    },
    procs,
    script::{Output, Script},
};

/// Where things lie in a block (shim/src/block/tests.rs says so too).
const VERSION: u64 = 8;
const MODE: u64 = 1448;
const TASKS: u64 = 329_992;
const EVENTS: u64 = 1 << 20;
const CHUNKS_END: u64 = EVENTS + (128 << 10) + (64 << 16);

fn talker() -> Script {
    let stdout = Output { pause_us: 500, ..Output::lines(10_000_000, 80) };
    Script { stdout, until_killed: true, ..Script::default() }
}

fn word(block: &File, at: u64, value: u32) -> Result<()> {
    block.write_all_at(&value.to_ne_bytes(), at).context("damaging its block")
}

fn next_worker(pod: &Pod) -> Result<()> {
    let keeper = pod.keeper()?.pid;
    let worker = procs::next_worker(keeper, None, PATIENCE)?.pid;
    procs::kill(worker)?;
    procs::next_worker(keeper, Some(worker), PATIENCE).map(drop)
}

fn ends_well(pod: &Pod, fifos: &Fifos) -> Result<()> {
    pod.end_whole(fifos, &talker().stdout)?;
    exactly_once(&pod.lab, &[&pod.connection])
}

/// `damage` shows: safe mode.
fn means_safe_mode(damage: fn(&File) -> Result<()>) -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    pod.is_well(&fifos)?;
    damage(&block_of(&pod)?)?;
    pod.is_well(&fifos).context("the worker that lives does not look at it")?;
    next_worker(&pod)?;
    pod.is_well(&fifos).context("in safe mode")?;
    ensure!(Control::open(&pod)?.ask(Ask::Who, None)?.safe_mode, "it is not in safe mode");
    ends_well(&pod, &fifos)
}

#[test]
fn one_that_does_not_say_that_it_is_one() -> Result<()> {
    means_safe_mode(|block| block.write_all_at(&[0; 8], 0).context("damaging its block"))
}

#[test]
fn one_of_another_release() -> Result<()> {
    means_safe_mode(|block| word(block, VERSION, 9))
}

#[test]
fn one_with_a_state_that_nobody_knows() -> Result<()> {
    means_safe_mode(|block| word(block, MODE, 77))
}

#[test]
fn one_with_a_task_in_a_state_that_nobody_knows() -> Result<()> {
    means_safe_mode(|block| word(block, TASKS, 77))
}

/// A keeper that is made meanwhile takes it as its own: else the worker would be alone from then on.
#[test]
fn one_that_a_new_keeper_finds() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    block_of(&pod)?.write_all_at(&[0; 8], 0)?;
    let before = pod.keeper()?.pid;
    procs::kill(before)?;
    pod.next_keeper(before)?;
    pod.is_well(&fifos)?;
    next_worker(&pod)?;
    pod.is_well(&fifos)?;
    ensure!(Control::open(&pod)?.ask(Ask::Who, None)?.safe_mode, "it is not in safe mode");
    ends_well(&pod, &fifos)
}

/// The events and the copies of output are only for the collector.
#[test]
fn one_whose_events_and_copies_are_overwritten() -> Result<()> {
    let pod = wrapped(&talker())?;
    let fifos = pod.run()?;
    let rubbish = vec![0xa5; usize::try_from(CHUNKS_END - EVENTS)?];
    for _ in 0..3 {
        block_of(&pod)?.write_all_at(&rubbish, EVENTS)?;
        next_worker(&pod)?;
        pod.is_well(&fifos)?;
    }
    ensure!(!Control::open(&pod)?.ask(Ask::Who, None)?.safe_mode, "nothing that is looked into by it");
    ends_well(&pod, &fifos)
}

/// Who has it mapped would die of that.
#[test]
fn one_cannot_be_cut_off() -> Result<()> {
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let refused = block_of(&pod)?.set_len(4096).err().and_then(|error| error.raw_os_error());
    ensure!(refused == Some(Errno::EPERM as i32), "{refused:?}");
    pod.answers()
}

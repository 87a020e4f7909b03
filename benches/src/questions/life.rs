//! How long does the relay hold up what makes and ends a container: Create and Exec, which it looks into and of which it changes
//! the first, Start, Kill, the Wait of a process that has just ended (held until its output is with containerd), and Delete?
//!
//! One stand-in shim, which does nothing but answer, is asked the same directly and through the wrapper, life by life in turns; a
//! real shim's own work (`runc create`) would hide what is measured. What Wait is held for, Delete finds done: the two belong
//! together. Folders are made where `TMPDIR` says; the wrapper's own are in memory on a node (`/run`). No collector, so that no last Stats is waited for.

use std::cell::Cell;

use anyhow::{Context, Result};
use protobuf::Message;
use shimtap_tests::standin::client::pod::{
    Fifos, Pod, create_request, delete, exec_request, kill, start, wait,
};
use shimtap_tests::standin::client::wrapped::wrapped;
use shimtap_tests::standin::script::Script;

use super::relay::compare;
use crate::line::{Line, sockets};
use crate::options::Options;
use crate::report::Report;

/// In the order of a life.
const STEPS: [&str; 6] = ["Create", "Exec", "Start", "Kill", "Wait (held)", "Delete"];
/// Lives that are not counted, on either side.
const WARM_UP: usize = 5;

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("life", options)?;
    let turns = options.turns(50, 1000);
    let pod = wrapped(&Script::stayer())?;
    let _fifos = pod.run()?;
    let direct = Line::to_shim_of(&pod.lab.inner_sockets(), &pod.id)?;
    let relayed = Line::to_shim_of(&sockets(&pod.lab.run_dir().join("s"))?, &pod.id)?;
    let mut took: [[Vec<f64>; 2]; STEPS.len()] = Default::default();
    let next = Cell::new(101);
    for turn in 0..turns + WARM_UP {
        for (side, line) in [&direct, &relayed].into_iter().enumerate() {
            let times = life(&pod, line, &format!("life-{turn}-{side}"), &next)?;
            for (step, micros) in took.iter_mut().zip(times).filter(|_| turn >= WARM_UP) {
                step.get_mut(side).context("two sides")?.push(micros);
            }
        }
    }
    report
        .heading("request to answer, percentiles 50, 90, 99 of all lives; direct, through the relay, more")?;
    for (what, samples) in STEPS.into_iter().zip(&took) {
        compare(what, samples, &mut report)?;
    }
    Ok(())
}

/// Microseconds of each step.
fn life(pod: &Pod, line: &Line, id: &str, next: &Cell<u32>) -> Result<[f64; STEPS.len()]> {
    let script = Script::stayer();
    let bundle = pod.lab.bundle(id, Some(&pod.id), &script)?;
    let fifos = Fifos::create(&pod.lab.fifo_dir(), id)?;
    let ask = |method: &str, request: &dyn Fn() -> protobuf::Result<Vec<u8>>| -> Result<f64> {
        let payload = request().context("encode a request")?;
        // Odd, and rising on each of the two connections.
        let stream = next.get();
        next.set(stream + 2);
        line.ask(stream, method, &payload).with_context(|| format!("{method} of {id}"))
    };
    Ok([
        ask("Create", &|| create_request(id, &bundle, &fifos).write_to_bytes())?,
        ask("Exec", &|| exec_request(id, "probe", &script, &fifos).write_to_bytes())?,
        ask("Start", &|| start(id, "").write_to_bytes())?,
        ask("Kill", &|| kill(id, "", 9).write_to_bytes())?,
        ask("Wait", &|| wait(id, "").write_to_bytes())?,
        ask("Delete", &|| delete(id, "").write_to_bytes())?,
    ])
}

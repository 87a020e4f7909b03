//! How long does the relay hold up a request? State, a Wait that is answered at once, Stats, and Connect, which the
//! relay passes through unseen.
//!
//! One real runc shim is asked the same over two connections, turn by turn: directly at its own socket, and through
//! the wrapper in front of it. So both sides meet the same shim in the same mood.

use anyhow::{Context, Result};
use protobuf::Message;
use shimtap_tests::rig::Node;
use shimtap_tests::standin::client::pod::{connect, state, stats, wait};

use crate::bed::{Side, both_sides, run_command, timed};
use crate::line::{Line, sockets};
use crate::options::Options;
use crate::report::Report;
use crate::spread::quantile;

const RUNNING: &str = "up";
const STOPPED: &str = "gone";

/// Asks it.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::start("relay", options)?;
    let node = both_sides(options.version)?;
    let turns = options.turns(200, 5000);
    for (id, command) in [(RUNNING, ["sleep", "100000"]), (STOPPED, ["sleep", "0"])] {
        timed(run_command(&node, Side::Wrapped, id, &["--detach", "--null-io"], &command))?;
    }
    node.await_status(STOPPED, "STOPPED")?;
    report
        .heading("request to answer, percentiles 50, 90, 99 of all turns; direct, through the relay, more")?;
    let running = Pair::open(&node, RUNNING)?;
    measure(&running, "Connect", &connect(RUNNING), turns, &mut report)?;
    measure(&running, "State", &state(RUNNING, ""), turns, &mut report)?;
    measure(&running, "Stats", &stats(RUNNING), turns, &mut report)?;
    let stopped = Pair::open(&node, STOPPED)?;
    measure(&stopped, "Wait (has exited)", &wait(STOPPED, ""), turns, &mut report)?;
    for id in [RUNNING, STOPPED] {
        node.remove(id)?;
    }
    drop((running, stopped));
    node.finish()
}

fn measure<M: Message>(
    pair: &Pair,
    what: &str,
    request: &M,
    turns: usize,
    report: &mut Report,
) -> Result<()> {
    let method = what.split(' ').next().unwrap_or(what);
    let payload = request.write_to_bytes().context("encode a request")?;
    let mut took = [Vec::new(), Vec::new()];
    for turn in 0..turns + 20 {
        for (line, samples) in [&pair.direct, &pair.relayed].into_iter().zip(&mut took) {
            // Stream ids are odd and rise; both connections carry the same ones.
            let stream = pair.next.get();
            let micros = line.ask(stream, method, &payload).with_context(|| format!("ask {what}"))?;
            if turn >= 20 {
                samples.push(micros);
            }
        }
        pair.next.set(pair.next.get() + 2);
    }
    compare(what, &took, report)
}

/// What both sides took, direct and relayed, and how much more the second did.
pub(super) fn compare(what: &str, [direct, relayed]: &[Vec<f64>; 2], report: &mut Report) -> Result<()> {
    report.row(&format!("{what}, direct"), "µs", direct, "")?;
    report.row(&format!("{what}, relayed"), "µs", relayed, "")?;
    for percent in [50, 90, 99] {
        let at = |samples: &[f64]| quantile(samples, percent).unwrap_or_default();
        let more = at(relayed) - at(direct);
        let text = format!("{:.0} -> {:.0}", at(direct), at(relayed));
        report.figure(&format!("{what}, p{percent}: {text}, more"), "µs", more, "")?;
    }
    Ok(())
}

/// The two ways to one shim.
struct Pair {
    direct: Line,
    relayed: Line,
    next: std::cell::Cell<u32>,
}

impl Pair {
    fn open(node: &Node, id: &str) -> Result<Pair> {
        // Newest sockets: the container was started just now, or the only ones that know it.
        let (inner, outer) = (sockets(&node.dir().join("s"))?, sockets(&node.run_dir().join("s"))?);
        let direct = Line::to_shim_of(&inner, id)?;
        let relayed = Line::to_shim_of(&outer, id)?;
        Ok(Pair { direct, relayed, next: std::cell::Cell::new(101) })
    }
}

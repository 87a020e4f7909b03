//! Statistics: relayed, mended on their way, and answered in the shim's place.

use std::{
    cell::Cell,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, cgroups::metrics::Metrics, protobuf::Message};
use shimtap_tests::standin::{
    client::{
        PATIENCE,
        kata::{mended, repairing},
        lab::Lab,
        pod,
        wrapped::{block_of, wrapped_in},
    },
    kata::{
        Profile,
        guest::{Cgroup, Guest},
    },
    script::Script,
};

use super::trap::{Alive, Done, Sweep, stayer, traced};

/// Where the block counts Stats that left mended (`block::tests::layout_version_2_stays_as_it_is`: `counters`, and the 26th).
const STATS_REPAIRED: u64 = 2_376 + 25 * 8;

#[test]
fn stats() -> Result<()> {
    let script = Script { stats_delay_ms: 10, ..stayer() };
    Sweep::of_worker("Stats").run(&script, |pod, trap| {
        let fifos = pod.run()?;
        fifos.stdout.wait_len(40 * 60, PATIENCE)?;
        fifos.stderr.wait_len(9 * 200, PATIENCE)?;
        let (outcome, stats) = traced::<_, api::StatsResponse>(pod, trap, "Stats", &pod::stats("task"))?;
        ensure!(stats.stats.type_url == "io.containerd.cgroups.v1.Metrics", "the sample arrives as it was");
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

/// The answer leaves mended, whoever of two workers does it, and the next one too: what was decided holds. A third of the
/// deaths (all 80 were seen to be survived): those of the request are `stats`'s.
#[test]
fn stats_that_are_mended() -> Result<()> {
    let guest = Guest::worked(Cgroup::V2);
    let script = Script { stats_delay_ms: 10, guest: Some(guest.clone()), ..stayer() };
    let right = mended(Profile::Rust, &guest)?;
    let start = || wrapped_in(&script, |lab: &mut Lab| repairing(lab, Profile::Rust, "true"));
    Sweep::of_worker("Stats, mended").a_third().run_in(&script, start, |pod, trap| {
        let fifos = pod.run()?;
        fifos.stdout.wait_len(40 * 60, PATIENCE)?;
        fifos.stderr.wait_len(9 * 200, PATIENCE)?;
        let (outcome, stats) = traced::<_, api::StatsResponse>(pod, trap, "Stats", &pod::stats("task"))?;
        ensure!(Metrics::parse_from_bytes(&stats.stats.value)? == right, "{:?}", stats.stats);
        let again = pod.connection.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>()?;
        ensure!(again == stats, "{:?}", again.stats);
        let mut counted = [0; 8];
        block_of(pod)?.read_exact_at(&mut counted, STATS_REPAIRED)?;
        ensure!(u64::from_ne_bytes(counted) == 2, "{} were counted", u64::from_ne_bytes(counted));
        Ok(Done::of_init(outcome, fifos, Alive::Started))
    })
}

/// A caller's loop is answered for the shim; the shim's own answer comes while the worker dies, before that or after it, and
/// reaches nobody.
#[test]
fn stats_that_are_answered_for_the_shim() -> Result<()> {
    let late = Duration::from_millis(300);
    let script = Script { stats_delay_ms: 300, ..Script::stayer() };
    let bounded =
        |lab: &mut Lab| lab.reconfigure("deaths = 0\n", "deaths = 0\n[stats]\nforeign_bound_ms = 60\n");
    let start = || wrapped_in(&script, bounded);
    let (made_up, of) = (Cell::new(0), Cell::new(0));
    Sweep::of_worker("Stats, made up").one_in(7).run_in(&script, start, |pod, trap| {
        let fifos = pod.run()?;
        let beside = pod.connect_inner()?;
        let c = &pod.connection;
        c.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>().context("nobody's loop")?;
        let armed = trap.set()?;
        let looping = c.send("Stats", &pod::stats("task"))?;
        let asked = Instant::now();
        armed.go()?;
        let first = c.answer(looping, PATIENCE).context("the one in a loop");
        let took = asked.elapsed();
        // Asked after it and without us: when this is answered, so is that one.
        beside.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>()?;
        let outcome = trap.spring(armed)?;
        // On a machine that stands still meanwhile the shim's own may come first, and is as good.
        let code = first?.code();
        ensure!(code == 4 || (code == 0 && took >= late), "{code} after {took:?}");
        of.set(of.get() + 1);
        made_up.set(made_up.get() + u32::from(code == 4));
        pod.answers()?;
        Ok(Done { others: vec![beside], ..Done::of_init(outcome, fifos, Alive::Started) })
    })?;
    ensure!(made_up.get() * 2 > of.get(), "{} of {} were made up", made_up.get(), of.get());
    Ok(())
}

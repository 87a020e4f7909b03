//! Stats answers that leave mended (`[stats] repair`): containerd has what it reads, and only that was changed; whose answers
//! these are is decided once; and the collector has what the shim said.
//!
//! What becomes of it in containerd: `repair.rs`. Deaths at every step: `standin_deaths::stats_that_are_mended`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{api, cgroups::metrics::Metrics, protobuf::Message};
use nix::sys::signal::{Signal, kill};
use shimtap_tests::{
    rig::{collector::Settings, eventually},
    standin::{
        client::{
            PATIENCE,
            kata::{mended, repairing},
            lab::Lab,
            pod::{self, Pod},
            spooled::{count, value},
            wrapped::{WRAPPER, wrapped_in},
        },
        kata::{
            Profile,
            guest::{Cgroup, Guest},
        },
        procs,
        script::Script,
    },
};

const LIMIT: Duration = Duration::from_secs(60);

fn script(guest: &Guest) -> Script {
    Script { guest: Some(guest.clone()), ..Script::stayer() }
}

/// What containerd gets.
fn stats(pod: &Pod) -> Result<Metrics> {
    let answer = pod.connection.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>()?;
    Metrics::parse_from_bytes(&answer.stats.value).context("statistics of the first version")
}

/// What the shim says.
fn sent(shim: Profile, guest: &Guest) -> Result<Metrics> {
    let any = shim.stats(guest)?.context("it has a guest")?;
    Metrics::parse_from_bytes(&any.value).context("statistics of the first version")
}

#[test]
fn containerd_has_them_mended_and_the_collector_as_they_were() -> Result<()> {
    let lab = Lab::new()?;
    let collector = lab.collector_told(&Settings::each_second())?;
    let guest = Guest::worked(Cgroup::V2);
    let pod = wrapped_in(&script(&guest), |lab| {
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), collector.socket().display().to_string()));
        repairing(lab, Profile::Rust, "true")
    })?;
    let _fifos = pod.run()?;
    let right = mended(Profile::Rust, &guest)?;
    for n in 0..3 {
        let got = stats(&pod)?;
        ensure!(got == right, "Stats {n}: {got}");
    }
    let counted = || count(&collector, "stats_repaired").ok();
    eventually(LIMIT, "three to be counted", || Ok((counted() == Some(3)).then_some(())))?;
    ensure!(count(&collector, "stats_unrepaired")? == 0, "each was mended");
    // It saw the fault, so it saw what the shim had sent.
    let row = "shimtap_stats_quality{shim=\"other\",reason=\"inactive_file_repaired\"}";
    eventually(
        LIMIT,
        "the fault to be shown",
        || Ok((value(&collector, row).ok() == Some(1)).then_some(())),
    )?;
    pod.end()
}

/// A list names wrappers by the name under which containerd runs them.
#[test]
fn a_handler_that_is_not_named_is_left_alone() -> Result<()> {
    let guest = Guest::worked(Cgroup::V2);
    for (whose, right) in [
        (format!("[\"other\", \"{WRAPPER}\"]"), mended(Profile::Rust, &guest)?),
        ("[\"containerd-shim-tap-kata-v2\"]".to_owned(), sent(Profile::Rust, &guest)?),
        ("false".to_owned(), sent(Profile::Rust, &guest)?),
    ] {
        let pod = wrapped_in(&script(&guest), |lab| repairing(lab, Profile::Rust, &whose))?;
        let _fifos = pod.run()?;
        ensure!(stats(&pod)? == right, "{whose}");
        pod.end()?;
    }
    Ok(())
}

/// What is right as it is, or has no right figure in it, goes to the byte as it came.
#[test]
fn what_need_not_or_cannot_be_mended_passes_to_the_byte() -> Result<()> {
    for (shim, guest) in [
        (Profile::Rust, Guest::worked(Cgroup::V1)),
        (Profile::Rust, Guest::idle(Cgroup::V1)),
        (Profile::Rust, Guest::idle(Cgroup::V2)),
        (Profile::Go(Cgroup::V1), Guest::worked(Cgroup::V1)),
        (Profile::Go(Cgroup::V1), Guest::idle(Cgroup::V2)),
        (Profile::Go(Cgroup::V2), Guest::worked(Cgroup::V2)),
    ] {
        let pod = wrapped_in(&script(&guest), |lab| repairing(lab, shim, "true"))?;
        let _fifos = pod.run()?;
        let answer = pod.connection.call("Stats", &pod::stats("task"))?.message::<api::StatsResponse>()?;
        let sent = shim.stats(&guest)?.context("it has a guest")?;
        ensure!(answer.stats.value == sent.value, "{} with a guest of {:?}", shim.word(), guest.cgroup);
        pod.end()?;
    }
    Ok(())
}

/// A container's figures do not change their meaning while it lives, whatever its shim says next and whoever relays it.
#[test]
fn it_is_decided_at_the_first_answer_that_shows_it() -> Result<()> {
    let (flat, whole) = (Guest::worked(Cgroup::V2), Guest::worked(Cgroup::V1));
    for (first, later, right) in [
        // Nothing in the page cache yet.
        (Guest::idle(Cgroup::V2), &flat, mended(Profile::Rust, &flat)?),
        // No shim does this.
        (whole, &flat, sent(Profile::Rust, &flat)?),
    ] {
        let script = Script { guest_later: Some(later.clone()), ..script(&first) };
        let pod = wrapped_in(&script, |lab| repairing(lab, Profile::Rust, "true"))?;
        let _fifos = pod.run()?;
        ensure!(stats(&pod)? == sent(Profile::Rust, &first)?, "there is nothing to mend in the first");
        let worker = pod.worker()?;
        ensure!(stats(&pod)? == right, "the second");
        kill(worker.pid, Signal::SIGKILL).context("a death")?;
        procs::next_worker(pod.keeper()?.pid, Some(worker.pid), PATIENCE)?;
        ensure!(stats(&pod)? == right, "after a death");
        pod.end()?;
    }
    Ok(())
}

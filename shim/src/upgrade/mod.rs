//! `tap-upgrade`: brings wrappers to the release of the binary that is run, which `shimtap upgrade` does.
//!
//! This process is of the new image. It asks each wrapper who it is, has a child of its own image test-read the block, hands
//! its image over as an open descriptor, and watches what comes of it. It may be killed at any time: the wrapper either got
//! the image or did not. Until the hand-over nothing of the wrapper is changed; what happens then stands in
//! docs/adr/0011.

pub mod ask;
pub mod check;
mod find;

use std::{
    ffi::OsString,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::Duration,
};

use serde::Serialize;
use shimtap_proto::control::{Answer, Ask, Outcome, Release, Step, Upgraded};

use self::{
    ask::{NoAnswer, Wrapper, runs_this_image},
    find::Found,
};
use crate::{
    block::LAYOUT,
    config::in_full,
    run_dir::RunDir,
    sys::{image, monotonic_ns},
};

/// What `ps` shows.
pub const VERB: &str = "tap-upgrade";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A keeper that does not become anything is given up after 3 s, one that hangs then is replaced within 1 s more.
const PATIENCE_NS: u64 = 15_000_000_000;
/// How often the wrapper is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// What was asked for.
#[derive(Default)]
struct Wanted {
    all: bool,
    dry_run: bool,
    force: bool,
    ids: Vec<String>,
}

/// The verb.
pub fn main(argv: &[OsString]) -> ExitCode {
    say(&Release { wrapper: VERSION.to_owned(), layout: LAYOUT });
    let mut wanted = Wanted::default();
    for word in argv.iter().skip(2).map(|word| word.to_string_lossy()) {
        match &*word {
            "--all" => wanted.all = true,
            "--dry-run" => wanted.dry_run = true,
            "--force" => wanted.force = true,
            id => wanted.ids.push(id.to_owned()),
        }
    }
    let found = find::all(&RunDir::from_env());
    let mut fine = true;
    for id in wanted.ids.iter().filter(|id| !found.iter().any(|f| f.is_of(id))) {
        let nobody = Found::nobody(id);
        fine = false;
        say(&nobody
            .told(Outcome::Refused, "no wrapper is of that id; shimtap ps shows those there are".into()));
    }
    let mut failed: Option<String> = None;
    for found in found.iter().filter(|f| wanted.all || wanted.ids.iter().any(|id| f.is_of(id))) {
        let told = match &failed {
            Some(id) => found.told(Outcome::Refused, format!("not tried, since that of {id} failed")),
            None => bring(found, &wanted),
        };
        fine &= told.outcome.is_fine();
        if told.outcome == Outcome::Failed {
            // What one pod did not bear no other shall be asked to.
            failed = Some(found.id.clone());
        }
        say(&told);
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &impl Serialize) {
    let mut out = io::stdout().lock();
    // Nobody may be left to read it; the upgrade goes its way all the same.
    let _ = serde_json::to_writer(&mut out, line).map_err(io::Error::from);
    let _ = out.write_all(b"\n").and_then(|()| out.flush());
}

fn bring(found: &Found, wanted: &Wanted) -> Upgraded {
    let before = match Wrapper::connect(&found.socket).and_then(|w| w.ask(Ask::Who, None).map(|a| (w, a))) {
        Ok(before) => before,
        Err(no) if no.is_gone() => return found.told(Outcome::Gone, "its pod has ended".to_owned()),
        Err(no) => return found.told(Outcome::Mute, format!("{}; nothing was changed", in_full(&no))),
    };
    let (wrapper, (before, block)) = before;
    let told = |outcome, why: String| Upgraded {
        from: Some(before.version.clone()),
        to: Some(before.version.clone()),
        generation: Some(before.generation),
        ..found.told(outcome, why)
    };
    if !wanted.force && runs_this_image(&before) == Some(true) {
        return told(Outcome::Same, String::new());
    }
    if !wanted.force && before.version == VERSION {
        return told(
            Outcome::Same,
            "another build of the same release; --force takes it all the same".into(),
        );
    }
    let Some(block) = block else {
        return told(Outcome::Refused, "its memory block did not come along; are descriptors short?".into());
    };
    if let Err(refusal) = check::check(block) {
        let why = format!("{VERSION} cannot go on with it: {}; nothing was changed", in_full(&refusal));
        return told(Outcome::Refused, why);
    }
    if wanted.dry_run {
        return Upgraded { to: Some(VERSION.to_owned()), ..told(Outcome::Possible, String::new()) };
    }
    match hand_over(&wrapper, &before) {
        Ok(after) => Upgraded {
            to: Some(after.version),
            generation: Some(after.generation),
            ..told(Outcome::Upgraded, String::new())
        },
        Err((outcome, why)) => told(outcome, why),
    }
}

fn hand_over(wrapper: &Wrapper, before: &Answer) -> Result<Answer, (Outcome, String)> {
    let image = image::own().map_err(|errno| {
        (Outcome::Refused, format!("opening our own image: {}; nothing was changed", errno.desc()))
    })?;
    let lost = |no: NoAnswer| {
        let why = format!("after the hand-over: {}; shimtap ps shows what became of it", in_full(&no));
        (Outcome::Mute, why)
    };
    let (answer, _) = wrapper.ask(Ask::Become, Some(image.as_fd())).map_err(lost)?;
    if let Some(why) = answer.refused {
        return Err((Outcome::Refused, format!("the wrapper refuses: {why}; nothing was changed")));
    }
    let deadline = monotonic_ns().saturating_add(PATIENCE_NS);
    loop {
        let (now, _) = wrapper.ask(Ask::Who, None).map_err(lost)?;
        match now.upgrade {
            // Asked again by its new worker: it relays, so it is at work.
            Step::Done if now.version == VERSION && now.generation > before.generation => return Ok(now),
            Step::Refused => return Err((Outcome::Refused, refused(now.errno))),
            Step::KeeperLost | Step::Interrupted | Step::FellBack => {
                return Err((Outcome::Failed, failed(now.upgrade, &now.version)));
            }
            _ if monotonic_ns() >= deadline => {
                let why = format!("it is at {:?} after {} s", now.upgrade, PATIENCE_NS / 1_000_000_000);
                return Err((Outcome::Failed, why));
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}

fn refused(errno: i32) -> String {
    let why = nix::errno::Errno::from_raw(errno).desc();
    format!("the kernel would not run the image in the wrapper's place: {why}; nothing was changed")
}

fn failed(step: Step, version: &str) -> String {
    let what = match step {
        Step::FellBack => "workers of the new release died one after the other",
        Step::KeeperLost => "the keeper of the new release died or did not answer",
        _ => "a process of the wrapper died before anything was changed; ask again",
    };
    format!("{what}; {version} is at work again")
}

// === impl Found ===

impl Found {
    fn told(&self, outcome: Outcome, why: String) -> Upgraded {
        let (namespace, id) = (self.namespace.clone(), self.id.clone());
        Upgraded { namespace, id, outcome, from: None, to: None, generation: None, why }
    }
}

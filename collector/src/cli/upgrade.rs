//! `shimtap upgrade`: brings the node's wrappers to the release of a wrapper's binary.
//!
//! All the knowledge is in that binary, which is run with its own verb and says one line of JSON for each wrapper; here it is
//! found, run, watched, and its lines are shown. The collector is not asked: it may be away.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use shimtap_proto::control::{Outcome, Release, Upgraded};

use super::{Exit, args::Wanted, cells::columns};
use crate::wrapper::{self, WRAPPER};

/// Where its files are put elsewhere than in `/run/shimtap-shim`.
const ENV_RUN_DIR: &str = "SHIMTAP_RUN_DIR";
/// A wrapper's binary says its release at once.
const FIRST_LINE: Duration = Duration::from_secs(10);
/// One wrapper takes milliseconds; a hung one is given up after half of this.
const NEXT_LINE: Duration = Duration::from_secs(60);

/// Why nothing was done, or why it is not known what was.
#[derive(Debug, thiserror::Error)]
enum UpgradeFault {
    #[error("no {WRAPPER} beside {beside} or in PATH; name it with --binary")]
    NoBinary { beside: PathBuf },
    #[error("running {path}: {source}; is it a wrapper's binary, for this machine, and executable?")]
    Run { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} does not say which release it is ({said}); is it a wrapper's binary? no wrapper was touched"
    )]
    NotOurs { path: PathBuf, said: String },
    #[error("{path} is mute after {done} wrappers and was ended; run it again to see how they are")]
    Mute { path: PathBuf, done: usize },
}

/// Does it, and says what came of it.
pub(super) fn run(wanted: &Wanted) -> Exit {
    match bring(wanted) {
        Ok(fine) if fine => Exit::Done,
        Ok(_) => Exit::Failed,
        Err(fault) => {
            eprintln!("shimtap upgrade: {fault}");
            Exit::Failed
        }
    }
}

fn bring(wanted: &Wanted) -> Result<bool, UpgradeFault> {
    let path = match &wanted.binary {
        Some(path) => path.clone(),
        None => wrapper::find().map_err(|beside| UpgradeFault::NoBinary { beside })?,
    };
    let mut child =
        Running(start(&path, wanted).map_err(|source| UpgradeFault::Run { path: path.clone(), source })?);
    let lines = child.lines();
    let release = first_line(&path, &lines)?;
    let mut told = Vec::new();
    loop {
        match lines.recv_timeout(NEXT_LINE) {
            Ok(line) => {
                if wanted.json {
                    super::say(&format!("{line}\n"));
                }
                match serde_json::from_str::<Upgraded>(&line) {
                    Ok(line) => told.push(line),
                    // Of a later release: shown as it came.
                    Err(_) => eprintln!("shimtap upgrade: {line}"),
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return Err(UpgradeFault::Mute { path, done: told.len() }),
        }
    }
    let ended_well = child.0.wait().is_ok_and(|status| status.success());
    if !wanted.json {
        super::say(&table(&release, &told));
    }
    Ok(ended_well && told.iter().all(|line| line.outcome.is_fine()))
}

fn start(path: &Path, wanted: &Wanted) -> std::io::Result<Child> {
    let mut command = Command::new(path);
    command.arg("tap-upgrade");
    let switches = [(wanted.all, "--all"), (wanted.dry_run, "--dry-run"), (wanted.force, "--force")];
    command.args(switches.into_iter().filter(|(on, _)| *on).map(|(_, word)| word)).args(&wanted.ids);
    if let Some(dir) = &wanted.run_dir {
        command.env(ENV_RUN_DIR, dir);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

fn first_line(path: &Path, lines: &Receiver<String>) -> Result<Release, UpgradeFault> {
    let not_ours = |said: &str| UpgradeFault::NotOurs {
        path: path.to_owned(),
        said: format!("it said {:?}", said.chars().take(80).collect::<String>()),
    };
    match lines.recv_timeout(FIRST_LINE) {
        Ok(line) => serde_json::from_str(&line).map_err(|_| not_ours(&line)),
        Err(RecvTimeoutError::Disconnected) => Err(not_ours("")),
        Err(RecvTimeoutError::Timeout) => Err(UpgradeFault::NotOurs {
            path: path.to_owned(),
            said: format!("it said nothing for {} s and was ended", FIRST_LINE.as_secs()),
        }),
    }
}

fn table(release: &Release, told: &[Upgraded]) -> String {
    if told.is_empty() {
        return format!("no wrapper is here; nothing to bring to {}\n", release.wrapper);
    }
    let head = ["NAMESPACE", "WRAPPER OF", "FROM", "TO", "GENERATION", "OUTCOME", "WHY"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(told.iter().map(|line| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        [
            line.namespace.clone(),
            line.id.chars().take(13).collect(),
            or_dash(&line.from),
            or_dash(&line.to),
            or_dash(&line.generation.map(|n| n.to_string())),
            outcome(line.outcome).to_owned(),
            line.why.clone(),
        ]
    }));
    columns(&rows)
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Upgraded => "upgraded",
        Outcome::Possible => "possible",
        Outcome::Same => "same",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
        Outcome::Mute => "mute",
        Outcome::Gone => "gone",
    }
}

/// The new binary at work. Ended with us: it may be ended at any time.
struct Running(Child);

// === impl Running ===

impl Running {
    /// Its lines, as they come.
    fn lines(&mut self) -> Receiver<String> {
        let (sender, lines) = mpsc::channel();
        let stdout = self.0.stdout.take();
        // Ends with the child's stdout, which ends with the child.
        thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

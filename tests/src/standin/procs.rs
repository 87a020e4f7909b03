//! Finds the processes of a shim by what /proc says of them: the keeper by its command line, the worker as its
//! child.
//!
//! Reads only. A process that goes away while being looked at is simply not there. One that is dying has lost its command
//! line before it is dead, and is still shown as its child's parent: that it is dead is said by its state alone.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{errno::Errno, sys::signal, unistd::Pid};

/// How often is asked again: short against all that is waited for, and it leaves the processor to whom is waited for.
const PAUSE: Duration = Duration::from_micros(500);

/// How a worker calls itself, once it has begun.
const WORKER: &str = "tap-worker";
/// How the child calls itself that writes spool files.
const SPOOLER: &str = "tap-spool";
/// The same of a keeper, which has this word on its command line too.
const KEEPER: &str = "tap-keeper";

/// One process as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Name of its main thread, as it calls itself.
    pub name: String,
    /// State letter of stat(5); `Z` is a process that nobody has reaped.
    pub state: char,
    /// Its session: its own id where it leads one.
    pub session: Pid,
    /// When it began, in ticks since boot: no other process has this and its id.
    pub began: u64,
    /// Command line; empty in a process that is about to die, or to become another image.
    pub argv: Vec<String>,
}

impl Process {
    /// Reads one process; none where it is gone.
    #[must_use]
    pub fn read(pid: Pid) -> Option<Self> {
        let dir = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        // The name stands in parentheses and may contain anything: fields are counted from the last one.
        let (name, rest) = stat.rsplit_once(") ")?;
        let name = name.split_once(" (")?.1.to_owned();
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |n: usize| fields.get(n).and_then(|field| field.parse::<i32>().ok()).map(Pid::from_raw);
        let state = fields.first()?.chars().next()?;
        let (parent, session) = (number(1)?, number(3)?);
        let began = fields.get(19)?.parse().ok()?;
        let argv = fs::read(dir.join("cmdline")).ok()?;
        let argv = argv
            .split(|b| *b == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .filter(|a| !a.is_empty());
        Some(Self { pid, parent, name, state, session, began, argv: argv.collect() })
    }

    /// Whether this very process is still alive, be it in its last moments (a zombie is not).
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|p| !p.is_dead() && p.began == self.began)
    }

    /// Whether it was dead when it was read.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// A keeper that has begun. Neither a worker that was forked a moment ago and still has its keeper's name, nor the child
    /// that makes a descriptor beside it (docs/adr/0008): they lead no session.
    fn is_keeper(&self) -> bool {
        let called = self.argv.get(1).is_some_and(|word| word == KEEPER) && self.name == KEEPER;
        called && !self.is_dead() && self.session == self.pid
    }

    /// Whether both belong to one wrapper, whichever of its processes they are.
    fn is_of_wrapper(&self, other: &Self) -> bool {
        let same = |flag: &&str| self.flag(flag).is_some() && self.flag(flag) == other.flag(flag);
        ["-namespace", "-id"].iter().all(same)
    }

    fn has_flag(&self, flag: &str, value: &str) -> bool {
        self.flag(flag) == Some(value)
    }

    fn flag(&self, flag: &str) -> Option<&str> {
        self.argv.iter().zip(self.argv.iter().skip(1)).find(|(a, _)| *a == flag).map(|(_, b)| b.as_str())
    }
}

/// Every process with this word on its command line.
///
/// # Errors
/// /proc cannot be listed.
pub fn with(word: &str) -> Result<Vec<Process>> {
    let dir = fs::read_dir("/proc").context("listing /proc")?;
    // Of most processes the command line is all that is read: stat(5) takes the kernel much longer.
    let has_word = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|other| other == word.as_bytes())
    };
    let pids = dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()).filter(has_word);
    Ok(pids.filter_map(|pid| Process::read(Pid::from_raw(pid))).collect())
}

/// Every process of a namespace, whatever it is.
///
/// # Errors
/// As [`with`].
pub fn of(namespace: &str) -> Result<Vec<Process>> {
    let mut found = with(namespace)?;
    found.retain(|p| p.has_flag("-namespace", namespace));
    Ok(found)
}

/// The keepers of a namespace that have begun: `… tap-keeper … -namespace NS … -id ID`. A worker that was forked has the same
/// command line.
///
/// # Errors
/// As [`with`].
pub fn keepers(namespace: &str) -> Result<Vec<Process>> {
    let mut found = all_keepers()?;
    found.retain(|p| p.has_flag("-namespace", namespace));
    Ok(found)
}

/// Every keeper of this machine, whoever's it is.
///
/// # Errors
/// As [`with`].
pub fn all_keepers() -> Result<Vec<Process>> {
    let mut found = with(KEEPER)?;
    found.retain(Process::is_keeper);
    Ok(found)
}

/// Whether any process of the wrapper of `one` lives, whether it is of a keeper's image or one that has begun anew.
///
/// # Errors
/// As [`with`].
pub fn wrapper_lives(one: &Process) -> Result<bool> {
    let mut all = with(KEEPER)?;
    all.extend(with(WORKER)?);
    Ok(all.iter().any(|process| !process.is_dead() && process.is_of_wrapper(one)))
}

/// The worker of a keeper: its only living child, or the process that made it where it stands in for a keeper that
/// was gone or mute.
///
/// # Errors
/// There is none, or more than one.
pub fn worker(keeper: Pid) -> Result<Process> {
    let path = format!("/proc/{keeper}/task/{keeper}/children");
    let list = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    let mut found: Vec<Process> = pids.filter_map(|pid| Process::read(Pid::from_raw(pid))).collect();
    found.extend(Process::read(keeper).and_then(|k| Process::read(k.parent)).filter(|p| p.name == WORKER));
    found.retain(|p| !p.is_dead() && p.name == WORKER);
    match found.len() {
        1 => found.pop().context("one worker"),
        _ => bail!("workers of keeper {keeper}: {found:?}"),
    }
}

/// Every living worker of a namespace, whoever's child it is. The child of one is a keeper that has not begun yet.
///
/// # Errors
/// As [`with`].
pub fn workers(namespace: &str) -> Result<Vec<Process>> {
    let mut found = of(namespace)?;
    found.retain(|p| !p.is_dead() && p.name == WORKER);
    let pids: Vec<Pid> = found.iter().map(|p| p.pid).collect();
    found.retain(|p| !pids.contains(&p.parent));
    Ok(found)
}

/// Every process that lives on behind a `start` of a namespace, in whatever part: keepers, workers, and their children.
///
/// # Errors
/// As [`with`].
pub fn wrappers(namespace: &str) -> Result<Vec<Process>> {
    let mut found = of(namespace)?;
    found.retain(|p| p.state != 'Z' && p.argv.get(1).is_some_and(|verb| verb.starts_with("tap-")));
    Ok(found)
}

/// Every child of a namespace that writes spool files, its keeper alive or not.
///
/// # Errors
/// As [`with`].
pub fn spoolers(namespace: &str) -> Result<Vec<Process>> {
    let mut found = of(namespace)?;
    found.retain(|p| p.state != 'Z' && p.name == SPOOLER);
    Ok(found)
}

/// Waits for the worker of a keeper that is not `before`.
///
/// # Errors
/// None came in time.
pub fn next_worker(keeper: Pid, before: Option<Pid>, patience: Duration) -> Result<Process> {
    let what = || format!("a worker of keeper {keeper} after {before:?}");
    wait(patience, what, || worker(keeper).ok().filter(|w| Some(w.pid) != before && w.argv.len() > 1))
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// There was none in time.
pub fn wait<T>(
    patience: Duration,
    what: impl Fn() -> String,
    mut find: impl FnMut() -> Option<T>,
) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < until, "not within {patience:?}: {}", what());
        std::thread::sleep(PAUSE);
    }
}

/// SIGKILL to one process; being gone already is fine.
///
/// # Errors
/// It may not be killed.
pub fn kill(pid: Pid) -> Result<()> {
    match signal::kill(pid, signal::Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("killing {pid}")),
    }
}

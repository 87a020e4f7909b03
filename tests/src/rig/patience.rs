//! Waiting for a condition, with a limit and with a name for what was waited for.
//!
//! The only place in the tests that may pause: no test sleeps, each waits for something that it can name.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is asked for. Short against what is waited for, long against a fork on two cores.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `condition` until it gives a value, an error, or `deadline` has passed; the last is an error that
/// names `what` was waited for.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    now_and_then(PAUSE, deadline, what, condition)
}

/// The same, asked for so often: where asking costs what is waited for its time.
pub fn now_and_then<T>(
    pause: Duration,
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what}, in vain");
        }
        std::thread::sleep(pause);
    }
}

/// Takes a time again until it is no longer than `most`, eight times at most. What waits for something does so each time; on a busy
/// machine anything may take long, but not each time. The error names `what` took longer.
pub fn quickly(most: Duration, what: &str, mut once: impl FnMut() -> Result<Duration>) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..8 {
        let took = once()?;
        if took <= most {
            return Ok(());
        }
        all.push(took);
    }
    bail!("{what} took {all:?}, never {most:?} or less")
}

/// Demands that `condition` holds during the whole of `span`; the error names `what` should have held.
pub fn throughout(span: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if !condition()? {
            bail!("{what} held only for {:?} of {span:?}", start.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

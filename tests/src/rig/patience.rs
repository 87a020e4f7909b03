//! Waiting for a condition, with a limit and with a name for what was waited for.
//!
//! The only place in the tests that may pause: no test sleeps, each waits for something that it can name.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is asked for. Short against what is waited for, long against a fork on two cores.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `condition` until it gives a value, an error, or `deadline` has passed; the last is an error that
/// names `what` was waited for. It is asked once more then: a machine that stood still, or one answer that took long, is no proof
/// that what was waited for did not come in time.
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
        let is_last = start.elapsed() >= deadline;
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if is_last {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_took_longer_than_the_limit_is_not_the_last() -> Result<()> {
        const LIMIT: Duration = Duration::from_millis(1);
        let mut asked = 0;
        eventually(LIMIT, "a second answer", || {
            asked += 1;
            std::thread::sleep(2 * LIMIT);
            Ok((asked > 1).then_some(()))
        })?;
        assert!(eventually(LIMIT, "nothing", || Ok(None::<()>)).is_err(), "it ends all the same");
        Ok(())
    }
}

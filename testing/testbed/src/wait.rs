//! Waiting for a condition, with a deadline.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(40);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks `check` until it gives a value, and fails when `within` has passed, naming `what` was waited for.
///
/// # Errors
///
/// The deadline has passed, `check` failed (which ends the wait at once), or the program was told to stop.
pub fn wait_for<T>(what: &str, within: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_for_end(what, within, || match check()? {
        None if INTERRUPTED.load(Ordering::Relaxed) => bail!("interrupted while waiting until {what}"),
        other => Ok(other),
    })
}

/// Tries `attempt` until it succeeds. Its last error is in the error of this.
///
/// # Errors
///
/// The deadline has passed, or the program was told to stop.
pub fn wait_until_ok<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = None;
    let waited = wait_for(what, within, || match attempt() {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    match last {
        Some(last) => waited.map_err(|error| last.context(error.to_string())),
        None => waited,
    }
}

/// As [`wait_for`], for what is being taken down: that goes on where the program was told to stop.
pub(crate) fn wait_for_end<T>(what: &str, within: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain until {what}", within.as_secs_f32());
        }
        thread::sleep(PAUSE);
    }
}

/// Ends every [`wait_for`] of this process with an error, so that a cluster that is half started is taken down again.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

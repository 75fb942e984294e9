//! The whole system on a real cluster, for as long as asked, while everything goes wrong that can: processes die and hang, links break and are
//! slow, disks are full, bytes rot, origins refuse, nodes come and go. What happens follows from a seed. Meanwhile pods come and go,
//! ImageCaches are edited and tags move; and what must hold then is looked at all the time, and again when all is quiet.
//!
//! What must hold:
//! - A pod that pulls without larder would have started starts, and soon; one without the right to its image does not.
//! - No byte is wrong in a runtime's content store, and no image goes that a container uses.
//! - The origins send larder little more than each blob once; its processes stay small; nothing tells a secret.
//! - When all is quiet, what the statuses say is true, and everything wanted is there.
#![forbid(unsafe_code)]

mod edits;
mod happen;
mod judge;
mod lab;
mod plan;
mod pods;
mod processes;
mod report;
mod windows;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use report::Report;

use crate::lab::Lab;
use crate::report::Journal;
use crate::windows::Windows;

/// The least time that tells anything.
pub const LEAST: Duration = Duration::from_secs(60);

/// Runs it on a cluster of this name: faults for `length`, and then until all is quiet.
///
/// # Errors
/// The cluster does not start or end. What larder does wrong is in the report.
pub fn run(name: &str, length: Duration, seed: u64) -> Result<Report> {
    if length < LEAST {
        bail!("a soak takes {} s at least", LEAST.as_secs());
    }
    let lab = Lab::start(name)?;
    edits::make_all(&lab, seed)?;
    let began = Instant::now();
    let (journal, windows) = (Journal::new(began), Windows::default());
    let steps = plan::plan(seed, length);
    let (over, settled) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (lab, windows, journal) = (&lab, &windows, &journal);
        let (over, settled) = (&over, &settled);
        let pods = scope.spawn(move || pods::keep(lab, seed, over, windows, journal));
        let edits = scope.spawn(move || edits::keep(lab, seed, over, windows, journal));
        scope.spawn(move || judge::watch(lab, settled, windows, journal));
        happen::all(lab, &steps, began, windows, journal);
        thread::sleep((began + length).saturating_duration_since(Instant::now()));
        over.store(true, Ordering::Relaxed);
        let done = [pods.join(), edits.join()].into_iter().all(|thread| thread.is_ok());
        if !done {
            journal.breach("what makes pods and edits panicked");
        }
        journal.note("everything is well again");
        judge::verdict(lab, windows, journal);
        settled.store(true, Ordering::Relaxed);
    });
    let report = journal.report(length, seed);
    lab.end(!report.breaches.is_empty())?;
    Ok(report)
}

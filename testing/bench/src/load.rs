//! Many clients at once.

use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::Client;

/// How long clients run before they are looked at.
const WARM_UP: Duration = Duration::from_millis(500);

/// Clients that take one body after the other, for as long as `observe` runs, which is given a look at the bytes taken so far.
/// Client number `n` takes `paths[n % paths.len()]`.
pub(crate) fn stream<T>(
    address: SocketAddr,
    paths: &[String],
    clients: usize,
    observe: impl FnOnce(&dyn Fn() -> u64) -> T,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    let counts: Vec<Count> = (0..clients).map(|_| Count::default()).collect();
    let failure = Mutex::new(None);
    let observed = thread::scope(|scope| {
        for (number, count) in counts.iter().enumerate() {
            let path = &paths[number % paths.len()];
            let (stop, failure) = (&stop, &failure);
            scope.spawn(move || {
                let done = take_all(address, path, stop, count);
                if let Err(error) = done
                    && !stop.load(Ordering::Relaxed)
                {
                    failure.lock().expect("no panic while held").get_or_insert(error);
                }
            });
        }
        thread::sleep(WARM_UP);
        let observed = observe(&|| counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum());
        stop.store(true, Ordering::Relaxed);
        observed
    });
    match failure.into_inner().expect("no panic while held") {
        Some(error) => Err(error),
        None => Ok(observed),
    }
}

/// On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Count(AtomicU64);

fn take_all(address: SocketAddr, path: &str, stop: &AtomicBool, count: &Count) -> Result<()> {
    let mut client = Client::connect(address)?;
    while !stop.load(Ordering::Relaxed) {
        let taken = client.get(path, |bytes| {
            count.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            !stop.load(Ordering::Relaxed)
        })?;
        if taken.status != 200 {
            bail!("{path} gives {}", taken.status);
        }
    }
    Ok(())
}

/// What became of clients that all wanted one body at once.
pub(crate) struct Herd {
    /// How many got all of it.
    pub(crate) whole: usize,
    /// Until the last one had it, or until they were stopped.
    pub(crate) time: Duration,
}

/// Clients that all take the same body once, at the same time. They are stopped after `deadline`.
pub(crate) fn herd(address: SocketAddr, path: &str, clients: usize, deadline: Duration) -> Result<Herd> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Client::connect(address)?);
    }
    let handles = connections.iter().map(Client::handle).collect::<Result<Vec<_>>>()?;
    let (whole, running) = (AtomicU64::new(0), AtomicU64::new(clients as u64));
    let started = Instant::now();
    let last = Mutex::new(Duration::ZERO);
    thread::scope(|scope| {
        for mut client in connections {
            let (whole, running, last) = (&whole, &running, &last);
            scope.spawn(move || {
                if let Ok(taken) = client.get(path, |_| true)
                    && taken.status == 200
                {
                    whole.fetch_add(1, Ordering::Relaxed);
                    let mut last = last.lock().expect("no panic while held");
                    *last = (*last).max(taken.end - started);
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while running.load(Ordering::Relaxed) > 0 {
            if started.elapsed() > deadline {
                for handle in &handles {
                    // It may have ended by itself.
                    let _ = handle.shutdown(Shutdown::Both);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    let whole = whole.into_inner() as usize;
    let last = last.into_inner().expect("no panic while held");
    Ok(Herd { whole, time: if whole == clients { last } else { started.elapsed() } })
}

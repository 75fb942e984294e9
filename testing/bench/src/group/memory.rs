use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Bench, or_without, watched};
use crate::figure::{Figure, Goal, Unit};
use crate::load;
use crate::process::Process;
use crate::server::{Kind, Target};

const REPOSITORY: &str = "bench/memory";
const MIB: f64 = (1u64 << 20) as f64;
const CLIENTS: usize = 100;
const SIZE: u64 = 1_000_000_000;
const WARM_BLOBS: usize = 4;
const COLD_BLOBS: usize = 2;

/// How long a server is left alone before it counts as idle: threads that it needed to start have ended.
pub(super) const REST: Duration = Duration::from_secs(7);

/// How long many clients stream.
const STREAMING: Duration = Duration::from_secs(5);

/// Resident memory.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut idle = Figure::new("resident memory, idle, MiB", Unit::Mib, &[Goal::Limit(15.0)]);
    let streaming = |what| {
        let what = format!("resident memory, {CLIENTS} clients of {what}, MiB");
        Figure::new(what, Unit::Mib, &[Goal::Limit(60.0)])
    };
    let mut warm = streaming("warm blobs of 1 GB");
    let mut cold = streaming("cold blobs of 1 GB");
    let blobs: Vec<Target> = (0..WARM_BLOBS)
        .map(|_| {
            let seed = bench.seed();
            Target::blob(REPOSITORY, &bench.origin.generated_blob(REPOSITORY, SIZE, seed))
        })
        .collect();
    for kind in bench.programs.kinds() {
        // Filled by a process of its own, whose memory is not looked at.
        if let Some(server) = or_without(kind, bench.start(kind, "memory"))? {
            or_without(kind, blobs.iter().try_for_each(|blob| server.warm(blob)))?;
        }
    }
    for repetition in 0..bench.repetitions {
        let mut servers = Vec::new();
        for kind in bench.turns(repetition, |_| true) {
            servers.extend(or_without(kind, bench.start(kind, "memory"))?);
        }
        thread::sleep(REST);
        for server in &servers {
            idle.add(repetition, server.kind, server.process.resident() / MIB, None);
        }
        for server in &servers {
            let paths: Vec<String> = blobs.iter().map(|blob| server.path(blob)).collect();
            let measured =
                watched(server, || load::stream(server.address, &paths, CLIENTS, |_| peak(&server.process, STREAMING)));
            if let Some((peak, machine)) = or_without(server.kind, measured)? {
                warm.add(repetition, server.kind, peak / MIB, Some(machine));
            }
        }
        drop(servers);
        for kind in bench.turns(repetition, Kind::is_cache) {
            let Some(server) = or_without(kind, bench.start(kind, "cold-memory"))? else { continue };
            let paths: Vec<String> = blobs.iter().take(COLD_BLOBS).map(|blob| server.path(blob)).collect();
            let measured = watched(&server, || {
                load::stream(server.address, &paths, CLIENTS, |_| peak(&server.process, STREAMING))
            });
            if let Some((peak, machine)) = or_without(kind, measured)? {
                cold.add(repetition, kind, peak / MIB, Some(machine));
            }
            drop(server);
            bench.clear(kind, "cold-memory")?;
        }
    }
    Ok(vec![idle, warm, cold])
}

/// The most memory that a server has within some time, in bytes.
pub(super) fn peak(process: &Process, time: Duration) -> f64 {
    let started = Instant::now();
    let mut most: f64 = 0.0;
    while started.elapsed() < time {
        most = most.max(process.resident());
        thread::sleep(Duration::from_millis(50));
    }
    most
}

use anyhow::Result;

use super::{Bench, or_without, watched};
use crate::figure::{Figure, Goal, Unit};
use crate::server::{Kind, Target};
use crate::wrk;

const REPOSITORY: &str = "bench/small";
/// Small blobs that take turns.
const BLOBS: u64 = 32;

/// Small answers over 32 connections.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Figure>> {
    let seed = bench.seed();
    let image = bench.origin.image(REPOSITORY, "v1", &[4096; 8], seed);
    let blobs: Vec<Target> = (0..BLOBS)
        .map(|_| {
            let seed = bench.seed();
            Target::blob(REPOSITORY, &bench.origin.generated_blob(REPOSITORY, 10_000, seed))
        })
        .collect();
    let manifest_goals = [Goal::AtLeastTimes(5.0, Kind::Distribution), Goal::AtLeastTimes(3.0, Kind::Nora)];
    let blob_goals = [Goal::AtLeastTimes(10.0, Kind::Distribution)];
    let p99_goals = [Goal::Limit(3.0)];
    let kinds = [
        ("manifest by digest", vec![Target::manifest(REPOSITORY, &image.digest)], &manifest_goals[..], &p99_goals[..]),
        ("manifest by fresh tag", vec![Target::manifest(REPOSITORY, "v1")], &manifest_goals, &p99_goals),
        ("blobs of 10 kB", blobs, &blob_goals, &[]),
    ];
    let mut servers = Vec::new();
    for kind in bench.programs.kinds() {
        let Some(server) = or_without(kind, bench.start(kind, "requests"))? else { continue };
        let warmed = kinds.iter().flat_map(|(_, targets, ..)| targets).try_for_each(|target| server.warm(target));
        if or_without(kind, warmed)?.is_some() {
            servers.push(server);
        }
    }
    let mut figures = Vec::new();
    for (what, targets, rate_goals, p99_goals) in &kinds {
        let mut rate = Figure::new(format!("{what}, 32 connections, requests/s"), Unit::PerSecond, rate_goals);
        let mut p50 = Figure::new(format!("{what}, 32 connections, p50, ms"), Unit::Milliseconds, &[]);
        let mut p99 = Figure::new(format!("{what}, 32 connections, p99, ms"), Unit::Milliseconds, p99_goals);
        for repetition in 0..bench.repetitions {
            for kind in bench.turns(repetition, |_| true) {
                let Some(server) = servers.iter().find(|server| server.kind == kind) else { continue };
                let paths: Vec<String> = targets.iter().map(|target| server.path(target)).collect();
                let measured = watched(server, || wrk::run(server.address, &paths, bench.seconds));
                let Some((measured, machine)) = or_without(kind, measured)? else { continue };
                rate.add(repetition, kind, measured.per_second, Some(machine));
                p50.add(repetition, kind, measured.p50_ms, Some(machine));
                p99.add(repetition, kind, measured.p99_ms, Some(machine));
            }
        }
        figures.extend([rate, p50, p99]);
    }
    Ok(figures)
}

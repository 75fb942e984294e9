use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use faulty::Kind as Asked;

use super::{Bench, or_without, watched};
use crate::client::{self, Taken};
use crate::figure::{Figure, Goal, Sample, Unit};
use crate::load;
use crate::server::{Kind, Target};

const REPOSITORY: &str = "bench/cold";

/// An origin at the end of a line of 1 Gbit/s, in bytes per second.
const LINE: u64 = 125_000_000;
const SIZE: u64 = 250_000_000;

/// The herd's origin, 200 Mbit/s in bytes per second.
const HERD_LINE: u64 = 25_000_000;
const HERD_SIZE: u64 = 200_000_000;
const HERD: usize = 100;
/// A herd that takes so many times as long as one direct transfer is stopped.
const PATIENCE: f64 = 3.0;

/// One client, one blob that only the origin has.
pub(super) fn alone(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut first =
        Figure::new("cold blob: first byte after the origin's first byte, ms", Unit::Milliseconds, &[Goal::Limit(5.0)]);
    let mut total = Figure::new(
        "cold blob of 250 MB, origin at 1 Gbit/s: time, in direct transfers",
        Unit::Times,
        &[Goal::Limit(1.05)],
    );
    let mut rate = Figure::new("cold blob of 250 MB, origin without a limit, MiB/s", Unit::MibPerSecond, &[]);
    for repetition in 0..bench.repetitions {
        let mut new = || {
            let seed = bench.seed();
            bench.origin.generated_blob(REPOSITORY, SIZE, seed)
        };
        let (digest, fast) = (new(), Target::blob(REPOSITORY, &new()));
        let target = Target::blob(REPOSITORY, &digest);
        let direct = direct(bench, &target, LINE)?;
        for kind in bench.turns(repetition, Kind::is_cache) {
            let Some(server) = or_without(kind, bench.start(kind, "cold"))? else { continue };
            let started = Instant::now();
            let measured = watched(&server, || client::get(server.address, &server.path(&fast)));
            if let Some((taken, machine)) = or_without(kind, measured)? {
                let seconds = (taken.end - started).as_secs_f64();
                rate.add(repetition, kind, SIZE as f64 / f64::from(1 << 20) / seconds, Some(machine));
            }
            bench.origin.clear_log();
            bench.origin.cap(Some(LINE));
            let started = Instant::now();
            let measured = watched(&server, || client::get(server.address, &server.path(&target)));
            bench.origin.cap(None);
            if let Some((taken, machine)) = or_without(kind, measured)? {
                first.add(repetition, kind, lead(bench, &digest, &taken)?, Some(machine));
                let times = (taken.end - started).as_secs_f64() / direct.as_secs_f64();
                total.add(repetition, kind, times, Some(machine));
            }
            drop(server);
            bench.clear(kind, "cold")?;
        }
        bench.origin.delete(REPOSITORY, &digest);
        bench.origin.delete(REPOSITORY, &fast.reference);
    }
    Ok(vec![first, total, rate])
}

/// How long one transfer from the origin itself takes over a line of that rate.
fn direct(bench: &Bench, target: &Target, line: u64) -> Result<Duration> {
    bench.origin.cap(Some(line));
    let started = Instant::now();
    let taken = client::get(bench.origin.addr(), &target.path());
    bench.origin.cap(None);
    Ok(taken?.end - started)
}

/// How many milliseconds after the origin's first byte the client had its own.
fn lead(bench: &Bench, digest: &str, taken: &Taken) -> Result<f64> {
    let client_us = bench.origin.now_us() as f64 - taken.first_byte.elapsed().as_secs_f64() * 1e6;
    let log = bench.origin.log();
    let asked = log.iter().find(|request| {
        request.method == "GET" && request.kind == Asked::Blob && request.reference == digest && request.status == 200
    });
    let origin_us = asked.and_then(|request| request.first_byte_us).context("the origin was not asked")?;
    Ok((client_us - origin_us as f64) / 1e3)
}

/// Many clients, one blob that only the origin has.
pub(super) fn herd(bench: &mut Bench) -> Result<Vec<Figure>> {
    let what = "100 clients, one cold blob of 200 MB, origin at 200 Mbit/s";
    let mut bytes = Figure::new(format!("{what}: bytes from the origin, in blobs"), Unit::Times, &[Goal::Limit(1.0)]);
    let mut time =
        Figure::new(format!("{what}: time until all have it, in direct transfers"), Unit::Times, &[Goal::Limit(1.1)]);
    for repetition in 0..bench.repetitions {
        let seed = bench.seed();
        let digest = bench.origin.generated_blob(REPOSITORY, HERD_SIZE, seed);
        let target = Target::blob(REPOSITORY, &digest);
        let direct = direct(bench, &target, HERD_LINE)?;
        // Those that do not coalesce take for ever, and one look at them tells enough.
        for kind in bench.turns(repetition, |kind| kind == Kind::Larder || repetition == 0 && kind.is_cache()) {
            let Some(server) = or_without(kind, bench.start(kind, "herd"))? else { continue };
            bench.origin.clear_log();
            bench.origin.cap(Some(HERD_LINE));
            let deadline = direct.mul_f64(PATIENCE);
            let measured = watched(&server, || load::herd(server.address, &server.path(&target), HERD, deadline));
            let sent = bench.origin.bytes_sent(&digest) as f64 / HERD_SIZE as f64;
            bench.origin.drop_connections();
            bench.origin.cap(None);
            let Some((measured, machine)) = or_without(kind, measured)? else { continue };
            let cut = measured.whole < HERD;
            if cut && kind == Kind::Larder && measured.time < deadline {
                bail!("only {} of {HERD} clients got all of the blob", measured.whole);
            }
            let add = |figure: &mut Figure, value| {
                figure.samples.push(Sample { repetition, server: kind, value, cut, machine: Some(machine) });
            };
            add(&mut bytes, sent);
            add(&mut time, measured.time.as_secs_f64() / direct.as_secs_f64());
            drop(server);
            bench.clear(kind, "herd")?;
        }
        bench.origin.delete(REPOSITORY, &digest);
    }
    Ok(vec![bytes, time])
}

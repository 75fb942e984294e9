use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Bench, or_without, watched};
use crate::figure::{Figure, Goal, Unit};
use crate::load;
use crate::machine::TICK_MS;
use crate::server::{Kind, Server, Target};

const REPOSITORY: &str = "bench/warm";
const SIZE: u64 = 256 << 20;
const GIB: f64 = (1u64 << 30) as f64;

struct Measured {
    cpu_ms_per_gib: f64,
    mib_per_second: f64,
}

/// One large blob, asked for over and over by some clients at once.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Figure>> {
    let seed = bench.seed();
    let target = Target::blob(REPOSITORY, &bench.origin.generated_blob(REPOSITORY, SIZE, seed));
    let mut servers = Vec::new();
    for kind in bench.programs.kinds() {
        let server = or_without(kind, bench.start(kind, "warm"))?;
        if let Some(server) = server
            && or_without(kind, server.warm(&target))?.is_some()
        {
            servers.push(server);
        }
    }
    let counts = [1, 16, 64];
    let cpu_goal = [Goal::AtMostTimes(1.15, Kind::Nginx)];
    let mut cpu = counts.map(|clients| {
        let goals: &[Goal] = if clients < 64 { &cpu_goal } else { &[] };
        Figure::new(format!("CPU of the server per GiB of a warm blob, {}, ms", of(clients)), Unit::Milliseconds, goals)
    });
    let mut rate = counts.map(|clients| {
        let goals = [Goal::AtLeastTimes(0.95, Kind::Nginx)];
        Figure::new(format!("warm throughput, {}, MiB/s", of(clients)), Unit::MibPerSecond, &goals)
    });
    for repetition in 0..bench.repetitions {
        for (number, clients) in counts.into_iter().enumerate() {
            for kind in bench.turns(repetition, |_| true) {
                let Some(server) = servers.iter().find(|server| server.kind == kind) else { continue };
                let measured = watched(server, || measure(server, &target, clients, bench.seconds));
                let Some((measured, machine)) = or_without(kind, measured)? else { continue };
                cpu[number].add(repetition, kind, measured.cpu_ms_per_gib, Some(machine));
                rate[number].add(repetition, kind, measured.mib_per_second, Some(machine));
            }
        }
    }
    Ok(cpu.into_iter().chain(rate).collect())
}

fn of(clients: usize) -> String {
    if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") }
}

fn measure(server: &Server, target: &Target, clients: usize, seconds: f64) -> Result<Measured> {
    load::stream(server.address, &[server.path(target)], clients, |taken| {
        let (started, bytes, ticks) = (Instant::now(), taken(), server.process.ticks());
        thread::sleep(Duration::from_secs_f64(seconds));
        let (bytes, ticks) = ((taken() - bytes) as f64, server.process.ticks() - ticks);
        let time = started.elapsed().as_secs_f64();
        Measured { cpu_ms_per_gib: ticks * TICK_MS / (bytes / GIB), mib_per_second: bytes / f64::from(1 << 20) / time }
    })
}

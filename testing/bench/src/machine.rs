//! What the machine did meanwhile, so that a reader can tell how far to trust a figure.

use std::fs;

use crate::process::{self, Process};

/// A tick of the clock of /proc in milliseconds. The same on every Linux that matters (USER_HZ).
pub(crate) const TICK_MS: f64 = 10.0;

/// The clocks at one moment, in ticks.
pub(crate) struct Moment {
    idle: f64,
    busy: f64,
    own: f64,
}

/// How the processors were used between two moments, in shares of all of them.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Use {
    /// Nothing to do.
    pub(crate) idle: f64,
    /// For processes that have nothing to do with the measurement.
    pub(crate) foreign: f64,
}

impl Moment {
    /// `servers` are counted as belonging to the measurement, and so are this process and the children it waited for.
    pub(crate) fn now<'a>(servers: impl IntoIterator<Item = &'a Process>) -> Moment {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guests are within user.
        let idle = fields.get(3..5).map_or(0.0, |both| both.iter().sum());
        let all: f64 = fields.iter().take(8).sum();
        let servers: f64 = servers.into_iter().map(Process::ticks).sum();
        Moment { idle, busy: all - idle, own: servers + process::ticks_with_children(std::process::id()) }
    }

    /// From this moment to `later`.
    pub(crate) fn until(&self, later: &Moment) -> Use {
        let all = (later.idle + later.busy - self.idle - self.busy).max(1.0);
        let foreign = (later.busy - self.busy) - (later.own - self.own);
        Use { idle: (later.idle - self.idle) / all, foreign: (foreign / all).max(0.0) }
    }
}

/// What is worth telling about the machine.
pub(crate) fn describe() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), {memory} GiB, Linux {}", field("/proc/cpuinfo", "model name"), kernel.trim())
}

//! Groups of figures that are measured together.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use faulty::Upstream;

use crate::figure::Figure;
use crate::machine::{Moment, Use};
use crate::server::{Kind, Programs, Server};

mod cold;
mod many;
mod memory;
mod requests;
mod warm;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// CPU per byte and throughput of warm blobs.
    Warm,
    /// Small answers: requests per second and latencies.
    Requests,
    /// One cold blob, against a direct transfer.
    Cold,
    /// 100 clients on one cold blob.
    Herd,
    /// Resident memory.
    Memory,
    /// A store with 100,000 blobs.
    Many,
}

impl Name {
    pub(crate) const ALL: [Name; 6] = [Name::Warm, Name::Requests, Name::Cold, Name::Herd, Name::Memory, Name::Many];
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// What all groups use.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) origin: Upstream,
    pub(crate) repetitions: usize,
    /// How long a rate is measured.
    pub(crate) seconds: f64,
    pub(crate) figures: Vec<Figure>,
    seed: u64,
}

impl Bench {
    pub(crate) fn new(programs: Programs, repetitions: usize, seconds: f64) -> Result<Bench> {
        let bench = Bench {
            programs,
            origin: Upstream::open(([127, 0, 0, 1], 0).into(), None)?,
            repetitions,
            seconds,
            figures: Vec::new(),
            seed: 0,
        };
        let _ = fs::remove_dir_all(bench.work());
        fs::create_dir_all(bench.work())?;
        Ok(bench)
    }

    fn work(&self) -> PathBuf {
        crate::folder().join("work")
    }

    /// Starts a server in a folder of that name, anew or once more.
    fn start(&self, kind: Kind, name: &str) -> Result<Server> {
        Server::start(&self.programs, kind, &self.work().join(format!("{name}-{kind:?}")), self.origin.addr())
    }

    /// Deletes what a server that has ended left there.
    fn clear(&self, kind: Kind, name: &str) -> Result<()> {
        let folder = self.work().join(format!("{name}-{kind:?}"));
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    /// The servers in the order of a repetition: each is first once in a while.
    fn turns(&self, repetition: usize, wanted: impl Fn(Kind) -> bool) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.programs.kinds().into_iter().filter(|kind| wanted(*kind)).collect();
        let first = repetition % kinds.len().max(1);
        kinds.rotate_left(first);
        kinds
    }

    /// A number that was not given before, so that content is new.
    fn seed(&mut self) -> u64 {
        self.seed += 1;
        // The process is part of it: stores of an earlier run must not have the content.
        u64::from(std::process::id()) << 32 | self.seed
    }
}

/// Measures a group.
pub(crate) fn run(bench: &mut Bench, name: Name) -> Result<()> {
    let figures = match name {
        Name::Warm => warm::run(bench),
        Name::Requests => requests::run(bench),
        Name::Cold => cold::alone(bench),
        Name::Herd => cold::herd(bench),
        Name::Memory => memory::run(bench),
        Name::Many => many::run(bench),
    }?;
    bench.figures.extend(figures);
    let _ = fs::remove_dir_all(bench.work());
    fs::create_dir_all(bench.work())?;
    Ok(())
}

/// A figure of a server other than larder may be missing; that is told and the others go on.
fn or_without<T>(kind: Kind, measured: Result<T>) -> Result<Option<T>> {
    match measured {
        Ok(value) => Ok(Some(value)),
        Err(error) if kind == Kind::Larder => Err(error),
        Err(error) => {
            eprintln!("  {kind}: {error:#}");
            Ok(None)
        }
    }
}

/// Runs something and tells how the machine was used meanwhile.
fn watched<T>(server: &Server, work: impl FnOnce() -> Result<T>) -> Result<(T, Use)> {
    let before = Moment::now([&server.process]);
    let value = work()?;
    Ok((value, before.until(&Moment::now([&server.process]))))
}

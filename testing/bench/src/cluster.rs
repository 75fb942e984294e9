//! The figures of the testbed.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use testbed::{Cluster, ClusterSpec};

use crate::figure::spread;
use crate::{machine, report};

/// One cluster's life.
#[derive(Serialize)]
struct Round {
    up_s: f64,
    down_s: f64,
    memory_mib: f64,
}

/// Starts and ends a cluster so many times, and writes down what that took.
pub(crate) fn run(nodes: usize, rounds: usize, build: bool) -> Result<()> {
    let built = build.then(build_all).transpose()?;
    // The first one builds what is missing, and is not counted.
    life(nodes)?;
    let mut lives = Vec::new();
    for round in 1..=rounds {
        let life = life(nodes)?;
        eprintln!("round {round}: up {:.1} s, down {:.1} s, {:.0} MiB", life.up_s, life.down_s, life.memory_mib);
        lives.push(life);
    }
    let mut text = format!(
        "`cargo run --release -p bench -- testbed --nodes {nodes} --rounds {rounds}` on {}.\n\n\
         | what | median (least – most) | must reach | reached |\n|---|---|---|---|\n",
        machine::describe()
    );
    let mut row = |what: &str, unit: &str, limit: Option<f64>, values: Vec<f64>| {
        let Some([least, median, most]) = spread(values.into_iter()) else { return };
        let (goal, reached) = match limit {
            Some(limit) => (format!("≤ {limit} {unit}"), if median <= limit { "yes" } else { "**no**" }),
            None => ("–".to_owned(), "–"),
        };
        text.push_str(&format!("| {what} | {median:.1} ({least:.1} – {most:.1}) {unit} | {goal} | {reached} |\n"));
    };
    row(&format!("`up` of {nodes} nodes, warm"), "s", Some(20.0), lives.iter().map(|life| life.up_s).collect());
    row("`down`", "s", Some(5.0), lives.iter().map(|life| life.down_s).collect());
    row("resident memory, all processes", "MiB", None, lives.iter().map(|life| life.memory_mib).collect());
    if let Some(seconds) = built {
        row("build of all programs, sources fetched, nothing built", "s", None, vec![seconds]);
    }
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("testbed", &lives)?.display());
    report::into_docs("testbed", &text)
}

fn life(nodes: usize) -> Result<Round> {
    let started = Instant::now();
    let cluster = Cluster::start(&ClusterSpec::new("figures").nodes(nodes))?;
    let up_s = started.elapsed().as_secs_f64();
    let memory_mib = memory(&cluster)? as f64 / f64::from(1 << 20);
    let ending = Instant::now();
    cluster.end()?;
    Ok(Round { up_s, down_s: ending.elapsed().as_secs_f64(), memory_mib })
}

fn memory(cluster: &Cluster) -> Result<u64> {
    let nodes = cluster.nodes().iter().map(testbed::Node::machine);
    let machines = nodes.chain([cluster.control().machine(), cluster.internet()]);
    machines.flat_map(testbed::Machine::processes).map(|process| process.memory()).sum()
}

/// Builds all programs into an empty folder, with an empty build cache.
fn build_all() -> Result<f64> {
    let folder = crate::folder().join("build");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let started = Instant::now();
    let built = Command::new(env!("CARGO"))
        .args(["run", "-q", "-p", "programs", "--", "ensure", "--all"])
        .env("LARDER_TOOLS_DIR", folder.join("tools"))
        .env("GOCACHE", folder.join("cache"))
        .current_dir(crate::workspace())
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        bail!("the programs cannot be built");
    }
    let seconds = started.elapsed().as_secs_f64();
    fs::remove_dir_all(&folder)?;
    Ok(seconds)
}

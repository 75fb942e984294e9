//! `cargo bench -p simulation`: how nodes share at sizes that no machine has. What is simulated, and how: docs/testing.md.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use simulation::{Figures, Scenario, plot, run, table};

/// Simulates nodes that want one blob at once.
#[derive(Parser)]
struct Arguments {
    /// How many nodes, each number in a run of its own.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    nodes: Vec<usize>,
    /// Only these kinds of scenario.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// All that is random follows from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the blob, in MiB.
    #[arg(long, default_value_t = 64)]
    size: u64,
    /// Put the table into docs/benchmarks.md, and the picture beside it.
    #[arg(long)]
    write: bool,
    /// What cargo adds to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Well,
    Uneven,
    Churn,
    Stale,
}

impl Kind {
    fn scenario(self, nodes: usize) -> Scenario {
        let scenario = Scenario::new(nodes);
        match self {
            Kind::Well => scenario,
            Kind::Uneven => scenario.uneven(),
            Kind::Churn => scenario.churning(),
            Kind::Stale => scenario.stale(),
        }
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match simulate(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: &Arguments) -> Result<()> {
    let kinds = if arguments.only.is_empty() { Kind::value_variants() } else { &arguments.only };
    let mut runs: Vec<(Scenario, Figures)> = Vec::new();
    for kind in kinds {
        for &nodes in &arguments.nodes {
            let scenario = Scenario { seed: arguments.seed, blob: arguments.size << 20, ..kind.scenario(nodes) };
            let begun = Instant::now();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            let figures = run(runtime, &scenario);
            eprintln!("{}, {nodes} nodes: {:.1?}\n{figures:#?}", scenario.name, begun.elapsed());
            runs.push((scenario, figures));
        }
    }
    let text = table(&runs);
    println!("{text}");
    if arguments.write {
        write(&text, &plot(&runs))?;
    }
    Ok(())
}

/// Puts table and picture into the documentation.
fn write(table: &str, picture: &str) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = docs.join("benchmarks.md");
    let old = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let (begin, end) = ("<!-- simulation: begin -->", "<!-- simulation: end -->");
    let (before, rest) = old.split_once(begin).context("docs/benchmarks.md has no place for it")?;
    let (_, after) = rest.split_once(end).context("docs/benchmarks.md has no place for it")?;
    fs::write(&page, format!("{before}{begin}\n{}\n{end}{after}", table.trim()))?;
    fs::write(docs.join("simulation.svg"), picture)?;
    Ok(())
}

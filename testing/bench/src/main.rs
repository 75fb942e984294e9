//! Measures larder beside other registries in one run, and the testbed. What is measured, and how: docs/benchmarks.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

mod client;
mod cluster;
mod controller;
mod fanout;
mod figure;
mod group;
mod load;
mod machine;
mod node;
mod plot;
mod process;
mod report;
mod server;
mod timeline;
mod wrk;

/// Measures larder beside other registries, and the testbed.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The registry role beside distribution, NORA and nginx.
    Registry(RegistryArguments),
    /// How long a cluster of the testbed takes to start and to end, and what it uses. Needs root.
    Testbed(TestbedArguments),
    /// Many nodes that want the same image at once. Needs root.
    Fanout(fanout::Arguments),
    /// One node's pulls and its mirror's answers, beside the same without larder. Needs root.
    Node(node::Arguments),
    /// The controller of a cluster of 5,000 nodes that are objects alone, with a real API server. Needs root.
    Controller(controller::Arguments),
    /// Everything.
    All,
}

#[derive(Args)]
struct RegistryArguments {
    /// How often each server is measured; they take turns.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only these groups of figures; with them, docs/benchmarks.md is left alone.
    #[arg(long, value_name = "NAME")]
    only: Vec<group::Name>,
    /// How long one measurement of a rate lasts, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The binary to measure; the release build of this workspace, made first, if not given.
    #[arg(long, value_name = "PATH")]
    larder: Option<PathBuf>,
    /// Leave this server out.
    #[arg(long, value_name = "NAME")]
    without: Vec<server::Kind>,
}

#[derive(Args)]
struct TestbedArguments {
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Build all programs anew too, which takes many minutes.
    #[arg(long)]
    build: bool,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Registry(arguments) => registry(arguments),
        What::Testbed(TestbedArguments { nodes, rounds, build }) => cluster::run(nodes, rounds, build),
        What::Fanout(arguments) => fanout::run(arguments),
        What::Node(arguments) => node::run(arguments),
        What::Controller(arguments) => controller::run(arguments),
        What::All => {
            let all =
                RegistryArguments { repetitions: 5, only: Vec::new(), seconds: 3.0, larder: None, without: Vec::new() };
            registry(all).and_then(|()| cluster::run(3, 5, false))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn registry(arguments: RegistryArguments) -> Result<()> {
    let RegistryArguments { repetitions, only, seconds, larder, without } = arguments;
    let whole = only.is_empty();
    let mut command = format!("cargo run --release -p bench -- registry --repetitions {repetitions}");
    for name in &only {
        command.push_str(&format!(" --only {name}"));
    }
    let programs = server::Programs::find(larder, &without)?;
    let mut bench = group::Bench::new(programs, repetitions, seconds)?;
    for name in if whole { group::Name::ALL.to_vec() } else { only } {
        eprintln!("{name}");
        group::run(&mut bench, name)?;
    }
    let group::Bench { figures, programs, .. } = bench;
    let text = report::table(&figures, &programs, repetitions, &command);
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("registry", &figures)?.display());
    if whole { report::into_docs("registry", &text) } else { Ok(()) }
}

/// The workspace's folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("testing/bench lies in the workspace")
}

/// Where everything goes that the benchmarks write.
fn folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from).join("bench")
}

//! `./test soak`: the whole system while everything goes wrong.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Parser;
use units::Span;

/// Runs larder on a real cluster while everything goes wrong, and says what was lost.
#[derive(Parser)]
struct Arguments {
    /// How long things go wrong.
    #[arg(value_name = "TIME", default_value = "10m")]
    length: Span,
    /// What happens: the same number, the same faults at the same times. A new one each time if not given.
    seed: Option<u64>,
    /// Where the report goes, and beside it the log.
    #[arg(long, default_value = "target/soak")]
    report: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let seed = arguments.seed.unwrap_or(now.as_secs() % 1_000_000);
    let report = soak::run("soak", arguments.length.0, seed)?;
    let folder = &arguments.report;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in [("txt", &report.text), ("log", &report.log)] {
        let path = folder.join(format!("{seed}.{name}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", report.text);
    Ok(if report.breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

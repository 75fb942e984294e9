//! Makes larder's container image of a built binary.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use image::{Image, Program, Root};

/// Makes larder's container image of a built binary, as an OCI archive
///
/// Needs no container engine. The same binary, libraries and authorities give the same bytes. SOURCE_DATE_EPOCH, if it is set, becomes the
/// image's time.
#[derive(Parser)]
#[command(name = "larder-image", version, max_term_width = 100)]
struct Args {
    /// The binary, built for the platform that the image is to be of
    #[arg(long, value_name = "FILE", default_value = "target/release/larder")]
    binary: PathBuf,

    /// The authorities that larder believes, as PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    authorities: PathBuf,

    /// What the image is called where the archive is imported
    #[arg(long, value_name = "NAME", default_value = concat!("larder.dev/larder:", env!("CARGO_PKG_VERSION")))]
    name: String,

    /// The archive to write
    #[arg(long, value_name = "FILE", default_value = "larder.tar")]
    output: PathBuf,

    /// Seconds since 1970 that the image says it was made
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    created: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let program = Program::read(&args.binary)?;
    let architecture = program.architecture;
    let image = Image { root: Root::of(program, &args.authorities)?, name: args.name, created: args.created };
    // An archive that is half written is under no name.
    let unfinished = args.output.with_extension("unfinished");
    let mut out = BufWriter::new(File::create(&unfinished).with_context(|| unfinished.display().to_string())?);
    let written = image.archive(&mut out)?;
    out.flush().context("cannot write the archive")?;
    std::fs::rename(&unfinished, &args.output).with_context(|| args.output.display().to_string())?;
    println!("{}: {} for linux/{architecture}, {}", args.output.display(), image.name, written.digest);
    Ok(())
}

use std::process::ExitCode;

use crate::cli::ScrubArgs;
use crate::config::Config;
use crate::failure::Failure;

pub fn run(args: &ScrubArgs) -> Result<ExitCode, Failure> {
    let _ = Config::store_path(&args.place)?;
    Ok(ExitCode::SUCCESS)
}

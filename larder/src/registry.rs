use std::process::ExitCode;

use crate::cli::RegistryArgs;
use crate::config::Config;
use crate::failure::Failure;

/// Runs `larder registry`.
pub fn run(args: &RegistryArgs) -> Result<ExitCode, Failure> {
    let config = Config::load(args)?;
    if args.check {
        print!("{config}");
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::SUCCESS)
}

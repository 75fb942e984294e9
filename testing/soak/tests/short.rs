//! Ten minutes of it: what `./test soak` does for as long as one likes.

use std::time::Duration;

use anyhow::{Result, ensure};

/// Any number would do; always the same one makes a failure come again.
const SEED: u64 = 20_261_128;
/// `LARDER_SOAK_SECONDS`, or ten minutes.
const LENGTH: u64 = 600;

#[test]
fn nothing_is_lost_while_everything_goes_wrong() -> Result<()> {
    let seconds = std::env::var("LARDER_SOAK_SECONDS").ok().map_or(Ok(LENGTH), |text| text.parse())?;
    let report = soak::run("soak-short", Duration::from_secs(seconds), SEED)?;
    println!("{}", report.text);
    ensure!(report.breaches.is_empty(), "{}\n{}", report.log, report.text);
    Ok(())
}

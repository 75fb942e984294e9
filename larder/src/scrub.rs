use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use cache::{DiskStore, ScrubProgress, ScrubReport};

use crate::cli::ScrubArgs;
use crate::config::{Config, Size};
use crate::failure::Failure;
use crate::logging;

/// Runs `larder scrub`.
pub fn run(args: &ScrubArgs) -> Result<ExitCode, Failure> {
    let path = Config::store_path(&args.place)?;
    logging::start_plainly();
    // Looking at a store makes its folder, which is not what somebody wants who mistyped it.
    if !path.is_dir() {
        return Err(Failure::Runtime(anyhow!("there is no store at {}; say where it is with --store", path.display())));
    }
    let store = DiskStore::inspect(&path).context("cannot open the store")?;
    let mut line = ProgressLine::new();
    let report = cache::scrub(&store, |progress| line.show(progress)).context("cannot scrub the store")?;
    line.clear();
    args.output.print(&report, || table(store.root(), &report))?;
    Ok(if report.quarantined.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// For people.
fn table(store: &Path, report: &ScrubReport) -> String {
    let mut lines = vec![
        format!("store        {}", store.display()),
        format!("checked      {}, {}", blobs(report.blobs), Size(report.bytes).about()),
        format!("damaged      {}", report.quarantined.len()),
        format!("resealed     {}", report.resealed),
        format!("swept        {} records of content that is gone", report.records_removed),
    ];
    lines.extend(report.quarantined.iter().map(|digest| format!("quarantined  {digest}")));
    lines.into_iter().map(|line| line + "\n").collect()
}

fn blobs(number: u64) -> String {
    if number == 1 { "1 blob".to_owned() } else { format!("{number} blobs") }
}

/// A line on the terminal that is written over and over; nothing where standard error is no terminal.
struct ProgressLine {
    shown: Option<Instant>,
    terminal: bool,
}

impl ProgressLine {
    fn new() -> ProgressLine {
        ProgressLine { shown: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: ScrubProgress) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.shown = Some(Instant::now());
        let ScrubProgress { blobs, bytes, blobs_total, bytes_total } = progress;
        let (bytes, bytes_total) = (Size(bytes).about(), Size(bytes_total).about());
        // What cannot be shown is not missed.
        let _ = write!(std::io::stderr(), "\r\x1b[Kchecked {blobs} of {blobs_total} blobs, {bytes} of {bytes_total}");
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

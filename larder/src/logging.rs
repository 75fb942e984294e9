use std::fmt;
use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line of text per event.
    Text,
    /// A JSON object per event.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

/// Reads a filter such as `info,upstream=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    // A word alone would be taken for the name of a part, of which everything is logged, and of all else nothing.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let word =
        |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let mut words = text.split(',').map(str::trim).filter(word);
    if let Some(wrong) = words.find(|word| !levels.contains(&&*word.to_ascii_lowercase())) {
        return Err(format!(
            "{wrong:?} is no level: write {}, or a part with its level, such as upstream=debug",
            levels.join(", ")
        ));
    }
    EnvFilter::try_new(text).map_err(|error| format!("{text:?} is no log filter: {error}"))
}

/// Sends events to standard error from now on.
pub fn start(filter: EnvFilter, format: Format) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => log.with_ansi(colours).init(),
        Format::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
}

/// Sends warnings to standard error, for commands that end: people need no clock there.
pub fn start_plainly() {
    let filter = EnvFilter::new("warn");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}

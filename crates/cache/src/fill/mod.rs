//! Fills: downloads in progress, one for each blob of a repository, whatever the number of clients.

mod pass;
mod progress;
mod reader;
mod supply;
mod task;

pub use progress::Filling;
pub use reader::FillReader;

pub(crate) use progress::Start;
pub(crate) use supply::Failure;
pub(crate) use task::run;

/// The end of a blob that leaves only when the whole digest was verified, in bytes.
pub const HELD_BACK: u64 = 64 * 1024;

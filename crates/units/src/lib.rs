//! Lengths of time and sizes as people write them, in files, flags and Kubernetes objects alike.
#![forbid(unsafe_code)]

mod size;
mod span;

pub use size::Size;
pub use span::Span;

/// Why a text is no length of time or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No length of time, or one of more than a century.
    #[error("{text:?} is no length of time; write it like \"10s\", \"5m\", \"1h30m\" or \"7d\"")]
    Span {
        /// The text.
        text: String,
    },
    /// No size, or one of more than 16 EiB.
    #[error("{text:?} is no size; write it like \"64MiB\", \"20GiB\" or \"500GB\"")]
    Size {
        /// The text.
        text: String,
    },
}

/// Splits a text where a character is not of the kind any more.
fn split(text: &str, kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !kind(c)).unwrap_or(text.len()))
}

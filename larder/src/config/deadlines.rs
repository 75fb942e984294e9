use std::time::Duration;

use upstream::Deadlines;

use super::section::Section;
use super::units::{Size, Span};

/// Reads `[deadlines]`: how long upstreams may take.
pub fn read(mut section: Section<'_>) -> Deadlines {
    let mut deadlines = Deadlines::default();
    let mut span = |key: &'static str, deadline: &mut Duration| match section.value(key) {
        Some(Span(Duration::ZERO)) => section.problem(key, "must be above zero"),
        Some(Span(span)) => *deadline = span,
        None => {}
    };
    span("connect", &mut deadlines.connect);
    span("headers", &mut deadlines.headers);
    span("answer", &mut deadlines.answer);
    span("idle", &mut deadlines.idle);
    span("queue", &mut deadlines.queue);
    if let Some(Size(rate)) = section.value("minimum_rate") {
        deadlines.minimum_rate.bytes_per_second = rate;
    }
    section.finish();
    deadlines
}

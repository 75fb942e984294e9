use std::time::Duration;

use serve::Limits;

use super::section::Section;
use super::units::Span;

/// Reads `[limits]`: what clients may use up.
pub fn read(mut section: Section<'_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(connections) = section.value("connections").and_then(|number: u32| usize::try_from(number).ok()) {
        limits.connections = connections;
    }
    if let Some(refusals) = section.value("refusals") {
        limits.refusals = refusals;
    }
    let mut span = |key: &'static str, limit: &mut Duration| match section.value(key) {
        Some(Span(Duration::ZERO)) => section.problem(key, "must be above zero"),
        Some(Span(span)) => *limit = span,
        None => {}
    };
    span("head", &mut limits.head);
    span("keep_alive", &mut limits.keep_alive);
    span("stall", &mut limits.stall);
    section.finish();
    limits
}

use std::time::Instant;

/// This moment, by the clock that also ends sleeps and deadlines: in a program the system's, in a simulation its own.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

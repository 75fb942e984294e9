use std::time::{Duration, Instant};

/// Waits until a condition holds, at most 30 s.
///
/// # Panics
///
/// If it does not hold by then; `what` says what was waited for.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for_some(what, || condition().then_some(()));
}

/// Waits until there is a value, at most 30 s.
///
/// # Panics
///
/// If there is none by then; `what` says what was waited for.
#[track_caller]
pub fn wait_for_some<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited 30 s for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

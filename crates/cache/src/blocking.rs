//! Work that blocks on the disk, away from the workers that serve.

use tokio::task::JoinHandle;

/// Runs work that blocks, and waits for it. Cancelled, it leaves the work to end by itself.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    outcome(&mut tokio::task::spawn_blocking(work)).await
}

/// Waits for such work; its panic is that of whoever waits. Cancellation-safe.
pub(crate) async fn outcome<T>(work: &mut JoinHandle<T>) -> T {
    match work.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is ending takes work off its list unbegun, and whoever waits for it ends with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_was_taken_off_is_no_panic() {
        let mut work = tokio::spawn(std::future::pending::<()>());
        work.abort();
        let waited = tokio::time::timeout(Duration::from_millis(50), outcome(&mut work)).await;
        assert!(waited.is_err(), "there is nothing to be given");
    }

    #[tokio::test]
    #[should_panic = "as the test wants it"]
    async fn a_panic_is_passed_on() {
        blocking(|| panic!("as the test wants it")).await
    }
}

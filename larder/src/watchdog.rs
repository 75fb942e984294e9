use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the runtime shows that it lives, and how often that is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// Looks in a row without a beat after which the process is given up. A process that was stopped, or got no processor,
/// was not looked at meanwhile either.
const MISSED: u32 = 20;

/// Ends the process when its tasks are stuck, so that whoever supervises it starts it anew: a mirror that accepts
/// connections and answers nothing is worse than none.
pub struct Watchdog {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    beats: tokio::task::JoinHandle<()>,
}

impl Watchdog {
    /// Starts to watch the runtime that this is called in.
    pub fn start() -> Watchdog {
        let (beat, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (beat.clone(), over.clone());
        let beats = tokio::spawn(async move {
            loop {
                beat.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        });
        let watch = move || {
            let (mut last, mut missed) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(BEAT);
                let now = seen.load(Ordering::Relaxed);
                missed = if now == last { missed + 1 } else { 0 };
                last = now;
                if missed >= MISSED {
                    tracing::error!(seconds = MISSED, "nothing moves any more; ending, so as to be started anew");
                    std::process::abort();
                }
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(watch);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "nothing watches over this process")).ok();
        Watchdog { over, thread, beats }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.beats.abort();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

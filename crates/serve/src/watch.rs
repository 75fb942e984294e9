use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::settings::Limits;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const SERVING: u8 = 2;

/// What a connection is at. Its IO and its service run in one task and tell each other by this.
///
/// hyper's own header timeout would do, but it runs between requests too, so that a connection could not be kept longer
/// than a head may take.
#[derive(Debug)]
pub(crate) struct Phase {
    at: AtomicU8,
    spoilt: AtomicBool,
}

impl Phase {
    /// A new connection owes a head.
    pub(crate) fn new() -> Arc<Phase> {
        Arc::new(Phase { at: AtomicU8::new(HEAD), spoilt: AtomicBool::new(false) })
    }

    /// A request was read.
    pub(crate) fn serving(&self) {
        self.at.store(SERVING, Ordering::Relaxed);
    }

    /// The answer's last byte was handed over.
    pub(crate) fn answered(&self) {
        self.at.store(IDLE, Ordering::Relaxed);
    }

    /// Bytes went out that turned out to be wrong.
    pub(crate) fn spoilt(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    /// Whether they did.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// Whether the connection waits for its next request.
    pub(crate) fn is_idle(&self) -> bool {
        self.at.load(Ordering::Relaxed) == IDLE
    }
}

/// The deadlines of one connection.
pub(crate) struct Watch {
    phase: Arc<Phase>,
    seen: u8,
    since: Instant,
    stalled: Option<Stall>,
    read_timer: Timer,
    write_timer: Timer,
    head: Duration,
    keep_alive: Duration,
    stall: Duration,
}

struct Stall {
    since: Instant,
    unacknowledged: u64,
}

impl Watch {
    pub(crate) fn new(phase: Arc<Phase>, limits: &Limits) -> Watch {
        Watch {
            phase,
            seen: HEAD,
            since: Instant::now(),
            stalled: None,
            read_timer: Timer(None),
            write_timer: Timer(None),
            head: limits.head,
            keep_alive: limits.keep_alive,
            stall: limits.stall,
        }
    }

    /// Bytes came in.
    pub(crate) fn read(&mut self) {
        if self.phase.is_idle() {
            self.phase.at.store(HEAD, Ordering::Relaxed);
            self.seen = HEAD;
            self.since = Instant::now();
        }
    }

    /// No bytes came in: an error once that has lasted too long.
    pub(crate) fn read_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.at.load(Ordering::Relaxed);
        if phase != self.seen {
            self.seen = phase;
            self.since = Instant::now();
        }
        let deadline = match phase {
            IDLE => self.since + self.keep_alive,
            HEAD => self.since + self.head,
            _ => return Poll::Pending,
        };
        match self.read_timer.poll(cx, deadline) {
            Poll::Ready(()) => Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client sent no whole request")),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Bytes went out.
    pub(crate) fn wrote(&mut self) {
        self.stalled = None;
    }

    /// No bytes went out: an error once the client has acknowledged nothing for too long. The socket's buffer takes new bytes
    /// only when a third of it is free, which a slow client needs minutes for; hence the look at what it acknowledged.
    pub(crate) fn write_pending(&mut self, cx: &mut Context<'_>, unacknowledged: impl Fn() -> u64) -> Poll<io::Error> {
        let stall =
            self.stalled.get_or_insert_with(|| Stall { since: Instant::now(), unacknowledged: unacknowledged() });
        loop {
            match self.write_timer.poll(cx, stall.since + self.stall) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => {
                    let left = unacknowledged();
                    if left >= stall.unacknowledged {
                        let error = io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes");
                        return Poll::Ready(error);
                    }
                    *stall = Stall { since: Instant::now(), unacknowledged: left };
                }
            }
        }
    }
}

/// A timer that is armed late and seldom moved: on a busy connection deadlines are passed over without being set.
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

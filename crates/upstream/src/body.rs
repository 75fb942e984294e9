use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cache::{Bucket, FailureKind, SourceError};
use futures_util::{Stream, StreamExt as _};
use hyper::body::{Body as _, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::failure::{self, Failure};
use crate::metrics::UpstreamMetrics;
use crate::settings::MinimumRate;

/// What is collected at a time of a body whose length is not known, in bytes.
const PIECE: usize = 64 * 1024;

/// An answer's body: hyper's frames handed on as they come, with deadlines, the upstream's bandwidth limit and its count.
/// Holds the request's place among those at a time until it ends.
pub(crate) struct Body {
    incoming: Incoming,
    label: Arc<str>,
    clock: Clock,
    throttle: Option<Throttle>,
    metrics: Arc<UpstreamMetrics>,
    _place: Option<OwnedSemaphorePermit>,
    over: bool,
}

struct Throttle {
    bucket: Arc<Bucket>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body {
    pub(crate) fn new(
        incoming: Incoming,
        label: Arc<str>,
        idle: Duration,
        rate: MinimumRate,
        bandwidth: Option<Arc<Bucket>>,
        metrics: Arc<UpstreamMetrics>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Body {
        Body {
            incoming,
            label,
            clock: Clock::new(idle, rate),
            throttle: bandwidth.map(|bucket| Throttle { bucket, pause: None }),
            metrics,
            _place: place,
            over: false,
        }
    }

    /// The whole body, of at most `limit` bytes.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, SourceError> {
        let announced = self.incoming.size_hint().exact();
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(self.fail(Failure::invalid(format!("the answer is longer than {limit} bytes"))));
        }
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        if announced == Some(first.len() as u64) {
            return Ok(first);
        }
        // Whose length nobody said is collected in pieces: a buffer that grows is copied, and held twice, at every step.
        let mut pieces = vec![BytesMut::with_capacity(announced.map_or(PIECE, |length| length as usize))];
        let mut length = 0;
        let mut next = Some(first);
        while let Some(mut chunk) = next {
            length += chunk.len();
            if length > limit {
                return Err(self.fail(Failure::invalid(format!("the answer is longer than {limit} bytes"))));
            }
            while !chunk.is_empty() {
                let piece = match pieces.last_mut() {
                    Some(last) if last.len() < last.capacity() => last,
                    _ => pieces.push_mut(BytesMut::with_capacity(PIECE)),
                };
                let room = chunk.len().min(piece.capacity() - piece.len());
                piece.extend_from_slice(&chunk.split_to(room));
            }
            next = self.next().await.transpose()?;
        }
        match pieces.pop() {
            Some(only) if pieces.is_empty() => Ok(only.freeze()),
            last => Ok(pieces.into_iter().chain(last).collect::<Vec<_>>().concat().into()),
        }
    }

    fn fail(&self, failure: Failure) -> SourceError {
        self.metrics.error(failure::label(failure.kind));
        failure.into_error(&self.label)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(throttle) = &mut self.throttle
            && let Some(pause) = &mut throttle.pause
        {
            ready!(pause.as_mut().poll(cx));
            throttle.pause = None;
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => {
                    let failure = Failure::of_hyper(&error);
                    // Whatever broke the framing in the middle, the bytes so far are what they are.
                    return Poll::Ready(Some(Err(Failure::unavailable(failure.reason))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    if chunk.is_empty() {
                        continue;
                    }
                    self.metrics.received.inc_by(chunk.len() as u64);
                    if let Err(failure) = self.clock.arrived(chunk.len()) {
                        return Poll::Ready(Some(Err(failure)));
                    }
                    if let Some(throttle) = &mut self.throttle {
                        let wait = throttle.bucket.take(chunk.len() as f64);
                        throttle.pause = (!wait.is_zero()).then(|| Box::pin(tokio::time::sleep(wait)));
                    }
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Poll::Pending => return self.clock.poll_late(cx).map(|failure| Some(Err(failure))),
            }
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, SourceError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = self.get_mut();
        if body.over {
            return Poll::Ready(None);
        }
        let item = ready!(body.poll(cx));
        body.over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item.map(|item| item.map_err(|failure| body.fail(failure))))
    }
}

/// Tells a body that stalls or trickles. Only time spent waiting for the network counts, not the reader's own.
struct Clock {
    idle: Duration,
    rate: MinimumRate,
    waiting_since: Option<Instant>,
    waited: Duration,
    arrived: u64,
    /// Rings at or before the end of the present wait: it is set anew only when it rings, since that costs more than a chunk.
    alarm: Pin<Box<Sleep>>,
}

impl Clock {
    fn new(idle: Duration, rate: MinimumRate) -> Clock {
        let alarm = Box::pin(tokio::time::sleep(idle));
        Clock { idle, rate, waiting_since: None, waited: Duration::ZERO, arrived: 0, alarm }
    }

    fn arrived(&mut self, bytes: usize) -> Result<(), Failure> {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        self.arrived += bytes as u64;
        if self.waited >= self.rate.window {
            let least = self.rate.bytes_per_second as f64 * self.waited.as_secs_f64();
            if (self.arrived as f64) < least {
                return Err(Failure::new(FailureKind::Timeout, "the body comes too slowly to be worth waiting for"));
            }
            self.waited = Duration::ZERO;
            self.arrived = 0;
        }
        Ok(())
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let end = since + self.idle;
            if Instant::now() >= end {
                return Poll::Ready(Failure::new(FailureKind::Timeout, "the body stopped coming"));
            }
            self.alarm.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        let rate = MinimumRate { bytes_per_second: 100, window: Duration::from_secs(30) };
        Clock::new(Duration::from_secs(10), rate)
    }

    async fn wait(clock: &mut Clock, time: Duration) -> Option<Failure> {
        tokio::select! {
            failure = std::future::poll_fn(|cx| clock.poll_late(cx)) => Some(failure),
            () = tokio::time::sleep(time) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_told_and_a_slow_reader_is_not() {
        let mut clock = clock();
        for _ in 0..3 {
            assert!(wait(&mut clock, Duration::from_secs(9)).await.is_none());
            clock.arrived(10_000).unwrap();
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
        assert!(wait(&mut clock, Duration::from_secs(11)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_told_after_the_window() {
        let mut clock = clock();
        let mut seconds = 0;
        while clock.arrived(90).is_ok() {
            assert!(wait(&mut clock, Duration::from_secs(1)).await.is_none());
            seconds += 1;
            assert!(seconds < 60);
        }
        assert!(seconds >= 29);
        let mut clock = self::clock();
        for _ in 0..100 {
            assert!(wait(&mut clock, Duration::from_secs(1)).await.is_none());
            clock.arrived(101).unwrap();
        }
    }
}

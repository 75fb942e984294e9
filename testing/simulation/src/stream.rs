use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use peers::{FRAME, Frame, Lost};
use tokio::sync::Notify;

use crate::network::{Cargo, Host, Key, Network, mix};

/// How long what was sent may stay unacknowledged, as the exchange's sockets have it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// What a message is larger than what is in it: heads of TLS, TCP and IP.
const ENVELOPE: u32 = 80;

/// A part of an answer's body on its way.
pub(crate) enum Item {
    Frame(Frame),
    /// The connection has ended, and why.
    Lost(String),
    /// All has been sent.
    End,
}

/// An answer's body on its way from one machine to another.
pub(crate) struct Stream {
    network: Arc<Network>,
    from: Host,
    to: Host,
    key: u64,
    /// The most bytes on the way.
    window: u32,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    arrived: VecDeque<Item>,
    waker: Option<Waker>,
    /// Parts and bytes on the way.
    parts: u32,
    bytes: u32,
    /// Bytes that wait for the link that leads away.
    leaving: u32,
    sent: u32,
    closed: bool,
}

impl Stream {
    pub fn new(network: &Arc<Network>, from: Host, to: Host, key: u64, window: u32) -> Arc<Stream> {
        network.streams(from, to, true);
        let (network, state) = (network.clone(), Mutex::default());
        Arc::new(Stream { network, from, to, key, window, state, changed: Notify::new() })
    }

    /// Sends a part.
    pub fn send(self: &Arc<Self>, item: Item) {
        let length = match &item {
            Item::Frame(Frame::Bytes(bytes)) => bytes.len() as u32,
            _ => 0,
        };
        let size = length + ENVELOPE;
        let (key, queues) = {
            let mut state = self.state();
            let queues = state.parts > 0 || length > 0;
            state.parts += 1;
            state.bytes += size;
            if queues {
                state.leaving += size;
            }
            state.sent += 1;
            (Key { of: self.key, order: state.sent }, queues)
        };
        self.network.send(self.from, self.to, key, size, queues, Cargo::Item(self.clone(), item));
    }

    /// Sends bytes as there is room; tells whether all are on their way.
    pub async fn send_bytes(self: &Arc<Self>, mut left: u64) -> bool {
        while left > 0 {
            let length = left.min(u64::from(self.network.part(self.from, self.to)));
            if !self.room(length as u32).await {
                return false;
            }
            self.send(Item::Frame(Frame::Bytes(nothing(length as usize))));
            left -= length;
        }
        true
    }

    /// Waits until there is room for another part of so many bytes; tells whether there will be. Cancellation-safe.
    async fn room(&self, length: u32) -> bool {
        let free = async {
            loop {
                {
                    let state = self.state();
                    let fits = state.bytes == 0 || state.bytes + length <= self.window;
                    // One part has its turn, and one is ready for the next.
                    let ready = state.leaving <= length + ENVELOPE;
                    if state.closed || (ready && fits) {
                        return !state.closed;
                    }
                }
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(UNACKNOWLEDGED, free).await.unwrap_or(false)
    }

    /// Waits until nobody wants more of it. Cancellation-safe.
    pub async fn closed(&self) {
        while !self.state().closed {
            self.changed.notified().await;
        }
    }

    /// The first link has passed a part of so many bytes.
    pub fn has_left(&self, size: u32) {
        self.state().leaving -= size;
        self.changed.notify_one();
    }

    /// A part has arrived, of so many bytes with its envelope.
    pub fn arrived(&self, item: Item, size: u32) {
        let waker = {
            let mut state = self.state();
            state.parts -= 1;
            state.bytes -= size;
            state.arrived.push_back(item);
            state.waker.take()
        };
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.network.streams(self.from, self.to, false);
    }
}

/// Bytes that stand for all others, at most [`FRAME`].
pub(crate) fn nothing(length: usize) -> Bytes {
    static NOTHING: [u8; FRAME] = [0; FRAME];
    Bytes::from_static(&NOTHING[..length])
}

/// The end of a stream at which it arrives.
pub(crate) struct Arriving {
    stream: Arc<Stream>,
    ended: bool,
}

impl Arriving {
    pub fn new(stream: Arc<Stream>) -> Arriving {
        Arriving { stream, ended: false }
    }
}

impl futures_util::Stream for Arriving {
    type Item = Result<Frame, Lost>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Lost>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = {
            let mut state = self.stream.state();
            let item = state.arrived.pop_front();
            if item.is_none() {
                state.waker = Some(cx.waker().clone());
            }
            item
        };
        match item {
            None => Poll::Pending,
            Some(Item::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Item::Lost(why)) => {
                self.ended = true;
                Poll::Ready(Some(Err(Lost(why))))
            }
            Some(Item::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.ended {
            let stream = self.stream.clone();
            let (from, to, key) = (stream.to, stream.from, Key::single(mix(stream.key)));
            let network = stream.network.clone();
            let close = Cargo::Run(Box::new(move || {
                stream.state().closed = true;
                stream.changed.notify_one();
            }));
            network.send(from, to, key, ENVELOPE, false, close);
        }
    }
}

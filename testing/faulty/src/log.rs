//! The record of every request, as it arrived and as it was answered.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::request::{Incoming, Kind};

/// Requests that are kept; older ones are dropped so that a long benchmark does not fill the memory.
const KEPT: usize = 200_000;

/// One request in the log. It appears when its head was read; `status`, `fault` and the numbers follow as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Milliseconds since the Unix epoch when the head had been read.
    pub unix_ms: u64,
    /// Microseconds from the start of the upstream to the end of the request's head.
    pub start_us: u64,
    /// Microseconds from the start of the upstream to the first body byte; absent before, and without a body.
    pub first_byte_us: Option<u64>,
    /// Microseconds from the start of the upstream to the end of the answer, whole or not; absent while it goes on.
    pub end_us: Option<u64>,
    /// Number of the connection, counted from 1.
    pub connection: u64,
    /// As sent.
    pub method: String,
    /// Without the query, as sent.
    pub path: String,
    /// Without the question mark; empty if there was none.
    pub query: String,
    /// What was asked for.
    pub kind: Kind,
    /// Repository; empty where the path names none.
    pub repo: String,
    /// Tag or digest; empty where the path names none.
    pub reference: String,
    /// All headers as sent, `Authorization` and `Range` included.
    pub headers: Vec<(String, String)>,
    /// Status sent; 0 before, and where a fault sent none.
    pub status: u16,
    /// Body bytes handed to the kernel so far, without chunk framing.
    pub bytes: u64,
    /// Whether the whole answer left.
    pub complete: bool,
    /// Names of the faults that were applied.
    pub faults: Vec<String>,
}

impl Request {
    /// The first header of that name (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `Authorization` as sent.
    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// `Range` as sent.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
}

pub(crate) struct Entry {
    request: Mutex<Request>,
    bytes: AtomicU64,
    log: Arc<Log>,
}

impl Entry {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Request)) {
        change(&mut self.request.lock().expect("no panic while held"));
        self.log.changed.notify_waiters();
    }

    pub(crate) fn sent(&self, bytes: u64) {
        if bytes > 0 && self.bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            let now = self.log.now_us();
            self.update(|request| request.first_byte_us = Some(now));
        }
    }

    pub(crate) fn finish(&self, complete: bool) {
        let now = self.log.now_us();
        self.update(|request| {
            request.end_us = Some(now);
            request.complete = complete;
        });
        let mut sink = self.log.sink.lock().expect("no panic while held");
        if let Some(file) = sink.as_mut() {
            let line = serde_json::to_string(&self.snapshot()).expect("plain data");
            // A log that cannot be written must not change what the client sees.
            let _ = writeln!(file, "{line}");
        }
    }

    fn snapshot(&self) -> Request {
        let mut request = self.request.lock().expect("no panic while held").clone();
        request.bytes = self.bytes.load(Ordering::Relaxed);
        request
    }
}

pub(crate) struct Log {
    started: Instant,
    entries: Mutex<Vec<Arc<Entry>>>,
    changed: Notify,
    sink: Mutex<Option<File>>,
    connections: AtomicU64,
    numbers: AtomicU64,
}

impl Log {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            entries: Mutex::default(),
            changed: Notify::new(),
            sink: Mutex::default(),
            connections: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    pub(crate) fn write_to(&self, file: File) {
        *self.sink.lock().expect("no panic while held") = Some(file);
    }

    /// Counts a connection and gives it a number.
    pub(crate) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn open(self: &Arc<Self>, connection: u64, incoming: &Incoming) -> Arc<Entry> {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let request = Request {
            unix_ms: unix.as_millis() as u64,
            start_us: self.now_us(),
            first_byte_us: None,
            end_us: None,
            connection,
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            query: incoming.query.clone(),
            kind: incoming.kind,
            repo: incoming.repo.clone(),
            reference: incoming.reference.clone(),
            headers: incoming.headers.clone(),
            status: 0,
            bytes: 0,
            complete: false,
            faults: Vec::new(),
        };
        let entry = Arc::new(Entry { request: Mutex::new(request), bytes: AtomicU64::new(0), log: self.clone() });
        let mut entries = self.entries.lock().expect("no panic while held");
        if entries.len() >= KEPT {
            entries.drain(..KEPT / 2);
        }
        entries.push(entry.clone());
        drop(entries);
        self.changed.notify_waiters();
        entry
    }

    pub(crate) fn all(&self) -> Vec<Request> {
        self.entries.lock().expect("no panic while held").iter().map(|entry| entry.snapshot()).collect()
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().expect("no panic while held").clear();
        self.connections.store(0, Ordering::Relaxed);
    }

    /// Waits until `wanted` is true of the log; false if the deadline comes first. Byte counts are looked at every 10 ms.
    pub(crate) async fn wait_for(&self, mut wanted: impl FnMut(&[Request]) -> bool, deadline: Duration) -> bool {
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let changed = self.changed.notified();
            if wanted(&self.all()) {
                return true;
            }
            if tokio::time::Instant::now() >= end {
                return false;
            }
            let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
        }
    }
}

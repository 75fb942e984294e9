//! What goes over the links, second by second: where a pull by many nodes loses time.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nodes::metric;
use testbed::{Cluster, Link};

/// Does something, and tells meanwhile on standard error what the origin's link sends, what the links of the first `nodes` machines
/// receive and send, least first, in tenths of a MB per second, and to how many each gives a piece.
pub(crate) fn beside<T>(cluster: &Cluster, nodes: usize, act: impl FnOnce() -> T) -> T {
    let (acting, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| tell(cluster, nodes, ended));
        // Dropped however it ends.
        let _acting = acting;
        act()
    })
}

fn tell(cluster: &Cluster, nodes: usize, ended: Receiver<()>) {
    let machines = &cluster.others()[..nodes];
    let links: Vec<&Link> =
        std::iter::once(cluster.internet_link()).chain(machines.iter().map(|other| other.link())).collect();
    let read = || links.iter().map(|link| link.traffic().unwrap_or_default()).collect::<Vec<_>>();
    let (mut before, mut since) = (read(), Instant::now());
    let began = since;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_secs(1)) {
        let now = read();
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let rate = |bytes: u64| (bytes as f64 / seconds / 100_000.0) as u64;
        let change = || now.iter().zip(&before);
        let sent: Vec<u64> = change().map(|(now, before)| rate(now.sent - before.sent)).collect();
        let mut received: Vec<u64> =
            change().skip(1).map(|(now, before)| rate(now.received - before.received)).collect();
        let (origin, mut sent) = (sent[0], sent[1..].to_vec());
        received.sort_unstable();
        sent.sort_unstable();
        let gives: Vec<u64> = machines
            .iter()
            .map(|other| metric(other.machine(), "larder_peer_uploads", &[]).unwrap_or_default() as u64)
            .collect();
        eprintln!(
            "{:5.1} s: origin {origin:3}, received {received:3?}, sent {sent:3?}, gives {gives:2?}",
            began.elapsed().as_secs_f64()
        );
        before = now;
    }
}

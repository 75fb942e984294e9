//! How long a node's mirror lets a warm request wait.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use nodes::MIRROR;
use testbed::{Image, Layer, Machine};

use super::Arguments;
use super::beside::{Beside, Goal, percentile};
use super::files::Files;
use super::lab::{Lab, ensure_served, forget, turns};
use crate::client::Client;

const REPOSITORY: &str = "library/latency";
/// The bytes of the small blob, before it is packed.
const SMALL: u64 = 10_000;

pub(super) fn run(lab: &mut Lab<'_>, arguments: &Arguments) -> Result<Vec<Beside>> {
    let image = Image::empty().layer(Layer::random(SMALL));
    let image = lab.cluster.origin("docker.io")?.push(&format!("{REPOSITORY}:1"), &image)?;
    let nodes = lab.cluster.nodes();
    let agents = nodes.iter().map(|node| lab.start(node)).collect::<Result<Vec<_>>>()?;
    let reference = format!("docker.io/{REPOSITORY}:1");
    lab.keep(&nodes[0], &reference)?;
    ensure_served(&agents[0], &image)?;
    let machine = nodes[0].machine();
    let files = Files::start(machine)?;
    files.keep(MIRROR.parse()?, REPOSITORY, "1", &image.digest)?;
    // nginx and larder are both asked over the loopback interface.
    let nginx = SocketAddr::from(([127, 0, 0, 1], files.address().port()));
    let kinds = [
        ("manifest by digest", format!("/v2/{REPOSITORY}/manifests/{}", image.digest)),
        ("manifest by fresh tag", format!("/v2/{REPOSITORY}/manifests/1")),
        ("blob of 10 kB", format!("/v2/{REPOSITORY}/blobs/{}", image.layers[0].digest)),
    ];
    let mut figures = Vec::new();
    for (what, path) in kinds {
        let figure = |share, limit| {
            Beside::new(format!("{what}, first byte, {share}"), "nginx, same file", "ms", Goal::More(limit))
        };
        let (mut p50, mut p99) = (figure("p50", 1.0), figure("p99", 5.0));
        for repetition in 0..arguments.repetitions {
            for larder in turns(repetition) {
                if larder {
                    let waits = waits(machine, MIRROR.parse()?, &format!("{path}?ns=docker.io"), arguments.requests)?;
                    p50.larder(waits[0], None);
                    p99.larder(waits[1], None);
                } else {
                    let waits = waits(machine, nginx, &path, arguments.requests)?;
                    p50.other(waits[0]);
                    p99.other(waits[1]);
                }
            }
        }
        eprintln!("{p50:?}\n{p99:?}");
        figures.extend([p50, p99]);
    }
    forget(&nodes[0], &reference, &image)?;
    nodes.iter().try_for_each(|node| lab.end(node))?;
    Ok(figures)
}

/// The median and the 99th percentile of the times to the first byte of the body, in milliseconds, of requests one after
/// the other over one connection.
fn waits(machine: &Machine, server: SocketAddr, path: &str, requests: usize) -> Result<[f64; 2]> {
    let mut waits = machine.in_network(|| {
        let mut client = Client::connect(server)?;
        let one = |_| {
            let asked = Instant::now();
            Ok((client.take(path)?.first_byte - asked).as_secs_f64() * 1e3)
        };
        (0..requests).map(one).collect::<Result<Vec<f64>>>()
    })??;
    let mut share = |share| percentile(&mut waits, share).context("at least one request is needed");
    Ok([share(0.5)?, share(0.99)?])
}

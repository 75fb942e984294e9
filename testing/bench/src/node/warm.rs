//! A pull of what another node has, while the origin is down.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nodes::{Agent, MIRROR};
use testbed::{Image, Layer, Node, Written, wait_for};

use super::Arguments;
use super::beside::{Beside, Goal};
use super::files::{Files, get_into};
use super::lab::{Lab, ensure_served, forget, turns};

/// With which containerd is told that nginx is Docker Hub.
const HOSTS: &str = "/etc/containerd/certs.d/docker.io/hosts.toml";

pub(super) fn run(lab: &mut Lab<'_>, arguments: &Arguments) -> Result<Vec<Beside>> {
    let mut figures = Vec::new();
    for &size in &arguments.size {
        let repository = format!("library/warm-{size}");
        let image = Image::empty().layer(Layer::random(size * 1_000_000));
        let image = lab.cluster.origin("docker.io")?.push(&format!("{repository}:1"), &image)?;
        figures.extend(of_image(lab, arguments.repetitions, size, &repository, &image)?);
    }
    Ok(figures)
}

fn of_image(
    lab: &mut Lab<'_>,
    repetitions: usize,
    size: u64,
    repository: &str,
    image: &Written,
) -> Result<[Beside; 2]> {
    let nodes = lab.cluster.nodes();
    let (first, second) = (&nodes[0], &nodes[1]);
    let reference = format!("docker.io/{repository}@{}", image.digest);
    let warm = nodes.iter().map(|node| lab.start(node)).collect::<Result<Vec<_>>>()?;
    lab.keep(first, &reference)?;
    ensure_served(&warm[0], image)?;
    let files = Files::start(first.machine())?;
    files.keep(MIRROR.parse()?, repository, "1", &image.digest)?;
    lab.end(second)?;

    let what = format!("pull of {size} MB that another node has, origin down");
    let mut pull = Beside::new(what, "containerd from nginx there", "s", Goal::Times(1.1));
    let what = format!("the layer of {size} MB alone, into a file");
    let mut get = Beside::new(what, "from nginx there", "s", Goal::Times(1.1));
    let path = format!("/v2/{repository}/blobs/{}", image.layers[0].digest);
    for repetition in 0..repetitions {
        for larder in turns(repetition) {
            if larder {
                let took = alone(lab, second, repository, image, |lab, agent| {
                    let took = lab.pull(second, &reference, image)?;
                    ensure_served(agent, image)?;
                    Ok(took)
                })?;
                pull.larder(took.seconds, Some(took.idle));
            } else {
                let server = format!("http://{}", files.address());
                second.machine().write(HOSTS, &format!("server = {server:?}\n"))?;
                pull.other(lab.pull(second, &reference, image)?.seconds);
                second.machine().run(&["rm", "-r", "/etc/containerd/certs.d/docker.io"])?;
            }
        }
        for larder in turns(repetition) {
            if larder {
                let path = format!("{path}?ns=docker.io");
                let took = alone(lab, second, repository, image, |_, _| transfer(second, MIRROR.parse()?, &path))?;
                get.larder(took, None);
            } else {
                get.other(transfer(second, files.address(), &path)?);
            }
        }
    }
    eprintln!("{pull:?}\n{get:?}");
    forget(first, &reference, image)?;
    lab.end(first)?;
    lab.end(&nodes[2])?;
    Ok([pull, get])
}

/// Does something on a node whose larder has nothing but the image's manifest, while the origin refuses connections.
fn alone<'a, T>(
    lab: &mut Lab<'a>,
    node: &'a Node,
    repository: &str,
    image: &Written,
    act: impl FnOnce(&Lab<'a>, &Agent<'a>) -> Result<T>,
) -> Result<T> {
    let agent = lab.start(node)?;
    agent.pull(&format!("/v2/{repository}/manifests/{}?ns=docker.io", image.digest))?;
    let origin = lab.cluster.origin("docker.io")?;
    origin.process()?.kill()?;
    let done = act(lab, &agent)?;
    origin.process()?.start_again()?;
    wait_for("the origin listens again", Duration::from_secs(30), || {
        Ok(lab.cluster.internet().in_network(|| TcpStream::connect((origin.address(), 443)))?.ok())
    })?;
    lab.end(node)?;
    Ok(done)
}

/// How long a node takes to get something into a file, in seconds.
fn transfer(node: &Node, from: SocketAddr, path: &str) -> Result<f64> {
    let into = node.machine().path("/var/lib/larder/transferred");
    node.machine().run(&["sync"])?;
    let began = Instant::now();
    get_into(node.machine(), from, path, &into)?;
    let took = began.elapsed().as_secs_f64();
    std::fs::remove_file(&into).with_context(|| format!("cannot remove {}", into.display()))?;
    Ok(took)
}

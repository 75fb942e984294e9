//! What an ImageCache wants, on all nodes, beside the same pulls by hand; and how soon agents begin.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use testbed::{Image, Layer, Node, Written, wait_for};

use super::Arguments;
use super::beside::{Beside, Goal};
use super::lab::{Lab, forget, turns};
use crate::machine::Moment;

/// The size of each image, in bytes.
const SIZE: u64 = 50_000_000;
/// How many images a node pulls at once, by hand and for the ImageCache.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(300);

/// The images that are wanted.
struct Wanted(Vec<(String, Written)>);

pub(super) fn run(lab: &mut Lab<'_>, arguments: &Arguments) -> Result<Vec<Beside>> {
    let cluster = lab.cluster;
    nodes::install_definitions(cluster)?;
    nodes::make_account(cluster)?;
    // What the machine can do counts here, and no link.
    cluster.internet_link().uncap()?;
    for node in cluster.nodes() {
        node.link().uncap()?;
        nodes::give_account(cluster, node.machine())?;
    }
    let one = |number: usize| {
        let name = format!("library/wanted-{number}:1");
        let image = Image::empty().seed(number as u64 + 1).layer(Layer::random(SIZE));
        Ok((format!("docker.io/{name}"), cluster.origin("docker.io")?.push(&name, &image)?))
    };
    let wanted = Wanted((0..arguments.images).map(one).collect::<Result<_>>()?);
    let what = format!("{} images of 50 MB on {} nodes, {AT_ONCE} at once", arguments.images, cluster.nodes().len());
    let mut all = Beside::new(what, "by hand from the origin", "s", Goal::Times(1.1));
    let mut edit =
        Beside::new("edit of an ImageCache until a node has asked the origin", "nothing", "s", Goal::AtMost(1.0));
    let mut join =
        Beside::new("agent ready until it has asked the origin for what is wanted", "nothing", "s", Goal::AtMost(2.0));
    for repetition in 0..arguments.repetitions {
        for larder in turns(repetition) {
            if !larder {
                all.other(wanted.by_hand(cluster.nodes())?);
                wanted.forget(cluster.nodes())?;
                continue;
            }
            for node in cluster.nodes() {
                lab.start_keeping(node)?;
            }
            let (moment, began) = (Moment::now([]), Instant::now());
            edit.larder(wanted.begin(lab)?, None);
            wanted.await_all(cluster.nodes())?;
            all.larder(began.elapsed().as_secs_f64(), Some(moment.until(&Moment::now([])).idle));
            // A node joins: it has nothing, and its agent begins while the ImageCache is there.
            let last = cluster.nodes().last().context("there are nodes")?;
            lab.end(last)?;
            wanted.forget(std::slice::from_ref(last))?;
            let before = asked(lab)?;
            lab.start_keeping(last)?;
            join.larder(first_question(lab, before)?, None);
            cluster.kubectl().run(&["delete", "imagecache", "figures"])?;
            cluster.nodes().iter().try_for_each(|node| lab.end(node))?;
            wanted.forget(cluster.nodes())?;
        }
    }
    Ok(vec![all, edit, join])
}

impl Wanted {
    /// Has all nodes pull all images at once, so many at a time; gives the seconds until the last has all.
    fn by_hand(&self, nodes: &[Node]) -> Result<f64> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let pull = |node: &Node, lane: usize| -> Result<()> {
                self.0
                    .iter()
                    .skip(lane)
                    .step_by(AT_ONCE)
                    .try_for_each(|(name, _)| node.crictl(&["pull", name]).map(drop))
            };
            let lanes = nodes.iter().flat_map(|node| (0..AT_ONCE).map(move |lane| (node, lane)));
            let pulls: Vec<_> = lanes.map(|(node, lane)| scope.spawn(move || pull(node, lane))).collect();
            pulls.into_iter().try_for_each(|pull| pull.join().expect("a pull does not panic"))
        })?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Makes the ImageCache; gives the seconds until the origin is asked.
    fn begin(&self, lab: &Lab<'_>) -> Result<f64> {
        let names: Vec<&String> = self.0.iter().map(|(name, _)| name).collect();
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
            "metadata": {"name": "figures", "namespace": "default"},
            "spec": {"images": names, "parallelism": {"perNode": AT_ONCE}},
        });
        let before = asked(lab)?;
        lab.cluster.kubectl().apply(&object.to_string())?;
        first_question(lab, before)
    }

    fn await_all(&self, nodes: &[Node]) -> Result<()> {
        for node in nodes {
            wait_for("the node has all images", PATIENCE, || {
                let there = node.crictl(&["images", "-o", "json"])?;
                Ok(self.0.iter().all(|(name, _)| there.contains(&format!("{name}\""))).then_some(()))
            })?;
        }
        Ok(())
    }

    fn forget(&self, nodes: &[Node]) -> Result<()> {
        for node in nodes {
            let there = node.crictl(&["images", "-o", "json"])?;
            let held = self.0.iter().filter(|(name, _)| there.contains(&format!("{name}\"")));
            held.into_iter().try_for_each(|(name, image)| forget(node, name, image))?;
        }
        Ok(())
    }
}

/// How often the origin has been asked.
fn asked(lab: &Lab<'_>) -> Result<usize> {
    Ok(lab.cluster.origin("docker.io")?.requests()?.len())
}

/// Waits until the origin has been asked more often than `before`; gives the seconds from now on.
fn first_question(lab: &Lab<'_>, before: usize) -> Result<f64> {
    let began = Instant::now();
    wait_for("the origin is asked", PATIENCE, || Ok((asked(lab)? > before).then_some(())))?;
    Ok(began.elapsed().as_secs_f64())
}

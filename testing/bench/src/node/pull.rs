//! The first pull of an image, by one node of several.

use anyhow::Result;
use testbed::{Image, Layer};

use super::Arguments;
use super::beside::{Beside, Goal};
use super::lab::{Lab, ensure_served, turns};

pub(super) fn run(lab: &mut Lab<'_>, arguments: &Arguments) -> Result<Vec<Beside>> {
    let mut figures = Vec::new();
    let cluster = lab.cluster;
    let nodes = cluster.nodes();
    let first = &nodes[0];
    for &size in &arguments.size {
        let name = format!("library/pull-{size}:1");
        let image = Image::empty().layer(Layer::random(size * 1_000_000));
        let image = cluster.origin("docker.io")?.push(&name, &image)?;
        let reference = format!("docker.io/{name}");
        // Not counted: the origin has the image in memory from here on.
        lab.pull(first, &reference, &image)?;
        let what = format!("first pull of {size} MB by one of {} nodes", nodes.len());
        let mut figure = Beside::new(what, "from the origin", "s", Goal::Times(1.03));
        for repetition in 0..arguments.repetitions {
            for larder in turns(repetition) {
                if !larder {
                    figure.other(lab.pull(first, &reference, &image)?.seconds);
                    continue;
                }
                let agents = nodes.iter().map(|node| lab.start(node)).collect::<Result<Vec<_>>>()?;
                let took = lab.pull(first, &reference, &image)?;
                ensure_served(&agents[0], &image)?;
                figure.larder(took.seconds, Some(took.idle));
                nodes.iter().try_for_each(|node| lab.end(node))?;
            }
        }
        eprintln!("{figure:?}");
        figures.push(figure);
    }
    Ok(figures)
}

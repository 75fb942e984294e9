//! A node with a real containerd: its pulls through larder, and its mirror's answers, each beside the same without larder.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use programs::Program;
use testbed::{ClusterSpec, Rate, with_cluster};

use crate::{machine, report, server};

mod beside;
mod files;
mod lab;
mod latency;
mod prefetch;
mod pull;
mod warm;

use beside::Beside;
use lab::Lab;

/// How many nodes there are; one of them is measured.
const NODES: usize = 3;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each figure is measured; what is compared takes turns.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only these; with them, docs/benchmarks.md is left alone.
    #[arg(long, value_name = "NAME")]
    only: Vec<Name>,
    /// The sizes of the images, in MB.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    size: Vec<u64>,
    /// The rate of each link in both directions, the origin's included, in Mbit/s.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// How many requests make one repetition of a latency.
    #[arg(long, default_value_t = 5000)]
    requests: usize,
    /// How many images of 50 MB an ImageCache wants.
    #[arg(long, default_value_t = 20)]
    images: usize,
    /// The binary to measure; the release build of this workspace, made first, if not given.
    #[arg(long, value_name = "PATH")]
    larder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The first pull by one of the nodes.
    Pull,
    /// A pull of what another node has, without the origin.
    Warm,
    /// The mirror's answers to warm requests.
    Latency,
    /// What an ImageCache wants, on all nodes.
    Prefetch,
}

impl Name {
    const ALL: [Name; 4] = [Name::Pull, Name::Warm, Name::Latency, Name::Prefetch];
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let larder = server::larder(arguments.larder.clone())?;
    programs::debian(&["nginx"])?;
    let certificates = crate::folder().join("node-certificates");
    let _ = fs::remove_dir_all(&certificates);
    fs::create_dir_all(&certificates)?;
    let spec = ClusterSpec::new("node-figures").nodes(NODES).programs(&[Program::Crictl, Program::Ctr]);
    let mut figures: Vec<Beside> = Vec::new();
    with_cluster(&spec, |cluster| {
        nodes::certify(&certificates, cluster.nodes().iter().map(testbed::Node::name))?;
        let rate = Rate::mbit(arguments.rate);
        cluster.internet_link().cap(rate)?;
        cluster.nodes().iter().try_for_each(|node| node.link().cap(rate))?;
        let mut lab = Lab::new(cluster, certificates.clone(), larder.clone());
        for name in Name::ALL.into_iter().filter(|name| arguments.only.is_empty() || arguments.only.contains(name)) {
            eprintln!("{name:?}");
            match name {
                Name::Pull => figures.extend(pull::run(&mut lab, &arguments)?),
                Name::Warm => figures.extend(warm::run(&mut lab, &arguments)?),
                Name::Latency => figures.extend(latency::run(&mut lab, &arguments)?),
                Name::Prefetch => figures.extend(prefetch::run(&mut lab, &arguments)?),
            }
        }
        Ok(())
    })?;
    let text = head(&arguments) + &beside::table(&figures);
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("node", &figures)?.display());
    if arguments.only.is_empty() { report::into_docs("node", &text) } else { Ok(()) }
}

fn head(arguments: &Arguments) -> String {
    let Arguments { repetitions, rate, requests, images, .. } = arguments;
    let sizes: Vec<String> = arguments.size.iter().map(u64::to_string).collect();
    let only: String =
        arguments.only.iter().map(|name| format!(" --only {}", format!("{name:?}").to_lowercase())).collect();
    format!(
        "`cargo run --release -p bench -- node{only} --repetitions {repetitions} --size {} --rate {rate} --requests {requests} --images {images}` on {}.\n\n\
         Medians (least – most) of {repetitions} repetitions in which larder and the other took turns; what was reached is the ratio, or the \
         difference, of the medians. The processors' idle share was that of the whole machine while larder was measured.\n\n",
        sizes.join(","),
        machine::describe()
    )
}

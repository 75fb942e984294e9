//! The controller of a large cluster whose API server is real, and whose nodes are objects alone: what it holds, uses and writes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nodes::{KUBECONFIG, act_as, controller_rights, give_account, install_definitions, make_account};
use serde::Serialize;
use testbed::{Cluster, ClusterSpec, Image, Layer, NodeSpec, wait_for, with_cluster};

use crate::{machine, report, server};

mod kubelets;
mod lab;
mod population;
mod requests;

use lab::Lab;
use population::{Cache, Population};
use requests::Server;

const PATIENCE: Duration = Duration::from_secs(300);

const ACCOUNT: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: larder-controller, namespace: larder}}";

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many nodes there are, each with a NodeCache of 60 images.
    #[arg(long, default_value_t = 5000)]
    nodes: usize,
    /// How many pods there are, of 1,000 workloads.
    #[arg(long, default_value_t = 20_000)]
    pods: usize,
    /// Leave docs/benchmarks.md alone.
    #[arg(long)]
    leave_docs: bool,
    /// The binary to measure; the release build of this workspace, made first, if not given.
    #[arg(long, value_name = "PATH")]
    larder: Option<PathBuf>,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    limit: Option<f64>,
    value: f64,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let larder = server::larder(arguments.larder.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    let spec = ClusterSpec::new("controller-figures").with_nodes([NodeSpec::new(population::REAL)]);
    with_cluster(&spec, |cluster| {
        prepare(cluster)?;
        let digest = tag_images(cluster)?;
        let people = Population { nodes: arguments.nodes, pods: arguments.pods, digest };
        let api = runtime.block_on(Server::of(cluster.kubectl().config()))?;
        let lab = Lab { cluster, runtime: &runtime, api, people, larder: &larder };
        rows = lab.measure()?;
        Ok(())
    })?;
    let text = table(&rows, &arguments);
    println!("{text}");
    eprintln!("raw: {}", report::keep_raw("controller", &rows)?.display());
    if arguments.leave_docs { Ok(()) } else { report::into_docs("controller", &text) }
}

/// Makes the accounts of controller and agent, the kinds and the namespaces.
fn prepare(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    install_definitions(cluster)?;
    let namespaces: Vec<String> = population::namespaces().collect();
    make_account(cluster)?;
    for node in cluster.nodes() {
        give_account(cluster, node.machine())?;
    }
    for namespace in &namespaces {
        kubectl.run(&["create", "namespace", namespace])?;
    }
    kubectl.apply(ACCOUNT)?;
    kubectl.apply(&controller_rights()?)?;
    act_as(cluster, cluster.internet(), "larder-controller", KUBECONFIG)?;
    for namespace in &namespaces {
        wait_for("pods can be made", PATIENCE, || {
            Ok(kubectl.run(&["get", "serviceaccount", "default", "-n", namespace]).ok())
        })?;
    }
    // There is no kubelet behind most nodes: they would be taken for dead, and pods be made and deleted.
    for name in ["kube-scheduler", "kube-controller-manager"] {
        cluster.control().machine().process(name)?.kill()?;
    }
    Ok(())
}

/// Gives the origin an image under all tags; gives its digest.
fn tag_images(cluster: &Cluster) -> Result<String> {
    let image = Image::empty().layer(Layer::random(1000));
    let written = cluster.origin("quay.io")?.push(&format!("{}:first", population::REPOSITORY), &image)?;
    let (manifest, url) = ("/tmp/manifest", format!("https://quay.io/v2/{}/manifests", population::REPOSITORY));
    let accepted = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let machine = cluster.internet();
    let head = machine.run(&["curl", "-sSf", "-D", "-", "-H", accepted, "-o", manifest, &format!("{url}/first")])?;
    let kind = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type:").map(str::to_owned));
    let kind = kind.context("a manifest has a type")?;
    let one = |number| {
        format!(
            "url = \"{url}/{}\"\nupload-file = \"{manifest}\"\nheader = \"Content-Type: {}\"\nfail\nsilent\nshow-error\n",
            population::tag(number),
            kind.trim()
        )
    };
    let all: Vec<String> = (0..population::IMAGES).map(one).collect();
    machine.write("/etc/tags", &all.join("next\n"))?;
    machine.run(&["curl", "--fail-early", "-K", "/etc/tags"])?;
    Ok(written.digest)
}

fn node_cache(node: &str) -> String {
    format!("/apis/larder.dev/v1alpha1/nodecaches/{node}")
}

fn image_cache(cache: &Cache) -> String {
    format!("/apis/larder.dev/v1alpha1/namespaces/{}/imagecaches/{}", cache.namespace, cache.name)
}

fn table(rows: &[Row], arguments: &Arguments) -> String {
    let Arguments { nodes, pods, .. } = arguments;
    let mut text = format!(
        "`cargo run --release -p bench -- controller --nodes {nodes} --pods {pods}` on {}.\n\n\
         | what | value | must reach | reached |\n|---|---|---|---|\n",
        machine::describe()
    );
    for Row { what, unit, limit, value } in rows {
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let (goal, reached) = match limit {
            Some(limit) => (format!("≤ {limit}{unit}"), if value <= limit { "yes" } else { "**no**" }),
            None => ("–".to_owned(), "–"),
        };
        let digits = if *value < 1.0 {
            4
        } else if *limit == Some(2.0) {
            3
        } else {
            1
        };
        text.push_str(&format!("| {what} | {value:.digits$}{unit} | {goal} | {reached} |\n"));
    }
    text
}

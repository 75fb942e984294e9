//! What people ask of a cluster. What they are shown is put together by `console`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use api::{CachePolicy, CachePolicySpec, CleanupMode, ImageCache, NodeCache, names};
use apiserver::{ApiServer, Need, Session, reason};
use clap::Args;
use console::{Place, Progress, Table, age, name_of, size};
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource};
use oci::Image;
use serde::de::DeserializeOwned;
use serde_json::json;
use units::Span;

use crate::cli::Output;
use crate::failure::Failure;
use crate::logging;

/// Under which name people write to ImageCaches.
const MANAGER: &str = "larder-warm";
/// How often is looked how far an ImageCache is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Objects in a page of a list.
const PAGE: u32 = 100;

/// Which cluster.
#[derive(Args)]
pub struct ClusterArgs {
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// What `larder warm` takes.
#[derive(Args)]
pub struct WarmArgs {
    /// The images, such as nginx:1.27 or ghcr.io/shop/api:v3
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,

    /// The namespace of the ImageCache [default: that of the context]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// The ImageCache [default: made of the first image]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// The labels of its nodes, where it is new: all nodes if not given
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_selector: Vec<String>,

    /// Wait until all images are ready on all nodes, and exit with 1 if they do not become so
    #[arg(long)]
    pub wait: bool,

    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub timeout: Span,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `larder images` takes.
#[derive(Args)]
pub struct ImagesArgs {
    /// Only images whose names have this in them
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `larder nodes` takes.
#[derive(Args)]
pub struct NodesArgs {
    /// Show what this node has
    #[arg(value_name = "NODE")]
    pub node: Option<String>,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `larder why` takes.
#[derive(Args)]
pub struct WhyArgs {
    /// The image, such as nginx:1.27 or ghcr.io/shop/api:v3
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// Only this node
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `larder clean` takes.
#[derive(Args)]
pub struct CleanArgs {
    /// Needed: nodes clean by themselves, as the CachePolicy says, and this only shows what they do
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// A cluster's API server.
struct Cluster {
    session: Session,
    client: Client,
}

impl Cluster {
    async fn of(args: &ClusterArgs) -> Result<Cluster, Failure> {
        let session = Session::new(ApiServer::Person(args.context.clone()));
        // Like a wrong command line, that there is no cluster is for the one who types to mend.
        let client = session.client().await.map_err(|error| Failure::Usage(format!("larder: {error}")))?;
        Ok(Cluster { session, client })
    }

    /// All objects of a kind.
    async fn list<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = api.list(&page).await.map_err(|error| self.refused::<K>(&error, "list", None))?;
            all.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// What holds in the cluster.
    async fn policy(&self) -> anyhow::Result<CachePolicySpec> {
        let policies: Api<CachePolicy> = Api::all(self.client.clone());
        let found = policies.get_opt(names::POLICY).await;
        let found = found.map_err(|error| self.refused::<CachePolicy>(&error, "get", None))?;
        Ok(found.map(|policy| policy.spec).unwrap_or_default())
    }

    fn refused<K: Resource<DynamicType = ()>>(
        &self,
        error: &kube::Error,
        verb: &str,
        namespace: Option<&str>,
    ) -> anyhow::Error {
        self.session.failed(error);
        anyhow!("{}", reason(error, &Need::of::<K>(verb, namespace)))
    }
}

fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    logging::start_plainly();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(work)
}

fn image_of(text: &str) -> Result<Image, Failure> {
    Image::in_short(text).map_err(|error| Failure::Usage(format!("{text:?} is no image: {error}")))
}

/// Runs `larder images`.
pub fn images(args: &ImagesArgs) -> Result<ExitCode, Failure> {
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let (nodes, caches) = (cluster.list::<NodeCache>().await?, cluster.list::<ImageCache>().await?);
        let mut rows = console::images(&nodes, &caches, &cluster.policy().await?);
        rows.retain(|row| args.text.as_ref().is_none_or(|text| row.image.contains(text)));
        args.cluster.output.print(&rows, || {
            let now = Timestamp::now();
            let mut table =
                Table::new(&["IMAGE", "NODES", "WARM", "COMING", "FAILED", "SIZE", "LAST USED", "WANTED BY"]);
            for row in &rows {
                let wanted = match &*row.wanted_by {
                    [] => String::new(),
                    [one] => one.clone(),
                    [one, rest @ ..] => format!("{one} and {} more", rest.len()),
                };
                let counts = [row.nodes, row.warm, row.coming, row.failed].map(|count| count.to_string());
                let size = row.bytes.map(size).unwrap_or_default();
                let rest = [size, age(row.last_used.as_ref(), now), wanted];
                table.row([row.image.clone()].into_iter().chain(counts).chain(rest));
            }
            print!("{table}");
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs `larder nodes`.
pub fn nodes(args: &NodesArgs) -> Result<ExitCode, Failure> {
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let Some(name) = &args.node else {
            let rows = console::nodes(&cluster.list::<NodeCache>().await?);
            args.cluster.output.print(&rows, || print_nodes(&rows))?;
            return Ok(ExitCode::SUCCESS);
        };
        let caches: Api<NodeCache> = Api::all(cluster.client.clone());
        let found = caches.get_opt(name).await.map_err(|error| cluster.refused::<NodeCache>(&error, "get", None))?;
        let cache =
            found.ok_or_else(|| anyhow!("no larder agent has told anything of a node {name:?}: see larder nodes"))?;
        args.cluster.output.print(&cache, || {
            print_nodes(&console::nodes(std::slice::from_ref(&cache)));
            let mut table = Table::new(&["IMAGE", "STATE", "PINNED", "SIZE", "LAST USED", "REASON", "MESSAGE"]);
            let now = Timestamp::now();
            for image in cache.status.iter().flat_map(|status| &status.images) {
                table.row([
                    image.image.clone(),
                    format!("{:?}", image.state),
                    if image.pinned { "yes".to_owned() } else { String::new() },
                    image.bytes.map(size).unwrap_or_default(),
                    age(image.last_used.as_ref(), now),
                    image.reason.clone().unwrap_or_default(),
                    image.message.clone().unwrap_or_default(),
                ]);
            }
            print!("\n{table}");
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

fn print_nodes(rows: &[console::NodeRow]) {
    let now = Timestamp::now();
    let mut table =
        Table::new(&["NODE", "READY", "PRESENT", "WANTED", "WARM", "FAILED", "IMAGES", "STORE", "FREE", "CLEANUP"]);
    for row in rows {
        let counts = [row.present, row.wanted, row.warm, row.failed].map(|count| count.to_string());
        let free = row.free.map(|free| format!("{free} %")).unwrap_or_default();
        let rest = [size(row.bytes), size(row.store), free, age(row.last_cleanup.as_ref(), now)];
        table.row([row.node.clone(), row.ready.clone()].into_iter().chain(counts).chain(rest));
    }
    print!("{table}");
    for (node, message) in rows.iter().filter_map(|row| Some((&row.node, row.message.as_ref()?))) {
        println!("{node} is not ready: {message}");
    }
}

/// Runs `larder why`.
pub fn why(args: &WhyArgs) -> Result<ExitCode, Failure> {
    let image = image_of(&args.image)?;
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let mut nodes: Vec<warm::Node> = cluster.list::<Node>().await?.iter().map(warm::Node::from).collect();
        nodes.retain(|node| args.node.as_ref().is_none_or(|name| *name == *node.name));
        if let (Some(name), []) = (&args.node, &*nodes) {
            return Err(anyhow!("there is no node {name:?}").into());
        }
        let (caches, wanting) = (cluster.list::<NodeCache>().await?, cluster.list::<ImageCache>().await?);
        let whys = console::why(&image, &nodes, &caches, &wanting, &cluster.policy().await?);
        args.cluster.output.print(&whys, || {
            println!("{}", whys.image);
            for why in &whys.nodes {
                let from = match why.from {
                    Place::Runtime => "is there",
                    Place::Nodes => "comes from other nodes",
                    Place::RegistryOrOrigin => "comes from larder's registry, or the origin",
                    Place::Origin => "comes from the origin, past larder",
                };
                println!("\n{}: {from}", why.node);
                why.because.iter().for_each(|reason| println!("  {reason}"));
            }
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs `larder clean`.
pub fn clean(args: &CleanArgs) -> Result<ExitCode, Failure> {
    if !args.dry_run {
        let what = "nodes clean by themselves, as spec.cleanup of the CachePolicy says: edit that (kubectl edit cachepolicy default)";
        return Err(Failure::Usage(format!("larder: {what}. With --dry-run this shows what they removed, or would.")));
    }
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let mode = cluster.policy().await?.cleanup.map_or(CleanupMode::Off, |cleanup| cleanup.mode);
        let removed = console::removed(&cluster.list::<NodeCache>().await?);
        args.cluster.output.print(&removed, || {
            let now = Timestamp::now();
            let mut table = Table::new(&["NODE", "WHEN", "DONE", "IMAGE", "SIZE", "REASON"]);
            for (node, cleanup) in removed.iter().filter_map(|one| Some((&one.node, one.cleanup.as_ref()?))) {
                let done = if cleanup.dry_run { "no" } else { "yes" };
                for image in &cleanup.images {
                    let when = age(Some(&cleanup.time), now);
                    let cells = [image.image.clone(), size(image.bytes), image.reason.clone()];
                    table.row([node.clone(), when, done.to_owned()].into_iter().chain(cells));
                }
            }
            print!("{table}");
        })?;
        match mode {
            CleanupMode::Off => eprintln!(
                "No node cleans: the CachePolicy has no cleanup, or its mode is Off. With mode: DryRun nodes say here what they would remove."
            ),
            CleanupMode::DryRun => {
                eprintln!("Nodes only say what they would remove: the mode of the CachePolicy's cleanup is DryRun.")
            }
            CleanupMode::Remove => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs `larder warm`.
pub fn warm(args: &WarmArgs) -> Result<ExitCode, Failure> {
    let images = args.images.iter().map(|text| image_of(text)).collect::<Result<Vec<_>, _>>()?;
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!("--node-selector: {text:?} is not KEY=VALUE"))),
    };
    let selector = args.node_selector.iter().map(pair).collect::<Result<std::collections::BTreeMap<_, _>, _>>()?;
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| cluster.client.default_namespace().to_owned());
        let name = args.name.clone().unwrap_or_else(|| name_of(&images[0]));
        let caches: Api<ImageCache> = Api::namespaced(cluster.client.clone(), &namespace);
        let refused = |error: &kube::Error, verb: &str| cluster.refused::<ImageCache>(error, verb, Some(&namespace));
        let found = caches.get_opt(&name).await.map_err(|error| refused(&error, "get"))?;
        let there = found.map(|cache| cache.spec);
        if let Some(spec) = there.as_ref().filter(|spec| !selector.is_empty() && spec.node_selector != selector) {
            let other =
                format!("{namespace}/{name} is for other nodes ({:?}): give another --name", spec.node_selector);
            return Err(Failure::Usage(format!("larder: the ImageCache {other}")));
        }
        let mut all = there.as_ref().map(|spec| spec.images.clone()).unwrap_or_default();
        let new: Vec<&Image> = images.iter().filter(|image| !all.contains(image)).collect();
        all.extend(new.iter().map(|image| (*image).clone()));
        if !new.is_empty() {
            let mut spec = json!({"images": all});
            if there.is_none() && !selector.is_empty() {
                spec["nodeSelector"] = json!(selector);
            }
            let object = json!({
                "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec,
            });
            // What is there stays in the list, whoever put it there.
            let written = match there.is_some() {
                true => caches.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await,
                false => caches.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(&object)).await,
            };
            written.map_err(|error| refused(&error, "create, patch"))?;
        }
        eprintln!("imagecache/{name} in {namespace}: {} images, {} new", all.len(), new.len());
        if !args.wait {
            let cache = caches.get(&name).await.map_err(|error| refused(&error, "get"))?;
            args.cluster.output.print(&cache, || {})?;
            return Ok(ExitCode::SUCCESS);
        }
        let progress = follow(&caches, &name, args.timeout.0).await.map_err(|error| refused(&error, "get"))?;
        args.cluster.output.print(&progress, || match &progress {
            Some(progress) => {
                println!("{progress}");
                progress.failures.iter().for_each(|failure| println!("  {failure}"));
            }
            None => println!("no larder controller has taken note of it: see kubectl -n larder get pods"),
        })?;
        let warm = progress.is_some_and(|progress| progress.is_warm);
        Ok(if warm { ExitCode::SUCCESS } else { ExitCode::from(1) })
    })
}

/// Shows how far an ImageCache is until it is warm, nothing more comes, or the time is over; gives the last that is known.
async fn follow(caches: &Api<ImageCache>, name: &str, patience: Duration) -> Result<Option<Progress>, kube::Error> {
    let end = tokio::time::Instant::now() + patience;
    let show = Shown::new();
    let mut last = None;
    loop {
        // It is asked for anew rather than watched: a watch would need a right of its own.
        if let Some(progress) = Progress::of(&caches.get(name).await?) {
            show.progress(&progress, last.as_ref());
            let over = progress.is_warm || progress.is_stuck();
            last = Some(progress);
            if over {
                return Ok(last);
            }
        }
        if tokio::time::Instant::now() + LOOK_EVERY > end {
            return Ok(last);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A bar on a terminal, else a line for each change.
struct Shown(Option<ProgressBar>);

impl Shown {
    fn new() -> Shown {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Shown(bar)
    }

    fn progress(&self, progress: &Progress, last: Option<&Progress>) {
        match &self.0 {
            Some(bar) => {
                bar.set_length(progress.all());
                bar.set_position(progress.warm);
                bar.set_message(if progress.failed > 0 {
                    format!("({} failing)", progress.failed)
                } else {
                    String::new()
                });
                bar.tick();
            }
            None if last.map(ToString::to_string) != Some(progress.to_string()) => eprintln!("{progress}"),
            None => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

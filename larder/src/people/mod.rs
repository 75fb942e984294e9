//! What people ask of a cluster. What they are shown is put together by `console`.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use api::{CachePolicy, CachePolicySpec, CachedImage, CleanupMode, ImageCache, NodeCache, names};
use apiserver::{ApiServer, Need, Session, reason};
use clap::Args;
use console::{Place, Table, age, size};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use oci::Image;
use serde::de::DeserializeOwned;

use crate::cli::Output;
use crate::failure::Failure;
use crate::logging;

mod warm;

pub use warm::{WarmArgs, warm};

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
    server: ApiServer,
    client: Client,
}

impl Cluster {
    async fn of(args: &ClusterArgs) -> Result<Cluster, Failure> {
        let server = ApiServer::Person(args.context.clone());
        let client = Session::new(server.clone()).client().await;
        let client = client.map_err(|error| Failure::Usage(format!("larder: {error}")))?;
        Ok(Cluster { server, client })
    }

    /// All objects of a kind.
    async fn list<K>(&self) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(error) => return Err(self.refused::<K>(&error, "list", None).await),
            };
            all.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// All objects of a kind that only adds to what is told: none where they may not be seen, or are not there.
    async fn list_if_may<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        self.list().await.unwrap_or_default()
    }

    /// What holds in the cluster.
    async fn policy(&self) -> Result<CachePolicySpec, Failure> {
        let policies: Api<CachePolicy> = Api::all(self.client.clone());
        match policies.get_opt(names::POLICY).await {
            Ok(found) => Ok(found.map(|policy| policy.spec).unwrap_or_default()),
            Err(error) => Err(self.refused::<CachePolicy>(&error, "get", None).await),
        }
    }

    /// What a failed request comes to: nobody is there, which is for the one who types to mend as a wrong command line is, or it is refused.
    async fn refused<K: Resource<DynamicType = ()>>(
        &self,
        error: &kube::Error,
        verb: &str,
        namespace: Option<&str>,
    ) -> Failure {
        let why = reason(error, &Need::of::<K>(verb, namespace));
        if matches!(error, kube::Error::Api(_)) {
            return anyhow!("{why}").into();
        }
        let server = self.server.url().await.unwrap_or_else(|_| "of the kubeconfig".to_owned());
        Failure::Usage(format!("larder: cannot reach the API server {server}: {why}. See kubectl cluster-info"))
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
        let known = cluster.list_if_may::<CachedImage>().await;
        let mut rows = console::images(&nodes, &caches, &known, &cluster.policy().await?);
        rows.retain(|row| args.text.as_ref().is_none_or(|text| row.image.contains(text)));
        args.cluster.output.print(&rows, || {
            let now = Timestamp::now();
            let mut table = Table::new(&[
                "IMAGE",
                "PODS",
                "REGISTRY",
                "NODES",
                "WARM",
                "COMING",
                "FAILED",
                "SIZE",
                "LAST USED",
                "WANTED BY",
            ]);
            for row in &rows {
                let wanted = match &*row.wanted_by {
                    [] => String::new(),
                    [one] => one.clone(),
                    [one, rest @ ..] => format!("{one} and {} more", rest.len()),
                };
                let counts = [row.nodes, row.warm, row.coming, row.failed].map(|count| count.to_string());
                let size = row.bytes.map(size).unwrap_or_default();
                let rest = [size, age(row.last_used.as_ref(), now), wanted];
                let pods = row.pods.map(|pods| pods.to_string()).unwrap_or_default();
                let registry = row.registry.map(|has| if has { "yes" } else { "no" }).unwrap_or_default();
                let first = [row.image.clone(), pods, registry.to_owned()];
                table.row(first.into_iter().chain(counts).chain(rest));
            }
            table.to_string()
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
            args.cluster.output.print(&rows, || node_table(&rows))?;
            return Ok(ExitCode::SUCCESS);
        };
        let caches: Api<NodeCache> = Api::all(cluster.client.clone());
        let found = match caches.get_opt(name).await {
            Ok(found) => found,
            Err(error) => return Err(cluster.refused::<NodeCache>(&error, "get", None).await),
        };
        let cache =
            found.ok_or_else(|| anyhow!("no larder agent has told anything of a node {name:?}: see larder nodes"))?;
        args.cluster.output.print(&cache, || {
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
            format!("{}\n{table}", node_table(&console::nodes(std::slice::from_ref(&cache))))
        })?;
        Ok(ExitCode::SUCCESS)
    })
}

fn node_table(rows: &[console::NodeRow]) -> String {
    let now = Timestamp::now();
    let mut table =
        Table::new(&["NODE", "READY", "PRESENT", "WANTED", "WARM", "FAILED", "IMAGES", "STORE", "FREE", "CLEANUP"]);
    for row in rows {
        let counts = [row.present, row.wanted, row.warm, row.failed].map(|count| count.to_string());
        let free = row.free.map(|free| format!("{free} %")).unwrap_or_default();
        let rest = [size(row.bytes), size(row.store), free, age(row.last_cleanup.as_ref(), now)];
        table.row([row.node.clone(), row.ready.clone()].into_iter().chain(counts).chain(rest));
    }
    let away = rows.iter().filter_map(|row| Some(format!("{} is not ready: {}\n", row.node, row.message.as_ref()?)));
    let waiting = rows.iter().filter(|row| row.waiting > 0);
    let waiting = waiting.map(|row| format!("{} waits for its turn to pull {} images\n", row.node, row.waiting));
    table.to_string() + &away.chain(waiting).collect::<String>()
}

/// Runs `larder why`.
pub fn why(args: &WhyArgs) -> Result<ExitCode, Failure> {
    let image = image_of(&args.image)?;
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let mut nodes: Vec<::warm::Node> = cluster.list::<Node>().await?.iter().map(::warm::Node::from).collect();
        nodes.retain(|node| args.node.as_ref().is_none_or(|name| *name == *node.name));
        if let (Some(name), []) = (&args.node, &*nodes) {
            return Err(anyhow!("there is no node {name:?}").into());
        }
        let (caches, wanting) = (cluster.list::<NodeCache>().await?, cluster.list::<ImageCache>().await?);
        let images: Api<CachedImage> = Api::all(cluster.client.clone());
        // It only adds to what is told.
        let known = images.get_opt(&::warm::cached_image_name(&image)).await.ok().flatten();
        let whys = console::why(&image, &nodes, &caches, &wanting, known.as_ref(), &cluster.policy().await?);
        args.cluster.output.print(&whys, || {
            let of_node = |why: &console::Why| {
                let from = match why.from {
                    Place::Runtime => "is there",
                    Place::Store => "comes from larder's store on this node",
                    Place::Nodes => "comes from other nodes",
                    Place::Registry => "comes from larder's registry",
                    Place::RegistryOrOrigin => "comes from larder's registry, or the origin",
                    Place::Origin => "comes from the origin, past larder",
                };
                let because: String = why.because.iter().map(|reason| format!("  {reason}\n")).collect();
                format!("\n{}: {from}\n{because}", why.node)
            };
            format!("{}\n{}", whys.image, whys.nodes.iter().map(of_node).collect::<String>())
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
            table.to_string()
        })?;
        let silent: Vec<&str> = removed.iter().filter(|one| one.cleanup.is_none()).map(|one| &*one.node).collect();
        if mode != CleanupMode::Off && !silent.is_empty() {
            eprintln!("Nothing to remove so far, or not looked yet: {}", silent.join(", "));
        }
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

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use api::ImageCache;
use api::names::{REFRESH_ANNOTATION, REFRESH_NOW};
use clap::Args;
use console::{Progress, name_of};
use indicatif::{ProgressBar, ProgressStyle};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use oci::Image;
use serde_json::json;
use tokio::time::Instant;
use units::Span;

use super::{Cluster, ClusterArgs, image_of, run};
use crate::failure::Failure;

/// Under which name people write to ImageCaches.
const MANAGER: &str = "larder-warm";
/// How often is looked how far an ImageCache is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a change is tried that others make at the same time.
const TRIES: usize = 10;
/// How long there may be nothing to do before nothing more is waited for: nodes and workloads may just be coming.
const NOTHING: Duration = Duration::from_secs(5);

/// What `larder warm` takes.
#[derive(Args)]
pub struct WarmArgs {
    /// The images, such as nginx:1.27 or ghcr.io/shop/api:v3
    #[arg(value_name = "IMAGE", required_unless_present = "refresh")]
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

    /// Ask anew what the tags of this ImageCache mean, and have nodes pull what has moved
    #[arg(long, value_name = "NAME", conflicts_with_all = ["images", "name", "node_selector"])]
    pub refresh: Option<String>,

    /// Wait until all images are ready on all nodes, and exit with 1 if they do not become so
    #[arg(long)]
    pub wait: bool,

    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub timeout: Span,

    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `larder warm` was told of its ImageCache.
struct Wanted {
    namespace: String,
    name: String,
    images: Vec<Image>,
    selector: BTreeMap<String, String>,
}

/// Runs `larder warm`.
pub fn warm(args: &WarmArgs) -> Result<ExitCode, Failure> {
    let images = args.images.iter().map(|text| image_of(text)).collect::<Result<Vec<_>, _>>()?;
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!("--node-selector: {text:?} is not KEY=VALUE"))),
    };
    let selector = args.node_selector.iter().map(pair).collect::<Result<_, _>>()?;
    run(async {
        let cluster = Cluster::of(&args.cluster).await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| cluster.client.default_namespace().to_owned());
        let caches: Api<ImageCache> = Api::namespaced(cluster.client.clone(), &namespace);
        if let Some(name) = &args.refresh {
            let patch = json!({"metadata": {"annotations": {REFRESH_ANNOTATION: REFRESH_NOW}}});
            if let Err(error) = caches.patch_metadata(name, &manager(), &Patch::Merge(&patch)).await {
                return Err(cluster.refused::<ImageCache>(&error, "patch", Some(&namespace)).await);
            }
            eprintln!("imagecache/{name} in {namespace}: its tags are being asked for");
            if !args.wait {
                return Ok(ExitCode::SUCCESS);
            }
            return wait(args, &cluster, &caches, (&namespace, name)).await;
        }
        let name = args.name.clone().or_else(|| images.first().map(name_of)).unwrap_or_default();
        let wanted = Wanted { namespace, name, images, selector };
        let cache = wanted.write(&cluster, &caches).await?;
        if !args.wait {
            args.cluster.output.print(&cache, String::new)?;
            return Ok(ExitCode::SUCCESS);
        }
        wait(args, &cluster, &caches, (&wanted.namespace, &wanted.name)).await
    })
}

/// Shows how far an ImageCache is until nothing more is to come, and says at the end how it is.
async fn wait(
    args: &WarmArgs,
    cluster: &Cluster,
    caches: &Api<ImageCache>,
    (namespace, name): (&str, &str),
) -> Result<ExitCode, Failure> {
    let progress = match follow(caches, name, args.timeout.0).await {
        Ok(progress) => progress,
        Err(error) => return Err(cluster.refused::<ImageCache>(&error, "get", Some(namespace)).await),
    };
    args.cluster.output.print(&progress, || match &progress {
        Some(progress) => {
            let details = progress.nothing.iter().chain(&progress.failures);
            format!("{progress}\n{}", details.map(|line| format!("  {line}\n")).collect::<String>())
        }
        None => {
            "no larder controller has taken note of it: see kubectl get pods -A -l app.kubernetes.io/part-of=larder\n"
                .to_owned()
        }
    })?;
    let warm = progress.is_some_and(|progress| progress.is_warm);
    Ok(if warm { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

impl Wanted {
    /// Makes the ImageCache, or adds the images to it. What is in it stays, whoever changes it meanwhile.
    async fn write(&self, cluster: &Cluster, caches: &Api<ImageCache>) -> Result<ImageCache, Failure> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.try_to_write(caches).await? {
                Ok(cache) => return Ok(cache),
                Err(kube::Error::Api(status)) if status.code == 409 => last = Some(kube::Error::Api(status)),
                Err(error) => {
                    return Err(cluster
                        .refused::<ImageCache>(&error, "get, create, patch", Some(&self.namespace))
                        .await);
                }
            }
        }
        let why = last.map(|error| error.to_string()).unwrap_or_default();
        Err(anyhow::anyhow!("{}/{} is changed by others all the time: {why}", self.namespace, self.name).into())
    }

    async fn try_to_write(&self, caches: &Api<ImageCache>) -> Result<Result<ImageCache, kube::Error>, Failure> {
        let there = match caches.get_opt(&self.name).await {
            Ok(there) => there,
            Err(error) => return Ok(Err(error)),
        };
        let metadata = json!({"namespace": self.namespace, "name": self.name});
        let head = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": metadata});
        let Some(there) = there else {
            let mut object = head;
            object["spec"] = json!({"images": self.images, "nodeSelector": self.selector});
            let made: ImageCache = serde_json::from_value(object).map_err(anyhow::Error::from)?;
            self.tell(self.images.len(), self.images.len());
            let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            return Ok(caches.create(&parameters, &made).await);
        };
        if !self.selector.is_empty() && there.spec.node_selector != self.selector {
            let other = format!("{}/{} is for other nodes ({:?})", self.namespace, self.name, there.spec.node_selector);
            return Err(Failure::Usage(format!("larder: the ImageCache {other}: give another --name")));
        }
        let mut all = there.spec.images.clone();
        let new: Vec<Image> = self.images.iter().filter(|image| !all.contains(image)).cloned().collect();
        self.tell(all.len() + new.len(), new.len());
        if new.is_empty() {
            return Ok(Ok(there));
        }
        all.extend(new);
        // Refused if it is another one by now.
        let patch = json!({"metadata": {"resourceVersion": there.metadata.resource_version}, "spec": {"images": all}});
        Ok(caches.patch(&self.name, &manager(), &Patch::Merge(&patch)).await)
    }

    fn tell(&self, all: usize, new: usize) {
        eprintln!("imagecache/{} in {}: {all} images, {new} new", self.name, self.namespace);
    }
}

fn manager() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// Shows how far an ImageCache is until it is warm, nothing more comes, or the time is over; gives the last that is known.
async fn follow(caches: &Api<ImageCache>, name: &str, patience: Duration) -> Result<Option<Progress>, kube::Error> {
    let (began, mut idle) = (Instant::now(), None);
    let show = Shown::new();
    let mut last = None;
    loop {
        // It is asked for anew rather than watched: a watch would need a right of its own.
        let cache = caches.get(name).await?;
        // As long as it is asked what its tags mean, the status speaks of what they meant.
        let asking = cache.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(REFRESH_ANNOTATION));
        if let Some(progress) = Progress::of(&cache).filter(|_| !asking) {
            show.progress(&progress, last.as_ref());
            idle = progress.nothing.is_some().then(|| idle.unwrap_or_else(Instant::now));
            let over = progress.is_warm || progress.is_stuck();
            last = Some(progress);
            if over || idle.is_some_and(|since| since.elapsed() >= NOTHING) {
                return Ok(last);
            }
        }
        if began.elapsed() + LOOK_EVERY > patience {
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

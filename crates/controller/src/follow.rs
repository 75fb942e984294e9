use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{CachePolicy, CachedImage, ImageCache, Upstream, names};
use apiserver::{ApiServer, News, Seen, Watch};
use kube::Resource;
use kube::core::DeserializeGuard;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::index::{
    CacheKey, CronJob, DaemonSet, Deployment, Index, Job, KnownNode, KnownPolicy, Node, NodeCache, Pod, Report,
    StatefulSet, Template, cache_reduced, known_reduced, pod_reduced, upstream_reduced, workload_reduced,
};

/// Objects in a page of a list: of NodeCaches, each of which may have a thousand images, and of all others.
const PAGE_OF_REPORTS: u32 = 25;
const PAGE: u32 = 100;

/// The same of pods, of which there are most and little is read.
const PAGE_OF_PODS: u32 = 250;

/// An index that is kept as the API server tells, and what it hears of it.
pub(crate) struct Followed {
    index: Mutex<Index>,
    /// Something has changed.
    pub changes: Notify,
    /// Something about an Upstream has changed.
    pub upstreams: Notify,
    seen: Mutex<Vec<Heard>>,
}

/// What is heard of one kind.
struct Heard {
    what: Arc<str>,
    seen: Arc<Seen>,
    matters: Matters,
}

/// To whom it matters what is heard of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Matters {
    /// To all that is done.
    ToAll,
    /// To what is told of images alone: all else goes on without it.
    ToImages,
}

impl Followed {
    pub fn new() -> Arc<Followed> {
        let (changes, upstreams) = (Notify::new(), Notify::new());
        Arc::new(Followed { index: Mutex::default(), changes, upstreams, seen: Mutex::default() })
    }

    pub fn index(&self) -> MutexGuard<'_, Index> {
        // The index is changed by assignments alone, which leave it whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has never been listed in full: nothing can be said before.
    pub fn never_heard_of(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = seen.iter().filter(|heard| !heard.seen.ever());
        missing
            .map(|Heard { what, seen, .. }| match seen.lost() {
                Some(lost) => format!("{what}: {}", lost.why),
                None => format!("{what}: the list is not complete yet"),
            })
            .collect()
    }

    /// Whether all has been listed in full that matters to more than what is told of images.
    pub fn is_heard_of(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().all(|heard| heard.matters == Matters::ToImages || heard.seen.ever())
    }

    /// Begins to follow all that matters, in tasks of `tasks`.
    pub fn start(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow_nodes(server, tasks);
        self.follow_reports(server, tasks);
        self.follow_policy(server, tasks);
        self.follow_caches(server, tasks);
        self.follow_upstreams(server, tasks);
        self.follow_workloads::<Deployment>(server, "the Deployments", tasks);
        self.follow_workloads::<StatefulSet>(server, "the StatefulSets", tasks);
        self.follow_workloads::<DaemonSet>(server, "the DaemonSets", tasks);
        self.follow_workloads::<Job>(server, "the Jobs", tasks);
        self.follow_workloads::<CronJob>(server, "the CronJobs", tasks);
        self.follow_pods(server, tasks);
        self.follow_images(server, tasks);
    }

    fn follow_pods(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (Watch::<Pod>::everywhere("the pods").paged(PAGE_OF_PODS), Matters::ToImages),
            tasks,
            |index, pod| pod_reduced(&pod, index.texts()),
            |index, news| match news {
                News::All(pods) => index.replace_pods(pods),
                News::Changed((key, images)) => index.apply_pod(key, images),
                News::Gone((key, _)) => index.delete_pod(&key),
            },
        );
    }

    fn follow_images(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (Watch::<DeserializeGuard<CachedImage>>::everywhere("the CachedImages").paged(PAGE), Matters::ToImages),
            tasks,
            |index, guard| match guard.0 {
                Ok(image) => known_reduced(image, index.texts()),
                // It is as good as not there, and written anew.
                Err(invalid) => (invalid.metadata.name.unwrap_or_default(), None),
            },
            |index, news| match news {
                News::All(all) => {
                    let readable = all.into_iter().filter_map(|(name, known)| Some((name, known?)));
                    index.replace_known(readable.collect());
                }
                News::Changed((name, known)) => index.apply_known(name, known),
                News::Gone((name, _)) => index.apply_known(name, None),
            },
        );
    }

    fn follow_nodes(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (Watch::<Node>::everywhere("the nodes").paged(PAGE), Matters::ToAll),
            tasks,
            |index, node| KnownNode::of(&node, index.texts()),
            |index, news| match news {
                News::All(nodes) => index.replace_nodes(nodes),
                News::Changed(node) => index.apply_node(node),
                News::Gone(node) => index.delete_node(&node.node.name),
            },
        );
    }

    fn follow_reports(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (Watch::<NodeCache>::everywhere("the NodeCaches").paged(PAGE_OF_REPORTS), Matters::ToAll),
            tasks,
            |index, cache| Report::of(&cache, index.texts()),
            |index, news| match news {
                News::All(reports) => index.replace_reports(reports),
                News::Changed(report) => index.apply_report(report),
                News::Gone(report) => index.delete_report(&report.node),
            },
        );
    }

    fn follow_policy(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (
                Watch::<DeserializeGuard<CachePolicy>>::everywhere("the CachePolicy").named(names::POLICY),
                Matters::ToAll,
            ),
            tasks,
            |_, guard| guard.0.map(Box::new).map_err(Box::new),
            |index, news| match news {
                News::All(policies) => match policies.into_iter().next() {
                    Some(Err(invalid)) => {
                        tracing::warn!(error = %invalid, "the CachePolicy cannot be read; the defaults count");
                        index.set_policy_object(Some(KnownPolicy::of_unreadable(&invalid)));
                    }
                    Some(Ok(policy)) => index.apply_policy(*policy),
                    None => index.delete_policy(),
                },
                News::Changed(Ok(policy)) => index.apply_policy(*policy),
                News::Changed(Err(invalid)) => {
                    tracing::warn!(error = %invalid, "the CachePolicy cannot be read; the last one that could stays");
                    index.set_policy_object(Some(KnownPolicy::of_unreadable(&invalid)));
                }
                News::Gone(_) => index.delete_policy(),
            },
        );
    }

    fn follow_caches(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        self.follow(
            server,
            (Watch::<DeserializeGuard<ImageCache>>::everywhere("the ImageCaches").paged(PAGE), Matters::ToAll),
            tasks,
            |_, guard| match guard.0 {
                Ok(cache) => (CacheKey::of(&cache.metadata), Some(cache_reduced(cache))),
                Err(invalid) => {
                    let key = CacheKey::of(&invalid.metadata);
                    tracing::warn!(cache = %key, error = %invalid, "an ImageCache cannot be read and is left alone");
                    (key, None)
                }
            },
            |index, news| match news {
                News::All(caches) => {
                    let readable = caches.into_iter().filter_map(|(key, cache)| Some((key, cache?)));
                    index.replace_caches(readable.collect());
                }
                News::Changed((key, Some(cache))) => index.apply_cache(key, cache),
                News::Changed((key, None)) | News::Gone((key, _)) => index.delete_cache(&key),
            },
        );
    }

    fn follow_upstreams(self: &Arc<Followed>, server: &ApiServer, tasks: &mut JoinSet<()>) {
        let followed = self.clone();
        self.follow(
            server,
            (Watch::<DeserializeGuard<Upstream>>::everywhere("the Upstreams").paged(PAGE), Matters::ToAll),
            tasks,
            |_, guard| match guard.0 {
                Ok(upstream) => {
                    let (name, upstream) = upstream_reduced(upstream);
                    (name, Some(upstream))
                }
                // The registry says so in its status.
                Err(invalid) => (invalid.metadata.name.unwrap_or_default(), None),
            },
            move |index, news| {
                match news {
                    News::All(upstreams) => index.replace_upstreams(upstreams),
                    News::Changed((name, upstream)) => index.apply_upstream(name, upstream),
                    News::Gone((name, _)) => index.apply_upstream(name, None),
                }
                followed.upstreams.notify_one();
            },
        );
    }

    fn follow_workloads<K>(self: &Arc<Followed>, server: &ApiServer, what: &str, tasks: &mut JoinSet<()>)
    where
        K: Template + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.follow(
            server,
            (Watch::<K>::everywhere(what).paged(PAGE), Matters::ToAll),
            tasks,
            |index, object| workload_reduced(&object, index.texts()),
            |index, news| match news {
                News::All(workloads) => index.replace_workloads(K::KIND, workloads),
                News::Changed((key, workload)) => index.apply_workload(key, workload),
                News::Gone((key, _)) => index.apply_workload(key, None),
            },
        );
    }

    fn follow<K, T: Send + 'static>(
        self: &Arc<Followed>,
        server: &ApiServer,
        (watch, matters): (Watch<K>, Matters),
        tasks: &mut JoinSet<()>,
        keep: impl Fn(&mut Index, K) -> T + Send + 'static,
        take: impl Fn(&mut Index, News<T>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let heard = Heard { what: watch.what().clone(), seen: seen.clone(), matters };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
        let (keeper, taker, server) = (self.clone(), self.clone(), server.clone());
        let keep = move |object: K| keep(&mut keeper.index(), object);
        let take = move |news: News<T>| {
            // The first list is news even if it is empty: now something can be said.
            let first = matches!(news, News::All(_));
            let changed = {
                let mut index = taker.index();
                take(&mut index, news);
                index.has_changed()
            };
            if changed || first {
                taker.changes.notify_one();
            }
        };
        tasks.spawn(async move { match apiserver::follow(&server, &watch, &seen, keep, take).await {} });
    }
}

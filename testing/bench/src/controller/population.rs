//! What there is in a large cluster, as objects: nodes as kubelet reports them, NodeCaches as agents write them, workloads and their pods,
//! and ImageCaches.

use anyhow::{Context, Result};
use api::NodeCacheStatus;
use serde_json::{Value, json};

use super::node_cache;
use super::requests::{Body, Server};

/// Groups of nodes that have the same label, and the same ImageCaches.
const POOLS: usize = 20;

/// ImageCaches of one group of nodes.
const CACHES_OF_POOL: usize = 5;

/// Images of an ImageCache.
const IMAGES_OF_CACHE: usize = 10;

/// The ImageCaches of groups. The last group has one less than others, as one is for all nodes.
const CACHES: usize = POOLS * CACHES_OF_POOL - 1;

/// All images that are wanted.
pub(super) const IMAGES: usize = (CACHES + 1) * IMAGES_OF_CACHE;

/// Images in the report of an agent.
const REPORTED: usize = 60;

/// Images in the status of a Node: kubelet tells of no more.
const TOLD_BY_KUBELET: usize = 50;

/// Namespaces of the workloads and the ImageCaches.
const TEAMS: usize = 10;

/// The node that has an agent. All others are objects alone.
pub(super) const REAL: &str = "real";

/// The label by which it comes to be selected by an ImageCache that selects no other.
pub(super) const LATE: (&str, &str) = ("larder-bench", "late");

/// How many images are wanted on all nodes, before the edit.
pub(super) const FOR_ALL: usize = IMAGES_OF_CACHE - 1;

/// The field manager of agents.
const AGENT: &str = "larder-node";

/// Where all images are, each a tag of it.
pub(super) const REPOSITORY: &str = "acme/app";

/// How the image is that the ImageCache for all nodes is given by an edit.
#[derive(Clone, Copy)]
pub(super) enum Added {
    /// It is not there yet.
    No,
    /// It is coming.
    Pulling,
    /// It is ready.
    Warm,
}

/// The image that the ImageCache for all nodes is given by the edit.
pub(super) fn edited_image() -> String {
    image(IMAGES - 1)
}

/// The image of the ImageCache that selects the one node by its label.
pub(super) fn late_image() -> String {
    image(0)
}

/// How large the cluster is, beside the one node that is real.
#[derive(Clone)]
pub(super) struct Population {
    pub(super) nodes: usize,
    pub(super) pods: usize,
    /// What each tag means.
    pub(super) digest: String,
}

pub(super) fn namespaces() -> impl Iterator<Item = String> {
    (0..TEAMS).map(|team| format!("team-{team}"))
}

/// The tag of an image.
pub(super) fn tag(image: usize) -> String {
    format!("v1.{image}.0")
}

fn image(number: usize) -> String {
    format!("quay.io/{REPOSITORY}:{}", tag(number % IMAGES))
}

pub(super) fn node_name(node: usize) -> String {
    format!("node-{node:04}.eu-central-1.compute.internal")
}

/// An ImageCache, how many nodes it selects, and where it is.
pub(super) struct Cache {
    pub(super) object: Value,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) nodes: usize,
}

impl Population {
    /// Makes all of it.
    pub(super) async fn make(&self, api: &Server) -> Result<()> {
        Server::each(self.nodes, async |node| {
            let made = api.write("/api/v1/nodes", Body::Object, &self.node(node)).await?;
            let uid = made["metadata"]["uid"].as_str().context("a node has a uid")?;
            let path = node_cache(&node_name(node));
            api.write(&path, Body::Applied(AGENT), &Population::node_cache(node, uid)).await?;
            self.report_to(api, node, Added::No).await
        })
        .await?;
        Server::each(IMAGES, async |number| {
            let (namespace, object) = self.deployment(number);
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
            api.write(&path, Body::Object, &object).await.map(drop)
        })
        .await?;
        Server::each(self.pods, async |number| {
            let (namespace, object) = self.pod(number);
            api.write(&format!("/api/v1/namespaces/{namespace}/pods"), Body::Object, &object).await.map(drop)
        })
        .await?;
        for cache in self.caches().into_iter().chain([self.late(0)]) {
            let path = format!("/apis/larder.dev/v1alpha1/namespaces/{}/imagecaches", cache.namespace);
            api.write(&path, Body::Object, &cache.object).await?;
        }
        Ok(())
    }

    /// Writes what an agent says.
    pub(super) async fn report_to(&self, api: &Server, node: usize, added: Added) -> Result<()> {
        let path = format!("{}/status", node_cache(&node_name(node)));
        api.write(&path, Body::Applied(AGENT), &self.report(node, added)?).await.map(drop)
    }

    /// A Node as kubelet reports it.
    fn node(&self, node: usize) -> Value {
        let name = node_name(node);
        let condition = |kind: &str, status: &str| {
            json!({
                "type": kind, "status": status, "reason": format!("KubeletHas{kind}"),
                "message": format!("kubelet tells that {kind} is {status}"),
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let told: Vec<Value> = (0..TOLD_BY_KUBELET)
            .map(|place| {
                let image = image(first_of_pool(node) + place);
                let (repository, _) = image.rsplit_once(':').unwrap_or((&image, ""));
                json!({"names": [format!("{repository}@{}", self.digest), image], "sizeBytes": 72_404_917 + place})
            })
            .collect();
        let resources = json!({"cpu": "16", "memory": "65536Ki", "pods": "110", "ephemeral-storage": "200Gi", "hugepages-2Mi": "0"});
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                    "node.kubernetes.io/instance-type": "m7i.4xlarge",
                    "topology.kubernetes.io/region": "eu-central-1",
                    "topology.kubernetes.io/zone": format!("eu-central-1{}", ["a", "b", "c"][node % 3]),
                    "pool": pool_name(node % POOLS),
                },
                "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {"podCIDR": "10.0.0.0/24", "providerID": format!("aws:///eu-central-1a/i-{node:017x}")},
            "status": {
                "capacity": resources, "allocatable": resources,
                "conditions": [
                    condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                    condition("PIDPressure", "False"), condition("Ready", "True"),
                ],
                "addresses": [{"type": "InternalIP", "address": format!("10.{}.{}.1", node >> 8, node & 255)}, {"type": "Hostname", "address": name}],
                "nodeInfo": {
                    "machineID": format!("{node:032x}"), "systemUUID": format!("{node:032x}"), "bootID": format!("{node:032x}"),
                    "kernelVersion": "6.12.0", "osImage": "Linux", "containerRuntimeVersion": "containerd://2.2.0",
                    "kubeletVersion": "v1.37.0", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
                },
                "images": told,
            },
        })
    }

    /// What kubelet writes when nothing has changed.
    pub(super) fn heartbeat(time: &str) -> Value {
        let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
            .map(|kind| json!({"type": kind, "lastHeartbeatTime": time}));
        json!({"status": {"conditions": conditions}})
    }

    /// What an agent makes first.
    fn node_cache(node: usize, uid: &str) -> Value {
        let name = node_name(node);
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
        json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name, "ownerReferences": [owner]},
        })
    }

    /// What an agent says when all is ready that its ImageCaches want, but for what `added` says.
    fn report(&self, node: usize, added: Added) -> Result<Value> {
        let wanted_by_pool = caches_of(node % POOLS) * IMAGES_OF_CACHE;
        let for_all = IMAGES - IMAGES_OF_CACHE;
        let mut wanted: Vec<(usize, &str)> =
            (0..wanted_by_pool).map(|place| (first_of_pool(node) + place, "Warm")).collect();
        wanted.extend((0..FOR_ALL).map(|place| (for_all + place, "Warm")));
        match added {
            Added::No => {}
            Added::Pulling => wanted.push((IMAGES - 1, "Pulling")),
            Added::Warm => wanted.push((IMAGES - 1, "Warm")),
        }
        let warm = wanted.iter().filter(|(_, state)| *state == "Warm").count();
        // What pods have brought beside that is of the next group.
        let others = (first_of_pool(node + 1)..).take(REPORTED.saturating_sub(wanted.len()));
        let images: Vec<Value> = wanted
            .iter()
            .copied()
            .chain(others.map(|number| (number, "Present")))
            .map(|(number, state)| match state {
                "Pulling" => json!({"image": image(number), "state": state, "attempts": 1}),
                _ => json!({
                    "image": image(number), "state": state, "digest": self.digest, "pinned": state == "Warm",
                    "bytes": 72_404_917 + number, "lastUsed": "2026-01-01T00:00:00Z",
                }),
            })
            .collect();
        let status: NodeCacheStatus = serde_json::from_value(json!({
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Following", "message": "what ImageCaches want is kept ready",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "present": images.len() - (wanted.len() - warm), "wanted": wanted.len(), "warm": warm,
            "images": images,
            "bytes": {"images": 4_344_295_020_u64, "store": 1_073_741_824_u64, "capacity": 214_748_364_800_u64, "available": 107_374_182_400_u64},
        }))?;
        Ok(json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": node_name(node)}, "status": status,
        }))
    }

    /// A workload that has the image of its number.
    fn deployment(&self, number: usize) -> (String, Value) {
        let (namespace, name) = (team(number), format!("app-{number}"));
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {
                "replicas": self.pods / IMAGES, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(number)},
            },
        });
        (namespace, object)
    }

    /// One of the pods of a workload, on some node.
    fn pod(&self, number: usize) -> (String, Value) {
        let workload = number % IMAGES;
        let namespace = team(workload);
        let mut spec = pod_spec(workload);
        spec["nodeName"] = node_name(number % self.nodes).into();
        let metadata = json!({
            "name": format!("app-{workload}-7c9d8f6b5-{number:05}"), "namespace": namespace,
            "labels": {"app": format!("app-{workload}"), "pod-template-hash": "7c9d8f6b5"},
        });
        (namespace, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    }

    /// All ImageCaches; the last one is for all nodes, and has an image less than it will have.
    pub(super) fn caches(&self) -> Vec<Cache> {
        let of_pools = (0..CACHES).map(|number| {
            let pool = number / CACHES_OF_POOL;
            let nodes = (0..self.nodes).filter(|node| node % POOLS == pool).count();
            let selector = json!({"pool": pool_name(pool)});
            cache(number, IMAGES_OF_CACHE, selector, nodes)
        });
        of_pools.chain([cache(CACHES, FOR_ALL, json!({}), self.nodes + 1)]).collect()
    }

    /// The ImageCache of one image that selects nodes by a label which nearly none has, and so many nodes.
    pub(super) fn late(&self, nodes: usize) -> Cache {
        let (key, value) = LATE;
        let mut cache = cache(0, 1, json!({key: value}), nodes);
        cache.name = "late".to_owned();
        cache.object["metadata"]["name"] = "late".into();
        cache
    }

    /// The edit of the ImageCache for all nodes.
    pub(super) fn edit() -> Value {
        json!({"spec": {"images": images_of(CACHES, IMAGES_OF_CACHE)}})
    }
}

fn cache(number: usize, images: usize, selector: Value, nodes: usize) -> Cache {
    let (name, namespace) = (format!("cache-{number}"), team(number));
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache", "metadata": {"name": name, "namespace": namespace},
        "spec": {"images": images_of(number, images), "nodeSelector": selector},
    });
    Cache { object, name, namespace, nodes }
}

fn images_of(cache: usize, images: usize) -> Vec<String> {
    (0..images).map(|place| image(cache * IMAGES_OF_CACHE + place)).collect()
}

fn team(number: usize) -> String {
    format!("team-{}", number % TEAMS)
}

fn pool_name(pool: usize) -> String {
    format!("pool-{pool}")
}

fn caches_of(pool: usize) -> usize {
    if pool + 1 == POOLS { CACHES_OF_POOL - 1 } else { CACHES_OF_POOL }
}

/// The first image that the ImageCaches of a node's group want.
fn first_of_pool(node: usize) -> usize {
    node % POOLS * CACHES_OF_POOL * IMAGES_OF_CACHE
}

fn pod_spec(workload: usize) -> Value {
    let environment: Vec<Value> = (0..20)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value such as many have"}))
        .collect();
    json!({
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "app", "image": image(workload), "env": environment, "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        }],
    })
}

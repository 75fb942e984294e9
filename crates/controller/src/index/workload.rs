use std::sync::Arc;

use api::WorkloadKind;
use k8s_openapi::api::{apps, batch};
use kube::api::ObjectMeta;
use oci::ImageError;
use serde::Deserialize;
use warm::Labels;

use super::Texts;
use super::part::{AllLabels, Conditions, Part};
use super::pod::PodSpec;

/// Which workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadKey {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is kept of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its own labels.
    pub labels: Labels,
    /// The images of its template as they are written there, those of init containers and those that are mounted included.
    pub images: Box<[Arc<str>]>,
}

/// A text in a workload that is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoImage {
    /// The text.
    pub text: String,
    /// What is wrong with it, and where it stands.
    pub message: String,
}

impl NoImage {
    pub(super) fn new(key: &WorkloadKey, text: &str, error: &ImageError) -> NoImage {
        let message = format!("the {:?} {} names an image that is none: {error}", key.kind, key.name);
        NoImage { text: text.chars().take(300).collect(), message }
    }
}

/// An object that makes pods.
pub trait Template {
    /// Its kind.
    const KIND: WorkloadKind;

    /// Its metadata, and the pods that it makes; none if it makes no more.
    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>);
}

/// What is kept of an object that makes pods.
pub fn reduce<K: Template>(object: &K, texts: &mut Texts) -> (WorkloadKey, Option<Workload>) {
    let (meta, pod) = object.parts();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let key = WorkloadKey { kind: K::KIND, namespace: text(&meta.namespace), name: text(&meta.name) };
    let workload = pod.map(|pod| {
        let labels = meta.labels.iter().flatten();
        Workload {
            images: pod.images().map(|image| texts.text(image)).collect(),
            labels: labels.map(|(key, value)| (texts.text(key), texts.text(value))).collect(),
        }
    });
    (key, workload)
}

/// A Deployment.
pub type Deployment = Part<apps::v1::Deployment, AllLabels, Makes>;
/// A StatefulSet.
pub type StatefulSet = Part<apps::v1::StatefulSet, AllLabels, Makes>;
/// A DaemonSet.
pub type DaemonSet = Part<apps::v1::DaemonSet, AllLabels, Makes>;
/// A Job.
pub type Job = Part<batch::v1::Job, AllLabels, Makes, Conditions>;
/// A CronJob.
pub type CronJob = Part<batch::v1::CronJob, AllLabels, MakesJobs>;

/// What makes pods.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Makes {
    template: Option<PodTemplate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodTemplate {
    spec: Option<PodSpec>,
}

/// What makes Jobs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MakesJobs {
    job_template: Option<JobTemplate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct JobTemplate {
    spec: Option<Makes>,
}

impl Makes {
    fn pod(&self) -> Option<&PodSpec> {
        self.template.as_ref()?.spec.as_ref()
    }
}

impl Template for Deployment {
    const KIND: WorkloadKind = WorkloadKind::Deployment;

    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>) {
        (self.metadata(), self.spec.pod())
    }
}

impl Template for StatefulSet {
    const KIND: WorkloadKind = WorkloadKind::StatefulSet;

    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>) {
        (self.metadata(), self.spec.pod())
    }
}

impl Template for DaemonSet {
    const KIND: WorkloadKind = WorkloadKind::DaemonSet;

    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>) {
        (self.metadata(), self.spec.pod())
    }
}

impl Template for Job {
    const KIND: WorkloadKind = WorkloadKind::Job;

    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>) {
        // A Job that has ended makes no pods any more, and there may be very many.
        let ended = ["Complete", "Failed"].iter().any(|kind| self.status.any(kind, |status| status == "True"));
        (self.metadata(), self.spec.pod().filter(|_| !ended))
    }
}

impl Template for CronJob {
    const KIND: WorkloadKind = WorkloadKind::CronJob;

    fn parts(&self) -> (&ObjectMeta, Option<&PodSpec>) {
        let job = self.spec.job_template.as_ref().and_then(|template| template.spec.as_ref());
        (self.metadata(), job.and_then(Makes::pod))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_images_of_a_template_are_found_in_each_kind() {
        let pod = json!({"spec": {"initContainers": [{"name": "i", "image": "init:1"}], "containers": [{"name": "c", "image": "app:1"}, {"name": "none"}], "volumes": [{"name": "v", "image": {"reference": "model:1"}}]}});
        let meta = json!({"namespace": "shop", "name": "web", "labels": {"app": "web"}});
        let mut texts = Texts::default();
        let simple = json!({"metadata": meta, "spec": {"template": pod, "selector": {}, "serviceName": ""}});
        let deployment: Deployment = serde_json::from_value(simple.clone()).unwrap();
        let (key, workload) = reduce(&deployment, &mut texts);
        assert_eq!((key.kind, &*key.namespace, &*key.name), (WorkloadKind::Deployment, "shop", "web"));
        let workload = workload.unwrap();
        assert_eq!(workload.images.iter().map(|image| &**image).collect::<Vec<_>>(), ["init:1", "app:1", "model:1"]);
        assert_eq!(workload.labels.get("app"), Some("web"));

        let images = |found: (WorkloadKey, Option<Workload>)| found.1.map_or(0, |workload| workload.images.len());
        let stateful: StatefulSet = serde_json::from_value(simple.clone()).unwrap();
        let daemons: DaemonSet = serde_json::from_value(simple.clone()).unwrap();
        let cron =
            json!({"metadata": meta, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": pod}}}});
        let cron: CronJob = serde_json::from_value(cron).unwrap();
        assert_eq!(images(reduce(&stateful, &mut texts)), 3);
        assert_eq!(images(reduce(&daemons, &mut texts)), 3);
        assert_eq!(images(reduce(&cron, &mut texts)), 3);

        let mut job = simple;
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "False"}]});
        let running: Job = serde_json::from_value(job.clone()).unwrap();
        assert_eq!(images(reduce(&running, &mut texts)), 3);
        job["status"]["conditions"][0]["status"] = "True".into();
        let job: Job = serde_json::from_value(job).unwrap();
        assert!(reduce(&job, &mut texts).1.is_none(), "it has ended");
    }
}

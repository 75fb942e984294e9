use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::need::{Need, reason};
use crate::session::Session;

/// Where events about nodes are, which belong to no namespace.
const NAMESPACE: &str = "default";

/// Something that happened to a node, for people who look at it.
#[derive(Clone, Debug)]
pub struct NodeEvent<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Somebody should look.
    pub warning: bool,
    /// What happened, in one word for programs.
    pub reason: &'a str,
    /// The same for people. The API server takes 1024 characters; what is longer is cut.
    pub message: &'a str,
    /// Who says so.
    pub component: &'a str,
}

impl NodeEvent<'_> {
    /// Writes it. Cancelled, it may be written or not.
    ///
    /// # Errors
    /// The API server does not take it: why, and what to do.
    pub async fn write(&self, session: &Session) -> Result<(), String> {
        let client = session.client().await.map_err(|error| error.to_string())?;
        let now = Time(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", self.node)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                kind: Some("Node".to_owned()),
                api_version: Some("v1".to_owned()),
                name: Some(self.node.to_owned()),
                uid: Some(self.uid.to_owned()),
                ..ObjectReference::default()
            },
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.chars().take(1024).collect()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(client, NAMESPACE);
        events.create(&PostParams::default(), &event).await.map(drop).map_err(|error| {
            session.failed(&error);
            reason(&error, &Need::of::<Event>("create", Some(NAMESPACE)))
        })
    }
}

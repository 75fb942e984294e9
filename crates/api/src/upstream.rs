use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use oci::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::Size;

use crate::UpstreamFreshness;
use crate::text::{CaText, HostText, MessageText, NameText, RegistryText, SizeText, UrlText};

/// A registry that there is something to say about. Any public registry works without one.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "Upstream",
    status = "UpstreamStatus",
    derive = "PartialEq",
    shortname = "ups",
    category = "larder",
    doc = "A registry that there is something to say about: where its content comes from, with which credential, and what it is spared. Any public registry works without an Upstream. Administrators write it; larder's registry and nodes use it at once.",
    printcolumn(
        name = "Registry",
        type_ = "string",
        json_path = ".spec.registry",
        description = "The registry in image names."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether it is used as it says."
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].status",
        description = "Whether the origin answers."
    ),
    printcolumn(
        name = "Shared",
        type_ = "boolean",
        json_path = ".spec.credential.shared",
        description = "Whether everybody may pull what its credential gives.",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].message",
        description = "Why it is or is not available.",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "When it was made."
    )
)]
#[x_kube(
    validation = Rule::new("self.registry == oldSelf.registry")
        .message("the registry of an Upstream stays what it is, lest its credential go to another one: make another Upstream")
        .field_path(".registry")
)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamSpec {
    /// The registry's name in image names, such as `ghcr.io` or `registry.example:8443`. It cannot be changed.
    #[schemars(with = "RegistryText")]
    pub registry: Registry,
    /// Servers that have its content, tried in order. The registry's own host over https if not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<Endpoint>,
    /// What larder shows this registry. Without one, only what the registry gives to everybody is fetched without a pod's own pull
    /// secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// How long its tags are believed, where it differs from the CachePolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<UpstreamFreshness>,
    /// `Serve` gives the last known answer for a tag although the origin says 404.
    #[serde(default)]
    pub on_not_found: Withdrawn,
    /// `Serve` gives the last known answer for a tag although the origin says 401 or 403.
    #[serde(default)]
    pub on_denied: Withdrawn,
    /// Hosts besides the endpoints that tokens may be fetched from, with credentials. Their addresses need not be public.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<HostText>", length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub token_hosts: Vec<String>,
    /// Hosts besides the endpoints that downloads may be redirected to although their addresses are not public.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<HostText>", length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub redirect_hosts: Vec<String>,
    /// What the registry is spared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// A server that has the content of a registry.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("!self.url.startsWith('http://') || (!has(self.ca) && !self.insecure)")
        .message("ca and insecure are about certificates, and this endpoint is without TLS (http://)")
)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `https://host[:port][/path]`, or `http://…` for a server without TLS. A path goes before `/v2/`. Its address need not be public.
    #[schemars(with = "UrlText")]
    pub url: String,
    /// Certificates of authorities (PEM) that are trusted for it besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CaText>")]
    pub ca: Option<String>,
    /// Take any certificate. Holds for this endpoint's host and port only.
    #[serde(default)]
    pub insecure: bool,
}

/// A credential that larder has for a registry.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// A Secret in larder's own namespace, of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/basic-auth`.
    #[schemars(with = "NameText")]
    pub secret_name: String,
    /// Every pod of the cluster may pull what the credential gives. Otherwise it serves for public images only, and for private ones pods
    /// bring their own.
    #[serde(default)]
    pub shared: bool,
}

/// What becomes of the last known answer when the origin takes it back.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is not served.
    #[default]
    Refuse,
    /// It is served.
    Serve,
}

/// What a registry is spared, by each of larder's processes that asks it. No limit where nothing is said.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests at a time, bodies included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: Option<u32>,
    /// Requests per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub requests_per_minute: Option<u32>,
    /// Bytes per second, such as `50MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SizeText>")]
    pub bytes_per_second: Option<Size>,
}

/// How an upstream is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Ready`: its settings are in use. `Available`: an endpoint answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// Its endpoints, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<EndpointStatus>,
}

/// How an endpoint is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The endpoint's URL.
    #[schemars(length(max = 1024))]
    pub url: String,
    /// Whether it answered when it was last asked.
    pub available: bool,
    /// Why it did not. Never holds a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MessageText>")]
    pub message: Option<String>,
    /// When it was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_asked: Option<Time>,
}

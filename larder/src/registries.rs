use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::{Ask, Authority, FailureKind, SourceError, Upstream, Upstreams as _};
use controller::{Resolver, Unresolved};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::{Digest, Image};
use upstream::{Directory, Listing, Metrics, SettingsError, UpstreamSettings};

use crate::config::Config;
use crate::identities::{self, Identities};

/// The setting that names the certificates.
const CERTIFICATES: &str = "controller.registry_certificates";

/// Asks a larder registry what tags mean, and the origins where it does not say.
pub struct Registries {
    config: Config,
    metrics: Metrics,
    /// The folder of the certificates for the larder registry, as long as there are none in it.
    awaited: Mutex<Option<PathBuf>>,
    found: Mutex<Found>,
}

struct Found {
    upstreams: Arc<Directory>,
    /// What the cluster's Upstreams say.
    listed: Vec<UpstreamSettings>,
    /// Keeps the certificates as their files are.
    _identities: Identities,
}

impl Registries {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// A file is no longer what it was when the configuration was read.
    pub fn new(mut config: Config, metrics: Metrics) -> anyhow::Result<Registries> {
        let registry = config.controller.registry.clone();
        let folder = config.controller.registry_certificates.clone().filter(|_| registry.is_some());
        if folder.is_some() {
            // Without a certificate it lets nobody in.
            config.controller.registry = None;
        }
        let upstreams = Directory::new(config.upstream_settings(None)?, metrics.clone())?;
        config.controller.registry = registry;
        let found = Mutex::new(Found { upstreams, listed: Vec::new(), _identities: Identities::default() });
        Ok(Registries { config, metrics, awaited: Mutex::new(folder), found })
    }

    /// Lists these upstreams besides those of the configuration, as [`Directory::replace`] does.
    pub fn replace(&self, upstreams: Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.listed.clone_from(&upstreams);
        found.upstreams.replace(upstreams)
    }

    /// Whom to ask now.
    fn upstreams(&self) -> Arc<Directory> {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = awaited.clone() {
            match self.open(folder) {
                Ok(now) => {
                    let listed = std::mem::take(&mut found.listed);
                    now.upstreams.replace(listed.clone());
                    *found = Found { listed, ..now };
                    *awaited = None;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::debug!(error, "the larder registry is not asked yet: its certificates are not there");
                }
            }
        }
        found.upstreams.clone()
    }

    fn open(&self, folder: PathBuf) -> anyhow::Result<Found> {
        let mut identities = Identities::default();
        let known = identities::as_node(identities.load(CERTIFICATES, &folder)?);
        let upstreams = Directory::new(self.config.upstream_settings(Some(known))?, self.metrics.clone())?;
        Ok(Found { upstreams, listed: Vec::new(), _identities: identities })
    }
}

impl Resolver for Registries {
    fn resolve<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<Digest, Unresolved>> {
        async move {
            let upstream = self.upstreams().find(&image.name.registry).map_err(|error| Unresolved {
                reason: "Excluded",
                message: error.to_string(),
                private: false,
                definite: true,
                pause: Duration::ZERO,
            })?;
            ask(&upstream, image).await.map_err(|error| unresolved(&error))
        }
        .boxed()
    }
}

/// What an image's tag means, as its sources say, one after the other.
async fn ask(upstream: &Upstream, image: &Image) -> Result<Digest, SourceError> {
    let ask = Ask { name: image.name.clone(), authority: Authority::Anonymous };
    let mut why = SourceError::new(FailureKind::Unavailable, image.name.registry.as_str(), "there is nobody to ask");
    for source in &upstream.sources {
        let answer = match source.head_manifest(&ask, &image.reference).await {
            Ok(head) => match head.digest {
                Some(digest) => return Ok(digest),
                // Some registries say it in no header.
                None => source.manifest(&ask, &image.reference).await.map(|body| Digest::sha256(&body.bytes)),
            },
            Err(error) => Err(error),
        };
        match answer {
            Ok(digest) => return Ok(digest),
            Err(error) if error.is_final(&**source) => return Err(error),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// In the words of agents.
fn unresolved(error: &SourceError) -> Unresolved {
    let reason = match error.kind {
        FailureKind::NotFound => "ImageNotFound",
        FailureKind::Unauthorized | FailureKind::Denied => "CredentialNeeded",
        FailureKind::RateLimited { .. } => "RateLimited",
        FailureKind::Unavailable | FailureKind::Timeout | FailureKind::Refused => "RegistryUnavailable",
        FailureKind::Invalid => "PullFailed",
    };
    let pause = match error.kind {
        FailureKind::RateLimited { retry_after } => retry_after,
        _ => Duration::ZERO,
    };
    let private = reason == "CredentialNeeded";
    Unresolved { reason, message: error.to_string(), private, definite: error.is_definite(), pause }
}

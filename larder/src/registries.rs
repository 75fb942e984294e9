use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apiserver::{ApiServer, Session};
use cache::{
    Ask, Authority, FailureKind, HeldImage, Keep, KeepBudget, KnownImage, Purpose, SourceError, SourceKind, Upstream,
    Upstreams as _,
};
use controller::{
    Holding, Keeper, Provider, Provision, Resolved, Resolver, SecretKey, SecretProblem, Told, ToldImage, Unresolved,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::{Digest, Image};
use serde::Serialize;
use serve::{KEEP_PATH, WANTED_PATH};
use units::Size;
use upstream::{Directory, Front, Listing, Metrics, SettingsError, UpstreamSettings};

use crate::config::Config;
use crate::identities::{self, Identities};
use crate::upstreams::read_pull_secrets;

/// The setting that names the certificates.
const CERTIFICATES: &str = "controller.registry_certificates";

/// How long the registry may take to say what it has of all images, and how many bytes it may say.
const TELLING: Duration = Duration::from_secs(60);
const ANSWER: usize = 32 << 20;

/// Tells a larder registry what is in use, asks it what tags mean, and the origins where it does not say.
pub struct Registries {
    config: Config,
    metrics: Metrics,
    /// For Secrets.
    session: Session,
    /// The folder of the certificates for the larder registry, as long as there are none in it.
    awaited: Mutex<Option<PathBuf>>,
    found: Mutex<Found>,
}

struct Found {
    upstreams: Arc<Directory>,
    /// What the cluster's Upstreams say.
    listed: Vec<UpstreamSettings>,
    /// The larder registry, as it is told what is in use.
    front: Option<Front>,
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
        // One that is not reached by certificates knows nobody who may tell it anything.
        let found = Found { upstreams, listed: Vec::new(), front: None, _identities: Identities::default() };
        let found = Mutex::new(found);
        let session = Session::new(ApiServer::Environment);
        Ok(Registries { config, metrics, session, awaited: Mutex::new(folder), found })
    }

    /// Lists these upstreams besides those of the configuration, as [`Directory::replace`] does.
    pub fn replace(&self, upstreams: Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.listed.clone_from(&upstreams);
        found.upstreams.replace(upstreams)
    }

    /// Whom to ask now.
    fn upstreams(&self) -> Arc<Directory> {
        self.found(|found| found.upstreams.clone())
    }

    fn found<T>(&self, take: impl FnOnce(&Found) -> T) -> T {
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
        take(&found)
    }

    /// The larder registry, if there is one that listens to controllers.
    fn listener(&self) -> Result<Option<Front>, String> {
        let Some(folder) = &self.config.controller.registry_certificates else { return Ok(None) };
        if self.config.controller.registry.is_none() {
            return Ok(None);
        }
        let front = self.found(|found| found.front.clone());
        front.map(Some).ok_or_else(|| format!("its certificates are not in {} yet", folder.display()))
    }

    fn open(&self, folder: PathBuf) -> anyhow::Result<Found> {
        let mut identities = Identities::default();
        let known = identities::as_node(identities.load(CERTIFICATES, &folder)?);
        let settings = self.config.upstream_settings(Some(known))?;
        let front = settings.front.clone();
        let upstreams = Directory::new(settings, self.metrics.clone())?;
        Ok(Found { upstreams, listed: Vec::new(), front, _identities: identities })
    }
}

impl Resolver for Registries {
    fn resolve<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<Resolved, Unresolved>> {
        async move {
            let upstream = self.upstreams().find(&image.name.registry).map_err(|error| Unresolved {
                reason: "Excluded",
                message: error.to_string(),
                private: false,
                definite: true,
                pause: Duration::ZERO,
            })?;
            let public = ask(&upstream, image, Authority::Anonymous).await;
            // Whoever has no credential need not ask the same again.
            let has_more = upstream.rules.own.is_some()
                || upstream.sources.iter().any(|source| source.kind() == SourceKind::Registry);
            if let Err(FailureKind::Unauthorized | FailureKind::Denied) = public.as_ref().map_err(|error| error.kind)
                && has_more
            {
                let private = ask(&upstream, image, Authority::Prefetch(Purpose::Store)).await;
                if let Ok(digest) = private {
                    return Ok(Resolved { digest, private: true });
                }
            }
            public.map(|digest| Resolved { digest, private: false }).map_err(|error| unresolved(&error))
        }
        .boxed()
    }
}

impl Keeper for Registries {
    fn tell(&self, told: Told) -> BoxFuture<'_, Result<Option<HashMap<Image, Holding>>, String>> {
        async move {
            let Some(front) = self.listener()? else { return Ok(None) };
            let answer = say(&front, KEEP_PATH, &keep(told)).await?;
            let held: Vec<HeldImage> = serde_json::from_slice(answer.as_ref())
                .map_err(|error| format!("{}: it answers as no larder registry does: {error}", front.url))?;
            Ok(Some(held.into_iter().map(holding).collect()))
        }
        .boxed()
    }
}

impl Provider for Registries {
    fn provide(&self, wanted: Vec<Provision>) -> BoxFuture<'_, Result<HashMap<SecretKey, SecretProblem>, String>> {
        async move {
            let (wanted, problems) = read_pull_secrets(&self.session, wanted).await?;
            if let Some(front) = self.listener()? {
                say(&front, WANTED_PATH, &wanted).await?;
            }
            Ok(problems)
        }
        .boxed()
    }
}

/// Tells a registry something; gives its answer.
async fn say<T: Serialize>(front: &Front, path: &str, what: &T) -> Result<impl AsRef<[u8]> + use<T>, String> {
    let text = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    let answer = upstream::tell(front, path, text.into(), ANSWER, TELLING).await;
    answer.map_err(|error| format!("{}: {error}", front.url))
}

/// As it is said to a registry.
fn keep(told: Told) -> Keep {
    let images = told.images.into_iter();
    let known = |one: ToldImage| KnownImage { image: one.image, digests: one.digests, keep: one.keep };
    Keep {
        unused_for: told.unused_for.map(|time| time.as_secs()),
        budget: told
            .budget
            .map(|budget| KeepBudget { percent: budget.percent, bytes: budget.size.map(|Size(bytes)| bytes) }),
        images: images.map(known).collect(),
    }
}

/// As a registry says it.
fn holding(held: HeldImage) -> (Image, Holding) {
    let holding = Holding {
        digest: held.digest.zip(held.age.map(Duration::from_secs)),
        fresh_for: held.fresh_for.map(Duration::from_secs),
        whole: held.whole,
        bytes: held.bytes,
        platforms: held.platforms,
    };
    (held.image, holding)
}

/// What an image's tag means, as its sources say, one after the other.
async fn ask(upstream: &Upstream, image: &Image, authority: Authority) -> Result<Digest, SourceError> {
    let ask = Ask { name: image.name.clone(), authority };
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

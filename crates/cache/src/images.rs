use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::{Digest, Manifest, ManifestKind, Name, Platform, Reference};

use crate::credential::{Claim, Credential};
use crate::engine::{Engine, Inner};
use crate::passes::{Pass, Spent};
use crate::reply::{Content, Error, ManifestReply, Request};
use crate::source::FailureKind;

/// Blobs of one image at once, as container runtimes do by default.
const AT_ONCE: usize = 3;

/// An index in an index is rare, one more is a circle.
const DEEPEST: usize = 3;

/// An image that is whole in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeImage {
    /// What its name means: the digest of an index, or of the manifest where there is none.
    pub digest: Digest,
    /// The manifest for the platform that was asked for.
    pub manifest: Digest,
    /// The bytes of its manifests and blobs.
    pub bytes: u64,
}

impl Engine {
    /// Gets an image for a platform whole into the store, with the right of ImageCaches. Nobody gets more access by that. Dropped, what has begun
    /// to come comes nevertheless.
    ///
    /// # Errors
    /// No source gives it, it is not for that platform, or the store has no room for it.
    pub async fn get_whole(
        &self,
        name: &Name,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<WholeImage, Error> {
        let request = Request { name: name.clone(), claim: Some(Claim::Prefetch) };
        let mut reply = self.manifest(&request, reference).await?;
        let digest = reply.digest;
        let mut bytes = reply.bytes.len() as u64;
        let mut manifest = read(&reply)?;
        for _ in 0..DEEPEST {
            if manifest.kind != ManifestKind::Index {
                break;
            }
            let Some(child) = manifest.best_for(platform) else {
                let reason = format!("no match for platform {platform} in {digest}");
                return Err(Error::new(FailureKind::NotFound, reason));
            };
            reply = self.manifest(&request, &Reference::Digest(child.digest)).await?;
            bytes += reply.bytes.len() as u64;
            manifest = read(&reply)?;
        }
        if manifest.kind == ManifestKind::Index {
            return Err(Error::new(FailureKind::Invalid, "there are too many indexes in each other"));
        }
        let blobs = manifest.children.iter().map(|child| child.digest);
        let fetches: Vec<_> = blobs.map(|digest| self.get_blob(&request, digest)).collect();
        let got: Vec<u64> = stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect().await?;
        bytes += got.iter().sum::<u64>();
        // Their bytes are right by now, and not all of them in their place.
        for child in &manifest.children {
            self.inner.landed(&(name.clone(), child.digest)).await;
        }
        let image = WholeImage { digest, manifest: reply.digest, bytes };
        match self.has_whole(name, &image).await {
            true => Ok(image),
            false => {
                Err(Error::new(FailureKind::Unavailable, "no space left on device: the store did not keep all of it"))
            }
        }
    }

    /// The size of a blob, once all of it has come.
    async fn get_blob(&self, request: &Request, digest: Digest) -> Result<u64, Error> {
        match self.blob(request, &digest).await?.content {
            Content::Whole(blob) => Ok(blob.size()),
            Content::Filling(mut filling) => filling.whole().await.map(|blob| blob.size()),
        }
    }

    /// Whether an image of [`get_whole`](Engine::get_whole) is still whole in the store. Counts as a use of it: what is asked for now and then
    /// is not what was used longest ago.
    pub async fn has_whole(&self, name: &Name, image: &WholeImage) -> bool {
        self.inner.has_whole(name, image).await
    }

    /// Takes the repositories of what ImageCaches want, each with the credentials that there are for it besides this process's own; what was told
    /// before no longer counts. Nothing of it is written down.
    pub fn want(&self, wanted: HashMap<Name, Vec<Credential>>) {
        self.inner.access.want(wanted);
    }

    /// Whether ImageCaches want something of a repository, as was told last.
    pub fn is_wanted(&self, name: &Name) -> bool {
        self.inner.access.wanted().contains_key(name)
    }

    /// A one-time password for a pull from a repository by this machine's container runtime.
    pub fn pass(&self, name: &Name) -> Pass {
        self.inner.passes.issue(name.clone())
    }

    /// What a credential that a client showed for a repository claims.
    ///
    /// # Errors
    /// It is a one-time password that is not good, or is no longer.
    pub fn claim(&self, credential: Credential, name: &Name) -> Result<Claim, Spent> {
        self.inner.passes.claim(credential, name)
    }
}

impl Inner {
    /// Waits until a fill has ended, if there is one.
    async fn landed(&self, key: &(Name, Digest)) {
        let filling = self.fills.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        if let Some(filling) = filling {
            filling.landed().await;
        }
    }

    async fn has_whole(self: &Arc<Self>, name: &Name, image: &WholeImage) -> bool {
        // Its index is asked for first.
        if image.digest != image.manifest && self.stored_manifest(name, &image.digest).await.is_none() {
            return false;
        }
        let Some(stored) = self.stored_manifest(name, &image.manifest).await else { return false };
        let Ok(manifest) = Manifest::read(&stored.media_type, &stored.bytes) else { return false };
        for child in manifest.children {
            if self.stored_blob(name, &child.digest).await.is_none() {
                return false;
            }
        }
        true
    }
}

fn read(reply: &ManifestReply) -> Result<Manifest, Error> {
    Manifest::read(&reply.media_type, &reply.bytes).map_err(|error| Error::new(FailureKind::Invalid, error.to_string()))
}

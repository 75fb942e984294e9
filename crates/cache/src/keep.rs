use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oci::{Digest, Image, Manifest, ManifestKind, MediaType, Name, Platform, Reference};

use crate::blocking::outcome;
use crate::engine::{Engine, Inner};
use crate::rules::Freshness;
use crate::store::{Budget, Record, RecordKind};

mod list;

pub use list::{HeldImage, Keep, KeepBudget, KnownImage};

/// What was said of uses counts for dropping what is unused for so long: whoever says it says it every minute, and when nobody does, nobody
/// knows what is unused.
const BELIEVED: Duration = Duration::from_secs(15 * 60);

/// The shortest and the longest time between two looks for what nothing has used.
const LOOK: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(3600));

/// The largest config of an image that is read for its platform, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// What is to be kept, and what that comes to.
#[derive(Default)]
pub(crate) struct Keeping {
    said: Mutex<Said>,
    known: Mutex<Known>,
    /// Protected since the last look began, which may not have seen it.
    arrived: Mutex<Vec<Digest>>,
    /// One list at a time.
    saying: tokio::sync::Mutex<()>,
    /// One look at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Said {
    keep: Arc<Keep>,
    /// The images that stay, those that the configuration pins included.
    roots: Arc<HashMap<Name, HashSet<Reference>>>,
    heard: Option<Instant>,
}

/// What is remembered of a look, so that the next one reads no manifest twice.
#[derive(Default)]
struct Known {
    manifests: HashMap<(Name, Digest), Arc<Parsed>>,
    /// What each image that stays consists of.
    parts: HashMap<Image, Arc<[Digest]>>,
}

struct Parsed {
    kind: ManifestKind,
    children: Vec<Digest>,
    platforms: BTreeSet<Platform>,
}

/// An image as far as its manifests are here.
#[derive(Default)]
struct Tree {
    all: Vec<Digest>,
    /// Its image manifests that are here.
    images: Vec<Arc<Parsed>>,
    platforms: BTreeSet<Platform>,
}

impl Keeping {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self) -> MutexGuard<'_, Vec<Digest>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Takes what a cluster knows of images, and says what is here of them. Until this is said anew, no restart forgets it, and eviction
    /// takes nothing of an image that is to be kept: neither what is here of it nor what comes later.
    ///
    /// What was kept until now and no longer is counts as used a moment ago. Once begun, it is done, whether or not anybody waits.
    pub async fn keep(&self, keep: Keep) -> Vec<HeldImage> {
        let inner = self.inner.clone();
        outcome(&mut tokio::spawn(async move { inner.keep(keep).await })).await
    }
}

impl Inner {
    async fn keep(&self, keep: Keep) -> Vec<HeldImage> {
        let _one_after_the_other = self.keeping.saying.lock().await;
        let keep = Arc::new(keep);
        let before = {
            let mut said = self.keeping.said();
            said.heard = Some(Instant::now());
            let before = std::mem::replace(&mut said.keep, keep.clone());
            said.roots = Arc::new(self.roots(&keep));
            before
        };
        self.store.limit(keep.budget.map(Budget::from));
        if before != keep {
            let kept = keep.images.iter().filter(|known| known.keep).count();
            tracing::info!(kept, known = keep.images.len(), unused_for = keep.unused_for, "was told what is in use");
            self.write_keep(&keep).await;
            self.let_go(&keep).await;
        }
        self.protect_kept().await;
        self.held(&keep).await
    }

    fn roots(&self, keep: &Keep) -> HashMap<Name, HashSet<Reference>> {
        let mut roots: HashMap<Name, HashSet<Reference>> = HashMap::new();
        let mut add = |name: &Name, reference| roots.entry(name.clone()).or_default().insert(reference);
        for (name, reference) in &self.settings.pins {
            add(name, reference.clone());
        }
        for known in keep.images.iter().filter(|known| known.keep) {
            add(&known.image.name, known.image.reference.clone());
            for digest in &known.digests {
                add(&known.image.name, Reference::Digest(*digest));
            }
        }
        roots
    }

    async fn write_keep(&self, keep: &Keep) {
        let Ok(text) = serde_json::to_vec(keep) else { return };
        if let Err(error) = self.store.write_keep(text.into()).await {
            self.metrics.store_error(&error);
            tracing::warn!(%error, "which images are in use cannot be written down: a restart forgets it until it is said again");
        }
    }

    /// Reads what was said before the last restart.
    pub(crate) async fn recall_keep(&self) {
        let text = match self.store.read_keep().await {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                self.metrics.store_error(&error);
                tracing::warn!(%error, "which images are in use cannot be read: it is not known until it is said again");
                Bytes::new()
            }
        };
        let keep = match serde_json::from_slice::<Keep>(&text) {
            Ok(keep) => Arc::new(keep),
            Err(_) if text.is_empty() => Arc::default(),
            Err(error) => {
                tracing::warn!(%error, "what is written of which images are in use is damaged: it is not known until it is said again");
                Arc::default()
            }
        };
        let mut said = self.keeping.said();
        // What was said meanwhile is newer.
        if said.heard.is_none() {
            said.roots = Arc::new(self.roots(&keep));
            self.store.limit(keep.budget.map(Budget::from));
            said.keep = keep;
        }
    }

    /// Marks what stays no longer as used until now.
    async fn let_go(&self, keep: &Keep) {
        let staying: HashSet<&Image> =
            keep.images.iter().filter(|known| known.keep).map(|known| &known.image).collect();
        let mut gone = Vec::new();
        self.keeping.known().parts.retain(|image, parts| {
            let stays = staying.contains(image);
            if !stays {
                gone.extend(parts.iter().copied());
            }
            stays
        });
        if !gone.is_empty() {
            self.store.touch(gone).await;
        }
    }

    /// Whether anything is to be kept at all.
    pub(crate) fn keeps_something(&self) -> bool {
        !self.keeping.said().roots.is_empty()
    }

    /// Protects all that is here of what is to be kept.
    pub(crate) async fn protect_kept(&self) {
        let _one_at_a_time = self.keeping.turn.lock().await;
        let (keep, pinned) = (self.keeping.said().keep.clone(), &self.settings.pins);
        self.keeping.arrived().clear();
        let pinned = pinned.iter().map(|(name, reference)| KnownImage {
            image: Image { name: name.clone(), reference: reference.clone() },
            digests: Vec::new(),
            keep: true,
        });
        let mut all = HashSet::new();
        let mut visited = HashSet::new();
        for known in keep.images.iter().filter(|known| known.keep).cloned().chain(pinned) {
            let tree = self.tree(&known, &mut visited).await;
            all.extend(&tree.all);
            self.keeping.known().parts.insert(known.image, tree.all.into());
        }
        self.keeping.known().manifests.retain(|key, _| visited.contains(key));
        let arrived = self.keeping.arrived();
        all.extend(arrived.iter());
        self.store.protect(all);
        drop(arrived);
    }

    /// Protects what a manifest names that is about to come in, if it belongs to an image that is to be kept.
    pub(crate) fn protect_arriving(
        &self,
        name: &Name,
        reference: &Reference,
        digest: &Digest,
        (media_type, bytes): (&MediaType, &[u8]),
    ) {
        let roots = self.keeping.said().roots.clone();
        if roots.is_empty() {
            return;
        }
        let is_root = roots
            .get(name)
            .is_some_and(|roots| roots.contains(reference) || roots.contains(&Reference::Digest(*digest)));
        if !is_root && !self.store.is_protected(digest) {
            return;
        }
        let Ok(manifest) = Manifest::read(media_type, bytes) else { return };
        let mut parts = vec![*digest];
        parts.extend(manifest.children.iter().map(|child| child.digest));
        let mut arrived = self.keeping.arrived();
        arrived.extend(&parts);
        self.store.protect_also(&parts);
    }

    /// Says what is here of images.
    async fn held(&self, keep: &Keep) -> Vec<HeldImage> {
        let mut held = Vec::with_capacity(keep.images.len());
        let mut visited = HashSet::new();
        for known in &keep.images {
            let tree = self.tree(known, &mut visited).await;
            let mut one = HeldImage {
                image: known.image.clone(),
                digest: None,
                age: None,
                fresh_for: None,
                whole: false,
                bytes: 0,
                platforms: tree.platforms.iter().map(ToString::to_string).collect(),
            };
            if let Reference::Tag(tag) = &known.image.reference
                && let Some(last) = self.tags.get(&known.image.name, tag).await
            {
                one.digest = Some(last.digest);
                one.age = Some(last.age().as_secs());
                let upstream = self.upstreams.find(&known.image.name.registry).ok();
                one.fresh_for =
                    upstream.and_then(|upstream| match upstream.freshness_of(&known.image.name.repository, tag) {
                        Freshness::For(time) => Some(time.as_secs()),
                        Freshness::Immutable => None,
                    });
            }
            let sizes = self.store.sizes(tree.all.clone()).await.unwrap_or_default();
            let here: HashMap<Digest, u64> =
                tree.all.iter().zip(sizes).filter_map(|(digest, size)| Some((*digest, size?))).collect();
            one.bytes = here.values().sum();
            let complete = |parsed: &Arc<Parsed>| parsed.children.iter().all(|child| here.contains_key(child));
            one.whole = !tree.images.is_empty() && tree.images.iter().all(complete);
            held.push(one);
        }
        held
    }

    /// Follows an image's manifests as far as they are here. Is no use of them.
    async fn tree(&self, known: &KnownImage, visited: &mut HashSet<(Name, Digest)>) -> Tree {
        let KnownImage { image, digests, .. } = known;
        let current = match &image.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => self.tags.get(&image.name, tag).await.map(|tag| tag.digest),
        };
        let mut tree = Tree::default();
        let mut seen = HashSet::new();
        let mut next: Vec<Digest> = digests.iter().copied().chain(current).collect();
        while let Some(digest) = next.pop() {
            if !seen.insert(digest) {
                continue;
            }
            tree.all.push(digest);
            let Some(parsed) = self.parsed(&image.name, &digest).await else { continue };
            visited.insert((image.name.clone(), digest));
            tree.platforms.extend(parsed.platforms.iter().cloned());
            match parsed.kind {
                ManifestKind::Index => next.extend(&parsed.children),
                ManifestKind::Image => {
                    for child in &parsed.children {
                        if seen.insert(*child) {
                            tree.all.push(*child);
                        }
                    }
                    tree.images.push(parsed);
                }
                ManifestKind::Opaque => {}
            }
        }
        tree
    }

    /// What a manifest of a repository says, if it is here.
    async fn parsed(&self, name: &Name, digest: &Digest) -> Option<Arc<Parsed>> {
        let key = (name.clone(), *digest);
        let known = self.keeping.known().manifests.get(&key).cloned();
        // Whoever gets an image's manifest gets its config after it, which says what it runs on.
        let is_all = |known: &Arc<Parsed>| known.kind != ManifestKind::Image || !known.platforms.is_empty();
        if let Some(known) = known.filter(is_all) {
            return Some(known);
        }
        let value = self.store.read(&Record::new(name, RecordKind::Manifest(*digest))).await.ok()??;
        let media_type = MediaType::parse(std::str::from_utf8(&value).ok()?)?;
        let bytes = self.store.peek(digest, oci::MANIFEST_LIMIT as u64).await.ok()??;
        let manifest = Manifest::read(&media_type, &bytes).ok()?;
        let platforms = match manifest.kind {
            ManifestKind::Index => {
                let named = manifest.children.iter().filter_map(|child| child.platform.clone());
                named.filter(Platform::is_known).collect()
            }
            ManifestKind::Image => {
                let config = manifest.children.first().map(|config| config.digest);
                let config = match config {
                    Some(config) => self.store.peek(&config, CONFIG_LIMIT).await.ok().flatten(),
                    None => None,
                };
                config.and_then(|config| Platform::of_config(&config)).into_iter().collect()
            }
            ManifestKind::Opaque => BTreeSet::new(),
        };
        let children = manifest.children.iter().map(|child| child.digest).collect();
        let parsed = Arc::new(Parsed { kind: manifest.kind, children, platforms });
        self.keeping.known().manifests.insert(key, parsed.clone());
        Some(parsed)
    }

    /// Background work: drops what nothing has used for as long as the cluster's policy says, while somebody says what is in use.
    pub(crate) async fn keep_used(self: Arc<Self>) {
        loop {
            let (unused_for, heard) = {
                let said = self.keeping.said();
                (said.keep.unused_for.map(Duration::from_secs), said.heard)
            };
            let known = heard.is_some_and(|heard| heard.elapsed() < BELIEVED);
            if let Some(unused_for) = unused_for.filter(|_| known) {
                match self.store.expire(unused_for).await {
                    Ok((0, _)) => {}
                    Ok((blobs, bytes)) => {
                        tracing::info!(blobs, bytes, "dropped what nothing has used for long enough");
                        self.metrics.usage(self.store.usage());
                    }
                    Err(error) => self.metrics.store_error(&error),
                }
            }
            let pause = unused_for.map_or(LOOK.0, |unused_for| (unused_for / 24).clamp(LOOK.0, LOOK.1));
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

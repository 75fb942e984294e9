//! The keeper, told what happens and asked what to do.

mod cleanup;
mod failures;
mod private;
mod pulls;
mod tidying;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{NodeImage, NodeImageState, OnDelete, PrivateImages};
use oci::{Digest, Image};
use warm::{Plan, Wanter, Wish};

use super::*;
use crate::cri::{CriImage, Mark};

const APP: &str = "docker.io/library/app:1";
const DB: &str = "docker.io/library/db:1";
const WEB: &str = "ghcr.io/shop/web:1";
const GIB: u64 = 1 << 30;
const RUNTIME: Result<Pulled, Failure> = Ok(Pulled::Runtime { private: false });

fn image(text: &str) -> Image {
    text.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn wanter(name: &str, per_node: u32) -> Wanter {
    let (namespace, name) = name.split_once('/').unwrap();
    Wanter {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        generation: Some(1),
        refreshed: None,
        priority: 0,
        per_node,
        nodes: None,
        gates: false,
    }
}

fn wish(text: &str) -> Wish {
    by(text, &[("shop/web", 2)])
}

fn by(text: &str, caches: &[(&str, u32)]) -> Wish {
    Wish {
        image: image(text),
        digest: None,
        wanted_by: caches.iter().map(|(name, per_node)| Arc::new(wanter(name, *per_node))).collect(),
        retries: 5,
        private_images: PrivateImages::Store,
        on_delete: OnDelete::Keep,
    }
}

fn removed(wish: Wish) -> Wish {
    Wish { on_delete: OnDelete::Remove, ..wish }
}

fn wishes(wishes: Vec<Wish>) -> Plan {
    Plan { wishes, pulls: 4, nodes_at_once: None, cleanup: None }
}

/// An image whose ID and digest come from `content`.
fn held(names: &[&str], content: &str) -> Held {
    let name = |text: &&str| text.split_once([':', '@']).unwrap().0.to_owned();
    let image = CriImage {
        id: digest(&format!("config of {content}")).to_string(),
        tags: names.iter().map(|name| (*name).to_owned()).collect(),
        digests: names.iter().map(|text| format!("{}@{}", name(text), digest(content))).collect(),
        bytes: content.len() as u64,
        pinned: false,
    };
    Held { image, ..Held::default() }
}

fn marked(held: Held, mark: Mark) -> Held {
    Held { mark: Some(mark), image: CriImage { pinned: true, ..held.image }, ..held }
}

fn failure(reason: Reason) -> Result<Pulled, Failure> {
    Err(Failure::new(reason, "why"))
}

/// A keeper with a clock, and what its node has.
struct Node {
    keeper: Keeper,
    now: Instant,
    here: Vec<Held>,
}

impl Node {
    fn new(images: Vec<Wish>) -> Node {
        let mut node = Node {
            keeper: Keeper::new(Abilities { pins: true, passes: true, registry: false }),
            now: Instant::now(),
            here: Vec::new(),
        };
        node.keeper.want(wishes(images));
        node.see();
        node
    }

    fn see(&mut self) {
        let disk = Disk { capacity: 100 * GIB, available: 50 * GIB, margin: 15 * GIB };
        self.keeper.see(self.here.clone(), disk, self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn pulls(&mut self) -> Vec<String> {
        self.keeper.pulls(self.now).into_iter().map(|pull| pull.image.to_string()).collect()
    }

    /// A pull ends well, and brings this.
    fn come(&mut self, text: &str, content: &str) {
        self.keeper.pulled(&image(text), Way::Public, RUNTIME, self.now);
        self.here.retain_mut(|held| {
            held.image.tags.retain(|tag| tag != text);
            !held.image.tags.is_empty() || !held.image.digests.is_empty()
        });
        self.here.push(held(&[text], content));
        self.see();
    }

    fn fail(&mut self, text: &str, reason: Reason) {
        self.fail_by(Way::Public, text, reason);
    }

    fn fail_by(&mut self, way: Way, text: &str, reason: Reason) {
        self.keeper.pulled(&image(text), way, failure(reason), self.now);
        self.see();
    }

    /// Does what is to be tidied, as the runtime would; gives it in words.
    fn tidy(&mut self) -> Vec<String> {
        let todo = self.keeper.tidying();
        let mut words = Vec::new();
        for one in todo {
            match one {
                Tidying::Mark { id, mark, private, pinned } => {
                    let held = self.here.iter_mut().find(|held| held.image.id == id).unwrap();
                    (held.mark, held.private) = (mark, private);
                    held.image.pinned = pinned;
                    words.push(format!("{} {mark:?} {pinned}", held.name()));
                }
                Tidying::Remove { id, name, .. } => {
                    self.here.retain(|held| held.image.id != id);
                    words.push(format!("{name} removed"));
                }
            }
        }
        self.see();
        assert!(self.keeper.tidying().is_empty(), "what was done is done: {:?}", self.keeper.tidying());
        words
    }

    fn told(&self, text: &str) -> NodeImage {
        let images = self.keeper.report().unwrap().status.images;
        images.into_iter().find(|image| image.image == text).unwrap_or_else(|| panic!("nothing is told of {text}"))
    }

    fn state(&self, text: &str) -> NodeImageState {
        self.told(text).state
    }
}

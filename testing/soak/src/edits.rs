//! ImageCaches are edited and tags move, all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::lab::{Lab, MOVING, NAMESPACE, moving};
use crate::plan::Need;
use crate::report::Journal;
use crate::windows::Windows;

const BEAT: Duration = Duration::from_secs(7);

/// The images of an ImageCache.
#[derive(Clone, Copy)]
enum Set {
    /// Some of those that everybody may have.
    Public,
    /// Some of the private ones.
    Private,
    /// All tags that move.
    Moving,
}

const CACHES: [(&str, Set); 4] =
    [("web", Set::Public), ("zone", Set::Public), ("private", Set::Private), ("moving", Set::Moving)];

/// Makes the ImageCaches.
///
/// # Errors
/// The API server does not take one.
pub fn make_all(lab: &Lab, seed: u64) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(seed ^ 0xcac4e);
    (0..CACHES.len()).try_for_each(|which| write(lab, which, &mut dice))
}

/// Edits them and moves tags until `over`.
pub fn keep(lab: &Lab, seed: u64, over: &AtomicBool, windows: &Windows, journal: &Journal) {
    let mut dice = StdRng::seed_from_u64(seed ^ 0xed17);
    let (mut edits, mut moves) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        // What the API server or the origin does not take now, it takes another time.
        if windows.has(Need::ApiServer) && write(lab, dice.random_range(0..CACHES.len() - 1), &mut dice).is_ok() {
            edits += 1;
        }
        if windows.has(Need::First)
            && dice.random_range(0..3) == 0
            && lab.move_tag(dice.random_range(0..MOVING)).is_ok()
        {
            moves += 1;
        }
        thread::sleep(BEAT);
    }
    journal.figure("edits of ImageCaches", edits.to_string());
    journal.figure("tags moved", moves.to_string());
}

fn write(lab: &Lab, which: usize, dice: &mut StdRng) -> Result<()> {
    let (name, set) = CACHES[which];
    let count = dice.random_range(2..8);
    let among = |private: bool| {
        let all: Vec<&str> =
            lab.images.iter().filter(|image| image.private == private).map(|image| image.reference.as_str()).collect();
        all
    };
    let images: Vec<Value> = match set {
        Set::Public => among(false).choose_multiple(dice, count).map(|name| json!(name)).collect(),
        Set::Private => among(true).choose_multiple(dice, count).map(|name| json!(name)).collect(),
        Set::Moving => (0..MOVING).map(|number| json!(moving(number))).collect(),
    };
    let mut spec = json!({"images": images, "gateNodes": name == "web", "priority": dice.random_range(0..3)});
    spec["onDelete"] = json!(if dice.random_range(0..2) == 0 { "Remove" } else { "Keep" });
    match name {
        "zone" => spec["nodeSelector"] = json!({"topology.kubernetes.io/zone": "zone-b"}),
        "private" => spec["imagePullSecrets"] = json!([{"name": "right"}]),
        "moving" => spec["refreshInterval"] = json!("1m"),
        _ => {}
    }
    let object = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "ImageCache",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    });
    lab.kubectl().apply(&object.to_string())
}

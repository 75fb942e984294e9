//! What a cleanup removes, and what never.

use std::collections::HashSet;
use std::time::SystemTime;

use api::Cleanup;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cri::LastUse;

const DAY: u64 = 24 * 3600;
const OLD: &str = "quay.io/old:1";
const PAUSE: &str = "registry.k8s.io/pause:3.10";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// An image that was last used so many seconds ago.
fn unused(name: &str, seconds: u64) -> Held {
    let last_use = Some(LastUse::Used(now() - Duration::from_secs(seconds)));
    Held { last_use, ..held(&[name], name) }
}

fn cleanup(json: serde_json::Value) -> Cleanup {
    serde_json::from_value(json).unwrap()
}

fn keeper(rules: serde_json::Value, wanted: &[&str], here: Vec<Held>, free: u64) -> Keeper {
    let mut keeper = Keeper::new(Abilities { pins: true, ..Abilities::default() });
    let wishes = wanted.iter().map(|name| wish(name)).collect();
    keeper.want(Plan { wishes, pulls: 4, nodes_at_once: None, cleanup: Some(cleanup(rules)) });
    keeper.see(here, Disk { capacity: 100 * GIB, available: free * GIB, margin: 0 }, Instant::now());
    keeper
}

fn names(keeper: &Keeper) -> Vec<(String, Why)> {
    keeper.removable(now()).into_iter().map(|one| (one.name, one.why)).collect()
}

#[test]
fn what_nothing_has_used_for_long_goes() {
    let here = vec![unused(APP, 15 * DAY), unused(DB, 13 * DAY), unused(OLD, 20 * DAY)];
    let gone = [OLD, APP].map(|name| (name.to_owned(), Why::Unused));
    assert_eq!(names(&keeper(json!({}), &[], here.clone(), 50)), gone, "the default is two weeks");
    assert_eq!(names(&keeper(json!({"unusedFor": "12d"}), &[], here.clone(), 50)).len(), 3);
    assert!(names(&keeper(json!({"unusedFor": "30d"}), &[], here, 50)).is_empty());
}

#[test]
fn what_must_stay_stays_whatever_its_age() {
    let old = |name| unused(name, 100 * DAY);
    let used = Held { used: true, ..old("quay.io/used:1") };
    let mut pinned = old("quay.io/pinned:1");
    pinned.image.pinned = true;
    let unknown = Held { last_use: None, ..old("quay.io/unknown:1") };
    let two_names = Held { last_use: old(OLD).last_use, ..held(&["quay.io/two:1", "quay.io/kept/two:1"], "two") };
    let here = vec![used, pinned, unknown, old(APP), old(PAUSE), old("ghcr.io/a:1"), two_names, old(OLD)];
    let rules = json!({"keep": [{"registry": "ghcr.io"}, {"repository": "kept/*"}], "diskAbove": 50});
    assert_eq!(names(&keeper(rules, &[APP], here, 1)), [(OLD.to_owned(), Why::Unused)]);
}

#[test]
fn a_full_disk_takes_what_was_used_longest_ago_and_no_more_than_seems_needed() {
    let gib = |name, hours: u64, gib: u64| {
        let mut held = unused(name, hours * 3600);
        held.image.bytes = gib * GIB;
        held
    };
    let here = vec![gib(APP, 5, 4), gib(DB, 9, 4), gib(WEB, 7, 4), gib("quay.io/new:1", 0, 50)];
    let above = |rules, free| names(&keeper(rules, &[], here.clone(), free));
    let full = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Why::DiskFull)).collect::<Vec<_>>();
    assert_eq!(above(json!({"diskAbove": 80}), 20), [], "it is not above");
    assert_eq!(above(json!({"diskAbove": 80}), 19), full(&[DB, WEB]), "81 % used, down to 75 %");
    assert_eq!(above(json!({"diskAbove": 80, "diskBelow": 70}), 19), full(&[DB, WEB, APP]));
    assert_eq!(above(json!({"diskAbove": 80, "minimumAge": "6h"}), 1), full(&[DB, WEB]), "what is young stays");
    assert_eq!(above(json!({}), 0), [], "only time counts");
}

#[test]
fn nothing_goes_while_nobody_knows_or_something_comes() {
    let mut keeper = keeper(json!({}), &[APP], vec![unused(OLD, 100 * DAY)], 50);
    assert_eq!(names(&keeper).len(), 1);
    keeper.pulls(Instant::now());
    assert!(names(&keeper).is_empty(), "an image is coming");
    keeper.pulled(&image(APP), Way::Public, failure(Reason::ImageNotFound), Instant::now());
    assert_eq!(names(&keeper).len(), 1);
    keeper.lose_sight("it is away".to_owned());
    assert!(names(&keeper).is_empty() && keeper.uses(now()).is_empty());
    let mut off = Keeper::new(Abilities { pins: true, ..Abilities::default() });
    off.want(wishes(Vec::new()));
    off.see(vec![unused(OLD, 100 * DAY)], Disk::default(), Instant::now());
    assert!(names(&off).is_empty() && off.uses(now()).is_empty(), "there is no cleanup");
}

#[test]
fn when_images_were_of_use_is_remembered() {
    let fresh = unused(APP, 60);
    let stale = Held { used: true, ..unused(DB, 2 * 3600) };
    let new = Held { last_use: None, ..unused(OLD, 0) };
    let in_use = Held { used: true, ..unused(WEB, 60) };
    let id = |held: &Held| held.image.id.clone();
    let here = vec![fresh.clone(), stale.clone(), new.clone(), in_use.clone()];
    let mut keeper = keeper(json!({}), &[], here, 50);
    assert_eq!(keeper.uses(now()), [(id(&stale), LastUse::Used(now())), (id(&new), LastUse::Seen(now()))]);
    // Its last container has gone: it was of use until now, and does not go by what is remembered from before.
    let ended = Held { used: false, ..unused(WEB, 100 * DAY) };
    keeper.see(vec![ended.clone()], Disk::default(), Instant::now());
    assert_eq!(keeper.uses(now()), [(id(&ended), LastUse::Used(now()))]);
    assert!(names(&keeper).is_empty());
    keeper.see(vec![unused(WEB, 30)], Disk::default(), Instant::now());
    assert!(keeper.uses(now()).is_empty());
}

#[test]
fn what_was_done_is_told_once() {
    let mut keeper = keeper(json!({}), &[], vec![unused(OLD, 100 * DAY), unused(APP, 50 * DAY)], 50);
    let all = keeper.removable(now());
    keeper.cleaned(&all, true, now());
    let told = keeper.report().unwrap().status.last_cleanup.unwrap();
    assert_eq!((told.dry_run, told.removed, told.images.len()), (true, 2, 2));
    assert_eq!(told.images[0].reason, "Unused");
    keeper.cleaned(&all, true, now() + Duration::from_secs(900));
    assert_eq!(keeper.report().unwrap().status.last_cleanup, Some(told), "nothing is new");
    keeper.cleaned(&all[..1], false, now() + Duration::from_secs(1800));
    let told = keeper.report().unwrap().status.last_cleanup.unwrap();
    assert_eq!((told.dry_run, told.removed), (false, 1));
    keeper.cleaned(&[], false, now() + Duration::from_secs(2700));
    assert_eq!(keeper.report().unwrap().status.last_cleanup, Some(told), "the last that removed something stays");
}

proptest! {
    /// Whatever is there, nothing goes that is used, pinned, wanted, kept, young or unknown.
    #[test]
    fn what_must_stay_never_goes(
        images in prop::collection::vec((0..40_u64, any::<[bool; 4]>(), prop::option::of(0..60 * DAY), 1..20_u64), 0..30),
        free in 0..100_u64,
        above in prop::option::of(1..100_u32),
    ) {
        let mut here: Vec<Held> = images.iter().map(|(number, [used, pinned, kept, seen], age, gib)| {
            let name = format!("{}/image-{number}:1", if *kept { "ghcr.io" } else { "quay.io" });
            let mut held = held(&[&name], &format!("{name} {gib}"));
            (held.image.pinned, held.image.bytes, held.used) = (*pinned, gib * GIB, *used);
            held.last_use = age.map(|age| now() - Duration::from_secs(age)).map(|at| if *seen { LastUse::Seen(at) } else { LastUse::Used(at) });
            held
        }).collect();
        let mut ids = HashSet::new();
        here.retain(|held| ids.insert(held.image.id.clone()));
        let mut rules = json!({"keep": [{"registry": "ghcr.io"}], "minimumAge": "1h"});
        if let Some(above) = above {
            rules["diskAbove"] = json!(above);
        }
        let keeper = keeper(rules, &["quay.io/image-1:1", "quay.io/image-2:1"], here.clone(), free);
        for one in keeper.removable(now()) {
            for held in here.iter().filter(|held| held.image.id == one.id) {
                let age = now().duration_since(held.last_use.unwrap().at()).unwrap();
                prop_assert!(!held.used && !held.image.pinned && !held.name().starts_with("ghcr.io"));
                let least = if one.why == Why::Unused { 14 * DAY } else { 3600 };
                prop_assert!(age >= Duration::from_secs(least));
                prop_assert!(one.why == Why::Unused || above.is_some_and(|above| 100 - free > u64::from(above)));
            }
        }
    }
}

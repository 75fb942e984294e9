//! What is pulled and in which order, and what is told of it.

use std::collections::BTreeSet;
use std::time::Instant;

use cache::PodsPull;

use super::*;

#[test]
fn nothing_is_done_before_it_is_known_what_is_wanted_and_what_is_there() {
    let mut keeper = Keeper::new(Abilities { pins: true, ..Abilities::default() });
    let now = Instant::now();
    let there = marked(held(&[APP], "app"), Mark::Remove);
    keeper.see(vec![there.clone()], Disk::default(), now);
    assert!(keeper.pulls(now).is_empty() && keeper.tidying().is_empty() && keeper.report().is_none());

    let mut keeper = Keeper::new(Abilities { pins: true, ..Abilities::default() });
    keeper.want(wishes(vec![wish(DB)]));
    assert!(keeper.pulls(now).is_empty() && keeper.tidying().is_empty());
    assert!(keeper.report().unwrap().blind.is_some());
    keeper.see(vec![there], Disk::default(), now);
    assert_eq!(keeper.pulls(now).len(), 1);
}

#[test]
fn what_is_wanted_comes_and_is_pinned() {
    let mut node = Node::new(vec![wish(APP)]);
    assert_eq!(node.state(APP), NodeImageState::Wanted);
    assert_eq!(node.pulls(), [APP]);
    assert_eq!(node.state(APP), NodeImageState::Pulling);
    assert!(node.pulls().is_empty(), "it is being pulled");
    node.come(APP, "app");
    assert_eq!(node.state(APP), NodeImageState::Warm);
    assert!(node.pulls().is_empty());
    assert_eq!(node.tidy(), [format!("{APP} Some(Keep) true")]);
    let told = node.told(APP);
    assert!(told.pinned && told.attempts.is_none() && told.reason.is_none());
    assert_eq!(told.digest, Some(digest("app").to_string()));
    let report = node.keeper.report().unwrap();
    assert_eq!((report.status.wanted, report.status.warm, report.status.failed, report.status.present), (1, 1, 0, 1));
    assert_eq!(report.complete, BTreeSet::from(["shop/web".to_owned()]));
    assert!(report.settled);
}

#[test]
fn the_order_of_wishes_is_that_of_pulls() {
    let mut node = Node::new(vec![wish(DB), wish(APP), wish(WEB)]);
    assert_eq!(node.pulls(), [DB, APP], "two at once for that ImageCache");
    node.come(APP, "app");
    assert_eq!(node.pulls(), [WEB]);
}

#[test]
fn no_more_is_pulled_at_once_than_is_allowed() {
    let mut node = Node::new(Vec::new());
    let (one, two) = (("x/one", 1), ("x/two", 2));
    let all = vec![
        by("a.io/a:1", &[one]),
        by("a.io/a:2", &[one]),
        by("a.io/b:1", &[two]),
        by("a.io/ab:1", &[one, two]),
        by("a.io/b:2", &[two]),
        by("a.io/b:3", &[two]),
    ];
    node.keeper.want(wishes(all));
    // The image of both counts for both, and may come if one has room.
    assert_eq!(node.pulls(), ["a.io/a:1", "a.io/b:1", "a.io/ab:1"]);
    node.come("a.io/b:1", "b1");
    assert_eq!(node.pulls(), ["a.io/b:2"]);
    node.come("a.io/ab:1", "ab1");
    assert_eq!(node.pulls(), ["a.io/b:3"]);
    node.come("a.io/a:1", "a1");
    assert_eq!(node.pulls(), ["a.io/a:2"]);

    let mut node = Node::new(Vec::new());
    let all: Vec<Wish> = (0..9).map(|number| by(&format!("a.io/a:{number}"), &[("x/one", 64)])).collect();
    node.keeper.want(Plan { wishes: all, pulls: 3, nodes_at_once: None, cleanup: None });
    assert_eq!(node.pulls().len(), 3);
}

#[test]
fn an_image_by_digest_is_ready_under_that_digest() {
    let text = format!("docker.io/library/app@{}", digest("app"));
    let mut node = Node::new(vec![Wish { digest: Some(digest("app")), ..wish(&text) }]);
    node.here = vec![held(&[APP], "other")];
    node.see();
    assert_eq!(node.keeper.pulls(node.now), [Pull { image: image(&text), digest: None, way: Way::Public }]);
    node.keeper.pulled(&image(&text), Way::Public, RUNTIME, node.now);
    node.here.push(held(&[APP], "app"));
    node.see();
    assert_eq!(node.state(&text), NodeImageState::Warm);
}

#[test]
fn an_image_without_a_digest_is_pulled_where_one_is_known() {
    let mut imported = held(&[APP], "app");
    imported.image.digests.clear();
    let mut node = Node::new(vec![wish(APP)]);
    node.here = vec![imported];
    node.see();
    assert_eq!(node.state(APP), NodeImageState::Warm);
    node.keeper.want(wishes(vec![Wish { digest: Some(digest("app")), ..wish(APP) }]));
    assert_eq!(node.pulls(), [APP]);
}

#[test]
fn a_pull_that_nobody_wants_any_more_is_ended() {
    let mut node = Node::new(vec![wish(APP), wish(DB)]);
    node.pulls();
    assert_eq!(node.keeper.want(wishes(vec![wish(DB)])), [image(APP)]);
    node.keeper.pulled(&image(APP), Way::Public, failure(Reason::PullFailed), node.now);
    let report = node.keeper.report().unwrap();
    assert_eq!(report.status.images.len(), 1);
    node.keeper.want(wishes(vec![wish(APP), wish(DB)]));
    assert_eq!(node.pulls(), [APP]);
}

#[test]
fn what_is_told_fits_and_names_nothing_twice() {
    let mut node = Node::new(vec![wish(APP)]);
    node.here =
        (0..1500).map(|number| held(&[&format!("docker.io/library/i:{number}")], &"x".repeat(number + 1))).collect();
    node.here.push(held(&[APP], "app"));
    node.here.push(held(&[APP], "app again"));
    node.see();
    let report = node.keeper.report().unwrap();
    assert_eq!(report.status.images.len(), api::NODE_IMAGES);
    assert_eq!(report.status.images[0].image, APP);
    assert_eq!(report.status.images[1].bytes, Some(1500), "the largest first");
    assert_eq!(report.status.present, 1502);
    assert_eq!(report.status.left_out as usize, 1501 - api::NODE_IMAGES);
}

#[test]
fn a_cache_is_complete_when_all_of_its_images_are_ready() {
    let mut node = Node::new(Vec::new());
    node.here = vec![held(&[APP], "app")];
    node.see();
    let (one, two) = (("x/one", 1), ("x/two", 2));
    node.keeper.want(wishes(vec![by(APP, &[one, two]), by(DB, &[two])]));
    let report = node.keeper.report().unwrap();
    assert_eq!(report.complete, BTreeSet::from(["x/one".to_owned()]));
    assert!(!report.settled);
}

#[test]
fn pods_pull_first_but_not_for_ever() {
    let mut node = Node::new(vec![wish(APP), wish(DB)]);
    let start = node.now;
    let wakes = |node: &Node| node.keeper.wakes(node.now).map(|then| then - start);
    node.keeper.give_way(PodsPull::Yes, node.now);
    assert!(node.pulls().is_empty() && node.keeper.gives_way());
    assert_eq!(wakes(&node), Some(Duration::from_secs(60)));
    // One pull of a pod ends, and another one may follow.
    node.now += Duration::from_secs(20);
    let until = node.now + Duration::from_secs(2);
    node.keeper.give_way(PodsPull::Until(until), node.now);
    assert!(node.pulls().is_empty());
    assert_eq!(wakes(&node), Some(Duration::from_secs(22)));
    node.now += Duration::from_secs(39);
    node.keeper.give_way(PodsPull::Yes, node.now);
    assert!(node.pulls().is_empty());
    // They never end: one at a time then.
    node.now += Duration::from_secs(1);
    node.keeper.give_way(PodsPull::Yes, node.now);
    assert_eq!(node.pulls(), [APP]);
    assert!(node.pulls().is_empty());
    node.come(APP, "app");
    assert_eq!(node.pulls(), [DB]);

    let mut node = Node::new(vec![wish(APP), wish(DB)]);
    node.keeper.give_way(PodsPull::Yes, node.now);
    assert!(node.pulls().is_empty());
    node.keeper.give_way(PodsPull::No, node.now);
    assert_eq!(node.pulls(), [APP, DB]);
    assert!(!node.keeper.gives_way());
}

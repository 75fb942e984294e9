//! What becomes of images that not everybody may have.

use cache::WholeImage;

use super::*;

const WAYS: [PrivateImages; 2] = [PrivateImages::Store, PrivateImages::Runtime];

fn into(private_images: PrivateImages) -> Wish {
    Wish { private_images, ..wish(APP) }
}

fn whole(content: &str) -> WholeImage {
    WholeImage { digest: digest(content), manifest: digest(content), bytes: 7 }
}

fn ways(node: &mut Node) -> Vec<Way> {
    node.keeper.pulls(node.now).into_iter().map(|pull| pull.way).collect()
}

fn store(node: &mut Node, content: &str) {
    node.keeper.pulled(&image(APP), Way::Store, Ok(Pulled::Store(whole(content))), node.now);
    node.see();
}

#[test]
fn what_is_public_goes_into_the_runtime_in_any_case() {
    for private_images in WAYS {
        let mut node = Node::new(vec![into(private_images)]);
        assert_eq!(node.pulls(), [APP]);
        node.come(APP, "app");
        assert_eq!(node.tidy(), [format!("{APP} Some(Keep) true")]);
        let told = node.told(APP);
        assert_eq!((told.state, told.private, told.reason), (NodeImageState::Warm, false, None));
    }
}

#[test]
fn what_is_private_goes_into_the_store_and_is_ready_there() {
    let mut node = Node::new(vec![into(PrivateImages::Store)]);
    assert_eq!(ways(&mut node), [Way::Public]);
    node.fail(APP, Reason::CredentialNeeded);
    assert_eq!(ways(&mut node), [Way::Store]);
    store(&mut node, "app");
    let told = node.told(APP);
    assert_eq!((told.state, told.private, told.reason.as_deref()), (NodeImageState::Warm, true, Some("InStore")));
    assert_eq!((told.digest, told.bytes, told.pinned), (Some(digest("app").to_string()), Some(7), false));
    let report = node.keeper.report().unwrap();
    assert_eq!((report.status.warm, report.status.failed, report.settled), (1, 0, true));
    assert!(node.tidy().is_empty() && ways(&mut node).is_empty());
    assert_eq!(node.keeper.stored(), [(image(APP), whole("app"))]);

    // The store is asked again and again whether it still has it.
    node.keeper.lost(&image(APP), node.now);
    node.see();
    assert_eq!(node.told(APP).reason.as_deref(), Some("Removed"));
    assert!(ways(&mut node).is_empty(), "it has a pause, as they may be at odds about room");
    node.pass(10);
    assert_eq!(ways(&mut node), [Way::Store]);
    store(&mut node, "app");

    // A pod has had it pulled.
    node.here = vec![held(&[APP], "app")];
    node.see();
    assert_eq!(node.tidy(), [format!("{APP} Some(Found) true")]);
    assert_eq!(node.told(APP).reason, None);
    assert!(node.keeper.stored().is_empty(), "nobody needs to look");
}

#[test]
fn what_is_private_goes_into_the_runtime_if_that_is_asked_for_and_is_known_for_it() {
    let mut node = Node::new(vec![into(PrivateImages::Runtime)]);
    assert_eq!(ways(&mut node), [Way::Pass]);
    node.here = vec![held(&[APP], "app")];
    node.keeper.pulled(&image(APP), Way::Pass, Ok(Pulled::Runtime { private: true }), node.now);
    node.see();
    node.tidy();
    assert!(node.here[0].private);
    assert!(node.told(APP).private);
    node.keeper.want(wishes(Vec::new()));
    node.tidy();
    assert!(node.told(APP).private, "kubelet still lets everybody use it");
}

#[test]
fn a_runtime_that_shows_the_mirror_no_pass_has_the_store_do_it() {
    let mut node = Node::new(vec![into(PrivateImages::Runtime)]);
    node.keeper = Keeper::new(Abilities::default());
    node.keeper.want(wishes(vec![into(PrivateImages::Runtime)]));
    node.see();
    assert_eq!(ways(&mut node), [Way::Public]);
    node.fail(APP, Reason::CredentialNeeded);
    assert_eq!(ways(&mut node), [Way::Store]);
}

#[test]
fn a_tag_that_moved_is_stored_anew() {
    let old = Wish { digest: Some(digest("old")), ..into(PrivateImages::Store) };
    let mut node = Node::new(vec![old.clone()]);
    ways(&mut node);
    node.fail(APP, Reason::CredentialNeeded);
    ways(&mut node);
    store(&mut node, "old");
    assert_eq!(node.state(APP), NodeImageState::Warm);
    node.keeper.want(wishes(vec![Wish { digest: Some(digest("new")), ..old }]));
    node.see();
    assert_eq!(node.state(APP), NodeImageState::Wanted);
    assert_eq!(ways(&mut node), [Way::Public], "it may be public by now");
}

#[test]
fn what_went_into_the_store_goes_into_the_runtime_when_that_is_allowed() {
    let mut node = Node::new(vec![into(PrivateImages::Store)]);
    ways(&mut node);
    node.fail(APP, Reason::CredentialNeeded);
    ways(&mut node);
    store(&mut node, "app");
    node.keeper.want(wishes(vec![into(PrivateImages::Runtime)]));
    assert_eq!(node.state(APP), NodeImageState::Wanted);
    assert_eq!(ways(&mut node), [Way::Pass]);
}

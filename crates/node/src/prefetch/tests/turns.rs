//! What waits for the node's turn, and for how long.

use api::WAITS_FOR_TURN;
use warm::Turns;

use super::*;

/// An image of an ImageCache that few nodes pull for at once.
fn limited(text: &str, nodes: u32) -> Wish {
    let one = Wanter { nodes: Some(nodes), ..wanter("shop/few", 2) };
    Wish { wanted_by: vec![Arc::new(one)], ..wish(text) }
}

fn given(cluster: bool, caches: &[&str]) -> Heard {
    let caches = caches.iter().map(|name| (*name).to_owned()).collect();
    Heard { turns: Turns { cluster, caches }, said: None }
}

impl Node {
    fn hear(&mut self, heard: Heard) {
        self.keeper.hear(heard, self.now);
    }
}

#[test]
fn what_has_a_limit_waits_and_nothing_else_does() {
    let mut node = Node::new(vec![limited(APP, 3), wish(DB)]);
    assert_eq!(node.pulls(), [DB]);
    let told = node.told(APP);
    assert_eq!((told.state, told.reason.as_deref()), (NodeImageState::Wanted, Some(WAITS_FOR_TURN)));
    assert!(told.message.unwrap().contains("shop/few (3)") && told.attempts.is_none());
    assert!(!node.keeper.report().unwrap().settled);
    node.hear(given(false, &["shop/other"]));
    assert!(node.pulls().is_empty());
    node.hear(given(false, &["shop/few"]));
    assert_eq!(node.pulls(), [APP]);
    assert_eq!((node.state(APP), node.told(APP).reason), (NodeImageState::Pulling, None));
}

#[test]
fn what_has_begun_goes_on_when_the_turn_is_over_and_nothing_new_begins() {
    let mut node = Node::new(vec![limited(APP, 3), limited(DB, 3), limited(WEB, 3)]);
    node.hear(given(false, &["shop/few"]));
    assert_eq!(node.pulls(), [APP, DB]);
    node.hear(given(false, &[]));
    node.come(APP, "app");
    assert!(node.pulls().is_empty());
    assert_eq!([APP, DB].map(|image| node.state(image)), [NodeImageState::Warm, NodeImageState::Pulling]);
    assert_eq!(node.told(WEB).reason.as_deref(), Some(WAITS_FOR_TURN));
}

#[test]
fn a_failure_is_told_as_one_and_tried_again_when_it_is_the_nodes_turn() {
    let mut node = Node::new(vec![Wish { retries: 1, ..limited(APP, 3) }]);
    node.hear(given(false, &["shop/few"]));
    node.pulls();
    node.fail(APP, Reason::RegistryUnavailable);
    node.hear(given(false, &[]));
    node.pass(60);
    assert!(node.pulls().is_empty());
    let told = node.told(APP);
    assert_eq!((told.state, told.reason.as_deref()), (NodeImageState::Failed, Some("RegistryUnavailable")));
    assert!(!told.given_up);
    node.hear(given(false, &["shop/few"]));
    assert_eq!(node.pulls(), [APP]);
    node.fail(APP, Reason::RegistryUnavailable);
    assert!(node.told(APP).given_up, "the turn is of no use to it");
}

#[test]
fn where_nobody_gives_turns_a_node_goes_on_after_an_hour_and_says_why() {
    let mut node = Node::new(vec![limited(APP, 3), limited(DB, 3), limited(WEB, 3)]);
    let begun = node.now;
    assert!(node.pulls().is_empty());
    let end = node.keeper.wakes(node.now).unwrap() - begun;
    assert!((Duration::from_secs(30 * 60)..=Duration::from_secs(60 * 60)).contains(&end), "{end:?}");
    node.pass(end.as_secs() - 1);
    assert!(node.pulls().is_empty());
    node.pass(2);
    assert_eq!(node.pulls(), [APP, DB]);
    let told = node.told(APP);
    assert_eq!((told.state, told.reason.as_deref()), (NodeImageState::Pulling, Some("NoTurnGiven")));
    assert!(node.keeper.is_unbidden(&image(APP)));
    node.come(APP, "app");
    assert_eq!(node.pulls(), [WEB], "the rest needs no further hour");
    node.come(DB, "db");
    node.come(WEB, "web");
    assert!(node.pulls().is_empty());
    // The next change waits as long, and somebody who gives turns is waited for.
    node.keeper.want(wishes(vec![limited("docker.io/library/new:1", 3)]));
    assert!(node.pulls().is_empty());
    node.pass(25 * 60);
    node.hear(given(true, &[]));
    node.pass(25 * 60);
    assert!(node.pulls().is_empty());
}

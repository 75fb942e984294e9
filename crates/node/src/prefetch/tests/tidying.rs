//! What is pinned, unpinned and removed.

use std::collections::BTreeSet;

use super::*;

#[test]
fn what_was_there_before_is_pinned_and_never_removed() {
    let mut node = Node::new(vec![removed(wish(APP))]);
    node.here = vec![held(&[APP], "app")];
    node.see();
    assert!(node.pulls().is_empty());
    assert_eq!(node.tidy(), [format!("{APP} Some(Found) true")]);
    node.keeper.want(wishes(Vec::new()));
    assert_eq!(node.tidy(), [format!("{APP} None false")]);
    assert_eq!(node.here.len(), 1);
    assert_eq!(node.state(APP), NodeImageState::Present);
}

#[test]
fn what_the_runtime_shows_before_its_pull_has_ended_was_pulled_all_the_same() {
    let mut node = Node::new(vec![removed(wish(APP)), removed(wish(DB))]);
    assert_eq!(node.pulls().len(), 2);
    node.here = vec![held(&[DB], "db")];
    node.come(APP, "app");
    let mut tidied = node.tidy();
    node.keeper.pulled(&image(DB), Way::Public, RUNTIME, node.now);
    node.see();
    tidied.extend(node.tidy());
    tidied.sort();
    assert_eq!(tidied, [APP, DB].map(|name| format!("{name} Some(Remove) true")));
}

#[test]
fn somebody_elses_pin_is_left_alone() {
    let mut node = Node::new(vec![wish(APP)]);
    let mut pinned = held(&[APP], "app");
    pinned.image.pinned = true;
    node.here = vec![pinned.clone()];
    node.see();
    assert!(node.tidy().is_empty());
    node.keeper.want(wishes(Vec::new()));
    assert!(node.tidy().is_empty());
    assert_eq!(node.here, [pinned]);
}

#[test]
fn what_is_not_wanted_any_more_stays_or_goes_as_was_said() {
    for remove in [false, true] {
        let mut node = Node::new(vec![if remove { removed(wish(APP)) } else { wish(APP) }]);
        node.pulls();
        node.come(APP, "app");
        node.tidy();
        node.keeper.want(wishes(Vec::new()));
        let done = node.tidy();
        match remove {
            true => assert_eq!((done, node.here.len()), (vec![format!("{APP} removed")], 0)),
            false => assert_eq!((done, node.here.len()), (vec![format!("{APP} Some(Keep) false")], 1)),
        }
    }
}

#[test]
fn what_a_container_uses_is_unpinned_and_removed_when_it_ends() {
    let mut node = Node::new(vec![removed(wish(APP))]);
    node.pulls();
    node.come(APP, "app");
    node.tidy();
    node.here[0].used = true;
    node.see();
    node.keeper.want(wishes(Vec::new()));
    assert_eq!(node.tidy(), [format!("{APP} Some(Remove) false")]);
    assert!(node.tidy().is_empty());
    node.here[0].used = false;
    node.see();
    assert_eq!(node.tidy(), [format!("{APP} removed")]);
}

#[test]
fn what_another_name_is_wanted_by_stays() {
    // Two names of one image.
    let mut node = Node::new(vec![removed(wish(APP)), removed(wish(DB))]);
    node.here = vec![marked(held(&[APP, DB], "both"), Mark::Remove)];
    node.see();
    node.keeper.want(wishes(vec![removed(wish(DB))]));
    assert!(node.tidy().is_empty());
    assert_eq!(node.state(DB), NodeImageState::Warm);
    // One that keeps it is enough for it to stay.
    node.keeper.want(wishes(vec![removed(wish(APP)), wish(DB)]));
    assert_eq!(node.tidy(), [format!("{APP} Some(Keep) true")]);
    node.keeper.want(wishes(Vec::new()));
    node.tidy();
    assert_eq!(node.here.len(), 1);
}

#[test]
fn what_was_to_be_removed_while_the_agent_was_away_is_removed() {
    let mut node = Node::new(Vec::new());
    node.here =
        vec![marked(held(&[APP], "app"), Mark::Remove), marked(held(&[DB], "db"), Mark::Found), held(&[WEB], "web")];
    node.see();
    let done: BTreeSet<String> = node.tidy().into_iter().collect();
    assert_eq!(done, BTreeSet::from([format!("{APP} removed"), format!("{DB} None false")]));
}

#[test]
fn nothing_is_removed_while_something_comes() {
    let mut node = Node::new(vec![wish(DB)]);
    node.here = vec![marked(held(&[APP], "app"), Mark::Remove)];
    node.see();
    assert_eq!(node.pulls(), [DB]);
    assert_eq!(node.tidy(), [format!("{APP} Some(Remove) false")], "it only loses its pin");
    node.come(DB, "db");
    let done: BTreeSet<String> = node.tidy().into_iter().collect();
    assert_eq!(done, BTreeSet::from([format!("{APP} removed"), format!("{DB} Some(Keep) true")]));
}

#[test]
fn a_runtime_without_pins_is_not_asked_to_pin() {
    let mut node = Node::new(vec![wish(APP)]);
    node.keeper = Keeper::new(Abilities::default());
    node.keeper.want(wishes(vec![removed(wish(APP))]));
    node.see();
    node.pulls();
    node.come(APP, "app");
    assert_eq!(node.tidy(), [format!("{APP} Some(Remove) false")]);
    node.keeper.want(wishes(Vec::new()));
    assert_eq!(node.tidy(), [format!("{APP} removed")]);
}

#[test]
fn a_tag_that_moved_is_pulled_anew() {
    let at = |content: &str| removed(Wish { digest: Some(digest(content)), ..wish(APP) });
    let mut node = Node::new(vec![at("old")]);
    assert_eq!(
        node.keeper.pulls(node.now),
        [Pull { image: image(APP), digest: Some(digest("old")), way: Way::Public }]
    );
    node.come(APP, "old");
    node.tidy();
    assert_eq!(node.state(APP), NodeImageState::Warm);
    node.keeper.want(wishes(vec![at("new")]));
    assert_eq!(node.state(APP), NodeImageState::Wanted);
    assert!(node.tidy().is_empty(), "the old one stays until the new one has come");
    assert_eq!(
        node.keeper.pulls(node.now),
        [Pull { image: image(APP), digest: Some(digest("new")), way: Way::Public }]
    );
    assert!(node.tidy().is_empty());
    node.come(APP, "new");
    assert_eq!(node.state(APP), NodeImageState::Warm);
    let old = format!("docker.io/library/app@{}", digest("old"));
    let done: BTreeSet<String> = node.tidy().into_iter().collect();
    assert_eq!(done, BTreeSet::from([format!("{old} removed"), format!("{APP} Some(Remove) true")]));
}

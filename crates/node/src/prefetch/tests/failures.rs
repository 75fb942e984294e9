//! What went wrong, and when it is tried again.

use std::sync::Arc;
use std::time::Duration;

use super::*;

#[test]
fn a_failed_pull_is_tried_again_after_growing_pauses_and_given_up() {
    let mut node = Node::new(vec![Wish { retries: 3, ..wish(APP) }]);
    for (attempt, pause) in [10, 20, 40].into_iter().enumerate() {
        assert_eq!(node.pulls(), [APP], "attempt {attempt}");
        node.fail(APP, Reason::ImageNotFound);
        assert_eq!(node.keeper.wakes(node.now), Some(node.now + Duration::from_secs(pause)));
        let told = node.told(APP);
        assert_eq!((told.state, told.attempts), (NodeImageState::Failed, Some(attempt as u32 + 1)));
        assert_eq!((told.reason.as_deref(), told.message.as_deref()), (Some("ImageNotFound"), Some("why")));
        node.pass(pause - 1);
        assert!(node.pulls().is_empty());
        node.pass(1);
    }
    assert_eq!(node.pulls(), [APP]);
    assert_eq!(node.state(APP), NodeImageState::Failed, "it has failed until it comes");
    node.fail(APP, Reason::ImageNotFound);
    assert_eq!(node.keeper.wakes(node.now), None);
    node.pass(100_000);
    assert!(node.pulls().is_empty());
    assert!(node.told(APP).message.unwrap().contains("given up"));
    let report = node.keeper.report().unwrap();
    assert_eq!((report.status.failed, report.settled), (1, true));
    assert_eq!(report.failing, [(image(APP), Reason::ImageNotFound)]);
}

#[test]
fn no_retries_means_one_attempt() {
    let mut node = Node::new(vec![Wish { retries: 0, ..wish(APP) }]);
    node.pulls();
    node.fail(APP, Reason::RegistryUnavailable);
    node.pass(100_000);
    assert!(node.pulls().is_empty());
}

#[test]
fn what_was_given_up_is_tried_anew_when_its_cache_or_its_digest_changes() {
    let mut node = Node::new(vec![Wish { retries: 0, ..wish(APP) }]);
    node.pulls();
    node.fail(APP, Reason::ImageNotFound);
    node.keeper.want(wishes(vec![Wish { retries: 0, ..wish(APP) }, wish(DB)]));
    assert_eq!(node.pulls(), [DB], "nothing has changed for it");
    let edit = Wanter { generation: Some(2), ..wanter("shop/web", 2) };
    let edited = Wish { wanted_by: vec![Arc::new(edit)], retries: 0, ..wish(APP) };
    node.keeper.want(wishes(vec![edited.clone()]));
    assert_eq!(node.pulls(), [APP]);
    assert_eq!(node.told(APP).reason, None, "what was before is forgotten");
    node.fail(APP, Reason::ImageNotFound);
    node.keeper.want(wishes(vec![Wish { digest: Some(digest("new")), ..edited }]));
    assert_eq!(node.pulls(), [APP]);
}

#[test]
fn what_was_given_up_is_tried_anew_after_a_refresh_and_what_rests_goes_on_resting() {
    let at = |time: &str, retries| {
        let refreshed = serde_json::from_value(serde_json::json!(time)).unwrap();
        let one = Wanter { refreshed: Some(refreshed), ..wanter("shop/web", 2) };
        wishes(vec![Wish { wanted_by: vec![Arc::new(one)], retries, ..wish(APP) }])
    };
    let mut node = Node::new(Vec::new());
    node.keeper.want(at("2026-01-01T00:00:00Z", 1));
    assert_eq!(node.pulls(), [APP]);
    node.fail(APP, Reason::ImageNotFound);
    node.keeper.want(at("2026-01-01T00:05:00Z", 1));
    assert!(node.pulls().is_empty());
    node.pass(10);
    assert_eq!(node.pulls(), [APP]);
    node.fail(APP, Reason::ImageNotFound);
    node.keeper.want(at("2026-01-01T00:05:00Z", 1));
    node.pass(1000);
    assert!(node.pulls().is_empty());
    node.keeper.want(at("2026-01-01T00:10:00Z", 1));
    assert_eq!(node.pulls(), [APP]);
}

#[test]
fn what_needs_a_credential_is_not_tried_again() {
    let mut node = Node::new(vec![wish(APP)]);
    node.pulls();
    // Larder's own store tries with the credential that there may be.
    node.fail(APP, Reason::CredentialNeeded);
    assert_eq!(node.state(APP), NodeImageState::Wanted);
    assert_eq!(node.pulls(), [APP]);
    node.fail_by(Way::Store, APP, Reason::CredentialNeeded);
    node.pass(100_000);
    assert!(node.pulls().is_empty());
    assert_eq!(node.told(APP).reason.as_deref(), Some("CredentialNeeded"));
    assert_eq!(node.keeper.report().unwrap().status.failed, 1);
}

#[test]
fn a_runtime_that_is_away_uses_up_no_retries() {
    let mut node = Node::new(vec![Wish { retries: 0, ..wish(APP) }]);
    for _ in 0..5 {
        assert_eq!(node.pulls(), [APP]);
        node.fail(APP, Reason::RuntimeUnavailable);
        assert!(node.pulls().is_empty(), "it has a pause");
        node.pass(10);
    }
    node.keeper.lose_sight("it is away".into());
    assert!(node.pulls().is_empty() && node.keeper.tidying().is_empty());
    assert_eq!(node.keeper.report().unwrap().blind.as_deref(), Some("it is away"));
    node.see();
    assert_eq!(node.pulls(), [APP]);
}

#[test]
fn a_pull_that_brings_the_old_digest_has_failed() {
    let mut node = Node::new(vec![Wish { digest: Some(digest("new")), ..wish(APP) }]);
    node.pulls();
    node.come(APP, "old");
    let told = node.told(APP);
    assert_eq!((told.state, told.reason.as_deref()), (NodeImageState::Failed, Some("TagDiffers")));
    assert!(told.message.unwrap().contains(&digest("old").to_string()));
    assert!(node.pulls().is_empty());
    node.pass(10);
    assert_eq!(node.pulls(), [APP]);
    node.come(APP, "new");
    assert_eq!(node.state(APP), NodeImageState::Warm);
}

#[test]
fn what_somebody_removes_comes_back_after_a_pause() {
    let mut node = Node::new(vec![wish(APP)]);
    node.pulls();
    node.come(APP, "app");
    node.here.clear();
    node.see();
    assert_eq!(node.told(APP).reason.as_deref(), Some("Removed"));
    assert!(node.pulls().is_empty());
    node.pass(10);
    assert_eq!(node.pulls(), [APP]);
    // Removed again at once: the pause grows.
    node.keeper.pulled(&image(APP), Way::Public, RUNTIME, node.now);
    node.see();
    assert_eq!(node.keeper.wakes(node.now), Some(node.now + Duration::from_secs(20)));
}

#[test]
fn what_stayed_for_long_has_got_over_its_failures() {
    let mut node = Node::new(vec![Wish { retries: 1, ..wish(APP) }]);
    node.pulls();
    node.fail(APP, Reason::RegistryUnavailable);
    node.pass(10);
    node.pulls();
    node.come(APP, "app");
    node.pass(600);
    node.see();
    node.here.clear();
    node.see();
    assert_eq!(node.keeper.wakes(node.now), Some(node.now + Duration::from_secs(10)));
}

#[test]
fn a_full_disk_ends_prefetch_and_room_lets_it_go_on() {
    let mut node = Node::new(vec![wish(APP), wish(DB)]);
    node.here = vec![held(&[APP], "app")];
    let full = Disk { capacity: 100 * GIB, available: 15 * GIB - 1, margin: 15 * GIB };
    node.keeper.see(node.here.clone(), full, node.now);
    assert!(node.pulls().is_empty());
    assert_eq!(node.state(APP), NodeImageState::Warm);
    let told = node.told(DB);
    assert_eq!((told.state, told.reason.as_deref(), told.attempts), (NodeImageState::Failed, Some("DiskFull"), None));
    node.see();
    assert_eq!(node.state(DB), NodeImageState::Wanted, "no retry was used up");
    assert_eq!(node.pulls(), [DB]);
}

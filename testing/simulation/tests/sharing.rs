//! What must hold of nodes that share, at sizes that take seconds to simulate. The clock is the simulation's own.

use std::time::Duration;

use simulation::{Churn, Figures, Scenario, Stale, run};

fn simulate(scenario: &Scenario) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    run(runtime.expect("there are threads"), scenario)
}

fn small(nodes: usize) -> Scenario {
    Scenario { blob: (32 << 20) + 77, ..Scenario::new(nodes) }
}

#[test]
fn the_same_seed_has_the_same_outcome() {
    let scenario = small(40).uneven().churning();
    let first = simulate(&scenario);
    for _ in 0..3 {
        assert_eq!(simulate(&scenario), first, "each message at the same time");
    }
    assert_ne!(simulate(&Scenario { seed: 2, ..scenario }).fingerprint, first.fingerprint);
}

#[test]
fn the_origin_sends_each_byte_once_and_so_does_each_zone() {
    for (nodes, zones) in [(2, 1), (30, 1), (30, 3), (240, 3)] {
        let figures = simulate(&Scenario { zones, ..small(nodes) });
        assert_eq!((figures.nodes, figures.failed, figures.fell_back), (nodes, 0, 0));
        assert!(figures.origin <= 1.02, "{nodes} nodes: {figures:?}");
        assert!(figures.into_zone <= 1.05, "{nodes} nodes: {figures:?}");
    }
}

// Each of them ends as something that the others still know to have had the blob, or to be home to its pieces.
#[test]
fn nodes_that_go_take_the_blob_from_nobody() {
    let churn = Churn { share: 0.2, within: Duration::from_millis(600), heard_within: Duration::from_secs(2) };
    let figures = simulate(&Scenario { churn: Some(churn), ..small(60) });
    assert_eq!((figures.nodes, figures.failed), (60, 0), "as many come as go");
    assert!(figures.origin <= 2.0, "{figures:?}");
}

#[test]
fn old_lists_keep_the_blob_from_nobody() {
    let figures = simulate(&Scenario { stale: Some(Stale { share: 0.5, differs: 0.2 }), ..small(60) });
    assert_eq!((figures.nodes, figures.failed), (60, 0));
    assert!(figures.origin <= 2.0, "{figures:?}");
}

//! Whom to pass over.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::time::{Duration, Instant};

use peers::{Admission, Changes, Health, NodeId, Reason};

const SECOND: Duration = Duration::from_secs(1);

fn node(name: &str) -> NodeId {
    NodeId::from(name)
}

fn until(health: &Health, id: &NodeId) -> Instant {
    health.passed_over().into_iter().find(|passed| passed.id == *id).expect("it is passed over").until
}

#[test]
fn a_dead_node_is_passed_over_and_tried_again_by_one() {
    let (health, a, start) = (Health::seeded(1), node("a"), Instant::now());
    assert_eq!(health.admit(&a, start), Admission::Good);
    health.failed(&a, Reason::Dead, start);
    assert_eq!(health.admit(&a, start), Admission::PassedOver(Reason::Dead));
    assert_eq!(health.admit(&node("b"), start), Admission::Good);
    let due = until(&health, &a);
    assert_eq!(health.admit(&a, due - Duration::from_millis(1)), Admission::PassedOver(Reason::Dead));
    assert_eq!(health.admit(&a, due), Admission::Trial);
    assert_eq!(health.admit(&a, due), Admission::PassedOver(Reason::Dead), "one trial at a time");
    health.succeeded(&a);
    assert_eq!(health.admit(&a, due), Admission::Good);
    assert!(health.passed_over().is_empty());
}

#[test]
fn pauses_double_from_a_second_to_a_minute() {
    let (health, a, mut now) = (Health::seeded(2), node("a"), Instant::now());
    for base in [1, 2, 4, 8, 16, 32, 40, 40] {
        health.failed(&a, Reason::Slow, now);
        let pause = until(&health, &a) - now;
        let base = SECOND * base;
        assert!(pause >= base && pause <= base.mul_f64(1.5), "{pause:?} is not about {base:?}");
        assert!(pause <= SECOND * 60);
        now = until(&health, &a);
        assert_eq!(health.admit(&a, now), Admission::Trial);
    }
    health.succeeded(&a);
    health.failed(&a, Reason::Dead, now);
    assert!(until(&health, &a) - now <= SECOND.mul_f64(1.5), "one that was well begins anew");
}

#[test]
fn pauses_are_of_different_lengths() {
    let (health, now) = (Health::seeded(3), Instant::now());
    let ids: Vec<NodeId> = (0..50).map(|index| node(&format!("node-{index}"))).collect();
    ids.iter().for_each(|id| health.failed(id, Reason::Dead, now));
    let mut pauses: Vec<Duration> = ids.iter().map(|id| until(&health, id) - now).collect();
    pauses.sort();
    pauses.dedup();
    assert!(pauses.len() > 40 && pauses[pauses.len() - 1] - pauses[0] > SECOND / 4);
}

#[test]
fn many_failures_of_one_outage_make_one_pause() {
    let (health, a, now) = (Health::seeded(4), node("a"), Instant::now());
    health.failed(&a, Reason::Dead, now);
    let due = until(&health, &a);
    (0..16).for_each(|_| health.failed(&a, Reason::Dead, now + SECOND / 2));
    assert_eq!(until(&health, &a), due);
}

#[test]
fn a_trial_that_was_given_up_is_made_by_another() {
    let (health, a, now) = (Health::seeded(5), node("a"), Instant::now());
    health.failed(&a, Reason::Dead, now);
    let due = until(&health, &a);
    assert_eq!(health.admit(&a, due), Admission::Trial);
    assert!(!health.admit(&a, due + SECOND * 9).may_ask());
    assert_eq!(health.admit(&a, due + SECOND * 10), Admission::Trial);
}

#[test]
fn a_liar_is_shunned_for_ten_minutes_whatever_else_it_does() {
    let (health, a, now) = (Health::seeded(6), node("a"), Instant::now());
    health.failed(&a, Reason::Dead, now);
    health.lied(&a, now);
    health.succeeded(&a);
    health.failed(&a, Reason::Slow, now + SECOND);
    assert_eq!(health.admit(&a, now + SECOND * 599), Admission::PassedOver(Reason::Lying));
    let due = now + SECOND * 600;
    assert_eq!(health.admit(&a, due), Admission::Trial);
    health.failed(&a, Reason::Lying, due);
    assert_eq!(health.admit(&a, due + SECOND * 599), Admission::PassedOver(Reason::Lying), "it lied again");
    assert_eq!(health.admit(&a, due + SECOND * 600), Admission::Trial);
    health.succeeded(&a);
    assert_eq!(health.admit(&a, due), Admission::Good);
}

#[test]
fn a_liar_that_is_dead_at_its_trial_is_tried_again_soon() {
    let (health, a, now) = (Health::seeded(7), node("a"), Instant::now());
    health.lied(&a, now);
    let mut due = now + SECOND * 600;
    for base in [1, 2, 4] {
        assert_eq!(health.admit(&a, due), Admission::Trial);
        health.failed(&a, Reason::Dead, due);
        assert_eq!(health.admit(&a, due), Admission::PassedOver(Reason::Lying));
        let pause = until(&health, &a) - due;
        assert!(pause >= SECOND * base && pause <= (SECOND * base).mul_f64(1.5));
        due += pause;
    }
}

#[test]
fn who_leaves_or_moves_is_forgotten_but_for_liars() {
    let (health, now) = (Health::seeded(8), Instant::now());
    let (gone, moved, liar, other) = (node("gone"), node("moved"), node("liar"), node("other"));
    [&gone, &moved, &other].into_iter().for_each(|id| health.failed(id, Reason::Dead, now));
    health.lied(&liar, now);
    let changes =
        Changes { removed: vec![gone.clone(), liar.clone()], changed: vec![moved.clone()], ..Changes::default() };
    health.follow(&changes, now);
    assert_eq!(health.admit(&gone, now), Admission::Good);
    assert_eq!(health.admit(&moved, now), Admission::Good);
    assert_eq!(health.admit(&liar, now), Admission::PassedOver(Reason::Lying));
    assert_eq!(health.admit(&other, now), Admission::PassedOver(Reason::Dead));
    health.follow(&Changes::default(), now + SECOND * 1200);
    assert!(health.passed_over().iter().all(|passed| passed.id != liar), "what is over is not kept for ever");
}

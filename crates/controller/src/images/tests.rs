use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sample::at;

const HOUR: i64 = 3600;

fn later(seconds: i64) -> Time {
    Time(Timestamp::from_second(at(0, 0).0.as_second() + seconds).unwrap())
}

fn image(text: &str) -> Image {
    text.parse().unwrap()
}

/// What is to be done after so many seconds; then it is done.
fn look(index: &mut Index, holdings: &Holdings, seconds: i64) -> Images {
    let images = index.images(&HashMap::new(), holdings, &later(seconds));
    for change in images.changes.clone() {
        let name = change.name();
        match change {
            Change::Make(image, said) | Change::Write(image, said) => {
                index.apply_known(name, Some(KnownImage { image, generation: None, said: Some(*said) }));
            }
            Change::Delete(name) => index.apply_known(name, None),
        }
    }
    images
}

fn kinds(images: &Images) -> Vec<(&'static str, String)> {
    let kind = |change: &Change| match change {
        Change::Make(image, _) => ("make", image.to_string()),
        Change::Write(image, _) => ("write", image.to_string()),
        Change::Delete(name) => ("delete", name.clone()),
    };
    images.changes.iter().map(kind).collect()
}

fn status(index: &Index, text: &str) -> CachedImageStatus {
    index.known()[&cached_image_name(&image(text))].said.as_ref().unwrap().whole()
}

fn nowhere() -> Holdings {
    Holdings::Said(at(0, 0), HashMap::new())
}

#[test]
fn an_image_becomes_known_and_counts_follow_without_needless_writes() {
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    assert_eq!(kinds(&look(&mut index, &nowhere(), 0)), [("make", "quay.io/a:1".to_owned())]);
    assert_eq!(status(&index, "quay.io/a:1").last_used, Some(later(0)));
    // It is used all the time, which need not be written all the time.
    for seconds in [5, 600, HOUR - 1] {
        assert_eq!(kinds(&look(&mut index, &nowhere(), seconds)), []);
    }
    assert_eq!(kinds(&look(&mut index, &nowhere(), HOUR)), [("write", "quay.io/a:1".to_owned())]);
    assert_eq!(status(&index, "quay.io/a:1").last_used, Some(later(HOUR)));
    index.pod("shop/b", &["quay.io/a:1"]);
    look(&mut index, &nowhere(), HOUR + 10);
    assert_eq!(status(&index, "quay.io/a:1").pods, 2);
    index.no_pod("shop/a");
    index.no_pod("shop/b");
    look(&mut index, &nowhere(), HOUR + 20);
    let now = status(&index, "quay.io/a:1");
    assert_eq!((now.pods, now.last_used, now.unused_since), (0, Some(later(HOUR + 20)), Some(later(HOUR + 20))));
    assert_eq!(kinds(&look(&mut index, &nowhere(), HOUR + 900)), []);
}

#[test]
fn what_nothing_names_expires_as_the_policy_says() {
    let mut index = Index::default();
    index.rules(json!({"retention": {"unusedFor": "2h", "pins": ["quay.io/pinned:1"]}}));
    index.pod("shop/a", &["quay.io/a:1"]);
    index.deployment("shop/web", json!({}), &["quay.io/w:1"]);
    index.tells("n1", true, &[("quay.io/a:1", "Present")]);
    let told = look(&mut index, &nowhere(), 0).told;
    assert_eq!(told.unused_for, Some(Duration::from_secs(7200)));
    assert_eq!(told.budget, Some(Budget::default()));
    assert!(told.images.iter().all(|one| one.keep));
    assert_eq!(status(&index, "quay.io/a:1").expires, None);
    index.no_pod("shop/a");
    index.no_deployment("shop/web");
    let told = look(&mut index, &nowhere(), 100).told;
    let kept: Vec<_> = told.images.iter().map(|one| (one.image.to_string(), one.keep)).collect();
    assert_eq!(kept, [("quay.io/a:1".into(), false), ("quay.io/pinned:1".into(), true), ("quay.io/w:1".into(), false)]);
    for image in ["quay.io/a:1", "quay.io/w:1"] {
        assert_eq!(status(&index, image).expires, Some(later(100 + 7200)));
    }
    // A pod that comes back in time puts it off.
    index.pod("shop/a", &["quay.io/a:1"]);
    look(&mut index, &nowhere(), 7000);
    assert_eq!((status(&index, "quay.io/a:1").expires, status(&index, "quay.io/a:1").unused_since), (None, None));
    index.no_pod("shop/a");
    assert_eq!(look(&mut index, &nowhere(), 7299).changes.len(), 1);
    let gone = cached_image_name(&image("quay.io/w:1"));
    assert_eq!(kinds(&look(&mut index, &nowhere(), 7300)), [("delete", gone)]);
    look(&mut index, &nowhere(), 7299 + 7200);
    assert_eq!(index.known().len(), 1, "what is pinned stays");
}

#[test]
fn without_a_time_an_image_is_forgotten_when_nobody_has_it() {
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    index.tells("n1", true, &[("quay.io/a:1", "Present")]);
    let here = Holding { whole: true, bytes: 7, platforms: vec!["linux/amd64".into()], ..Holding::default() };
    let has = Holdings::Said(at(0, 0), HashMap::from([(image("quay.io/a:1"), here)]));
    look(&mut index, &has, 0);
    let now = status(&index, "quay.io/a:1");
    assert_eq!(
        (now.held.registry, now.bytes, now.held.nodes, &*now.platforms),
        (true, Some(7), 1, &["linux/amd64".to_owned()][..])
    );
    index.no_pod("shop/a");
    look(&mut index, &has, 1);
    look(&mut index, &has, 10 * HOUR);
    index.tells("n1", true, &[]);
    look(&mut index, &has, 10 * HOUR);
    assert_eq!(status(&index, "quay.io/a:1").held.nodes, 0);
    assert_eq!(kinds(&look(&mut index, &nowhere(), 10 * HOUR)).len(), 1);
    assert!(index.known().is_empty());
    // What nobody has is known for an hour all the same.
    index.deployment("shop/web", json!({}), &["quay.io/w:1"]);
    look(&mut index, &nowhere(), 0);
    index.no_deployment("shop/web");
    look(&mut index, &nowhere(), 10);
    look(&mut index, &nowhere(), 10 + HOUR - 1);
    assert_eq!(index.known().len(), 1);
    look(&mut index, &nowhere(), 10 + HOUR);
    assert!(index.known().is_empty());
}

#[test]
fn what_the_registry_said_counts_while_it_says_nothing() {
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    let here = Holding { whole: true, bytes: 7, ..Holding::default() };
    look(&mut index, &Holdings::Said(at(0, 0), HashMap::from([(image("quay.io/a:1"), here)])), 0);
    assert_eq!(kinds(&look(&mut index, &Holdings::Unknown, 10)), []);
    assert!(status(&index, "quay.io/a:1").held.registry);
    look(&mut index, &nowhere(), 20);
    assert_eq!((status(&index, "quay.io/a:1").held.registry, status(&index, "quay.io/a:1").bytes), (false, Some(7)));
}

#[test]
fn what_a_tag_means_comes_from_whoever_asked_last_and_is_written_when_it_moves() {
    let digest = |letter: &str| -> Digest { format!("sha256:{}", letter.repeat(64)).parse().unwrap() };
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    let fact = |letter, seconds| Fact {
        digest: Some(digest(letter)),
        checked: Some(later(seconds)),
        fresh_for: Some(Duration::from_secs(300)),
        failure: None,
    };
    let said = |letter, age, when| {
        let holding = Holding { digest: Some((digest(letter), Duration::from_secs(age))), ..Holding::default() };
        Holdings::Said(later(when), HashMap::from([(image("quay.io/a:1"), holding)]))
    };
    let mut look = |facts: Option<Fact>, holdings: &Holdings, seconds| {
        let facts = facts.map(|fact| (image("quay.io/a:1"), fact)).into_iter().collect();
        let changes = index.images(&facts, holdings, &later(seconds)).changes;
        let changed = !changes.is_empty();
        for change in changes {
            if let Change::Make(image, said) | Change::Write(image, said) = change {
                let name = cached_image_name(&image);
                index.apply_known(name, Some(KnownImage { image, generation: None, said: Some(*said) }));
            }
        }
        let status = status(&index, "quay.io/a:1");
        (changed, status.digest.map(|digest| digest[7..8].to_owned()), status.last_checked, status.fresh_until)
    };
    let some = |letter: &str, checked, until| (Some(letter.to_owned()), Some(later(checked)), until);
    let (_, digest, checked, until) = look(Some(fact("a", 10)), &said("b", 20, 20), 20);
    assert_eq!((digest, checked, until), some("a", 10, Some(later(310))));
    // The registry asked later.
    let (_, digest, checked, until) = look(Some(fact("a", 10)), &said("b", 5, 40), 40);
    assert_eq!((digest, checked, until), some("b", 35, None));
    // The same again is no news for an hour; nor is what an older question gave.
    assert!(!look(Some(fact("b", 700)), &nowhere(), 700).0);
    assert!(!look(Some(fact("a", 30)), &nowhere(), 710).0);
    let (changed, digest, checked, _) = look(Some(fact("b", 35 + HOUR)), &nowhere(), 35 + HOUR);
    assert!(changed && digest.as_deref() == Some("b") && checked == Some(later(35 + HOUR)));
}

#[test]
fn whether_the_origin_has_it_is_told() {
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    let failure = |reason| crate::Unresolved {
        reason,
        message: "no such tag".into(),
        private: false,
        definite: true,
        pause: Duration::ZERO,
    };
    for (reason, expected) in [("ImageNotFound", "False"), ("CredentialNeeded", "Unknown")] {
        let fact = Fact { failure: Some(failure(reason)), ..Fact::default() };
        let facts = HashMap::from([(image("quay.io/a:1"), fact)]);
        let images = index.images(&facts, &nowhere(), &at(0, 0));
        let Change::Make(_, said) = &images.changes[0] else { panic!("it is new") };
        let condition = &said.status.conditions[0];
        assert_eq!((&*condition.status, &*condition.reason), (expected, reason));
    }
}

#[test]
fn what_others_made_goes() {
    let mut index = Index::default();
    index.pod("shop/a", &["quay.io/a:1"]);
    let wrong = KnownImage { image: image("quay.io/a:1"), generation: None, said: None };
    index.apply_known("by-hand".into(), Some(wrong));
    let kinds = kinds(&look(&mut index, &nowhere(), 0));
    assert_eq!(kinds, [("make", "quay.io/a:1".to_owned()), ("delete", "by-hand".to_owned())]);
}

#[test]
fn of_too_many_images_those_stay_that_most_use_and_all_are_kept() {
    let mut index = Index::default();
    let names: Vec<String> = (0..MOST + 10).map(|n| format!("quay.io/n{n}:1")).collect();
    for (n, name) in names.iter().enumerate() {
        index.pod(&format!("shop/p{n}"), &[name]);
        if n >= 10 {
            index.pod(&format!("shop/q{n}"), &[name]);
        }
    }
    let images = look(&mut index, &nowhere(), 0);
    assert_eq!((images.left_out, index.known().len()), (10, MOST));
    assert!(names[..10].iter().all(|name| !index.known().contains_key(&cached_image_name(&image(name)))));
    assert_eq!(images.told.images.iter().filter(|one| one.keep).count(), MOST + 10);
    assert_eq!(look(&mut index, &nowhere(), 5).changes.len(), 0);
}

#[derive(Clone, Debug)]
enum Event {
    Pod(u8, u8),
    NoPod(u8),
    Workload(u8, u8),
    NoWorkload(u8),
    Have(u8, bool),
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6u8, 0..4u8).prop_map(|(pod, image)| Event::Pod(pod, image)),
        (0..6u8).prop_map(Event::NoPod),
        (0..3u8, 0..4u8).prop_map(|(workload, image)| Event::Workload(workload, image)),
        (0..3u8).prop_map(Event::NoWorkload),
        (0..4u8, any::<bool>()).prop_map(|(image, has)| Event::Have(image, has)),
        (1..5000u16).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever comes and goes: what is named is known and kept, with the right count, and nothing is written twice.
    #[test]
    fn what_is_in_use_is_known_and_kept(events in proptest::collection::vec(event(), 1..60), unused in proptest::option::of(1..200u32)) {
        let mut index = Index::default();
        if let Some(minutes) = unused {
            index.rules(json!({"retention": {"unusedFor": format!("{minutes}m")}}));
        }
        let name = |n: u8| format!("quay.io/n{n}:1");
        let (mut pods, mut workloads, mut now) = (HashMap::new(), HashMap::new(), 0);
        for event in events {
            match event {
                Event::Pod(pod, image) => {
                    index.pod(&format!("shop/p{pod}"), &[&name(image)]);
                    pods.insert(pod, image);
                }
                Event::NoPod(pod) => {
                    index.no_pod(&format!("shop/p{pod}"));
                    pods.remove(&pod);
                }
                Event::Workload(workload, image) => {
                    index.deployment(&format!("shop/w{workload}"), json!({}), &[&name(image)]);
                    workloads.insert(workload, image);
                }
                Event::NoWorkload(workload) => {
                    index.no_deployment(&format!("shop/w{workload}"));
                    workloads.remove(&workload);
                }
                Event::Have(image, true) => index.tells("n1", true, &[(&name(image), "Present")]),
                Event::Have(_, false) => index.tells("n1", true, &[]),
                Event::Wait(seconds) => now += i64::from(seconds),
            }
            let told = look(&mut index, &nowhere(), now).told;
            for n in 0..4 {
                let count = pods.values().filter(|image| **image == n).count();
                let templates = workloads.values().filter(|image| **image == n).count();
                let kept = told.images.iter().any(|one| one.keep && one.image == image(&name(n)));
                prop_assert_eq!(kept, count + templates > 0);
                let known = index.known().get(&cached_image_name(&image(&name(n))));
                prop_assert!(known.is_some() || count + templates == 0);
                if let Some(status) = known.and_then(|known| known.said.as_ref()).map(|said| &said.status) {
                    prop_assert_eq!((status.pods as usize, status.workloads as usize), (count, templates));
                    prop_assert!(status.expires.as_ref().is_none_or(|expires| *expires > later(now)));
                }
            }
            prop_assert_eq!(look(&mut index, &nowhere(), now).changes.len(), 0);
        }
    }
}

/// Five thousand nodes that have sixty of a thousand images each, and a hundred thousand pods: what is followed stays small, and a look at all
/// of it takes a moment.
#[test]
fn a_large_cluster_is_looked_at_in_a_moment() {
    let mut index = Index::default();
    let names: Vec<String> = (0..1000).map(|n| format!("registry.example/team-{}/app-{n}:1.{n}", n % 40)).collect();
    let digests: Vec<String> = (0..1000).map(|n| format!("sha256:{n:064x}")).collect();
    for node in 0..5000 {
        let has = |n: usize| (node * 7 + n * 13) % 1000;
        let images: Vec<(&str, &str)> = (0..60).map(|n| (&*names[has(n)], &*digests[has(n)])).collect();
        index.tells_digests(&format!("node-{node}"), &images);
    }
    for pod in 0..100_000 {
        let namespace = pod % 50;
        index.pod(&format!("ns-{namespace}/app-{}-{pod:010}", pod % 1000), &[&names[pod % 1000]]);
    }
    let begun = std::time::Instant::now();
    let images = index.images(&HashMap::new(), &nowhere(), &at(0, 0));
    let took = begun.elapsed();
    println!("a look took {} ms", took.as_millis());
    assert_eq!((images.changes.len(), images.told.images.len()), (1000, 1000));
    assert!(took < Duration::from_secs(5), "a look took {} ms", took.as_millis());
}

//! Certificates come, are renewed and change their authority, and at no moment does somebody not believe whom it should.

use std::time::{Duration, SystemTime};

use certificates::{Data, Found, HOLDERS, Standing, Step, Terms, plan};
use peers::{Authority, Certificate, Files, Identity, Role};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn start() -> SystemTime {
    // A whole second, as certificates and annotations have it.
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The Secrets of a cluster.
#[derive(Clone, Default)]
struct Secrets {
    authority: Found,
    holders: [Found; HOLDERS.len()],
}

impl Secrets {
    fn at(now: SystemTime) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.look(now);
        secrets
    }

    /// Writes what shall be there, and tells what is new.
    fn look(&mut self, now: SystemTime) -> Vec<Step> {
        let plan =
            plan(Standing::of(&self.authority, &self.holders), &Terms::default(), now).expect("the cryptography works");
        self.authority.data = plan.authority;
        for (found, (data, since)) in self.holders.iter_mut().zip(plan.holders) {
            *found = Found { data, trusted_since: Some(since) };
        }
        plan.steps
    }
}

fn certificates(data: &Data, key: &str) -> Vec<Certificate> {
    Certificate::all(std::str::from_utf8(&data[key]).expect("PEM is text")).expect("it is PEM")
}

/// Whether one who has mounted `one` lets in one who has mounted `other`.
fn believes(one: &Found, other: &Found, now: SystemTime) -> bool {
    let shown = &certificates(&other.data, "tls.crt")[0];
    let trusted = certificates(&one.data, "ca.crt");
    shown.until() > now && trusted.iter().any(|authority| authority.until() > now && shown.signed_by(authority))
}

fn all_believe(versions: &[&Secrets], now: SystemTime) -> bool {
    let pods: Vec<&Found> = versions.iter().flat_map(|secrets| &secrets.holders).collect();
    pods.iter().all(|one| pods.iter().all(|other| believes(one, other, now)))
}

#[test]
fn the_first_look_makes_everything_and_the_next_nothing() {
    let mut secrets = Secrets::default();
    let steps = secrets.look(start());
    assert_eq!(
        steps,
        [
            Step::Announced,
            Step::TookOver,
            Step::Renewed("nodes"),
            Step::Renewed("registry"),
            Step::Renewed("controller")
        ]
    );
    let before = secrets.clone();
    assert_eq!(secrets.look(start() + HOUR), []);
    assert_eq!(secrets.authority.data, before.authority.data);
    for (found, before) in secrets.holders.iter().zip(&before.holders) {
        assert_eq!((&found.data, found.trusted_since), (&before.data, before.trusted_since));
    }
}

#[test]
fn nobody_holds_more_than_its_own() {
    let secrets = Secrets::at(start());
    let keys = |data: &Data| data.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&secrets.authority.data), ["ca.crt", "ca.key"]);
    for (found, (role, _)) in secrets.holders.iter().zip(HOLDERS) {
        assert_eq!(keys(&found.data), ["ca.crt", "tls.crt", "tls.key"]);
        assert_eq!(certificates(&found.data, "tls.crt")[0].roles(), [role]);
    }
}

/// What `larder node` and `larder registry` read from the folders where the Secrets are mounted.
#[test]
fn larder_takes_them() {
    let secrets = Secrets::at(SystemTime::now());
    let folder = tempfile::TempDir::new().unwrap();
    for (key, value) in &secrets.holders[0].data {
        std::fs::write(folder.path().join(key), value).unwrap();
    }
    let identity = Identity::load(Files::in_folder(folder.path())).unwrap();
    assert_eq!(identity.roles(), [Role::Node]);
    assert!(identity.expiry().certificate > SystemTime::now() + 29 * DAY);
}

#[test]
fn certificates_are_renewed_at_two_thirds() {
    let mut secrets = Secrets::at(start());
    assert_eq!(secrets.look(start() + 20 * DAY - HOUR), []);
    assert_eq!(
        secrets.look(start() + 20 * DAY),
        [Step::Renewed("nodes"), Step::Renewed("registry"), Step::Renewed("controller")]
    );
    assert_eq!(certificates(&secrets.holders[0].data, "ca.crt").len(), 1, "the authority is the same");
}

/// Through three years, each pod with whatever version of the Secrets the last half of the overlap had.
#[test]
fn no_version_of_the_last_hours_is_refused() {
    let mut secrets = Secrets::at(start());
    let mut versions = vec![secrets.clone()];
    let mut steps = Vec::new();
    let mut now = start();
    while now < start() + 3 * 365 * DAY {
        now += 6 * HOUR;
        let done = secrets.look(now);
        // Two steps of six hours are half of a day's overlap.
        versions.push(secrets.clone());
        if versions.len() > 3 {
            versions.remove(0);
        }
        if !done.is_empty() || !steps.is_empty() {
            assert!(all_believe(&versions.iter().collect::<Vec<_>>(), now), "{done:?} at {now:?}");
        }
        steps = done.clone();
        let certificates = certificates(&secrets.holders[0].data, "ca.crt").len();
        assert!((1..=2).contains(&certificates), "{certificates} authorities are believed");
        if done.contains(&Step::TookOver) {
            assert!(done.contains(&Step::Renewed("nodes")) && done.contains(&Step::Renewed("registry")), "{done:?}");
        }
    }
    let first = &Secrets::at(start()).authority;
    assert!(secrets.authority.data != first.data);
}

/// The order of one change of the authority, and how long each part of it takes.
#[test]
fn a_new_authority_is_believed_before_it_signs_and_the_old_one_after() {
    let mut secrets = Secrets::at(start());
    let mut told = Vec::new();
    let mut now = start();
    while now < start() + 260 * DAY {
        now += HOUR;
        let done = secrets.look(now).into_iter().filter(|step| !matches!(step, Step::Renewed(_)));
        told.extend(done.map(|step| (now, step)));
    }
    let steps: Vec<Step> = told.iter().map(|(_, step)| *step).collect();
    assert_eq!(steps, [Step::Announced, Step::TookOver, Step::Dropped]);
    let age = |at: usize| told[at].0.duration_since(start()).unwrap();
    assert!(age(0) >= 365 * DAY * 2 / 3 && age(0) < 365 * DAY * 2 / 3 + 2 * HOUR);
    assert_eq!(age(1) - age(0), DAY);
    assert_eq!(age(2) - age(1), DAY);
}

#[test]
fn what_is_lost_or_broken_is_made_again_by_the_same_authority() {
    for spoil in [
        (|data: &mut Data| data.clear()) as fn(&mut Data),
        |data| drop(data.insert("tls.key".into(), b"nonsense".to_vec())),
        |data| drop(data.insert("tls.crt".into(), b"\xff\xfe".to_vec())),
        |data| drop(data.remove("ca.crt")),
    ] {
        let mut secrets = Secrets::at(start());
        let before = secrets.clone();
        spoil(&mut secrets.holders[1].data);
        assert_eq!(secrets.look(start() + HOUR), [Step::Renewed("registry")]);
        assert_eq!(secrets.authority.data, before.authority.data);
        assert!(all_believe(&[&before, &secrets], start() + HOUR));
    }
}

#[test]
fn a_certificate_of_another_role_is_not_kept() {
    let mut secrets = Secrets::at(start());
    secrets.holders[0].data = secrets.holders[1].data.clone();
    assert_eq!(secrets.look(start() + HOUR), [Step::Renewed("nodes")]);
}

#[test]
fn when_the_authority_is_lost_another_takes_over_without_haste() {
    let mut secrets = Secrets::at(start());
    secrets.authority = Found::default();
    let before = secrets.clone();
    let mut now = start() + HOUR;
    assert_eq!(secrets.look(now), [Step::Announced]);
    assert!(all_believe(&[&before, &secrets], now));
    let announced = secrets.clone();
    now += DAY;
    assert_eq!(
        secrets.look(now),
        [Step::TookOver, Step::Renewed("nodes"), Step::Renewed("registry"), Step::Renewed("controller")]
    );
    assert!(all_believe(&[&announced, &secrets], now));
    let over = secrets.clone();
    now += DAY;
    assert_eq!(secrets.look(now), [Step::Dropped]);
    assert!(all_believe(&[&over, &secrets], now));
}

#[test]
fn with_nobody_to_sign_what_is_lost_is_signed_by_the_one_who_will() {
    let mut secrets = Secrets::at(start());
    secrets.authority = Found::default();
    secrets.holders[1] = Found::default();
    let now = start() + HOUR;
    assert_eq!(secrets.look(now), [Step::Announced, Step::Renewed("registry")]);
    assert!(all_believe(&[&secrets], now), "all of this version believe each other");
}

/// Who is away for long finds everything ended, and nobody to be careful for.
#[test]
fn after_everything_has_ended_all_is_made_at_once() {
    let mut secrets = Secrets::at(start());
    let now = start() + 400 * DAY;
    let steps = secrets.look(now);
    assert_eq!(steps[..2], [Step::Announced, Step::TookOver]);
    assert!(all_believe(&[&secrets], now));
    assert_eq!(certificates(&secrets.holders[0].data, "ca.crt").len(), 1);
}

/// The authority's Secret is written first; whoever writes may end after it.
#[test]
fn an_end_between_two_writes_loses_nothing() {
    let mut now = start();
    let mut secrets = Secrets::at(now);
    let mut steps = 0;
    while now < start() + 260 * DAY {
        now += 6 * HOUR;
        let before = secrets.clone();
        let done = secrets.look(now);
        if done.is_empty() {
            continue;
        }
        steps += 1;
        for written in 0..HOLDERS.len() {
            let mut half = before.clone();
            half.authority = secrets.authority.clone();
            half.holders[..written].clone_from_slice(&secrets.holders[..written]);
            assert!(all_believe(&[&before, &half], now), "{done:?}, {written} written");
            // The next one goes on from there, days later.
            let later = now + 3 * DAY;
            let stopped = half.clone();
            half.look(later);
            assert!(all_believe(&[&stopped, &half], later), "{done:?}, {written} written, and gone on");
        }
    }
    assert!(steps > 10);
}

/// An authority of the administrator's own, made by `larder certs`, goes on.
#[test]
fn an_authority_that_was_put_there_signs() {
    let authority = Authority::make(365 * DAY, start()).unwrap();
    let entries = [("ca.crt", authority.pem().to_owned()), ("ca.key", authority.key_pem())];
    let data = entries.map(|(key, text)| (key.to_owned(), text.into_bytes())).into();
    let mut secrets = Secrets { authority: Found { data, trusted_since: None }, ..Secrets::default() };
    assert_eq!(secrets.look(start()), [Step::Renewed("nodes"), Step::Renewed("registry"), Step::Renewed("controller")]);
    assert_eq!(&certificates(&secrets.holders[0].data, "ca.crt"), &[authority.certificate().clone()]);
}

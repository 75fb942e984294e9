//! What is said of a node's certificate files.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use node::{Severity, examine_certificates};
use peers::{Leaf, Request, Role, mint};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// A certificate of an authority of this name, good for 100 days from now.
    fn make(&self, authority: &str, name: &str, role: Role) -> PathBuf {
        let leaves = vec![Leaf { name: name.to_owned(), role }];
        let dir = self.0.path().join(authority);
        let request = Request { dir: dir.clone(), leaves, validity: 100 * DAY, ca_validity: 3650 * DAY, force: true };
        mint(&request, SystemTime::now()).unwrap();
        dir.join(name)
    }
}

fn said(folder: &Path, now: SystemTime) -> Vec<(&'static str, Severity, String)> {
    let (_, findings) = examine_certificates(folder, "node-1", now);
    findings.into_iter().map(|one| (one.code, one.severity, one.what)).collect()
}

fn code(folder: &Path) -> &'static str {
    let (identity, findings) = examine_certificates(folder, "node-1", SystemTime::now());
    assert_eq!((identity.is_none(), findings.len(), findings[0].severity), (true, 1, Severity::Error), "{findings:?}");
    assert!(!findings[0].remedy.is_empty());
    findings[0].code
}

#[test]
fn nothing_is_said_of_a_good_one() {
    let place = Place::new();
    let folder = place.make("ca", "node-1", Role::Node);
    let (identity, findings) = examine_certificates(&folder, "node-1", SystemTime::now());
    assert!(identity.is_some());
    assert_eq!(findings, []);
}

#[test]
fn one_that_cannot_be_used_at_all() {
    let place = Place::new();
    let folder = place.make("ca", "node-1", Role::Node);
    let other = place.make("other", "node-1", Role::Node);
    let copy = |file: &str, from: &Path| fs::copy(from.join(file), folder.join(file)).unwrap();

    fs::rename(folder.join("tls.key"), folder.join("away")).unwrap();
    assert_eq!(code(&folder), "certificate-missing");
    fs::create_dir(folder.join("tls.key")).unwrap();
    assert_eq!(code(&folder), "certificate-unreadable");
    fs::remove_dir(folder.join("tls.key")).unwrap();
    copy("tls.key", &other);
    assert_eq!(code(&folder), "certificate-unusable", "the key of another");
    fs::rename(folder.join("away"), folder.join("tls.key")).unwrap();
    copy("ca.crt", &other);
    assert_eq!(code(&folder), "certificate-not-believed");
    assert_eq!(code(&place.make("ca", "registry", Role::Registry)), "certificate-role");
}

#[test]
fn dates_count_by_this_machines_clock() {
    let place = Place::new();
    let folder = place.make("ca", "node-1", Role::Node);
    let now = SystemTime::now();
    let told = |now| said(&folder, now).into_iter().map(|(code, severity, _)| (code, severity)).collect::<Vec<_>>();
    assert_eq!(told(now + 80 * DAY), []);
    assert_eq!(told(now + 95 * DAY), [("certificate-ends-soon", Severity::Warning)]);
    assert_eq!(told(now + 103 * DAY), [("certificate-expired", Severity::Warning)]);
    assert!(said(&folder, now + 103 * DAY)[0].2.contains("expired 3 days ago"));
    assert_eq!(told(now - 5 * DAY), [("certificate-not-yet-valid", Severity::Warning)]);
    let (_, findings) = examine_certificates(&folder, "node-1", now - 5 * DAY);
    assert!(findings[0].remedy.contains("clock of this machine"), "{}", findings[0].remedy);
}

#[test]
fn the_name_of_another_node_is_only_mentioned() {
    let place = Place::new();
    let found = said(&place.make("ca", "node-2", Role::Node), SystemTime::now());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1), ("certificate-name", Severity::Info));
    assert!(found[0].2.contains("\"node-2\"") && found[0].2.contains("\"node-1\""), "{}", found[0].2);
    assert_eq!(said(&place.make("ca", "larder-node", Role::Node), SystemTime::now()), [], "a certificate of all nodes");
}

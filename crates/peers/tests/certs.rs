//! Making certificates.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use peers::{Ca, Files, Identity, Leaf, MintError, Request, Role, mint};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn leaf(name: &str, role: Role) -> Leaf {
    Leaf { name: name.to_owned(), role }
}

fn request(dir: &Path, leaves: &[Leaf]) -> Request {
    Request { dir: dir.to_owned(), leaves: leaves.to_vec(), validity: 90 * DAY, ca_validity: 3650 * DAY, force: false }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn close(one: SystemTime, other: SystemTime) -> bool {
    one.duration_since(other).unwrap_or_else(|error| error.duration()) < Duration::from_secs(2)
}

#[test]
fn an_authority_and_its_leaves_are_made() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let at = dir.path().join("certs");
    let leaves = [leaf("node-a", Role::Node), leaf("registry", Role::Registry)];
    let minted = mint(&request(&at, &leaves), now).unwrap();
    assert_eq!((minted.ca, minted.leaves.len()), (Ca::New, 2));
    for (leaf, files, until) in &minted.leaves {
        assert_eq!(*files, Files::in_folder(at.join(&leaf.name)));
        let identity = Identity::load(files.clone()).unwrap();
        assert_eq!(identity.roles(), [leaf.role]);
        assert!(close(identity.expiry().certificate, now + 90 * DAY) && close(*until, now + 90 * DAY));
        assert!(close(identity.expiry().authority, now + 3650 * DAY));
        assert_eq!((mode(&files.key), mode(&files.cert)), (0o600, 0o644));
        assert_eq!(mode(at.join(&leaf.name)), 0o700);
    }
    assert_eq!((mode(&minted.ca_key), mode(&at)), (0o600, 0o700));
    let left_over = fs::read_dir(&at)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "new"));
    assert_eq!(left_over.count(), 0);
}

#[test]
fn certificates_are_good_from_an_hour_before() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let minted = mint(&request(dir.path(), &[leaf("a", Role::Node)]), now).unwrap();
    for path in [&minted.ca_cert, &minted.leaves[0].1.cert] {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&fs::read(path).unwrap()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(parsed.validity().not_before.timestamp() as u64);
        assert!(close(from, now - Duration::from_secs(3600)));
    }
}

#[test]
fn the_authority_in_the_folder_signs_again() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let first = mint(&request(dir.path(), &[leaf("a", Role::Node)]), now).unwrap();
    let before = (fs::read(&first.ca_cert).unwrap(), fs::read(&first.ca_key).unwrap());
    let second = mint(&request(dir.path(), &[leaf("b", Role::Node)]), now).unwrap();
    assert_eq!(second.ca, Ca::Existing);
    assert_eq!(before, (fs::read(&second.ca_cert).unwrap(), fs::read(&second.ca_key).unwrap()));
    let ca = |files: &Files| fs::read(&files.ca).unwrap();
    assert_eq!(ca(&first.leaves[0].1), ca(&second.leaves[0].1));
}

#[test]
fn nothing_is_overwritten_unless_told() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let first = mint(&request(dir.path(), &[leaf("a", Role::Node)]), now).unwrap();
    let cert = || fs::read(&first.leaves[0].1.cert).unwrap();
    let (before, authority) = (cert(), fs::read(&first.ca_cert).unwrap());
    let mut again = request(dir.path(), &[leaf("b", Role::Node), leaf("a", Role::Node)]);
    assert!(matches!(mint(&again, now), Err(MintError::Exists(path)) if path == first.leaves[0].1.cert));
    assert_eq!(cert(), before);
    assert!(!dir.path().join("b").exists(), "all or nothing");
    again.force = true;
    mint(&again, now).unwrap();
    assert_ne!(cert(), before);
    assert_eq!(fs::read(&first.ca_cert).unwrap(), authority, "an authority is never replaced");
    assert_eq!(mode(&first.leaves[0].1.key), 0o600);
}

#[test]
fn half_an_authority_is_no_authority() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let first = mint(&request(dir.path(), &[]), now).unwrap();
    fs::remove_file(&first.ca_key).unwrap();
    let error = mint(&request(dir.path(), &[leaf("a", Role::Node)]), now).unwrap_err();
    assert!(matches!(error, MintError::HalfAnAuthority { missing, .. } if missing == first.ca_key));
    assert!(!dir.path().join("a").exists());
}

#[test]
fn a_key_of_another_authority_signs_nothing() {
    let (dir, other, now) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), SystemTime::now());
    let first = mint(&request(dir.path(), &[]), now).unwrap();
    let second = mint(&request(other.path(), &[]), now).unwrap();
    fs::copy(&second.ca_key, &first.ca_key).unwrap();
    let error = mint(&request(dir.path(), &[leaf("a", Role::Node)]), now).unwrap_err();
    assert!(matches!(error, MintError::Authority { .. }), "{error}");
    assert!(!dir.path().join("a").exists());
}

#[test]
fn a_leaf_does_not_outlive_its_authority() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let short = Request { ca_validity: 10 * DAY, ..request(dir.path(), &[leaf("a", Role::Node)]) };
    let minted = mint(&short, now).unwrap();
    assert!(close(minted.leaves[0].2, now + 10 * DAY));
    let later = mint(&request(dir.path(), &[leaf("b", Role::Node)]), now + 11 * DAY);
    assert!(matches!(later, Err(MintError::AuthorityExpired(_))));
}

#[test]
fn names_are_never_paths() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", "a/b", "/etc", "-a", "Node", "ca.crt", "ca.key", "a b", &"a".repeat(254)] {
        let result = mint(&request(dir.path(), &[leaf(name, Role::Node)]), SystemTime::now());
        assert!(matches!(result, Err(MintError::Name(_))), "{name:?}");
    }
    let twice = request(dir.path(), &[leaf("a", Role::Node), leaf("a", Role::Registry)]);
    assert!(matches!(mint(&twice, SystemTime::now()), Err(MintError::Twice(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    mint(&request(dir.path(), &[leaf(&"a".repeat(253), Role::Node)]), SystemTime::now()).unwrap();
}

#[test]
fn what_dates_cannot_say_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for validity in [Duration::ZERO, Duration::MAX] {
        let strange = Request { validity, ..request(dir.path(), &[]) };
        assert!(matches!(mint(&strange, SystemTime::now()), Err(MintError::Validity)));
    }
}

//! A Secret that kubelet mounts is replaced by exchanging one link, and new certificates are taken.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use peers::{Authority, Certificate, Files, Identity, Leaf, Role};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Puts files where kubelet does: into a folder of their own, to which `..data` leads.
fn mount(volume: &Path, version: &str, files: &[(&str, &str)]) {
    let folder = volume.join(version);
    fs::create_dir(&folder).expect("the folder can be written");
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("the folder can be written");
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).expect("the folder can be written");
        }
    }
    let new = volume.join("..data_tmp");
    symlink(version, &new).expect("the folder can be written");
    let before = fs::read_link(volume.join("..data")).ok();
    fs::rename(new, volume.join("..data")).expect("the folder can be written");
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before)).expect("the folder can be written");
    }
}

#[test]
fn an_exchanged_link_is_noticed() {
    let now = SystemTime::now();
    let authority = Authority::make(2 * DAY, now).unwrap();
    let leaf = Leaf { name: "nodes".to_owned(), role: Role::Node };
    let volume = tempfile::TempDir::new().unwrap();
    let renew = |version: &str, long: Duration| {
        let signed = authority.sign(&leaf, now, now + long).unwrap();
        let files = [("tls.crt", &*signed.certificate), ("tls.key", &signed.key), ("ca.crt", authority.pem())];
        mount(volume.path(), version, &files);
        Certificate::all(&signed.certificate).unwrap()[0].until()
    };
    let first = renew("..2026_11_27_10_00_00.1", DAY / 2);
    let identity = Identity::load(Files::in_folder(volume.path())).unwrap();
    assert_eq!(identity.expiry().certificate, first);
    assert!(!identity.reload().unwrap());

    let second = renew("..2026_11_27_10_05_00.2", DAY);
    assert!(identity.reload().unwrap(), "the link leads elsewhere");
    assert_eq!(identity.expiry().certificate, second);
    assert!(!identity.reload().unwrap());
}

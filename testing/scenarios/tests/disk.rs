//! Disks that are full, broken, read-only or gone never fail a pull, and nothing wrong is ever served.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use faulty::{Fault, Kind, Rule, Upstream};
use scenarios::{Builder, Larder, Volume, ext4_image, run, scrub, wait_for};

const MIB: u64 = 1 << 20;

fn blob(digest: &str) -> String {
    format!("/v2/up.test/app/blobs/{digest}")
}

fn path_of(store: &Path, digest: &str) -> PathBuf {
    store.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn kept(larder: &Larder) -> f64 {
    larder.metric("larder_fills_total", &[("result", "kept")])
}

fn errors(larder: &Larder, errno: &str) -> f64 {
    larder.metric("larder_store_errors_total", &[("errno", errno)])
}

#[track_caller]
fn assert_served(larder: &Larder, digest: &str) {
    let answer = larder.get(&blob(digest)).unwrap();
    assert_eq!((answer.status, answer.is_complete()), (200, true), "{}", larder.log());
    assert_eq!(answer.digest(), digest);
}

/// Pulls a blob, and waits until it is in the store.
#[track_caller]
fn keep(larder: &Larder, digest: &str) {
    let before = kept(larder);
    assert_served(larder, digest);
    wait_for("the blob is kept", || kept(larder) == before + 1.0);
    settle(larder);
}

fn settle(larder: &Larder) {
    wait_for("no fill is on its way", || {
        larder.admin("/metrics").is_ok_and(|answer| answer.text().lines().any(|line| line == "larder_fills_running 0"))
    });
}

#[track_caller]
fn assert_ready(larder: &Larder) {
    let answer = larder.admin("/readyz").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn ingests(store: &Path) -> usize {
    fs::read_dir(store.join("ingest")).map_or(0, Iterator::count)
}

fn roomy(builder: Builder) -> Builder {
    builder.config("[store]\nbudget = \"1GiB\"")
}

// D-04
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_disk_has_no_room_for_passes_through() {
    let up = Upstream::start().await.unwrap();
    let large = up.generated_blob("app", 20 * MIB, 1);
    // Nobody knows beforehand that this one is too large.
    let surprise = up.generated_blob("app", 20 * MIB, 2);
    up.rule(Rule::on(Kind::Blob).get().reference(&surprise).fault(Fault::NoContentLength));
    let volume = Volume::tmpfs("size=9m").unwrap();
    let larder = roomy(Larder::in_front_of("up.test", &up)).store(&volume.store()).start().unwrap();
    for digest in [&large, &surprise] {
        let before = errors(&larder, "ENOSPC");
        for _ in 0..2 {
            assert_served(&larder, digest);
        }
        settle(&larder);
        assert!(!path_of(larder.store(), digest).exists());
        assert!(errors(&larder, "ENOSPC") > before);
    }
    assert_eq!((kept(&larder), ingests(larder.store())), (0.0, 0));
    assert_ready(&larder);
    let range = larder.ask("GET", &blob(&large), &[("Range", "bytes=-70000")]).unwrap();
    assert_eq!((range.status, range.body.len()), (206, 70_000));
}

// D-04
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_a_blob_that_passes_through_all_get_it() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 12 * MIB, 1);
    up.rule(Rule::on(Kind::Blob).get().reference(&digest).fault(Fault::NoContentLength));
    let volume = Volume::tmpfs("size=5m").unwrap();
    let larder = roomy(Larder::in_front_of("up.test", &up)).store(&volume.store()).start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_served(&larder, &digest));
        }
    });
    assert_eq!(kept(&larder), 0.0);
}

// D-04
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_oldest_makes_room() {
    let up = Upstream::start().await.unwrap();
    let blobs: Vec<String> = (0..4).map(|seed| up.generated_blob("app", 3 * MIB, seed)).collect();
    let volume = Volume::tmpfs("size=8m").unwrap();
    let larder = roomy(Larder::in_front_of("up.test", &up)).store(&volume.store()).start().unwrap();
    for digest in &blobs {
        keep(&larder, digest);
    }
    let there: Vec<bool> = blobs.iter().map(|digest| path_of(larder.store(), digest).exists()).collect();
    assert_eq!(there, [false, false, true, true]);
    assert_eq!(scrub(larder.store()).unwrap()["quarantined"], serde_json::json!([]));
}

// D-07
#[tokio::test(flavor = "multi_thread")]
async fn when_there_is_room_again_blobs_are_kept_again() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 3 * MIB, 1);
    let volume = Volume::tmpfs("size=16m").unwrap();
    let larder = roomy(Larder::in_front_of("up.test", &up)).store(&volume.store()).start().unwrap();
    volume.fill_but(1 << 20).unwrap();
    assert_served(&larder, &digest);
    settle(&larder);
    assert_eq!(kept(&larder), 0.0);
    volume.free();
    keep(&larder, &digest);
    let before = up.blob_gets(&digest);
    assert_served(&larder, &digest);
    assert_eq!(up.blob_gets(&digest), before);
}

// D-06
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_serves_what_it_has_and_passes_on_what_it_has_not() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "old", &[200_000], 1);
    let fresh = up.image("app", "new", &[300_000], 2);
    let work = tempfile::tempdir().unwrap();
    let disk = work.path().join("disk.img");
    ext4_image(&disk, 32 << 20, &["-N", "64"]).unwrap();
    let volume = Volume::image(&disk, "noatime").unwrap();
    let larder = roomy(Larder::in_front_of("up.test", &up)).store(&volume.store()).start().unwrap();
    let manifest = |tag: &str| larder.get(&format!("/v2/up.test/app/manifests/{tag}")).unwrap();
    assert_eq!(manifest("old").digest(), image.digest);
    keep(&larder, &image.layers[0]);

    let ballast = volume.path().join("ballast");
    fs::create_dir(&ballast).unwrap();
    let out = (0..1000).find_map(|n| fs::write(ballast.join(n.to_string()), "").err()).expect("inodes come to an end");
    assert_eq!(out.raw_os_error(), Some(28), "{out}");
    let before = up.blob_gets(&image.layers[0]);
    assert_eq!(manifest("old").digest(), image.digest);
    assert_served(&larder, &image.layers[0]);
    assert_eq!(up.blob_gets(&image.layers[0]), before, "what is there is served from there");

    assert_eq!(manifest("new").digest(), fresh.digest);
    assert_served(&larder, &fresh.layers[0]);
    settle(&larder);
    assert!(errors(&larder, "ENOSPC") > 0.0);
    assert_ready(&larder);

    fs::remove_dir_all(&ballast).unwrap();
    assert_served(&larder, &fresh.layers[0]);
    settle(&larder);
    let before = up.blob_gets(&fresh.layers[0]);
    assert_served(&larder, &fresh.layers[0]);
    assert_eq!(up.blob_gets(&fresh.layers[0]), before, "it is kept again");
}

/// Starts larder as the child of the test, with a tracer that makes system calls fail.
fn traced(builder: Builder, what: &[&str]) -> Builder {
    scenarios::need_root();
    programs::debian(&["strace"]).unwrap();
    builder.wrapped(&[&["strace", "-D", "-f", "-qq", "-o", "/dev/null"], what].concat())
}

// D-08
#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_does_not_confirm_is_served_and_not_kept() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "v1", &[2_000_000], 1);
    let builder = Larder::in_front_of("up.test", &up);
    let calls = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
    let mut larder = traced(builder, &calls).start().unwrap();
    for _ in 0..2 {
        let manifest = larder.get("/v2/up.test/app/manifests/v1").unwrap();
        assert_eq!((manifest.status, manifest.digest()), (200, image.digest.clone()));
        assert_served(&larder, &image.layers[0]);
        settle(&larder);
    }
    assert!(errors(&larder, "EIO") > 0.0);
    for digest in [&image.digest, &image.layers[0]] {
        assert!(!path_of(larder.store(), digest).exists(), "what may not be on the disk is not there");
    }
    assert_eq!((kept(&larder), ingests(larder.store())), (0.0, 0));
    assert!(larder.is_running());
    assert_ready(&larder);
}

// D-08
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_disk_does_not_confirm_is_taken_back() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 2_000_000, 1);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().canonicalize().unwrap();
    let names = store.join("blobs/sha256");
    fs::create_dir_all(&names).unwrap();
    let names = names.to_str().unwrap();
    let calls = ["-P", names, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
    let larder = traced(Larder::in_front_of("up.test", &up), &calls).store(&store).start().unwrap();
    assert_served(&larder, &digest);
    settle(&larder);
    assert!(errors(&larder, "EIO") > 0.0);
    assert!(!path_of(&store, &digest).exists());
}

// D-09
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_cannot_be_read_is_set_aside_and_fetched_again() {
    let up = Upstream::start().await.unwrap();
    let digest = up.generated_blob("app", 2_000_000, 1);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().canonicalize().unwrap();
    let larder = Larder::in_front_of("up.test", &up).store(&store).start().unwrap();
    keep(&larder, &digest);
    drop(larder);
    let path = path_of(&store, &digest);
    let calls =
        ["-P", path.to_str().unwrap(), "-e", "trace=sendfile,pread64", "-e", "inject=sendfile,pread64:error=EIO"];
    let larder = traced(Larder::in_front_of("up.test", &up), &calls).store(&store).start().unwrap();
    let first = larder.get(&blob(&digest)).unwrap();
    assert!(!first.is_complete(), "it cannot be read");
    let second = larder.get(&blob(&digest)).unwrap();
    assert!(!second.is_complete() || second.digest() == digest);
    wait_for("it is fetched again", || up.blob_gets(&digest) == 2);
    assert_eq!(fs::read_dir(store.join("quarantine")).unwrap().count(), 1);
    settle(&larder);
    drop(larder);
    // With a disk that reads again.
    let larder = Larder::in_front_of("up.test", &up).store(&store).start().unwrap();
    assert_served(&larder, &digest);
    assert_eq!(up.blob_gets(&digest), 2);
}

// D-09
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turned_read_only_is_read_and_the_rest_passes_through() {
    let up = Upstream::start().await.unwrap();
    let old = up.image("app", "old", &[500_000], 1);
    let new = up.image("app", "new", &[600_000], 2);
    let work = tempfile::tempdir().unwrap();
    let disk = work.path().join("disk.img");
    ext4_image(&disk, 64 << 20, &[]).unwrap();
    let volume = Volume::image(&disk, "errors=remount-ro").unwrap();
    let mut larder = Larder::in_front_of("up.test", &up).store(&volume.store()).start().unwrap();
    let manifest = |larder: &Larder, tag: &str| larder.get(&format!("/v2/up.test/app/manifests/{tag}")).unwrap();
    assert_eq!(manifest(&larder, "old").digest(), old.digest);
    keep(&larder, &old.layers[0]);
    // What ext4 does when it finds itself damaged.
    run(Command::new("mount").args(["-o", "remount,abort"]).arg(volume.path())).unwrap();
    wait_for("the file system is read-only", || fs::write(volume.path().join("probe"), "").is_err());
    let before = up.blob_gets(&old.layers[0]);
    for restarted in [false, true] {
        assert_eq!(manifest(&larder, "old").digest(), old.digest);
        assert_served(&larder, &old.layers[0]);
        assert_eq!(up.blob_gets(&old.layers[0]), before, "what is there is read, restarted {restarted}");
        for _ in 0..2 {
            assert_eq!(manifest(&larder, "new").digest(), new.digest);
            assert_served(&larder, &new.layers[0]);
            settle(&larder);
        }
        assert!(errors(&larder, "EROFS") > 0.0);
        assert_ready(&larder);
        larder = larder.restart().unwrap();
        assert!(larder.log().contains("nothing can be kept"), "{}", larder.log());
    }
}

/// Does something to the first file; the second is another blob's.
type Damage = fn(&Path, &Path);

/// The ways in which a blob's file can become another one, its times kept where that can be.
fn damages() -> Vec<(&'static str, Damage)> {
    fn writable(path: &Path) -> fs::File {
        fs::File::options().read(true).write(true).open(path).unwrap()
    }
    vec![
        ("a flipped bit", |path, _| {
            let file = writable(path);
            let mut byte = [0];
            file.read_exact_at(&mut byte, 150_000).unwrap();
            file.write_all_at(&[byte[0] ^ 4], 150_000).unwrap();
        }),
        ("truncated", |path, _| writable(path).set_len(299_999).unwrap()),
        ("emptied", |path, _| writable(path).set_len(0).unwrap()),
        ("extended", |path, _| writable(path).set_len(300_001).unwrap()),
        ("exchanged", |path, other| {
            let aside = path.with_extension("aside");
            fs::rename(path, &aside).unwrap();
            fs::rename(other, path).unwrap();
            fs::rename(&aside, other).unwrap();
        }),
        ("a link", |path, other| {
            fs::remove_file(path).unwrap();
            symlink(other, path).unwrap();
        }),
        ("a folder", |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a pipe", |path, _| {
            fs::remove_file(path).unwrap();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("no file", |path, _| fs::remove_file(path).unwrap()),
    ]
}

// D-10
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_changed_at_rest_is_never_served() {
    let up = Upstream::start().await.unwrap();
    let mut larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for restart in [false, true] {
        for (n, (what, damage)) in damages().into_iter().enumerate() {
            let seed = n as u64 * 10 + u64::from(restart) * 1000;
            let (digest, other) =
                (up.generated_blob("app", 300_000, seed), up.generated_blob("app", 300_000, seed + 1));
            keep(&larder, &digest);
            keep(&larder, &other);
            if restart {
                larder.kill();
            }
            damage(&path_of(larder.store(), &digest), &path_of(larder.store(), &other));
            if restart {
                larder = larder.restart().unwrap();
            }
            for digest in [&digest, &other] {
                let answer = larder.get(&blob(digest)).unwrap();
                assert_eq!((answer.status, answer.is_complete()), (200, true), "{what}");
                assert_eq!(answer.digest(), *digest, "{what}, restart {restart}");
            }
            settle(&larder);
            let before = up.blob_gets(&digest);
            assert_served(&larder, &digest);
            assert_eq!(up.blob_gets(&digest), before, "{what}: kept again");
        }
    }
    // Files that changed places while they were open were right all the time, and are found by name now.
    scrub(larder.store()).unwrap();
    assert_eq!(scrub(larder.store()).unwrap()["quarantined"], serde_json::json!([]));
}

// D-10
#[tokio::test(flavor = "multi_thread")]
async fn decay_that_nothing_shows_is_found_by_a_scrub_and_healed() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "v1", &[300_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_eq!(larder.get("/v2/up.test/app/manifests/v1").unwrap().digest(), image.digest);
    keep(&larder, &image.layers[0]);
    for digest in [&image.digest, &image.layers[0]] {
        let path = path_of(larder.store(), digest);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"#", 200).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
    }
    let report = scrub(larder.store()).unwrap();
    assert_eq!(report["quarantined"].as_array().map(Vec::len), Some(2), "{report}");
    assert_served(&larder, &image.layers[0]);
    let larder = larder.restart().unwrap();
    let manifest = larder.get("/v2/up.test/app/manifests/v1").unwrap();
    assert_eq!((manifest.status, manifest.digest()), (200, image.digest.clone()));
    assert_served(&larder, &image.layers[0]);
    settle(&larder);
    assert_eq!(scrub(larder.store()).unwrap()["quarantined"], serde_json::json!([]));
}

// D-10
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_decayed_is_never_served() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "v1", &[10_000], 1);
    let mut larder = Larder::in_front_of("up.test", &up).start().unwrap();
    assert_eq!(larder.get("/v2/up.test/app/manifests/v1").unwrap().digest(), image.digest);
    larder.kill();
    let path = path_of(larder.store(), &image.digest);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"#", 20).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
    let larder = larder.restart().unwrap();
    for target in ["v1", &image.digest] {
        let answer = larder.get(&format!("/v2/up.test/app/manifests/{target}")).unwrap();
        assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()));
    }
}

// D-11
#[tokio::test(flavor = "multi_thread")]
async fn records_of_garbage_cost_a_question_and_no_more() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "v1", &[300_000], 1);
    let mut larder = Larder::in_front_of("up.test", &up).start().unwrap();
    let target = "/v2/up.test/app/manifests/v1";
    assert_eq!(larder.get(target).unwrap().digest(), image.digest);
    keep(&larder, &image.layers[0]);
    let records = larder.store().join("repositories/up.test/app");
    for garbage in ["", "\0\0\0\0", "{\"digest\":\"sha256:12", "garbage \u{e9}", "18446744073709551615", "{}"] {
        larder.kill();
        let mut files = 0;
        for folder in ["_tags", "_manifests/sha256", "."] {
            for entry in fs::read_dir(records.join(folder)).unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    fs::write(entry.path(), garbage).unwrap();
                    files += 1;
                }
            }
        }
        assert_eq!(files, 3, "a tag, a manifest, and whether it is public");
        fs::write(larder.store().join("larder-store.json"), garbage).unwrap();
        larder = larder.restart().unwrap_or_else(|error| panic!("{garbage:?}: {error}"));
        let answer = larder.get(target).unwrap();
        assert_eq!((answer.status, answer.digest()), (200, image.digest.clone()), "{garbage:?}");
        assert!(answer.header("content-type").is_some_and(|kind| kind == image.media_type), "{garbage:?}");
        assert_served(&larder, &image.layers[0]);
        assert_eq!(up.blob_gets(&image.layers[0]), 1, "{garbage:?}: nothing is lost");
        assert!(!larder.log().contains("panicked"), "{}", larder.log());
    }
}

// D-11
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_larder_or_of_something_else_is_refused_and_left_alone() {
    for (file, text, says) in [
        ("larder-store.json", "{\"layout\":99}", "layout 99"),
        ("letter.txt", "dear", "neither empty nor a store of larder"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file), text).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let Err(error) = Larder::builder().store(folder.path()).start() else { panic!("it starts with {file}") };
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(file)).unwrap(), text);
        if file == "letter.txt" {
            assert_eq!(
                fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777,
                0o755,
                "nobody is locked out"
            );
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is put into it");
        }
        assert!(!folder.path().join("blobs").exists());
    }
}

// D-12
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_deleted_under_it_is_made_anew() {
    let up = Upstream::start().await.unwrap();
    let image = up.image("app", "v1", &[500_000], 1);
    let larder = Larder::in_front_of("up.test", &up).start().unwrap();
    for _ in 0..2 {
        keep(&larder, &image.layers[0]);
        assert_eq!(larder.get("/v2/up.test/app/manifests/v1").unwrap().digest(), image.digest);
        fs::remove_dir_all(larder.store()).unwrap();
    }
    keep(&larder, &image.layers[0]);
    assert_ready(&larder);
    let larder = larder.restart().unwrap();
    let before = up.blob_gets(&image.layers[0]);
    assert_served(&larder, &image.layers[0]);
    assert_eq!(up.blob_gets(&image.layers[0]), before);
}

// D-12
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_mount_vanishes_passes_through_until_it_is_back() {
    let up = Upstream::start().await.unwrap();
    let (old, new) = (up.generated_blob("app", 500_000, 1), up.generated_blob("app", 600_000, 2));
    let first = Volume::tmpfs("size=32m").unwrap();
    let point = tempfile::tempdir().unwrap();
    let store = point.path().join("mounted");
    fs::create_dir(&store).unwrap();
    let bind = |from: &Path| run(Command::new("mount").arg("--bind").arg(from).arg(&store)).unwrap();
    let unmount = || run(Command::new("umount").arg("-l").arg(&store)).unwrap();
    struct Unmounted<'a>(&'a Path);
    impl Drop for Unmounted<'_> {
        fn drop(&mut self) {
            let _ = run(Command::new("umount").args(["-q", "-l"]).arg(self.0));
        }
    }
    let _unmounted = Unmounted(&store);
    bind(&first.path());
    let larder = Larder::in_front_of("up.test", &up).store(&store).start().unwrap();
    keep(&larder, &old);

    unmount();
    let ready = larder.admin("/readyz").unwrap();
    assert_eq!(ready.status, 503, "the store is gone, which somebody should see");
    assert!(ready.text().contains("gone"), "{}", ready.text());
    for digest in [&old, &new] {
        assert_served(&larder, digest);
    }
    settle(&larder);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "nothing is written below the mount");

    bind(&first.path());
    wait_for("it is ready again", || larder.admin("/readyz").is_ok_and(|answer| answer.status == 200));
    keep(&larder, &new);
    let before = up.blob_gets(&old);
    assert_served(&larder, &old);
    assert_eq!(up.blob_gets(&old), before, "what was there is there again");

    // The same files on another device, as after a fail-over.
    let second = Volume::tmpfs("size=32m").unwrap();
    run(Command::new("cp").args(["-a", "--"]).arg(first.path().join(".")).arg(second.path())).unwrap();
    unmount();
    assert_eq!(larder.admin("/readyz").unwrap().status, 503);
    bind(&second.path());
    wait_for("it is ready again", || larder.admin("/readyz").is_ok_and(|answer| answer.status == 200));
    let before = up.blob_gets(&old);
    assert_served(&larder, &old);
    assert_eq!(up.blob_gets(&old), before, "what was there is there again");
    let other = Larder::builder().store(&store).start();
    assert!(other.is_err_and(|error| error.to_string().contains("in use by another larder")), "the new lock is held");
    drop(larder);
}

//! What happens when the process has no more file descriptors. In a program of its own, since that concerns all of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

mod support;

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Fixture, wait_for};

#[test]
fn the_server_waits_for_file_descriptors_and_recovers() {
    let fixture = Fixture::new();
    assert_eq!(fixture.connect().get("/v2/", &[]).status, 200);
    wait_for("its end", || fixture.number("larder_connections") == 0.0);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: limit.maximum }).unwrap();
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // One for the client's end, and none for the server's.
    files.pop();
    let mut client = fixture.connect();
    wait_for("the server notices", || fixture.number("larder_accept_failures_total") >= 2.0);
    // It pauses in between: a loop without would have failed thousands of times by now.
    assert!(fixture.number("larder_accept_failures_total") < 1000.0);
    drop(files);
    assert_eq!(client.get("/v2/", &[]).status, 200);
}

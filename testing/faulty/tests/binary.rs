//! The program, as scripts use it.

mod client;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use client::{End, get};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is no worse.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_serves_an_image_with_faults_from_a_file() {
    let dir = std::env::temp_dir().join(format!("faulty-binary-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (rules, log) = (dir.join("rules.json"), dir.join("log.jsonl"));
    std::fs::write(&rules, r#"[{"kind":"blob","after":1,"faults":[{"cut":{"at":{"byte":10},"how":"reset"}}]}]"#)
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_faulty"));
    command.args(["--image", "lib/a:v1:4K,10", "--rules"]).arg(&rules).arg("--log").arg(&log).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let layers = lines.next().unwrap().split(' ').next_back().unwrap().to_owned();
    let listening = lines.next().unwrap();
    let addr: SocketAddr = listening.strip_prefix("listening on http://").unwrap().parse().unwrap();

    let blob = format!("/v2/lib/a/blobs/{}", layers.split(',').next().unwrap());
    assert_eq!(get(addr, &blob).body.len(), 4096);
    let cut = get(addr, &blob);
    assert_eq!((cut.body.len(), cut.end), (10, End::Reset));
    let log = std::fs::read_to_string(&log).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["path"], &last["bytes"], &last["complete"]), (&blob.into(), &10.into(), &false.into()));
    std::fs::remove_dir_all(&dir).unwrap();
}

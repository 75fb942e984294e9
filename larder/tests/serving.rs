//! The server as its operator meets it: what it says at the start, on its own port, and at the end.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

/// A server on free ports; killed when it goes out of scope.
struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
    clients: String,
    metrics: String,
    /// What the log said before it served.
    before: String,
}

impl Server {
    fn start(store: &Path, more: &[&str]) -> Server {
        let mut child = command(store, more).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let serving = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended early:\n{seen}");
            seen.push_str(&line);
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "serving" {
                break event;
            }
        };
        let field = |name: &str| serving[name].as_str().unwrap_or_default().to_owned();
        Server { clients: field("clients"), metrics: field("metrics"), child, log, before: seen }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reads the log up to a message.
    fn await_message(&mut self, message: &str) {
        let mut line = String::new();
        while !line.contains(message) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended before {message:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(store: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args([
        "registry",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--store",
    ]);
    command.arg(store).args(more).stderr(Stdio::piped()).env_clear();
    command
}

/// Asks for a path and gives the whole answer.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: larder\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn serves_without_any_configuration_and_ends_when_told() {
    let folder = TempDir::new().unwrap();
    let mut server = Server::start(&folder.path().join("store"), &[]);
    assert!(get(&server.clients, "/v2/").starts_with("HTTP/1.1 200 "));
    assert!(get(&server.metrics, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get(&server.metrics, "/readyz").starts_with("HTTP/1.1 200 "));
    let metrics = get(&server.metrics, "/metrics");
    for name in ["larder_build_info{version=\"", "larder_requests_total{", "larder_store_budget_bytes "] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    // Nothing of this is for clients.
    assert!(get(&server.clients, "/metrics").starts_with("HTTP/1.1 404 "));
    server.signal(rustix::process::Signal::HUP);
    assert!(get(&server.clients, "/v2/").starts_with("HTTP/1.1 200 "));
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = TempDir::new().unwrap();
    let configuration = folder.path().join("larder.toml");
    std::fs::write(&configuration, "grace = \"1h\"\n").unwrap();
    let mut server = Server::start(&folder.path().join("store"), &["--config", configuration.to_str().unwrap()]);
    // A client that has begun to ask and never finishes.
    let mut stream = TcpStream::connect(&server.clients).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
    assert!(get(&server.clients, "/v2/").starts_with("HTTP/1.1 200 "));
    server.signal(rustix::process::Signal::TERM);
    server.await_message("a second signal");
    server.signal(rustix::process::Signal::INT);
    let status = server.wait();
    assert!(status.signal().is_none() && status.code() != Some(101), "{status}");
}

#[test]
fn a_store_is_served_by_one_process() {
    let folder = TempDir::new().unwrap();
    let store = folder.path().join("store");
    let _server = Server::start(&store, &[]);
    let second = command(&store, &[]).output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(told.contains("in use by another larder process"), "{told}");
}

#[test]
fn a_taken_address_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, store) in [("--listen", "one"), ("--metrics", "two")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        let mut args = vec!["registry", "--store", store, flag, &address];
        args.extend(if flag == "--listen" { ["--metrics", "off"] } else { ["--listen", "127.0.0.1:0"] });
        let output = command.args(args).current_dir(folder.path()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&format!("cannot listen on {address}")), "{told}");
        assert!(!folder.path().join(store).exists(), "a start that fails leaves nothing behind");
    }
    let configuration = for_nodes(folder.path(), &address, SystemTime::now());
    let output = command(&folder.path().join("three"), &["--config", &configuration]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("registry.nodes.listen: cannot listen on {address}")), "{told}");
    assert!(!folder.path().join("three").exists(), "a start that fails leaves nothing behind");
}

/// The path of a configuration with an address for nodes, and certificates made a day before they end.
fn for_nodes(folder: &Path, address: &str, made: SystemTime) -> String {
    let day = Duration::from_secs(24 * 3600);
    let request = peers::Request {
        dir: folder.join("certificates"),
        leaves: vec![peers::Leaf { name: "registry".to_owned(), role: peers::Role::Registry }],
        validity: day,
        ca_validity: 365 * day,
        force: true,
    };
    peers::mint(&request, made).unwrap();
    let certificates = folder.join("certificates/registry");
    let text = format!("[registry.nodes]\nlisten = {address:?}\ncertificates = {certificates:?}\n");
    let configuration = folder.join("nodes.toml");
    std::fs::write(&configuration, text).unwrap();
    configuration.to_str().unwrap().to_owned()
}

#[test]
fn certificates_that_have_expired_are_no_reason_to_serve_nobody() {
    let folder = TempDir::new().unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(9 * 24 * 3600);
    let configuration = for_nodes(folder.path(), "127.0.0.1:0", long_ago);
    let server = Server::start(&folder.path().join("store"), &["--config", &configuration]);
    assert!(server.before.contains("tls.crt expired 8d ago"), "{}", server.before);
    assert!(get(&server.clients, "/v2/").starts_with("HTTP/1.1 200 "));
    let metrics = get(&server.metrics, "/metrics");
    let name = "larder_certificate_expires_timestamp_seconds{setting=\"registry.nodes.certificates\"} ";
    let expires: u64 = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(expires)).unwrap();
    assert_eq!(since.as_secs() / (24 * 3600), 8);
}

//! What `larder doctor` says of a node: the real binary, over real sockets and certificates.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use peers::{Files, Identity, Leaf, Request, Role, mint};
use serde_json::Value;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
/// Tells hanging from progress.
const PATIENCE: Duration = Duration::from_secs(30);
/// No run takes longer, whatever hangs.
const BOUND: Duration = Duration::from_secs(15);

/// An address of this machine that nobody else uses, so that usual ports are free there.
fn address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Machines with their files: an authority for all, and a folder with a host's root for each.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, within: &str) -> PathBuf {
        self.0.path().join(within)
    }

    fn larder(&self, args: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_larder")).args(args).current_dir(&self.0).env_clear().output();
        output.unwrap()
    }

    /// Certificates for nodes as an administrator makes them.
    fn certify(&self, names: &[&str]) {
        let made = self.larder(&[&["certs", "--dir", "certs"], names].concat());
        assert!(made.status.success(), "{made:?}");
    }

    /// The same, made at another time.
    fn certify_at(&self, name: &str, at: SystemTime) {
        let leaves = vec![Leaf { name: name.to_owned(), role: Role::Node }];
        let dir = self.path("certs");
        mint(&Request { dir, leaves, validity: DAY, ca_validity: 3650 * DAY, force: true }, at).unwrap();
    }

    fn identity(&self, name: &str) -> Arc<Identity> {
        Arc::new(Identity::load(Files::in_folder(self.path("certs").join(name))).unwrap())
    }

    /// A machine on which nothing runs yet, and which does not share.
    fn machine(&self, name: &'static str) -> Machine<'_> {
        let root = self.path(name);
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let config =
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n";
        write("etc/containerd/config.toml", config);
        Machine { place: self, name, address: address(), root, node: String::new(), kubeconfig: None, agent: None }
    }
}

struct Machine<'a> {
    place: &'a Place,
    name: &'static str,
    address: Ipv4Addr,
    root: PathBuf,
    /// What its configuration says in `[node]` and after.
    node: String,
    kubeconfig: Option<PathBuf>,
    agent: Option<Child>,
}

impl Machine<'_> {
    fn port(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Lets it share with the machines of a list, in the words of its configuration.
    fn share(&mut self, members: &str) {
        let certificates = self.place.path("certs").join(self.name);
        self.node.push_str(&format!(
            "[node.peers]\nname = {:?}\nlisten = \"{}\"\ncertificates = {certificates:?}\n{members}\n",
            self.name,
            self.port(7440)
        ));
    }

    fn config(&self) -> PathBuf {
        let path = self.place.path(&format!("{}.toml", self.name));
        let text = format!(
            "listen = \"{}\"\nmetrics = \"off\"\n[store]\npath = {:?}\n[node]\nhost_root = {:?}\n{}",
            self.port(7439),
            self.root.join("store"),
            self.root,
            self.node
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts its agent, and waits until its runtime is pointed at it.
    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.arg("node").arg("--config").arg(self.config()).args(["--log-format", "json"]);
        let mut child = command.env_clear().stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        self.agent = Some(child);
        assert!(log.any(|line| line.unwrap().contains("pointed at larder")), "the agent has ended");
        // Who writes to a pipe that nobody reads waits for ever.
        std::thread::spawn(move || log.for_each(drop));
    }

    fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// What is found, and whether something is to be done.
    fn doctor(&self) -> (Vec<Value>, i32) {
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["doctor", "-o", "json", "--config"]).arg(self.config()).env_clear();
        command.envs(self.kubeconfig.iter().map(|path| ("KUBECONFIG", path)));
        let output = command.output().unwrap();
        let (told, wrong) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        let status = output.status.code().unwrap();
        assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
        let found = serde_json::from_str(&told).unwrap_or_else(|_| panic!("exit {status}: {told}{wrong}"));
        (found, status)
    }

    /// The codes of what is found, without what only says that no containerd runs on these machines, and that no agent has
    /// run there yet.
    fn codes(&self) -> Vec<String> {
        let (found, status) = self.doctor();
        let grave = found.iter().any(|one| one["severity"] != "info");
        assert_eq!(status, i32::from(grave), "{found:?}");
        let codes = found.iter().map(|one| one["code"].as_str().unwrap().to_owned());
        codes.filter(|code| code != "runtime-silent" && code != "default-missing").collect()
    }

    /// One finding by its code.
    fn found(&self, code: &str) -> Value {
        let (found, _) = self.doctor();
        found.iter().find(|one| one["code"] == code).unwrap_or_else(|| panic!("{code} is not in {found:?}")).clone()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn member(name: &str, address: SocketAddr) -> String {
    format!("{{ name = {name:?}, address = \"{address}\" }}")
}

fn members(list: &[String]) -> String {
    format!("members = [{}]", list.join(", "))
}

/// Somebody at an address who says this to each question, in words or in TLS, until the test ends.
fn somebody(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>, says: impl Fn() -> String + Send + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let said = match &tls {
                None => converse(&mut stream, &says()),
                Some(config) => {
                    let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
                    converse(&mut rustls::Stream::new(&mut connection, &mut stream), &says())
                }
            };
            // Who asks may go away.
            drop(said);
        }
    });
}

fn converse(stream: &mut (impl Read + Write), says: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    stream.write_all(says.as_bytes())?;
    stream.flush()
}

/// An answer, as a machine gives it whose clock says `date`.
fn answer(date: SystemTime, headers: &str, body: &str) -> String {
    let (date, length) = (httpdate::fmt_http_date(date), body.len());
    format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn text(finding: &Value) -> String {
    format!("{} {}", finding["what"].as_str().unwrap(), finding["remedy"].as_str().unwrap())
}

#[test]
fn a_node_that_shares_is_well_until_its_neighbour_stops() {
    let place = Place::new();
    place.certify(&["one", "two"]);
    let (mut one, mut two) = (place.machine("one"), place.machine("two"));
    let list = members(&[member("one", one.port(7440)), member("two", two.port(7440))]);
    one.share(&list);
    two.share(&list);
    one.start();
    two.start();
    assert_eq!(one.codes(), [""; 0]);
    assert_eq!(two.codes(), [""; 0]);
    two.stop();
    assert_eq!(one.codes(), ["peer-unreachable"]);
    let found = one.found("peer-unreachable");
    assert!(text(&found).contains(&format!("the node two cannot be reached at {}", two.port(7440))), "{found}");
    // That it gives nothing to others is no news where it does not run.
    assert_eq!(two.codes(), ["agent-down"]);
}

#[test]
fn a_port_that_does_not_answer_others_as_it_should_is_named() {
    let place = Place::new();
    place.certify(&["one", "two"]);
    let mut one = place.machine("one");
    one.start();
    one.share(&members(&[member("one", one.port(7440))]));
    assert_eq!(one.codes(), ["peers-port-closed"], "it runs with a configuration from before");
    somebody(one.port(7440), Some(place.identity("two").server(&[Role::Node])), || {
        answer(SystemTime::now(), "larder-node: two\r\n", "")
    });
    let found = one.found("peers-port-other");
    assert!(text(&found).contains("\"two\" answers and not \"one\""), "{found}");
}

#[test]
fn certificates_that_are_of_no_use_are_findings_and_no_wrong_configuration() {
    let place = Place::new();
    place.certify(&["one"]);
    let mut one = place.machine("one");
    one.share(&members(&[member("one", one.port(7440))]));
    let files = place.path("certs/one");
    let codes = |what: &str| {
        let mut codes = one.codes();
        codes.retain(|code| code.starts_with("certificate"));
        assert_eq!(codes.len(), 1, "{what}: {codes:?}");
        codes.remove(0)
    };
    fs::rename(files.join("tls.crt"), files.join("away")).unwrap();
    assert_eq!(codes("missing"), "certificate-missing");
    let checked = place.larder(&["node", "--check", "--config", one.config().to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(2), "a node does not start without: {checked:?}");
    fs::rename(files.join("away"), files.join("tls.crt")).unwrap();

    place.certify_at("one", SystemTime::now() - 9 * DAY);
    assert_eq!(codes("old"), "certificate-expired");
    place.certify_at("one", SystemTime::now() + 9 * DAY);
    assert_eq!(codes("new"), "certificate-not-yet-valid");
    assert!(text(&one.found("certificate-not-yet-valid")).contains("clock of this machine"));

    let other = Place::new();
    other.certify(&["one"]);
    fs::copy(other.path("certs/ca.crt"), files.join("ca.crt")).unwrap();
    assert_eq!(codes("another authority"), "certificate-not-believed");
}

#[test]
fn neighbours_who_do_not_believe_each_other_are_told_why() {
    let (place, foreign) = (Place::new(), Place::new());
    place.certify(&["one", "late", "fresh"]);
    place.certify_at("late", SystemTime::now() - 9 * DAY);
    place.certify_at("fresh", SystemTime::now() + 9 * DAY);
    foreign.certify(&["foreign"]);
    let mut one = place.machine("one");
    let mut list = vec![member("one", one.port(7440))];
    for (name, identity) in
        [("late", place.identity("late")), ("fresh", place.identity("fresh")), ("foreign", foreign.identity("foreign"))]
    {
        let at = SocketAddr::from((address(), 7440));
        list.push(member(name, at));
        let says = move || answer(SystemTime::now(), &format!("larder-node: {name}\r\n"), "");
        somebody(at, Some(identity.server(&[Role::Node])), says);
    }
    one.share(&members(&list));
    one.start();
    let (found, _) = one.doctor();
    let of = |name: &str| {
        let named = format!("the node {name} ");
        let one = found.iter().find(|one| text(one).contains(&named)).unwrap_or_else(|| panic!("{name}: {found:?}"));
        assert_eq!(one["code"], "peer-refused", "{one}");
        text(one)
    };
    assert!(of("late").contains("its certificate has expired"), "{}", of("late"));
    assert!(
        of("fresh").contains("is not good yet") && of("fresh").contains("clock of this machine"),
        "{}",
        of("fresh")
    );
    assert!(of("foreign").contains("signed by another authority"), "{}", of("foreign"));
}

#[test]
fn a_registry_is_asked_and_its_clock_read() {
    let place = Place::new();
    let mut one = place.machine("one");
    let registry = one.port(5000);
    one.node = format!("registry = \"http://{registry}\"\n");
    one.start();
    assert_eq!(one.codes(), ["registry-unreachable"]);
    assert!(text(&one.found("registry-unreachable")).contains(&registry.to_string()));
    let strange = one.port(5001);
    one.node = format!("registry = \"http://{strange}\"\n");
    somebody(strange, None, || "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned());
    assert!(text(&one.found("registry-unreachable")).contains("404 Not Found"));
    one.node = format!("registry = \"http://{registry}\"\n");
    let ahead = Duration::from_secs(90);
    somebody(registry, None, move || answer(SystemTime::now() + ahead, "", ""));
    assert_eq!(one.codes(), ["clock-skew"]);
    let found = text(&one.found("clock-skew"));
    let seconds = found.strip_prefix("the clock of the larder registry is ").unwrap().split(' ').next().unwrap();
    assert!((85..=91).contains(&seconds.parse::<u32>().unwrap()), "{found}");
}

#[test]
fn a_clock_that_differs_from_all_others_is_this_machines_own() {
    let place = Place::new();
    place.certify(&["one", "two"]);
    let mut one = place.machine("one");
    let (registry, two) = (one.port(5000), SocketAddr::from((address(), 7440)));
    one.node = format!("registry = \"http://{registry}\"\n");
    one.share(&members(&[member("one", one.port(7440)), member("two", two)]));
    one.start();
    somebody(registry, None, || answer(SystemTime::now() + HOUR, "", ""));
    somebody(two, Some(place.identity("two").server(&[Role::Node])), || {
        answer(SystemTime::now() + HOUR, "larder-node: two\r\n", "")
    });
    assert_eq!(one.codes(), ["clock-skew"]);
    let found = text(&one.found("clock-skew"));
    assert!(
        found.starts_with("this machine's clock is at least") && found.contains("behind those of two, "),
        "{found}"
    );
}

#[test]
fn a_registry_whose_certificate_is_not_good_yet_may_be_a_matter_of_clocks() {
    let place = Place::new();
    let mut one = place.machine("one");
    let registry = one.port(5000);
    let mut params = rcgen::CertificateParams::new([one.address.to_string()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2200, 1, 1);
    params.not_after = rcgen::date_time_ymd(2300, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    somebody(registry, Some(Arc::new(config)), || answer(SystemTime::now(), "", ""));
    let authority = place.path("registry.crt");
    fs::write(&authority, certificate.pem()).unwrap();
    one.node = format!("registry = \"https://{registry}\"\nregistry_ca = {authority:?}\n");
    one.start();
    assert_eq!(one.codes(), ["registry-unreachable"]);
    let found = text(&one.found("registry-unreachable"));
    assert!(found.contains("not valid yet") && found.contains("keep time by NTP"), "{found}");
}

/// A kubeconfig for an API server at an address.
fn kubeconfig(path: &Path, server: SocketAddr) {
    let text = format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{{"name": "x", "cluster": {{"server": "http://{server}"}}}}],
            "users": [{{"name": "x", "user": {{}}}}],
            "contexts": [{{"name": "x", "context": {{"cluster": "x", "user": "x"}}}}]}}"#
    );
    fs::write(path, text).unwrap();
}

#[test]
fn the_nodes_of_a_service_are_asked_too() {
    let place = Place::new();
    place.certify(&["one", "two"]);
    let mut one = place.machine("one");
    let (server, two) = (one.port(8080), address());
    one.share("service = \"larder/larder-peers\"");
    one.kubeconfig = Some(place.path("kubeconfig"));
    kubeconfig(&place.path("kubeconfig"), server);
    assert!(one.codes().contains(&"peers-unknown".to_owned()), "nobody is there");
    let slices = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {"resourceVersion": "1"},
        "items": [{
            "metadata": {"name": "a"}, "addressType": "IPv4",
            "ports": [{"name": "peers", "port": 7440, "protocol": "TCP"}],
            "endpoints": [{"addresses": [two], "nodeName": "two"}],
        }],
    });
    let slices = slices.to_string();
    somebody(server, None, move || answer(SystemTime::now(), "Content-Type: application/json\r\n", &slices));
    assert_eq!(one.codes(), ["agent-down", "peers-not-listed", "peer-unreachable"]);
    assert!(text(&one.found("peer-unreachable")).contains(&format!("two cannot be reached at {two}:7440")));
}

#[test]
fn nothing_that_hangs_is_waited_for_long() {
    let place = Place::new();
    place.certify(&["one", "two"]);
    let mut one = place.machine("one");
    // All of them take connections, and say nothing.
    let silent = [one.port(7439), one.port(7440), one.port(5000), one.port(8080)];
    let silent = silent.map(|address| TcpListener::bind(address).unwrap());
    one.node = format!("registry = \"http://{}\"\n", one.port(5000));
    one.share("service = \"larder/larder-peers\"");
    one.kubeconfig = Some(place.path("kubeconfig"));
    kubeconfig(&place.path("kubeconfig"), one.port(8080));
    assert_eq!(one.codes(), ["agent-down", "peers-unknown", "registry-unreachable"]);
    drop(silent);
}

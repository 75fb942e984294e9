//! The command line as people meet it: the real binary, what it prints and how it exits.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// A folder for a configuration, and the binary beside it with an environment of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) -> &Place {
        let path = self.path().join(name);
        fs::write(&path, text.replace("[DIR]", &self.path().display().to_string())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_DATA_HOME", self.path());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        self.told(self.command(args))
    }

    fn check(&self) -> String {
        self.run(&["registry", "--config", "larder.toml", "--check", "--store", "/srv/larder"])
    }

    /// What a run printed and how it ended, without what differs between machines.
    fn told(&self, mut command: Command) -> String {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let mut told = format!("exit {}\n", status.code().unwrap());
        for (name, text) in [("stdout", stdout), ("stderr", stderr)] {
            if !text.is_empty() {
                told.push_str(&format!("--- {name}\n{}", String::from_utf8(text).unwrap()));
            }
        }
        told.replace(&self.path().display().to_string(), "[DIR]")
    }
}

#[test]
fn help() {
    let place = Place::new();
    insta::assert_snapshot!("help", place.run(&["--help"]));
    insta::assert_snapshot!("help_registry", place.run(&["registry", "--help"]));
    insta::assert_snapshot!("help_node", place.run(&["node", "--help"]));
    insta::assert_snapshot!("help_doctor", place.run(&["doctor", "--help"]));
    insta::assert_snapshot!("help_scrub", place.run(&["scrub", "--help"]));
    for command in ["warm", "images", "nodes", "why", "clean"] {
        insta::assert_snapshot!(format!("help_{command}"), place.run(&[command, "--help"]));
    }
}

#[test]
fn what_cannot_be_asked_of_a_cluster_is_refused_with_what_to_do() {
    let place = Place::new();
    let told: Vec<String> = [
        &["nodes"][..],
        &["images", "--context", "nowhere"],
        &["warm", "nginx:1.27", "NGINX"],
        &["warm", "nginx:1.27", "--node-selector", "web"],
        &["why", "a b"],
        &["clean"],
    ]
    .iter()
    .map(|args| format!("$ larder {}\n{}", args.join(" "), place.run(args)))
    .collect();
    insta::assert_snapshot!("no_cluster", told.join("\n"));

    // A cluster at whose address nobody is, and a context that is not there.
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: here, \
        clusters: [{name: here, cluster: {server: 'http://127.0.0.1:9'}}], users: [{name: me, user: {}}], \
        contexts: [{name: here, context: {cluster: here, user: me}}]}";
    place.write("config", kubeconfig);
    let told =
        [&["nodes"][..], &["images", "--context", "nowhere"], &["warm", "nginx:1.27", "-n", "shop"]].map(|args| {
            let mut command = place.command(args);
            command.env("KUBECONFIG", place.path().join("config"));
            format!("$ larder {}\n{}", args.join(" "), place.told(command))
        });
    insta::assert_snapshot!("nobody_there", told.join("\n"));
}

#[test]
fn who_stops_reading_ends_nothing_badly() {
    let place = Place::new();
    let mut command = place.command(&["completion", "bash"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn it_is_a_plugin_of_kubectl_by_its_name() {
    let place = Place::new();
    let plugin = place.path().join("kubectl-larder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_larder"), &plugin).unwrap();
    let told = |args: &[&str]| String::from_utf8(Command::new(&plugin).args(args).output().unwrap().stdout).unwrap();
    assert!(told(&["nodes", "--help"]).contains("Usage: kubectl larder nodes"), "{}", told(&["nodes", "--help"]));
    for shell in ["bash", "zsh", "fish"] {
        assert!(told(&["completion", shell]).contains("kubectl-larder"), "{shell}");
        assert!(place.run(&["completion", shell]).contains("why"), "{shell}");
    }
}

#[test]
fn version() {
    let place = Place::new();
    let expected = format!("exit 0\n--- stdout\nlarder {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(place.run(&["--version"]), expected);
    assert_eq!(place.run(&["version"]), expected);
}

#[test]
fn a_controller() {
    let place = Place::new();
    insta::assert_snapshot!("help_controller", place.run(&["controller", "--help"]));
    insta::assert_snapshot!("controller_defaults", place.run(&["controller", "--check"]));
    place.write("larder.toml", "metrics = \"off\"\n[controller]\nnamespace = \"cache\"\nlease = \"one\"\n");
    let told = |args: &[&str]| place.run(&[&["controller", "--check", "--config", "larder.toml"], args].concat());
    insta::assert_snapshot!("controller_file", told(&["--metrics", "0.0.0.0:9000"]));
    insta::assert_snapshot!("controller_namespace_wrong", told(&["--namespace", "No Name"]));
    place.write("larder.toml", "[controller]\nnamspace = \"cache\"\nlease = \"A/b\"\nidentity = \"\"\n");
    insta::assert_snapshot!("controller_mistakes", told(&[]));
    let registry = |rest: &str| place.write("larder.toml", format!("[controller]\nregistry = {rest}\n").as_str());
    // The certificates need not be there yet.
    registry("\"https://larder.example:5002\"\nregistry_certificates = \"nowhere\"");
    insta::assert_snapshot!("controller_registry", told(&[]));
    registry("\"http://larder.example\"\nregistry_certificates = \"nowhere\"\nregistry_ca = \"ca.crt\"");
    insta::assert_snapshot!("controller_registry_mistakes", told(&[]));
    registry("\"larder.example\"");
    insta::assert_snapshot!("controller_registry_wrong", told(&[]));
}

#[test]
fn no_configuration_is_needed() {
    let place = Place::new();
    insta::assert_snapshot!(place.run(&["registry", "--check", "--store", "/srv/larder"]));
}

#[test]
fn a_node() {
    let place = Place::new();
    let root = |args: &[&str]| place.run(&[&["node", "--check", "--store", "/srv/larder"], args].concat());
    insta::assert_snapshot!("node_defaults", root(&[]));
    insta::assert_snapshot!("node_registry", root(&["--registry", "https://larder.example:5000"]));
    insta::assert_snapshot!("node_registry_wrong", root(&["--registry", "https://u:S3NT1NEL@larder.example/x"]));
    place.write(
        "larder.toml",
        "listen = \"0.0.0.0:7439\"\n[node]\nregistry = \"http://larder.example\"\nregistry_ca = \"nowhere.pem\"\nanswer = \"90s\"\n",
    );
    insta::assert_snapshot!("node_mistakes", root(&["--config", "larder.toml"]));
    place.write(
        "larder.toml",
        "listen = \"0.0.0.0:7439\"\n[node]\nregistry_ca = \"nowhere.pem\"\nregistry = \"http://x\"\n",
    );
    insta::assert_snapshot!("node_file_missing", root(&["--config", "larder.toml"]));
}

#[test]
fn a_full_configuration() {
    let place = Place::new();
    place.write("user", "robot\n").write("password", "S3NT1NEL-file\n");
    place.write("docker.json", r#"{"auths": {"quay.io": {"auth": "cm9ib3Q6UzNOVDFORUwtanNvbg=="}}}"#);
    certificates(&place);
    place.write("larder.toml", include_str!("full.toml"));
    let mut command = place.command(&["registry", "--config", "larder.toml", "--check"]);
    command.env("HUB_PASSWORD", "S3NT1NEL-env");
    let told = place.told(command);
    assert!(!told.contains("S3NT1NEL"), "{told}");
    insta::assert_snapshot!(told);
}

/// The example that is shipped must hold, and say what happens without it.
#[test]
fn the_example_is_valid() {
    let place = Place::new();
    place.write("larder.toml", include_str!("../larder.toml.example"));
    insta::assert_snapshot!(place.run(&["registry", "--config", "larder.toml", "--check"]));
}

#[test]
fn flags_and_environment_come_before_the_file() {
    let place = Place::new();
    place.write("larder.toml", "listen = \"127.0.0.1:1\"\nmetrics = \"127.0.0.1:2\"\n[store]\nbudget = \"1GiB\"\n");
    let mut command = place.command(&["registry", "--check", "--listen", "127.0.0.1:3"]);
    command.env("LARDER_CONFIG", "larder.toml").env("LARDER_LISTEN", "127.0.0.1:4").env("LARDER_METRICS", "off");
    command.env("LARDER_BUDGET", "50%").env("LARDER_STORE", "/srv/other");
    insta::assert_snapshot!(place.told(command));
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let place = Place::new();
    place.write("larder.toml", include_str!("mistakes.toml"));
    place.write("void", "\n").write("ca.pem", "no certificate");
    insta::assert_snapshot!(place.check());
}

/// Of an upstream, all at once, each with its line, whether or not it is known which registry it is.
#[test]
fn every_mistake_of_an_upstream_is_named_with_its_line() {
    let place = Place::new();
    place.write("larder.toml", include_str!("upstreams.toml")).write("ca.pem", "no certificate");
    let told = place.check();
    assert!(!told.contains("S3NT1NEL"), "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn a_budget_that_keeps_nothing_is_refused_and_a_small_one_is_warned_of() {
    let place = Place::new();
    let check = |budget: &str| {
        place.write("larder.toml", &format!("[store]\nbudget = {budget:?}\n"));
        place.check()
    };
    insta::assert_snapshot!("budget_no_unit", check("20"));
    insta::assert_snapshot!("budget_tiny", check("1023KiB"));
    insta::assert_snapshot!("budget_small", check("1MiB"));
    for (budget, warned) in [("67108863", true), ("64MiB", false), ("80%", false)] {
        let told = check(budget);
        assert!(told.starts_with("exit 0\n") && told.contains("pass through uncached") == warned, "{budget}: {told}");
    }
    insta::assert_snapshot!("flag_budget_tiny", place.run(&["registry", "--check", "--budget", "512KiB"]));
}

#[test]
fn uninstalling_needs_no_certificate() {
    let place = Place::new();
    place.run(&["certs", "--dir", "made", "node-1", "--registry", "cache"]);
    let node = |args: &[&str]| place.run(&[&["node", "--config", "larder.toml", "--host-root", "root"], args].concat());
    place.write(
        "larder.toml",
        "[node.peers]\nname = \"node-1\"\ncertificates = \"[DIR]/made/node-1\"\nlisten = \"127.0.0.1:0\"\n\
         members = [{ name = \"node-1\", address = \"127.0.0.1:7440\" }]\n\
         [node]\nregistry = \"https://cache:5002\"\nregistry_certificates = \"[DIR]/made/node-1\"\n",
    );
    let hosts = place.path().join("root/etc/containerd/certs.d/_default/hosts.toml");
    fs::create_dir_all(place.path().join("root/etc/containerd/certs.d")).unwrap();
    let written =
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n";
    fs::write(place.path().join("root/etc/containerd/config.toml"), written).unwrap();
    let mut agent = place.command(&[
        "node",
        "--config",
        "larder.toml",
        "--host-root",
        "root",
        "--store",
        "store",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "off",
    ]);
    let mut agent = agent.stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !hosts.exists() {
        assert!(
            std::time::Instant::now() < deadline && agent.try_wait().unwrap().is_none(),
            "nothing is pointed at larder"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.kill().unwrap();
    agent.wait().unwrap();

    fs::remove_dir_all(place.path().join("made")).unwrap();
    assert!(node(&["--check"]).starts_with("exit 2\n"), "a start needs them");
    assert_eq!(
        node(&["--uninstall"]),
        "exit 0\n--- stdout\nthe runtimes of this machine are as they were before larder\n"
    );
    assert!(!hosts.exists());
    // An authority's file that is gone is no more in the way.
    place.write("larder.toml", "[node]\nregistry = \"https://cache\"\nregistry_ca = \"nowhere.pem\"\n");
    assert!(node(&["--uninstall"]).starts_with("exit 0\n"), "{}", node(&["--uninstall"]));
}

#[test]
fn text_that_is_no_toml() {
    let place = Place::new();
    place.write("larder.toml", "listen = \"127.0.0.1:5000\"\n\n[store\npath = S3NT1NEL\n");
    let told = place.check();
    assert!(!told.contains("S3NT1NEL"), "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn secrets_in_the_file_are_refused_and_not_repeated() {
    let place = Place::new();
    place.write(
        "larder.toml",
        r#"[[upstream]]
registry = "ghcr.io"
credential = { username = "robot", password = "S3NT1NEL" }

[[upstream]]
registry = "quay.io"
endpoints = ["https://robot:S3NT1NEL@quay.io"]
"#,
    );
    let told = place.check();
    assert!(!told.contains("S3NT1NEL"), "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn a_secret_that_everybody_can_read_is_warned_of() {
    let place = Place::new();
    place.write("password", "S3NT1NEL").write(
        "larder.toml",
        "[[upstream]]\nregistry = \"ghcr.io\"\ncredential = { username = \"robot\", password_file = \"[DIR]/password\" }\n",
    );
    fs::set_permissions(place.path().join("password"), fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(place.check());
}

#[test]
fn a_shared_credential_on_an_open_address_is_warned_of() {
    let place = Place::new();
    place.write("password", "S3NT1NEL").write(
        "larder.toml",
        "listen = \"0.0.0.0:5000\"\n[[upstream]]\nregistry = \"ghcr.io\"\nshared = true\n\
         credential = { username = \"robot\", password_file = \"password\" }\n",
    );
    insta::assert_snapshot!(place.check());
}

#[test]
fn bad_flags() {
    let place = Place::new();
    for (name, args) in [
        ("flag_listen", &["registry", "--listen", "5000"][..]),
        ("flag_budget", &["registry", "--budget", "lots"]),
        ("flag_log", &["registry", "--check", "--log", "=,="]),
        ("flag_log_word", &["registry", "--check", "--log", "inof"]),
        ("flag_tls", &["registry", "--check", "--tls-cert", "cert.pem"]),
        ("flag_tls_missing", &["registry", "--check", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]),
        ("flag_config", &["registry", "--check", "--config", "missing.toml"]),
        ("flag_same_port", &["registry", "--check", "--listen", "127.0.0.1:7", "--metrics", "127.0.0.1:7"]),
        ("flag_unknown", &["registry", "--password", "x"]),
    ] {
        insta::assert_snapshot!(name, place.run(args));
    }
}

#[test]
fn scrub_sets_aside_what_is_damaged() {
    let place = Place::new();
    let missing = place.run(&["scrub", "--store", "nowhere"]);
    assert!(missing.starts_with("exit 1\n--- stderr\nlarder: there is no store at nowhere"), "{missing}");
    assert!(!place.path().join("nowhere").exists());

    let blobs = place.path().join("store/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let (good, bad) = (oci::Digest::sha256(b"good"), oci::Digest::sha256(b"bad"));
    fs::write(blobs.join(good.hex()), "good").unwrap();
    assert!(place.run(&["scrub", "--store", "store", "-o", "json"]).starts_with("exit 0\n"));
    fs::write(blobs.join(bad.hex()), "rot").unwrap();
    insta::assert_snapshot!(place.run(&["scrub", "--store", "store"]));
    assert!(!blobs.join(bad.hex()).exists());
    assert!(place.run(&["scrub", "--store", "store"]).starts_with("exit 0\n"));
}

/// Certificates of a day that nobody believes for four days now, in the folder `old`: of `node-1` and of `cache`.
fn expired(place: &Place) {
    let day = Duration::from_secs(24 * 3600);
    let leaf = |name: &str, role| peers::Leaf { name: name.to_owned(), role };
    let request = peers::Request {
        dir: place.path().join("old"),
        leaves: vec![leaf("node-1", peers::Role::Node), leaf("cache", peers::Role::Registry)],
        validity: day,
        ca_validity: 365 * day,
        force: false,
    };
    peers::mint(&request, SystemTime::now() - 5 * day).unwrap();
}

/// A certificate with its key (`cert.pem`, `key.pem`), and another (`ca.pem`).
fn certificates(place: &Place) {
    let pair = rcgen::generate_simple_self_signed(["larder.example".to_owned()]).unwrap();
    place.write("cert.pem", &pair.cert.pem()).write("key.pem", &pair.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
    place.write("ca.pem", &other.cert.pem());
}

#[test]
fn certs_makes_what_nodes_use_and_replaces_nothing_unasked() {
    let place = Place::new();
    insta::assert_snapshot!("help_certs", place.run(&["certs", "--help"]));
    insta::assert_snapshot!("certs", place.run(&["certs", "--dir", "made", "node-1", "--registry", "cache"]));
    for file in ["made/ca.key", "made/node-1/tls.key"] {
        let mode = fs::metadata(place.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    insta::assert_snapshot!("certs_again", place.run(&["certs", "--dir", "made", "node-1"]));
    let more = place.run(&["certs", "--dir", "made", "node-1", "node-2", "--force", "-o", "json"]);
    assert!(more.contains("\"authority_is_new\": false") && more.contains("\"name\": \"node-2\""), "{more}");
    insta::assert_snapshot!("certs_wrong", place.run(&["certs", "--dir", "made", "../x"]));
    insta::assert_snapshot!("certs_nobody", place.run(&["certs", "--dir", "made"]));
}

#[test]
fn nodes_that_share_are_checked_before_they_start() {
    let place = Place::new();
    place.run(&["certs", "--dir", "made", "node-1"]);
    let check = |text: &str| {
        place.write("larder.toml", text);
        place.run(&["node", "--config", "larder.toml", "--check", "--store", "/srv/larder"])
    };
    insta::assert_snapshot!(
        "peers",
        check(
            "[node.peers]\nname = \"node-1\"\ncertificates = \"[DIR]/made/node-1\"\n\
             members = [{ name = \"node-1\", address = \"10.0.0.1:7440\" }, { name = \"node-2\", address = \"10.0.0.2:7440\" }]\n"
        )
    );
    insta::assert_snapshot!(
        "peers_wrong",
        check(
            "[node.peers]\nname = \"node-9\"\ncertificates = \"[DIR]/none\"\nupload = \"1KB\"\nzones = 3\n\
             members = [{ name = \"node-1\", address = \"0.0.0.0:7440\" }, { adress = \"10.0.0.2:7440\" }]\n"
        )
    );
    insta::assert_snapshot!(
        "peers_service",
        check("[node.peers]\nname = \"node-1\"\ncertificates = \"[DIR]/made/node-1\"\nservice = \"larder\"\n")
    );
}

#[test]
fn an_address_for_nodes_is_checked_before_the_start() {
    let place = Place::new();
    place.run(&["certs", "--dir", "made", "node-1", "--registry", "cache"]);
    expired(&place);
    let check = |text: &str| {
        place.write("larder.toml", text);
        place.check()
    };
    let folder = |folder: &str| format!("[registry.nodes]\ncertificates = \"[DIR]/{folder}\"\n");
    insta::assert_snapshot!("for_nodes", check(&folder("made/cache")));
    insta::assert_snapshot!("for_nodes_wrong", check(&format!("{}liten = 3\n[registry.tls]\n", folder("made/node-1"))));
    insta::assert_snapshot!("for_nodes_missing", check(&folder("none")));
    insta::assert_snapshot!("for_nodes_expired", check(&folder("old/cache")));
    insta::assert_snapshot!(
        "for_nodes_same_port",
        check(&format!("{}listen = \"127.0.0.1:5001\"\n", folder("made/cache")))
    );
    // One file for all machines: each looks at its own certificates only.
    let shared = format!(
        "{}[node]\nregistry = \"https://cache\"\nregistry_certificates = \"none\"\n\
         [node.peers]\ncertificates = \"none\"\nservice = \"a/b\"\n",
        folder("made/cache")
    );
    assert!(check(&shared).starts_with("exit 0\n"), "{}", check(&shared));
}

#[test]
fn a_registry_that_knows_nodes_is_checked_before_the_start() {
    let place = Place::new();
    place.run(&["certs", "--dir", "made", "node-1", "--registry", "cache"]);
    expired(&place);
    let check = |text: &str| {
        place.write("larder.toml", &format!("[registry.nodes]\ncertificates = \"none\"\n[node]\n{text}"));
        place.run(&["node", "--config", "larder.toml", "--check", "--store", "/srv/larder"])
    };
    let known =
        |folder: &str| format!("registry = \"https://cache:5002\"\nregistry_certificates = \"[DIR]/{folder}\"\n");
    insta::assert_snapshot!("known_registry", check(&known("made/node-1")));
    insta::assert_snapshot!("known_registry_role", check(&known("made/cache")));
    insta::assert_snapshot!("known_registry_ca", check(&format!("{}registry_ca = \"ca.pem\"\n", known("made/node-1"))));
    insta::assert_snapshot!("known_registry_expired", check(&known("old/node-1")));
    insta::assert_snapshot!("known_registry_plain", check(&known("made/node-1").replace("https", "http")));
    insta::assert_snapshot!("known_registry_none", check("registry_certificates = \"[DIR]/made/node-1\"\n"));
}

#[test]
fn a_node_of_a_cluster() {
    let place = Place::new();
    let check = |text: &str, environment: &[(&str, &str)]| {
        place.write("larder.toml", text);
        let mut command = place.command(&["node", "--config", "larder.toml", "--check", "--store", "/srv/larder"]);
        command.envs(environment.iter().copied());
        place.told(command)
    };
    insta::assert_snapshot!("cluster", check("[node.cluster]\nname = \"node-1\"\nkeep_free = \"20%\"\n", &[]));
    insta::assert_snapshot!(
        "cluster_wrong",
        check("[node.cluster]\nname = \"Node 1\"\nkeep_free = \"20\"\nnames = 1\n", &[])
    );
    let on = [("LARDER_NODE_CLUSTER", "true"), ("NODE_NAME", "node-2")];
    insta::assert_snapshot!("cluster_environment", check("", &on));
    insta::assert_snapshot!("cluster_table", check("[node.cluster]\nkeep_free = \"0%\"\n", &on[1..]));
    insta::assert_snapshot!(
        "cluster_off",
        check("[node.cluster]\nname = \"node-1\"\n", &[("LARDER_NODE_CLUSTER", "false")])
    );
    insta::assert_snapshot!("cluster_nameless", check("", &[("LARDER_NODE_CLUSTER", "true"), ("NODE_NAME", "")]));
}

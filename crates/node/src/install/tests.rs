use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{Running, detect_by_files, uninstall};

const MIRROR: &str = "[host.\"http://127.0.0.1:7439\"]";
const ROOT: &str = "/etc/containerd/certs.d";

fn running(version: &str) -> Running {
    Running { version: Some(version.to_owned()), ..Running::default() }
}

struct Host {
    dir: TempDir,
    settings: Settings,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let settings = Settings::new(dir.path());
        let host = Host { dir, settings };
        host.file(
            "/etc/containerd/config.toml",
            &format!("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{ROOT}'\n"),
        );
        host
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.settings.on_host(Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn dir(&self, path: &str) {
        fs::create_dir_all(self.settings.on_host(Path::new(path))).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.settings.on_host(Path::new(path))).unwrap()
    }

    fn runtimes(&self) -> Vec<Runtime> {
        detect_by_files(self.dir.path(), &running("2.4.2")).unwrap()
    }

    fn install(&self) -> Installed {
        install(&self.settings, &self.runtimes()).unwrap()
    }

    fn codes(&self) -> Vec<&'static str> {
        examine(&self.settings, &self.runtimes()).iter().map(|finding| finding.code).collect()
    }

    /// Every path under /etc with mode and content.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut tree = BTreeMap::new();
        let mut left = vec![self.dir.path().join("etc")];
        while let Some(path) = left.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            tree.insert(path, (meta.mode(), bytes));
        }
        tree
    }

    /// A directory with one of each kind.
    fn filled(self) -> Host {
        self.file(
            "/etc/containerd/certs.d/docker.io/hosts.toml",
            "# ours\nserver = \"https://registry-1.docker.io\" # keep\n\n# the old mirror\n[host.\"https://mirror.example\"]\n  capabilities = [\"pull\"]\n  override_path = true\n",
        );
        self.file("/etc/containerd/certs.d/reg.io_5000_/ca.crt", "certificate");
        self.file("/etc/containerd/certs.d/server.io/hosts.toml", "server = \"https://x.io\"");
        self.file("/etc/containerd/certs.d/broken.io/hosts.toml", "server = \n");
        self.file("/etc/containerd/certs.d/words.io/hosts.toml", "[host.\"https://a\"]\ncapabilities = [\"dial\"]\n");
        self.dir("/etc/containerd/certs.d/quay.io");
        let path = self.settings.on_host(Path::new("/etc/containerd/certs.d/docker.io/hosts.toml"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("elsewhere", self.settings.on_host(Path::new("/etc/containerd/certs.d/server.io/link"))).unwrap();
        self
    }
}

#[test]
fn every_registry_gets_the_mirror_first_and_uninstall_leaves_no_trace() {
    let host = Host::new().filled();
    let before = host.tree();
    let installed = host.install();
    assert_eq!(installed.written.len(), 5, "{installed:?}");
    assert_eq!(installed.left.len(), 2, "{installed:?}");
    let docker = host.text("/etc/containerd/certs.d/docker.io/hosts.toml");
    assert!(docker.starts_with("# ours\nserver = \"https://registry-1.docker.io\" # keep\n\n# >>> larder"), "{docker}");
    assert!(docker.ends_with("# <<< larder\n# the old mirror\n[host.\"https://mirror.example\"]\n  capabilities = [\"pull\"]\n  override_path = true\n"));
    let certificates = host.text("/etc/containerd/certs.d/reg.io_5000_/hosts.toml");
    assert!(certificates.starts_with("ca = [\"ca.crt\"]\n") && certificates.contains(MIRROR), "{certificates}");
    assert!(host.text("/etc/containerd/certs.d/quay.io/hosts.toml").contains(MIRROR));
    let default = host.text("/etc/containerd/certs.d/_default/hosts.toml");
    assert!(default.contains("capabilities = [\"pull\", \"resolve\"]") && !default.contains("server"), "{default}");
    assert_eq!(host.codes(), ["broken-toml", "unknown-capability"]);

    let after = host.tree();
    let again = host.install();
    assert!(again.written.is_empty(), "{again:?}");
    assert_eq!(host.tree(), after);

    assert_eq!(uninstall(&host.settings).unwrap(), []);
    assert_eq!(host.tree(), before);
    assert!(!host.settings.state.exists());
}

#[test]
fn an_install_that_is_killed_anywhere_can_be_finished_or_taken_back() {
    for finish in [true, false] {
        for step in 0.. {
            let host = Host::new().filled();
            let before = host.tree();
            let killed = memory(&host.settings);
            killed.disk.steps_left.set(Some(step));
            let done = run(&host.settings, &host.runtimes(), &killed).unwrap();
            // Whatever is there is whole: only what containerd could not read before is still unreadable.
            for (path, (_, bytes)) in host.tree().iter().filter(|(path, _)| path.ends_with("hosts.toml")) {
                let original = before.get(path).is_some_and(|(_, original)| original == bytes);
                assert!(original || String::from_utf8_lossy(bytes).contains(MIRROR), "{path:?} after {step}");
            }
            if finish {
                host.install();
                assert_eq!(host.codes(), ["broken-toml", "unknown-capability"], "after {step}");
            }
            assert_eq!(uninstall(&host.settings).unwrap(), [], "after {step}");
            assert_eq!(host.tree(), before, "after {step}");
            if done.findings.is_empty() {
                assert!(step > 20, "the last step was {step}");
                break;
            }
        }
    }
}

#[test]
fn an_uninstall_that_is_killed_anywhere_can_be_repeated() {
    for step in 0.. {
        let host = Host::new().filled();
        let before = host.tree();
        host.install();
        let killed = memory(&host.settings);
        killed.disk.steps_left.set(Some(step));
        let done = take_back(&host.settings, &killed).is_ok_and(|findings| findings.is_empty());
        assert_eq!(uninstall(&host.settings).unwrap(), [], "after {step}");
        assert_eq!(host.tree(), before, "after {step}");
        if done {
            assert!(step > 10, "the last step was {step}");
            break;
        }
    }
}

#[test]
fn a_file_that_somebody_changed_since_keeps_the_change() {
    let host = Host::new().filled();
    host.install();
    let path = "/etc/containerd/certs.d/docker.io/hosts.toml";
    // Changed around larder's part.
    let changed = format!("{}  skip_verify = true\n", host.text(path));
    host.file(path, &changed);
    assert!(host.codes().contains(&"hosts-file-changed"));
    host.install();
    assert_eq!(host.text(path), changed);
    assert!(!host.codes().contains(&"hosts-file-changed"));
    // Written anew without it, and not seen by larder before the end.
    host.file("/etc/containerd/certs.d/server.io/hosts.toml", "server = \"https://y.io\"\n");
    host.file("/etc/containerd/certs.d/quay.io/hosts.toml", "server = \"https://quay.example\"\n");
    host.install();
    assert!(host.text("/etc/containerd/certs.d/quay.io/hosts.toml").contains(MIRROR));
    host.file("/etc/containerd/certs.d/server.io/hosts.toml", "server = \"https://z.io\"\n");
    assert_eq!(uninstall(&host.settings).unwrap(), []);
    assert!(
        host.text(path).ends_with("override_path = true\n  skip_verify = true\n")
            && !host.text(path).contains("larder")
    );
    assert_eq!(host.text("/etc/containerd/certs.d/server.io/hosts.toml"), "server = \"https://z.io\"\n");
    assert_eq!(host.text("/etc/containerd/certs.d/quay.io/hosts.toml"), "server = \"https://quay.example\"\n");
}

#[test]
fn a_lost_state_does_not_make_larders_part_an_original() {
    let host = Host::new().filled();
    let before = host.tree();
    host.install();
    fs::remove_dir_all(&host.settings.state).unwrap();
    host.install();
    uninstall(&host.settings).unwrap();
    assert!(host.tree().values().all(|(_, bytes)| !String::from_utf8_lossy(bytes).contains("larder")));
    let docker = host.settings.on_host(Path::new("/etc/containerd/certs.d/docker.io/hosts.toml"));
    assert_eq!(host.tree()[&docker], before[&docker]);
}

#[test]
fn symbolic_links_and_foreign_entries_are_left_alone() {
    let host = Host::new();
    host.file("/etc/own/hosts.toml", "[host.\"https://m\"]\n");
    host.dir("/etc/containerd/certs.d/a.io");
    symlink("/etc/own/hosts.toml", host.settings.on_host(Path::new("/etc/containerd/certs.d/a.io/hosts.toml")))
        .unwrap();
    host.dir("/etc/containerd/certs.d/_backup");
    let installed = host.install();
    assert_eq!(installed.left.len(), 1);
    assert_eq!(installed.written, [Path::new("/etc/containerd/certs.d/_default/hosts.toml")]);
    assert_eq!(host.codes(), ["left-alone"]);
}

#[test]
fn default_goes_where_it_hides_no_registry() {
    let host = Host::new();
    host.file(
        "/etc/containerd/config.toml",
        "version = 3\n[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n",
    );
    host.file("/etc/docker/certs.d/reg.io/ca.crt", "certificate");
    let installed = host.install();
    assert!(installed.written.contains(&"/etc/docker/certs.d/_default/hosts.toml".into()), "{installed:?}");
    assert_eq!(host.codes(), ["config-path-several", "discard-unpacked-layers"]);
}

#[test]
fn what_is_not_read_any_more_is_given_back() {
    let host = Host::new().filled();
    host.install();
    host.file(
        "/etc/containerd/config.toml",
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/new'\n",
    );
    let installed = host.install();
    assert_eq!(installed.written, [Path::new("/etc/new/_default/hosts.toml")]);
    assert!(!host.text("/etc/containerd/certs.d/docker.io/hosts.toml").contains("larder"));
}

#[test]
fn crio_gets_a_drop_in_for_what_nobody_else_configured() {
    let mut host = Host::new();
    fs::remove_file(host.settings.on_host(Path::new("/etc/containerd/config.toml"))).unwrap();
    host.dir("/etc/crio");
    host.file("/etc/containers/registries.conf", "[[registry]]\nprefix = 'quay.io'\nlocation = 'quay.io'\n");
    assert_eq!(host.codes(), ["crio-no-registries"]);
    host.settings.crio_registries = ["docker.io", "quay.io", "reg.io:5000"].map(String::from).to_vec();
    assert_eq!(host.codes(), ["crio-drop-in-missing", "crio-shadowed"]);
    let before = host.tree();
    assert!(host.install().reload_crio);
    assert!(!host.install().reload_crio);
    let text = host.text(crio::DROP_IN);
    assert!(text.contains("location = \"127.0.0.1:7439/docker.io\"\ninsecure = true"), "{text}");
    assert!(text.contains("\"127.0.0.1:7439/reg.io__5000\"") && !text.contains("quay.io"), "{text}");
    assert_eq!(host.codes(), ["crio-shadowed"]);
    uninstall(&host.settings).unwrap();
    assert_eq!(host.tree(), before);
}

#[test]
fn a_containerd_that_is_silent_for_a_while_keeps_its_files() {
    let host = Host::new();
    host.file(
        "/etc/containerd/config.toml",
        "version = 3\n[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n",
    );
    assert!(host.install().written.contains(&format!("{ROOT}/_default/hosts.toml").into()), "2.4 has a default");
    let before = host.tree();
    let mut runtimes = detect_by_files(host.dir.path(), &Running::default()).unwrap();
    runtimes[0].silent = Some("it is started again".into());
    install(&host.settings, &runtimes).unwrap();
    assert_eq!(host.tree(), before);
    let told = examine(&host.settings, &runtimes);
    assert!(
        told.iter().any(|finding| finding.code == "runtime-silent" && finding.severity == Severity::Info),
        "{told:?}"
    );
    let older = detect_by_files(host.dir.path(), &running("2.0.3")).unwrap();
    install(&host.settings, &older).unwrap();
    assert_ne!(host.tree(), before, "a version without a default reads none of them");
}

#[test]
fn a_containerd_that_runs_otherwise_than_its_files_say_is_told_of() {
    let host = Host::new();
    let found = |runs: &str| {
        let running = Running { registry_config_path: Some(runs.into()), ..running("2.4.2") };
        let runtimes = detect_by_files(host.dir.path(), &running).unwrap();
        let findings = examine(&host.settings, &runtimes);
        findings.into_iter().map(|finding| (finding.code, finding.severity)).collect::<Vec<_>>()
    };
    host.install();
    assert_eq!(found(ROOT), []);
    assert_eq!(found("")[0], ("config-path-not-in-force", Severity::Error));
    assert_eq!(found("/a:/b")[0], ("config-path-not-in-force", Severity::Error));
    assert!(found("/other").contains(&("config-path-not-in-force", Severity::Info)));
    host.file("/etc/containerd/config.toml", "version = 3\n");
    assert!(found(ROOT).contains(&("config-path-not-in-force", Severity::Warning)));
    assert_eq!(found("")[0].0, "config-path-missing");
}

#[test]
fn a_host_without_a_runtime_is_said_to_have_none() {
    let dir = TempDir::new().unwrap();
    let findings = examine(&Settings::new(dir.path()), &detect_by_files(dir.path(), &Running::default()).unwrap());
    assert_eq!(findings[0].code, "unknown-runtime");
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("".into()),
        Just("# a comment".into()),
        Just("server = \"https://a.io\"".into()),
        Just("capabilities = [\"pull\"]".into()),
        Just("  ca = ['x.crt'] # why".into()),
        Just("[header]\nx = ['y']".into()),
        Just("[host]".into()),
        Just("host.\"https://d\".capabilities = ['pull']".into()),
        "[a-c]".prop_map(|name| format!("[host.\"https://{name}\"]")),
        "[a-c]".prop_map(|name| format!("[host.'https://{name}'.header]\r\n\tx = 'é'")),
        Just(MIRROR.into()),
        ".{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn adopt_and_restore_is_the_identity(lines in prop::collection::vec(line(), 0..8), newline: bool) {
        let host = Host::new();
        let text = lines.join("\n") + if newline { "\n" } else { "" };
        host.file("/etc/containerd/certs.d/a.io/hosts.toml", &text);
        let before = host.tree();
        let installed = host.install();
        let after = host.text("/etc/containerd/certs.d/a.io/hosts.toml");
        if installed.left.is_empty() {
            let hosts = Hosts::parse(&after).unwrap();
            prop_assert_eq!(hosts.position("http://127.0.0.1:7439"), Some(0));
            let mine: toml::Table = after.parse().unwrap();
            let mut rest = mine.clone();
            if !text.contains(MIRROR) {
                let hosts = rest["host"].as_table_mut().unwrap();
                hosts.remove("http://127.0.0.1:7439");
                if hosts.is_empty() { rest.remove("host"); }
                let mut original: toml::Table = text.parse().unwrap();
                if original.get("host").is_some_and(|hosts| hosts.as_table().unwrap().is_empty()) { original.remove("host"); }
                prop_assert_eq!(rest, original);
            }
        } else {
            prop_assert_eq!(&after, &text);
        }
        prop_assert!(ROOT.len() > 1 && uninstall(&host.settings).unwrap().is_empty());
        prop_assert_eq!(host.tree(), before);
    }
}

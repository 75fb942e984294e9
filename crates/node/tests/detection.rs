//! What each layout of files means, as facts in a table.
#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "a test fails where it must, and its table is plain")]

use std::fs;
use std::path::{Path, PathBuf};

use node::{ConfigPath, Distribution, PullPath, Running, RuntimeKind, Settings, detect_by_files, examine};
use tempfile::TempDir;

fn running(version: &str) -> Running {
    Running { version: Some(version.to_owned()), ..Running::default() }
}

const V2: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n";
const V3: &str = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n";
const V4: &str = "version = 4\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n";
const MIRRORS: &str =
    "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m\"]\n";
const KIND: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndiscard_unpacked_layers = true\n";
const IMPORTS: &str = "imports = [\"conf.d/*.toml\"]\n";

fn one() -> ConfigPath {
    ConfigPath::One("/c".into())
}

fn two() -> ConfigPath {
    ConfigPath::Several(vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()])
}

fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn the_effective_configuration_is_found() {
    let config = "/etc/containerd/config.toml";
    let import = "/etc/containerd/conf.d/10.toml";
    let with_imports = |text: &str| format!("{IMPORTS}{text}");
    let other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"p\"\n";
    let cases: Vec<(&str, &str, String, Option<&str>, ConfigPath, PullPath, bool)> = vec![
        ("1.7 set", "1.7.35", V2.into(), None, one(), PullPath::Local, false),
        ("1.7 none", "1.7.35", "version = 2\n".into(), None, ConfigPath::NotSet, PullPath::Local, false),
        ("1.7 mirrors", "1.7.35", MIRRORS.into(), None, ConfigPath::Mirrors, PullPath::Local, false),
        ("2.0 migrates version 2", "2.0.14", V2.into(), None, one(), PullPath::Local, false),
        ("2.1 none", "2.1.9", "version = 3\n".into(), None, ConfigPath::NotSet, PullPath::Transfer, false),
        ("2.2 default", "2.2.9", "version = 3\n".into(), None, two(), PullPath::Transfer, false),
        ("2.3 version 4", "v2.3.7", V4.into(), None, one(), PullPath::Transfer, false),
        ("2.4 version 3", "containerd://2.4.2", V3.into(), None, one(), PullPath::Transfer, false),
        ("kind", "2.2.9", KIND.into(), None, two(), PullPath::Local, true),
        ("2.x merges imports", "2.4.2", with_imports("version = 3\n"), Some(V3), one(), PullPath::Transfer, false),
        ("2.x merges deeply", "2.4.2", with_imports(V2), Some(other), one(), PullPath::Transfer, false),
        ("1.7 replaces", "1.7.35", with_imports(V2), Some(other), ConfigPath::NotSet, PullPath::Local, false),
        ("mirrors, 2.2", "2.2.9", MIRRORS.into(), None, ConfigPath::Mirrors, PullPath::Local, false),
    ];
    for (name, version, text, imported, path, pull, discard) in cases {
        let mut files = vec![(config, text.as_str())];
        files.extend(imported.map(|text| (import, text)));
        let dir = tree(&files);
        let found = detect_by_files(dir.path(), &running(version)).unwrap();
        let RuntimeKind::Containerd(config) = &found[0].kind else { panic!("{name}") };
        assert_eq!((&config.config_path, config.pull_path), (&path, pull), "{name}");
        assert_eq!(config.discard_unpacked_layers, discard, "{name}");
        assert_eq!(config.files.len(), files.len(), "{name}");
    }
}

#[test]
fn each_distribution_is_known_by_its_files() {
    for (distribution, file) in [
        (Distribution::K3s, "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"),
        (Distribution::Rke2, "/var/lib/rancher/rke2/agent/etc/containerd/config.toml"),
        (Distribution::K0s, "/etc/k0s/containerd.toml"),
        (Distribution::MicroK8s, "/var/snap/microk8s/current/args/containerd.toml"),
        (Distribution::Talos, "/etc/cri/containerd.toml"),
        (Distribution::Kind, "/etc/containerd/config.toml"),
        (Distribution::EksAl2023, "/etc/containerd/config.toml"),
        (Distribution::Bottlerocket, "/etc/containerd/config.toml"),
        (Distribution::Other, "/etc/containerd/config.toml"),
    ] {
        let sign = match distribution {
            Distribution::K0s => "/var/lib/k0s/x",
            Distribution::Talos => "/etc/cri/conf.d/x",
            Distribution::Kind => "/kind/version",
            Distribution::EksAl2023 => "/etc/eks/nodeadm/x",
            Distribution::Bottlerocket => "/etc/bottlerocket-release",
            _ => "/etc/x",
        };
        let dir = tree(&[(file, V2), (sign, "")]);
        let found = detect_by_files(dir.path(), &running("2.4.2")).unwrap();
        assert_eq!(found[0].distribution, distribution);
        let RuntimeKind::Containerd(config) = &found[0].kind else { panic!() };
        assert_eq!(config.files, [PathBuf::from(file)]);
        assert_eq!(config.roots(), [Path::new("/c")]);
    }
}

#[test]
fn an_administrator_is_told_what_to_write() {
    for (version, text, code, table) in [
        ("1.7.35", "version = 2\n", "config-path-missing", "io.containerd.grpc.v1.cri"),
        ("2.4.2", "version = 3\n", "config-path-several", "io.containerd.cri.v1.images"),
        ("1.7.35", MIRRORS, "registry-mirrors", "io.containerd.grpc.v1.cri"),
    ] {
        let dir = tree(&[("/etc/containerd/config.toml", text)]);
        let found = detect_by_files(dir.path(), &running(version)).unwrap();
        let findings = examine(&Settings::new(dir.path()), &found);
        assert_eq!(findings[0].code, code);
        assert!(findings[0].remedy.contains(table), "{}", findings[0]);
        assert!(findings[0].remedy.contains("config_path = \"/etc/containerd/certs.d\""), "{}", findings[0]);
    }
}

#[test]
fn broken_configuration_is_an_error_that_names_the_file() {
    let dir = tree(&[("/etc/containerd/config.toml", "version = ")]);
    assert!(detect_by_files(dir.path(), &Running::default()).unwrap_err().to_string().contains("config.toml"));
}

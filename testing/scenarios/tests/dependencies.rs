//! No crate is older than the version that mended what is known to be wrong with it.

use std::fs;
use std::path::Path;

/// The lowest safe version of crates that larder uses or may come to use, and the advisory that says so. A crate that is
/// not used at all is fine. Where advisories are mended in several lines of versions, the newest line counts.
const LOWEST: [(&str, &str, &str); 10] = [
    ("bytes", "1.11.1", "RUSTSEC-2026-0007"),
    ("h2", "0.4.16", "RUSTSEC-2026-0258, RUSTSEC-2024-0332, RUSTSEC-2024-0003"),
    ("lru", "0.18.2", "RUSTSEC-2026-0253, RUSTSEC-2026-0002"),
    ("object_store", "0.10.2", "RUSTSEC-2024-0358"),
    ("quinn-proto", "0.11.15", "RUSTSEC-2026-0185, RUSTSEC-2026-0037"),
    ("ring", "0.17.12", "RUSTSEC-2025-0009"),
    ("rustls", "0.23.18", "RUSTSEC-2024-0399"),
    ("rustls-webpki", "0.103.13", "RUSTSEC-2026-0104, RUSTSEC-2026-0099, RUSTSEC-2026-0098, RUSTSEC-2026-0049"),
    ("tar", "0.4.45", "RUSTSEC-2026-0068, RUSTSEC-2026-0067"),
    ("time", "0.3.47", "RUSTSEC-2026-0009"),
];

/// Crates that must not be used in any version, and why.
const NEVER: [(&str, &str); 2] = [("serde_yml", "RUSTSEC-2025-0068"), ("serde_yaml", "nobody keeps it any more")];

// S-33
#[test]
fn no_crate_is_below_its_lowest_safe_version() {
    let found = unsafe_crates(&locked());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_is_too_old_or_forbidden_is_found() {
    let package = |name: &str, version: &str| (name.to_owned(), version.to_owned());
    for (name, version) in
        [("h2", "0.4.15"), ("h2", "0.3.26"), ("rustls-webpki", "0.103.9"), ("time", "0.3.46"), ("serde_yml", "9.0.0")]
    {
        assert_eq!(unsafe_crates(&[package(name, version)]).len(), 1, "{name} {version}");
    }
    for (name, version) in [("h2", "0.4.16"), ("h2", "0.5.0-rc.1"), ("bytes", "1.11.1+build"), ("anything", "0.0.1")] {
        assert!(unsafe_crates(&[package(name, version)]).is_empty(), "{name} {version}");
    }
}

fn unsafe_crates(packages: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, version) in packages {
        let lowest = LOWEST.iter().find(|(other, ..)| other == name);
        if let Some((_, lowest, advisory)) = lowest.filter(|(_, lowest, _)| numbers(version) < numbers(lowest)) {
            found.push(format!("{name} {version} is below {lowest} ({advisory})"));
        }
        if let Some((_, why)) = NEVER.iter().find(|(other, _)| other == name) {
            found.push(format!("{name} {version} must not be used: {why}"));
        }
    }
    found
}

/// Names and versions of all that the workspace is built from.
fn locked() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    let text = fs::read_to_string(&path).expect("the workspace has a Cargo.lock");
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let packages: Vec<_> = text
        .split("[[package]]")
        .skip(1)
        .map(|block| field(block, "name").zip(field(block, "version")).unwrap_or_else(|| panic!("no package: {block}")))
        .collect();
    assert!(packages.iter().any(|(name, _)| name == "tokio"), "this is not how Cargo.lock looks any more");
    packages
}

/// A version's three numbers; what follows a dash or a plus does not count.
fn numbers(version: &str) -> [u64; 3] {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("{version} is no version")));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0)]
}

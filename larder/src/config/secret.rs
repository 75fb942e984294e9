use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cache::Credential;
use oci::Registry;
use serde::Deserialize;

use super::section::Section;

/// The keys that a user name may stand behind: itself, in a file, in the environment.
const USERNAME: [&str; 3] = ["username", "username_file", "username_env"];
/// Those of a password, which may not stand in the configuration itself.
const PASSWORD: [&str; 3] = ["", "password_file", "password_env"];

fn keys() -> impl Iterator<Item = &'static str> {
    USERNAME.into_iter().chain(PASSWORD).filter(|key| !key.is_empty())
}

/// A credential and where it came from. Shows the second only.
pub struct Found {
    /// The credential.
    pub credential: Credential,
    place: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {:?}, password from {}", self.credential.username(), self.place)
    }
}

/// Reads a file that holds a secret. Others than its owner and group should not be able to; if they are, there is a
/// warning, since nobody wants to learn that from an outage.
pub fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<u8>, String> {
    let failed = |error| format!("{}: cannot be read: {error}", path.display());
    let bytes = std::fs::read(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.mode();
    if mode & 0o004 != 0 {
        let path = path.display();
        warnings.push(format!("{path} holds a secret and can be read by every user: chmod o-rwx {path}"));
    }
    Ok(bytes)
}

/// Reads `credential = { … }` of an upstream; of one whose registry is not known, only to say what is wrong.
pub fn credential(mut section: Section<'_>, registry: Option<&Registry>, warnings: &mut Vec<String>) -> Option<Found> {
    let docker_config: Option<PathBuf> = section.value("docker_config");
    let found = match docker_config {
        Some(path) => {
            for key in keys() {
                if section.has(key) {
                    section.problem(key, "does not go together with docker_config, which says both");
                }
            }
            let read = read(&path, warnings);
            let place = path.display().to_string();
            let found = read.and_then(|text| registry.map(|name| from_docker_file(place, &text, name)).transpose());
            found.unwrap_or_else(|error| {
                section.problem("docker_config", error);
                None
            })
        }
        None => parts(&mut section, warnings),
    };
    // Asked for in any case, so that they count as known.
    for key in keys() {
        section.know(key);
    }
    section.finish();
    found
}

fn parts(section: &mut Section<'_>, warnings: &mut Vec<String>) -> Option<Found> {
    let mut part = |keys| {
        text(section, keys, warnings).unwrap_or_else(|(key, error)| {
            section.problem(key, error);
            None
        })
    };
    let (username, password) = (part(USERNAME), part(PASSWORD));
    let missing = |keys: [&str; 3]| !keys.into_iter().any(|key| section.has(key));
    let (no_username, no_password) = (missing(USERNAME), missing(PASSWORD));
    if no_username || no_password {
        let help = "is missing: a credential has a username (or username_file, username_env) and a password_file \
                    (or password_env), or it is a docker_config";
        section.problem(if no_username { "username" } else { "password_file" }, help);
    }
    let ((username, _), (password, place)) = (username?, password?);
    if username.len().max(password.len()) > Credential::LIMIT {
        let limit = Credential::LIMIT;
        section.problem("username", format_args!("the user name or the password is longer than {limit} bytes"));
        return None;
    }
    Some(Found { credential: Credential::new(username, password), place })
}

/// A text that stands in the configuration, in a file or in the environment, and where it was.
fn text(
    section: &mut Section<'_>,
    [plain, file, env]: [&'static str; 3],
    warnings: &mut Vec<String>,
) -> Result<Option<(String, String)>, (&'static str, String)> {
    let given: Vec<&'static str> = [plain, file, env].into_iter().filter(|key| section.has(key)).collect();
    if let [first, second, ..] = given[..] {
        return Err((second, format!("says the same as {first}; leave one out")));
    }
    if !plain.is_empty()
        && let Some(text) = section.value::<String>(plain)
    {
        return Ok(Some((text, "the configuration".to_owned())));
    }
    if let Some(path) = section.value::<PathBuf>(file) {
        let bytes = read(&path, warnings).map_err(|error| (file, error))?;
        let text = String::from_utf8(bytes).map_err(|_| (file, format!("{} is not UTF-8", path.display())))?;
        // Editors end a file with a newline; no password does.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err((file, format!("{} is empty", path.display())));
        }
        return Ok(Some((text.to_owned(), path.display().to_string())));
    }
    if let Some(name) = section.value::<String>(env) {
        return match std::env::var(&name) {
            Ok(text) if !text.is_empty() => Ok(Some((text, format!("${name}")))),
            _ => Err((env, format!("the environment has no {name}, or it is empty"))),
        };
    }
    Ok(None)
}

/// The file that `docker login` writes and that Kubernetes keeps in secrets of type `kubernetes.io/dockerconfigjson`.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerEntry>,
}

#[derive(Deserialize)]
struct DockerEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// Why there is nothing for a registry in a Docker configuration. Quotes nothing of it, for it holds passwords.
#[derive(Debug, PartialEq, Eq)]
pub enum Lack {
    /// It is none: the line where that shows.
    Form(usize),
    /// It does not name the registry.
    Registry,
    /// It has no user name and password.
    Password,
}

fn from_docker_file(place: String, text: &[u8], registry: &Registry) -> Result<Found, String> {
    let credential = from_docker(text, registry).map_err(|why| match why {
        Lack::Form(line) => format!("{place}:{line}: is no Docker configuration"),
        Lack::Registry => format!("{place} has no entry for {registry} in auths"),
        Lack::Password => format!(
            "{place} has no user name and password for {registry}; larder runs no credential helpers and knows no \
             identity tokens: use username and password_file"
        ),
    })?;
    Ok(Found { credential, place })
}

/// Reads a Docker configuration's credential for a registry.
pub fn from_docker(text: &[u8], registry: &Registry) -> Result<Credential, Lack> {
    // The error would quote the text.
    let config: DockerConfig = serde_json::from_slice(text).map_err(|error| Lack::Form(error.line()))?;
    let entry = config.auths.into_iter().find(|(key, _)| registry_of(key).as_ref() == Some(registry));
    let (_, entry) = entry.ok_or(Lack::Registry)?;
    let pair = match entry {
        DockerEntry { username: Some(username), password: Some(password), .. } => Some((username, password)),
        DockerEntry { auth: Some(auth), .. } => BASE64_STANDARD
            .decode(auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|pair| pair.split_once(':').map(|(name, word)| (name.to_owned(), word.to_owned()))),
        _ => None,
    };
    let (username, password) = pair.filter(|(_, password)| !password.is_empty()).ok_or(Lack::Password)?;
    Ok(Credential::new(username, password))
}

/// The registry that a key of `auths` means: `ghcr.io`, `https://index.docker.io/v1/`.
fn registry_of(key: &str) -> Option<Registry> {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    matches!(path.trim_end_matches('/'), "" | "v1" | "v2").then(|| host.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, registry: &str) -> Result<String, String> {
        from_docker_file("c.json".to_owned(), text.as_bytes(), &registry.parse().unwrap())
            .map(|found| format!("{}:{}", found.credential.username(), found.credential.password()))
    }

    #[test]
    fn docker_configurations() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "YTpiOmM="},
            "ghcr.io": {"username": "u", "password": "p", "auth": "eDp5"},
            "quay.io/team": {"auth": "eDp5"},
            "empty.example": {}
        }, "credsStore": "desktop"}"#;
        assert_eq!(find(text, "docker.io").as_deref(), Ok("a:b:c"));
        assert_eq!(find(text, "ghcr.io").as_deref(), Ok("u:p"));
        for registry in ["quay.io", "empty.example", "other.example"] {
            assert!(find(text, registry).is_err(), "{registry}");
        }
        let error = find(r#"{"auths": "S3NT1NEL"}"#, "ghcr.io").unwrap_err();
        assert!(!error.contains("S3NT1NEL"), "{error}");
    }
}

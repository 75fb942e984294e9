use std::collections::BTreeMap;

use apiserver::News;
use cache::Credential;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use oci::Registry;

use crate::config::{Lack, from_docker};

/// The types of Secrets that hold credentials for registries.
pub const DOCKER: &str = "kubernetes.io/dockerconfigjson";
pub const BASIC: &str = "kubernetes.io/basic-auth";
/// The type that pods may name besides: the entries of a Docker configuration alone.
const OLD_DOCKER: &str = "kubernetes.io/dockercfg";

/// What Secrets of larder's own namespace hold for Upstreams. Shows itself to nobody.
#[derive(Default)]
pub struct Secrets {
    /// Those of each type. `None` is what was never listed.
    docker: Option<BTreeMap<String, Kept>>,
    basic: Option<BTreeMap<String, Kept>>,
}

/// What is kept of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Kept {
    /// The text of a Docker configuration.
    Docker(Vec<u8>),
    /// A user name and a password.
    Basic(Vec<u8>, Vec<u8>),
    /// It does not have what its type promises.
    Empty,
}

/// Why a Secret has no credential for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Useless {
    /// It has some for others.
    NothingFor,
    /// It is not what its type promises. Quotes nothing of it.
    Broken(String),
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCredential {
    /// The Secrets have not been listed yet.
    Unheard,
    /// There is no such Secret.
    Missing,
    /// It is of no use for the registry. Quotes nothing of it.
    Useless(String),
}

/// The name of a Secret, and what of it matters here.
pub fn kept(secret: Secret) -> (String, Kept) {
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &str| data.remove(key).map(|ByteString(bytes)| bytes);
    let kept = match secret.type_.as_deref() {
        Some(DOCKER) => take(".dockerconfigjson").map(Kept::Docker),
        Some(OLD_DOCKER) => {
            take(".dockercfg").map(|entries| Kept::Docker([b"{\"auths\":".as_slice(), &entries, b"}"].concat()))
        }
        Some(BASIC) => take("username").zip(take("password")).map(|(name, word)| Kept::Basic(name, word)),
        _ => None,
    };
    (secret.metadata.name.unwrap_or_default(), kept.unwrap_or(Kept::Empty))
}

impl Secrets {
    /// Takes news of the Secrets of a type in.
    pub fn hear(&mut self, of_type: &str, news: News<(String, Kept)>) {
        let known = if of_type == DOCKER { &mut self.docker } else { &mut self.basic };
        match news {
            News::All(secrets) => *known = Some(secrets.into_iter().collect()),
            News::Changed((name, kept)) => drop(known.get_or_insert_default().insert(name, kept)),
            News::Gone((name, _)) => drop(known.get_or_insert_default().remove(&name)),
        }
    }

    /// What a Secret has for a registry.
    pub fn credential(&self, name: &str, registry: &Registry) -> Result<Credential, NoCredential> {
        let known = [&self.docker, &self.basic];
        let Some(kept) = known.iter().find_map(|secrets| secrets.as_ref()?.get(name)) else {
            let heard = known.iter().all(|secrets| secrets.is_some());
            return Err(if heard { NoCredential::Missing } else { NoCredential::Unheard });
        };
        kept.credential(registry).map_err(|why| {
            let why = match why {
                Useless::NothingFor => format!("has no entry for {registry} in auths"),
                Useless::Broken(why) => why,
            };
            NoCredential::Useless(format!("the Secret {name} {why}"))
        })
    }
}

impl Kept {
    /// What it has for a registry.
    pub fn credential(&self, registry: &Registry) -> Result<Credential, Useless> {
        let useless = Useless::Broken;
        let credential = match self {
            Kept::Docker(text) => from_docker(text, registry).map_err(|why| match why {
                Lack::Form(_) => useless("holds no Docker configuration".to_owned()),
                Lack::Registry => Useless::NothingFor,
                Lack::Password => useless(format!(
                    "has no user name and password for {registry}; larder runs no credential helpers and knows no identity tokens"
                )),
            })?,
            Kept::Basic(username, password) => {
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).ok();
                let pair = text(username).zip(text(password)).filter(|(_, password)| !password.is_empty());
                let (username, password) = pair.ok_or_else(|| {
                    useless("has no password, or one that is not UTF-8".to_owned())
                })?;
                Credential::new(username, password)
            }
            Kept::Empty => return Err(useless("does not have the keys of its type".to_owned())),
        };
        let longest = credential.username().len().max(credential.password().len());
        match longest <= Credential::LIMIT {
            true => Ok(credential),
            false => Err(useless(format!("has a user name or a password longer than {} bytes", Credential::LIMIT))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(name: &str, of_type: &str, data: Value) -> (String, Kept) {
        let encoded = data
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, text)| (key.clone(), json!(ByteString(text.as_str().unwrap().as_bytes().to_vec()))));
        let data: serde_json::Map<String, Value> = encoded.collect();
        kept(serde_json::from_value(json!({"metadata": {"name": name}, "type": of_type, "data": data})).unwrap())
    }

    fn told(secrets: &Secrets, name: &str) -> Result<String, NoCredential> {
        let credential = secrets.credential(name, &"ghcr.io".parse().unwrap())?;
        Ok(format!("{}:{}", credential.username(), credential.password()))
    }

    #[test]
    fn credentials_of_both_types() {
        let mut secrets = Secrets::default();
        let docker = json!({"auths": {"ghcr.io": {"auth": "YTpi"}}}).to_string();
        secrets.hear(DOCKER, News::All(vec![secret("docker", DOCKER, json!({".dockerconfigjson": docker}))]));
        assert_eq!(told(&secrets, "docker").as_deref(), Ok("a:b"));
        assert_eq!(told(&secrets, "basic"), Err(NoCredential::Unheard));
        secrets.hear(BASIC, News::All(Vec::new()));
        assert_eq!(told(&secrets, "basic"), Err(NoCredential::Missing));
        let basic = |password: &str| secret("basic", BASIC, json!({"username": "u", "password": password}));
        secrets.hear(BASIC, News::Changed(basic("first")));
        assert_eq!(told(&secrets, "basic").as_deref(), Ok("u:first"));
        secrets.hear(BASIC, News::Changed(basic("second")));
        assert_eq!(told(&secrets, "basic").as_deref(), Ok("u:second"));
        secrets.hear(BASIC, News::Gone(basic("second")));
        assert_eq!(told(&secrets, "basic"), Err(NoCredential::Missing));
    }

    #[test]
    fn what_is_of_no_use_is_told_without_its_words() {
        let mut secrets = Secrets::default();
        let docker = |name: &str, text: &str| secret(name, DOCKER, json!({".dockerconfigjson": text}));
        secrets.hear(
            DOCKER,
            News::All(vec![
                docker("broken", r#"{"auths": "S3NT1NEL"}"#),
                docker("other", r#"{"auths": {"quay.io": {"auth": "S3NT1NEL"}}}"#),
                docker("nobody", r#"{"auths": {"ghcr.io": {"auth": "S3NT1NEL"}}}"#),
                secret("keyless", DOCKER, json!({"S3NT1NEL": "S3NT1NEL"})),
            ]),
        );
        let half = secret("half", BASIC, json!({"username": "S3NT1NEL"}));
        let empty = secret("empty", BASIC, json!({"username": "S3NT1NEL", "password": ""}));
        secrets.hear(BASIC, News::All(vec![half, empty]));
        for name in ["broken", "other", "nobody", "keyless", "half", "empty"] {
            let Err(NoCredential::Useless(why)) = told(&secrets, name) else { panic!("{name} is of use") };
            assert!(why.starts_with(&format!("the Secret {name} ")) && !why.contains("S3NT1NEL"), "{why}");
        }
    }
}

use std::collections::{BTreeMap, HashMap};

use apiserver::{Need, Session, reason, refusal};
use controller::{Provision, SecretKey, SecretProblem};
use http::StatusCode;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serve::{Login, Wanted, WantedRepository};

use super::secrets::{Kept, Useless, kept};

/// Reads the Secrets that ImageCaches name, each once, and puts what they hold beside what it is for; gives what is wrong with them. Cancellation
/// safe.
///
/// # Errors
/// The API server does not answer: nothing is known then.
pub async fn read(
    session: &Session,
    provisions: Vec<Provision>,
) -> Result<(Wanted, HashMap<SecretKey, SecretProblem>), String> {
    let mut secrets: BTreeMap<SecretKey, Result<Kept, SecretProblem>> = BTreeMap::new();
    for key in provisions.iter().flat_map(|provision| provision.secrets.keys()) {
        if !secrets.contains_key(key) {
            secrets.insert(key.clone(), get(session, key).await?);
        }
    }
    Ok(put_together(provisions, &secrets))
}

/// A Secret, or why there is none that is of use.
async fn get(session: &Session, key: &SecretKey) -> Result<Result<Kept, SecretProblem>, String> {
    let client = session.client().await.map_err(|error| error.to_string())?;
    let secrets: Api<Secret> = Api::namespaced(client, &key.namespace);
    match secrets.get_opt(&key.name).await {
        Ok(Some(secret)) => Ok(Ok(kept(secret).1)),
        Ok(None) => {
            let message = format!("there is no Secret {} in this namespace, which imagePullSecrets names", key.name);
            Ok(Err(SecretProblem { reason: "PullSecretMissing", message }))
        }
        Err(error) if refusal(&error) == Some(StatusCode::FORBIDDEN) => {
            let message = format!(
                "larder may not read the Secret {}, which imagePullSecrets names: an administrator allows it by \
                 controller.pullSecrets.namespaces of the chart, or by a RoleBinding in this namespace",
                key.name
            );
            Ok(Err(SecretProblem { reason: "PullSecretRefused", message }))
        }
        Err(error) => {
            session.failed(&error);
            Err(reason(&error, &Need::of::<Secret>("get", Some(&key.namespace))))
        }
    }
}

fn put_together(
    provisions: Vec<Provision>,
    secrets: &BTreeMap<SecretKey, Result<Kept, SecretProblem>>,
) -> (Wanted, HashMap<SecretKey, SecretProblem>) {
    let mut problems: HashMap<SecretKey, SecretProblem> =
        secrets.iter().filter_map(|(key, kept)| Some((key.clone(), kept.as_ref().err()?.clone()))).collect();
    // A Secret may be for one of many registries; one that is for none of those that are wanted is a mistake.
    let mut of_use: HashMap<&SecretKey, Result<(), Useless>> = HashMap::new();
    let mut wanted = Wanted::default();
    for provision in provisions {
        let mut logins = Vec::new();
        for (key, runtime) in provision.secrets {
            let Some((key, Ok(kept))) = secrets.get_key_value(&key) else { continue };
            let known = of_use.entry(key).or_insert(Err(Useless::NothingFor));
            match kept.credential(&provision.name.registry) {
                Ok(credential) => {
                    *known = Ok(());
                    let (username, password) = (credential.username().to_owned(), credential.password().to_owned());
                    logins.push(Login { username, password, runtime });
                }
                Err(why) if known.is_err() => *known = Err(why),
                Err(_) => {}
            }
        }
        wanted.repositories.push(WantedRepository { name: provision.name.to_string(), logins });
    }
    for (key, known) in of_use {
        let Err(why) = known else { continue };
        let why = match why {
            Useless::NothingFor => "has nothing for the registries of these images".to_owned(),
            Useless::Broken(why) => why,
        };
        let message = format!("the Secret {}, which imagePullSecrets names, {why}", key.name);
        problems.insert(key.clone(), SecretProblem { reason: "PullSecretInvalid", message });
    }
    (wanted, problems)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;

    fn secret(of_type: &str, key: &str, text: &Value) -> Kept {
        let data = json!({key: ByteString(text.to_string().into_bytes())});
        kept(serde_json::from_value(json!({"metadata": {"name": "pull"}, "type": of_type, "data": data})).unwrap()).1
    }

    fn key(name: &str) -> SecretKey {
        SecretKey { namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn what_secrets_hold_is_put_beside_what_it_is_for() {
        let both = json!({"ghcr.io": {"auth": "YTpi"}, "quay.io": {"username": "u", "password": "S3NT1NEL"}});
        let secrets = BTreeMap::from([
            (key("new"), Ok(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!({"auths": both})))),
            (key("old"), Ok(secret("kubernetes.io/dockercfg", ".dockercfg", &both))),
            (key("other"), Ok(secret("kubernetes.io/dockercfg", ".dockercfg", &json!({"x.io": {"auth": "YTpi"}})))),
            (key("broken"), Ok(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!("S3NT1NEL")))),
            (key("gone"), Err(SecretProblem { reason: "PullSecretMissing", message: "gone".into() })),
        ]);
        let names = |names: &[&str]| names.iter().map(|name| (key(name), *name == "old")).collect();
        let provisions = vec![
            Provision {
                name: oci::Name::parse("ghcr.io/shop/a").unwrap(),
                secrets: names(&["new", "old", "other", "gone"]),
            },
            Provision { name: oci::Name::parse("quay.io/b").unwrap(), secrets: names(&["new", "broken"]) },
            Provision { name: oci::Name::parse("docker.io/library/c").unwrap(), secrets: names(&["new"]) },
        ];
        let (wanted, problems) = put_together(provisions, &secrets);
        let text = serde_json::to_value(&wanted).unwrap();
        assert_eq!(
            text,
            json!({"repositories": [
                {"name": "ghcr.io/shop/a", "logins": [
                    {"username": "a", "password": "b", "runtime": false}, {"username": "a", "password": "b", "runtime": true}]},
                {"name": "quay.io/b", "logins": [{"username": "u", "password": "S3NT1NEL", "runtime": false}]},
                {"name": "docker.io/library/c"},
            ]})
        );
        let mut told: Vec<_> = problems.iter().map(|(key, one)| (&*key.name, one.reason)).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [("broken", "PullSecretInvalid"), ("gone", "PullSecretMissing"), ("other", "PullSecretInvalid")]
        );
        assert!(problems.values().all(|problem| !problem.message.contains("S3NT1NEL")));
    }
}

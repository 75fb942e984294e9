use std::collections::BTreeMap;
use std::fmt;

use api::conditions::Status;
use api::{Upstream, UpstreamSpec};
use apiserver::News;
use cache::Rules;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use oci::Registry;
use upstream::{Listing, SettingsError, UpstreamSettings};

use super::secrets::{NoCredential, Secrets};
use super::settings::settings;

/// What is known of an Upstream.
#[derive(Clone)]
pub struct Known {
    pub name: String,
    pub generation: Option<i64>,
    created: Option<Time>,
    /// None if it cannot be read, or never could.
    spec: Option<UpstreamSpec>,
    /// It cannot be read: why.
    unreadable: Option<String>,
    pub conditions: Vec<Condition>,
}

/// The Upstreams of a cluster, and the Secrets that they name where these may be read.
pub struct Listed {
    /// `None` before they were listed.
    upstreams: Option<BTreeMap<String, Known>>,
    pub secrets: Option<Secrets>,
    namespace: String,
    usual: Rules,
}

/// What became of an Upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub name: String,
    pub generation: Option<i64>,
    pub state: State,
    /// The conditions that its status has.
    pub conditions: Vec<Condition>,
    /// What it comes to, if it is in use.
    pub settings: Option<UpstreamSettings>,
}

/// Whether an Upstream is in use as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    InUse,
    /// It is, but for its credential: the Secrets have not been heard of yet.
    Awaiting,
    /// It is, but for its credential: there is no such Secret in the namespace.
    SecretMissing { secret: String, namespace: String },
    /// It is, but for its credential, which is of no use.
    SecretUseless(String),
    /// It cannot be read.
    Unreadable(String),
    /// It says what cannot be used.
    Invalid(String),
    /// An older Upstream is about the same registry.
    NamedTwice { older: String, registry: Registry },
    /// The configuration file has the same registry.
    InFile(Registry),
    /// The configuration file excludes the registry.
    Excluded(Registry),
}

impl State {
    /// Whether it holds as the condition `Ready`.
    pub fn status(&self) -> Status {
        match self {
            State::InUse => Status::True,
            State::Awaiting => Status::Unknown,
            _ => Status::False,
        }
    }

    /// Why, in one word.
    pub fn reason(&self) -> &'static str {
        match self {
            State::InUse => "InUse",
            State::Awaiting => "SecretUnknown",
            State::SecretMissing { .. } => "SecretMissing",
            State::SecretUseless(_) => "SecretInvalid",
            State::Unreadable(_) | State::Invalid(_) => "InvalidSettings",
            State::NamedTwice { .. } => "NamedTwice",
            State::InFile(_) => "ListedInFile",
            State::Excluded(_) => "Excluded",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WITHOUT: &str = "it is used without a credential";
        match self {
            State::InUse => f.write_str("its settings are in use"),
            State::Awaiting => write!(f, "its Secret has not been heard of yet; until then {WITHOUT}"),
            State::SecretMissing { secret, namespace } => write!(
                f,
                "there is no Secret {secret} of type kubernetes.io/dockerconfigjson or kubernetes.io/basic-auth in \
                 the namespace {namespace}; {WITHOUT}"
            ),
            State::SecretUseless(why) => write!(f, "{why}; {WITHOUT}"),
            State::Unreadable(why) | State::Invalid(why) => write!(f, "{why}; what it last said well stays in use"),
            State::NamedTwice { older, registry } => {
                write!(f, "the older Upstream {older} is about {registry} too, and counts")
            }
            State::InFile(registry) => {
                write!(f, "larder's configuration file lists {registry}, and comes first")
            }
            State::Excluded(registry) => {
                write!(f, "larder's configuration file excludes {registry}, and comes first")
            }
        }
    }
}

/// Lets go of what is of no use here.
pub fn known(DeserializeGuard(read): DeserializeGuard<Upstream>) -> Known {
    let of = |meta: ObjectMeta| Known {
        name: meta.name.unwrap_or_default(),
        generation: meta.generation,
        created: meta.creation_timestamp,
        spec: None,
        unreadable: None,
        conditions: Vec::new(),
    };
    match read {
        Ok(upstream) => Known {
            spec: Some(upstream.spec),
            conditions: upstream.status.map(|status| status.conditions).unwrap_or_default(),
            ..of(upstream.metadata)
        },
        Err(invalid) => Known { unreadable: Some(invalid.error), ..of(invalid.metadata) },
    }
}

impl Listed {
    /// Nothing is known yet. `secrets` is what is known of Secrets, where they may be read, in that namespace; `usual` is what holds where an
    /// Upstream says nothing.
    pub fn new(secrets: Option<(Secrets, String)>, usual: Rules) -> Listed {
        let (secrets, namespace) = secrets.unzip();
        Listed { upstreams: None, secrets, namespace: namespace.unwrap_or_default(), usual }
    }

    /// Takes news of Upstreams in. One that cannot be read counts as it was when it could.
    pub fn hear(&mut self, news: News<Known>) {
        let mut before = self.upstreams.take().unwrap_or_default();
        let spec = |before: &BTreeMap<String, Known>, one: Known| match &one.spec {
            Some(_) => one,
            None => Known { spec: before.get(&one.name).and_then(|last| last.spec.clone()), ..one },
        };
        self.upstreams = Some(match news {
            News::All(list) => list.into_iter().map(|one| (one.name.clone(), spec(&before, one))).collect(),
            News::Changed(one) => {
                let one = spec(&before, one);
                before.insert(one.name.clone(), one);
                before
            }
            News::Gone(one) => {
                before.remove(&one.name);
                before
            }
        });
    }

    /// Puts what is known to use by `replace`, and says what became of each Upstream. Nothing before they were listed.
    pub fn settle(
        &self,
        replace: impl FnOnce(Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>>,
    ) -> Option<Vec<Verdict>> {
        let mut order: Vec<&Known> = self.upstreams.as_ref()?.values().collect();
        order.sort_by(|one, other| (&one.created, &one.name).cmp(&(&other.created, &other.name)));
        let mut first: BTreeMap<&Registry, &str> = BTreeMap::new();
        let (mut wanted, mut states, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for one in order {
            let verdict = |state| Verdict {
                name: one.name.clone(),
                generation: one.generation,
                state,
                conditions: one.conditions.clone(),
                settings: None,
            };
            let unreadable = one.unreadable.clone().map(State::Unreadable);
            let Some(spec) = &one.spec else {
                verdicts.extend(unreadable.map(verdict));
                continue;
            };
            if let Some(older) = first.insert(&spec.registry, &one.name) {
                first.insert(&spec.registry, older);
                let (older, registry) = (older.to_owned(), spec.registry.clone());
                verdicts.push(verdict(State::NamedTwice { older, registry }));
                continue;
            }
            let (credential, state) = self.credential(spec);
            wanted.push(settings(spec, credential, &self.usual));
            states.push(verdict(unreadable.unwrap_or(state)));
        }
        let told = replace(wanted.clone());
        for ((verdict, told), settings) in states.into_iter().zip(told).zip(wanted) {
            let registry = settings.registry.clone();
            verdicts.push(match told {
                Ok(Listing::InUse) => Verdict { settings: Some(settings), ..verdict },
                Ok(Listing::Overruled) => Verdict { state: State::InFile(registry), ..verdict },
                Ok(Listing::Excluded) => Verdict { state: State::Excluded(registry), ..verdict },
                Err(error) => Verdict { state: State::Invalid(error.to_string()), ..verdict },
            });
        }
        verdicts.sort_by(|one, other| one.name.cmp(&other.name));
        Some(verdicts)
    }

    fn credential(&self, spec: &UpstreamSpec) -> (Option<cache::Credential>, State) {
        let (Some(secrets), Some(named)) = (&self.secrets, &spec.credential) else { return (None, State::InUse) };
        match secrets.credential(&named.secret_name, &spec.registry) {
            Ok(credential) => (Some(credential), State::InUse),
            Err(NoCredential::Unheard) => (None, State::Awaiting),
            Err(NoCredential::Missing) => {
                let (secret, namespace) = (named.secret_name.clone(), self.namespace.clone());
                (None, State::SecretMissing { secret, namespace })
            }
            Err(NoCredential::Useless(why)) => (None, State::SecretUseless(why)),
        }
    }

    /// Whose content everybody may have by a credential that an Upstream names, and by which.
    pub fn lent(&self) -> BTreeMap<Registry, String> {
        let specs = self.upstreams.iter().flatten().filter_map(|(_, one)| one.spec.as_ref());
        let lent = specs.filter_map(|spec| {
            let credential = spec.credential.as_ref().filter(|credential| credential.shared)?;
            Some((spec.registry.clone(), credential.secret_name.clone()))
        });
        lent.collect()
    }
}

#[cfg(test)]
mod tests {
    use cache::Credential;
    use serde_json::{Value, json};
    use upstream::{Directory, Metrics, Settings};

    use super::*;
    use crate::upstreams::secrets::{BASIC, DOCKER, Kept};

    fn object(name: &str, minute: u32, spec: Value) -> Known {
        let object = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "Upstream",
            "metadata": {"name": name, "generation": 2, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
            "spec": spec,
        });
        known(serde_json::from_value(object).unwrap())
    }

    fn listed(secrets: bool, upstreams: Vec<Known>) -> Listed {
        let secrets = secrets.then(|| (Secrets::default(), "larder".to_owned()));
        let mut listed = Listed::new(secrets, Rules::default());
        listed.hear(News::All(upstreams));
        listed
    }

    fn states(verdicts: &[Verdict]) -> Vec<(&str, &'static str)> {
        verdicts.iter().map(|one| (&*one.name, one.state.reason())).collect()
    }

    fn all_in_use(settings: Vec<UpstreamSettings>) -> Vec<Result<Listing, SettingsError>> {
        settings.iter().map(|_| Ok(Listing::InUse)).collect()
    }

    #[test]
    fn nothing_is_put_to_use_before_all_are_known() {
        let listed = Listed::new(None, Rules::default());
        assert!(listed.settle(|_| panic!("nothing is known")).is_none());
    }

    #[test]
    fn each_is_told_what_became_of_it() {
        let (file, left): (Registry, Registry) = ("file.example".parse().unwrap(), "left.example".parse().unwrap());
        let excluded = UpstreamSettings { excluded: true, ..UpstreamSettings::new(left) };
        let settings = Settings { upstreams: vec![UpstreamSettings::new(file), excluded], ..Settings::default() };
        let directory = Directory::new(settings, Metrics::unregistered()).unwrap();
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        let listed = listed(
            false,
            vec![
                object("a-younger", 2, json!({"registry": "ghcr.io"})),
                object(
                    "bad",
                    1,
                    json!({"registry": "bad.example", "endpoints": [{"url": "https://a.example", "ca": no_certificate}]}),
                ),
                object("elder", 1, json!({"registry": "ghcr.io"})),
                object("file", 1, json!({"registry": "file.example"})),
                object("left", 1, json!({"registry": "left.example"})),
                object("unreadable", 1, json!({"registry": "no registry"})),
            ],
        );
        let verdicts = listed.settle(|settings| directory.replace(settings)).unwrap();
        assert_eq!(
            states(&verdicts),
            [
                ("a-younger", "NamedTwice"),
                ("bad", "InvalidSettings"),
                ("elder", "InUse"),
                ("file", "ListedInFile"),
                ("left", "Excluded"),
                ("unreadable", "InvalidSettings")
            ]
        );
        assert!(verdicts.iter().all(|one| one.generation == Some(2)));
        let told = verdicts.iter().map(|one| one.state.to_string()).collect::<Vec<_>>().join("\n");
        assert!(told.contains("the older Upstream elder") && told.contains("the CA of https://a.example"), "{told}");
    }

    #[test]
    fn a_secret_is_awaited_missed_used_and_gone() {
        let spec = json!({"registry": "ghcr.io", "credential": {"secretName": "robot", "shared": true}});
        let mut listed = listed(true, vec![object("ghcr", 1, spec)]);
        let now = |listed: &Listed| listed.settle(all_in_use).unwrap().remove(0);
        let credential = |verdict: &Verdict| verdict.settings.as_ref().unwrap().credential.clone();
        let waiting = now(&listed);
        assert_eq!((&waiting.state, credential(&waiting)), (&State::Awaiting, None));
        assert!(!waiting.settings.unwrap().rules.shared);

        let secrets = |listed: &mut Listed, news| listed.secrets.as_mut().unwrap().hear(BASIC, news);
        listed.secrets.as_mut().unwrap().hear(DOCKER, News::All(Vec::new()));
        secrets(&mut listed, News::All(Vec::new()));
        assert_eq!(now(&listed).state.reason(), "SecretMissing");
        assert!(now(&listed).state.to_string().contains("in the namespace larder"));
        let robot = |password: &str| ("robot".to_owned(), Kept::Basic(b"robot".into(), password.into()));
        secrets(&mut listed, News::Changed(robot("S3NT1NEL")));
        let used = now(&listed);
        assert_eq!((&used.state, credential(&used)), (&State::InUse, Some(Credential::new("robot", "S3NT1NEL"))));
        assert!(!format!("{used:?}").contains("S3NT1NEL"));
        assert!(used.settings.unwrap().rules.shared);
        secrets(&mut listed, News::Gone(robot("S3NT1NEL")));
        assert_eq!(now(&listed).state.reason(), "SecretMissing");
    }

    #[test]
    fn who_reads_no_secrets_knows_whose_content_is_lent() {
        let lends = |name: &str| json!({"registry": "ghcr.io", "credential": {"secretName": name, "shared": true}});
        let mut listed = listed(false, vec![object("ghcr", 1, lends("robot"))]);
        let verdict = listed.settle(all_in_use).unwrap().remove(0);
        let settings = verdict.settings.unwrap();
        assert_eq!((verdict.state, settings.credential, settings.rules.shared), (State::InUse, None, false));
        let lent = |listed: &Listed| listed.lent().into_values().collect::<Vec<_>>();
        assert_eq!(lent(&listed), ["robot"]);
        listed.hear(News::Changed(object("ghcr", 1, lends("other"))));
        assert_eq!(lent(&listed), ["other"]);
        listed.hear(News::Changed(object("ghcr", 1, json!({"registry": "ghcr.io"}))));
        assert!(lent(&listed).is_empty());
    }

    #[test]
    fn one_that_cannot_be_read_any_more_counts_as_it_was() {
        let mut listed = listed(false, vec![object("ghcr", 1, json!({"registry": "ghcr.io"}))]);
        let bad = || object("ghcr", 1, json!({"registry": "no registry"}));
        for news in [News::Changed(bad()), News::All(vec![bad()])] {
            listed.hear(news);
            let verdict = listed.settle(all_in_use).unwrap().remove(0);
            assert_eq!((verdict.state.reason(), verdict.settings.is_some()), ("InvalidSettings", true));
        }
        listed.hear(News::Gone(bad()));
        assert!(listed.settle(all_in_use).unwrap().is_empty());
    }
}

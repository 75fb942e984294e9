//! Which requests misbehave: an ordered list of rules, each a matcher, a window of matches, and faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::pace::Bucket;
use crate::request::{Incoming, Kind};

/// Faults for the requests that match. Every field that is set must agree; an empty rule matches all requests (but no
/// connections). The first rule of the list that matches and whose window is open decides; later ones are not looked at.
/// As JSON the fields have the same names, and those not needed are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// `GET`, `HEAD`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What is asked for. [`Kind::Connection`] matches new connections and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Repository; a `*` at the end stands for any rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Tag or digest as asked for; a `*` at the end stands for any rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Beginning of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Only with (`true`) or only without (`false`) a `Range` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranged: Option<bool>,
    /// Apply before authorisation is looked at, not only to requests that pass it.
    pub before_auth: bool,
    /// Leave the first so many matches alone.
    pub after: u64,
    /// Then apply to so many matches; without it, to all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What to do, in order; they combine.
    pub faults: Vec<Fault>,
}

impl Rule {
    /// All requests.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of one kind.
    pub fn on(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    /// New connections, before TLS. Faults that make sense there: `Close`, `Reset`, `Hang`, `TlsAlert`, `Tls10`, `Raw`.
    pub fn connections() -> Self {
        Self::on(Kind::Connection)
    }

    /// Only this method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only `GET`.
    pub fn get(self) -> Self {
        self.method("GET")
    }

    /// Only `HEAD`.
    pub fn head(self) -> Self {
        self.method("HEAD")
    }

    /// Only this repository; a `*` at the end stands for any rest.
    pub fn repo(mut self, repo: &str) -> Self {
        self.repo = Some(repo.to_owned());
        self
    }

    /// Only this tag or digest; a `*` at the end stands for any rest.
    pub fn reference(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    /// Only paths that begin so.
    pub fn path_prefix(mut self, prefix: &str) -> Self {
        self.path_prefix = Some(prefix.to_owned());
        self
    }

    /// Only requests with, or only those without, a `Range` header.
    pub fn ranged(mut self, ranged: bool) -> Self {
        self.ranged = Some(ranged);
        self
    }

    /// Apply before authorisation is looked at.
    pub fn before_auth(mut self) -> Self {
        self.before_auth = true;
        self
    }

    /// Leave the first `n` matches alone.
    pub fn after(mut self, n: u64) -> Self {
        self.after = n;
        self
    }

    /// Apply to `n` matches at most.
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Adds a fault.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    fn matches(&self, incoming: &Incoming) -> bool {
        let kind = match self.kind {
            Some(kind) => kind == incoming.kind,
            None => incoming.kind != Kind::Connection,
        };
        kind && self.method.as_ref().is_none_or(|method| *method == incoming.method)
            && self.repo.as_ref().is_none_or(|pattern| glob(pattern, &incoming.repo))
            && self.reference.as_ref().is_none_or(|pattern| glob(pattern, &incoming.reference))
            && self.path_prefix.as_ref().is_none_or(|prefix| incoming.path.starts_with(prefix))
            && self.ranged.is_none_or(|ranged| ranged == incoming.header("range").is_some())
    }
}

/// Whether `text` is `pattern`, where a final `*` stands for any rest.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(text == pattern, |prefix| text.starts_with(prefix))
}

/// A rule in force, with how often it matched and the speed limits that its matches share.
pub(crate) struct Armed {
    rule: Rule,
    matched: AtomicU64,
    caps: Vec<Arc<Bucket>>,
}

impl Armed {
    pub(crate) fn new(rule: Rule) -> Arc<Self> {
        let caps = rule.faults.iter().filter_map(|fault| match fault {
            Fault::Cap(rate) => Some(Bucket::new(*rate)),
            _ => None,
        });
        Arc::new(Self { caps: caps.collect(), matched: AtomicU64::new(0), rule })
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.rule.faults
    }

    pub(crate) fn caps(&self) -> &[Arc<Bucket>] {
        &self.caps
    }

    fn takes(&self, incoming: &Incoming, before_auth: bool) -> bool {
        if self.rule.before_auth != before_auth || !self.rule.matches(incoming) {
            return false;
        }
        let number = self.matched.fetch_add(1, Ordering::SeqCst);
        number >= self.rule.after && self.rule.times.is_none_or(|times| number - self.rule.after < times)
    }
}

/// The first rule whose turn it is. Rules that match but whose window is not open count the match and are passed over.
pub(crate) fn decide(rules: &[Arc<Armed>], incoming: &Incoming, before_auth: bool) -> Option<Arc<Armed>> {
    rules.iter().find(|rule| rule.takes(incoming, before_auth)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Incoming {
        Incoming::parse(&format!("GET {path} HTTP/1.1\r\nHost: h")).unwrap()
    }

    #[test]
    fn the_window_opens_and_closes() {
        let rules = [Armed::new(Rule::on(Kind::Blob).after(1).times(2).fault(Fault::Hang))];
        let blob = get("/v2/a/blobs/sha256:x");
        let hits: Vec<bool> = (0..5).map(|_| decide(&rules, &blob, false).is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
    }

    #[test]
    fn the_first_open_rule_decides_and_later_ones_do_not_count() {
        let first = Armed::new(Rule::any().times(1).fault(Fault::Hang));
        let second = Armed::new(Rule::any().repo("a*").times(1).fault(Fault::Close));
        let rules = [first, second];
        let names = || decide(&rules, &get("/v2/abc/tags/list"), false).map(|rule| rule.faults()[0].clone());
        assert_eq!(names(), Some(Fault::Hang));
        assert_eq!(names(), Some(Fault::Close));
        assert_eq!(names(), None);
    }

    #[test]
    fn json_is_short_and_strict() {
        let rule: Rule = serde_json::from_str(
            r#"{"method":"GET","kind":"blob","ranged":false,"times":1,
                "faults":[{"cut":{"at":{"fraction":0.5},"how":"reset"}},"ignore_range",{"cap":1000}]}"#,
        )
        .unwrap();
        assert_eq!(rule.faults.len(), 3);
        assert!(serde_json::from_str::<Rule>(r#"{"metod":"GET"}"#).is_err());
        let again: Rule = serde_json::from_str(&serde_json::to_string(&rule).unwrap()).unwrap();
        assert_eq!(again, rule);
    }
}

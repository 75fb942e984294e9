//! Who may read what: Basic and Bearer challenges, accounts, and a token service.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::reply::Reply;
use crate::request::{Incoming, Kind, form_values};
use crate::rules::glob;
use crate::source::Source;

/// How an upstream, or one repository of it, asks for credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Everybody may read everything.
    #[default]
    None,
    /// User and password with each request.
    Basic,
    /// A token from the token service with each request.
    Bearer,
}

/// Which fields of a token answer carry the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenField {
    /// `token` and `access_token`
    #[default]
    Both,
    /// `token`
    Token,
    /// `access_token`
    AccessToken,
}

/// What the token service hands out, and what challenges say about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// `expires_in` as sent, in seconds (0, negative, huge); `None` leaves it out.
    pub expires_in: Option<i64>,
    /// Milliseconds that a token is truly good for.
    pub lifetime_ms: u64,
    /// Beginning of each token; a sentinel here tells whether tokens leak.
    pub prefix: String,
    /// Field names used.
    pub field: TokenField,
    /// `service` in challenges.
    pub service: String,
    /// `realm` in challenges, instead of this upstream's `/token`.
    pub realm: Option<String>,
    /// Whole `WWW-Authenticate` value, instead of a well-formed one.
    pub challenge: Option<String>,
    /// Status of the token service where it would grant nothing; `None`: a token without scopes, as Docker Hub does.
    pub refuse_with: Option<u16>,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            expires_in: Some(300),
            lifetime_ms: 300_000,
            prefix: "token-".to_owned(),
            field: TokenField::Both,
            service: "faulty".to_owned(),
            realm: None,
            challenge: None,
            refuse_with: None,
        }
    }
}

#[derive(Default)]
pub(crate) struct Accounts {
    pub(crate) mode: Auth,
    pub(crate) repo_modes: Vec<(String, Auth)>,
    pub(crate) settings: TokenSettings,
    accounts: BTreeMap<String, Account>,
    public: Vec<String>,
    denials: Vec<(String, u16)>,
    tokens: HashMap<String, Token>,
    pub(crate) fetches: u64,
}

struct Account {
    password: String,
    repos: Vec<String>,
    revoked: Vec<String>,
}

struct Token {
    user: Option<String>,
    repos: Vec<String>,
    good_until: Instant,
}

impl Accounts {
    pub(crate) fn put(&mut self, user: &str, password: &str, repos: &[&str]) {
        let repos = repos.iter().map(|repo| (*repo).to_owned()).collect();
        let account = Account { password: password.to_owned(), repos, revoked: Vec::new() };
        self.accounts.insert(user.to_owned(), account);
    }

    pub(crate) fn remove(&mut self, user: &str) {
        self.accounts.remove(user);
    }

    pub(crate) fn grant(&mut self, user: &str, repo: &str) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.revoked.retain(|gone| gone != repo);
            account.repos.push(repo.to_owned());
        }
    }

    pub(crate) fn revoke(&mut self, user: &str, repo: &str) {
        if let Some(account) = self.accounts.get_mut(user) {
            account.repos.retain(|had| had != repo);
            account.revoked.push(repo.to_owned());
        }
    }

    pub(crate) fn set_public(&mut self, pattern: &str, public: bool) {
        self.public.retain(|had| had != pattern);
        if public {
            self.public.push(pattern.to_owned());
        }
    }

    pub(crate) fn deny_with(&mut self, pattern: &str, status: u16) {
        self.denials.insert(0, (pattern.to_owned(), status));
    }

    pub(crate) fn expire_tokens(&mut self) {
        self.tokens.clear();
    }

    fn mode_of(&self, repo: &str) -> Auth {
        let given = self.repo_modes.iter().rev().find(|(pattern, _)| glob(pattern, repo));
        given.map_or(self.mode, |(_, mode)| *mode)
    }

    fn is_public(&self, repo: &str) -> bool {
        self.public.iter().any(|pattern| glob(pattern, repo))
    }

    fn may_read(&self, user: Option<&str>, repo: &str) -> bool {
        let account = user.and_then(|user| self.accounts.get(user));
        self.is_public(repo)
            || account.is_some_and(|account| {
                account.repos.iter().any(|pattern| glob(pattern, repo))
                    && !account.revoked.iter().any(|pattern| glob(pattern, repo))
            })
    }

    /// `Ok(user)` if the header holds the right password of an account.
    fn basic_user(&self, authorization: &str) -> Result<String, ()> {
        let encoded = authorization.strip_prefix("Basic ").ok_or(())?;
        let pair = String::from_utf8(STANDARD.decode(encoded).map_err(|_| ())?).map_err(|_| ())?;
        let (user, password) = pair.split_once(':').ok_or(())?;
        let account = self.accounts.get(user).ok_or(())?;
        if account.password == password { Ok(user.to_owned()) } else { Err(()) }
    }

    /// What stands against answering the request, if anything. `own_url` is where challenges send clients for a token.
    pub(crate) fn check(&self, incoming: &Incoming, own_url: &str) -> Option<Reply> {
        let repo = (!incoming.repo.is_empty()).then_some(incoming.repo.as_str());
        let given = incoming.header("authorization");
        match repo.map_or(self.mode, |repo| self.mode_of(repo)) {
            Auth::None => None,
            Auth::Basic => self.check_basic(repo, given),
            Auth::Bearer => self.check_bearer(repo, given, own_url),
        }
    }

    fn check_basic(&self, repo: Option<&str>, given: Option<&str>) -> Option<Reply> {
        let challenge = || {
            let usual = || "Basic realm=\"faulty\"".to_owned();
            unauthorized(self.settings.challenge.clone().unwrap_or_else(usual))
        };
        let Some(given) = given else {
            return (!repo.is_some_and(|repo| self.is_public(repo))).then(challenge);
        };
        match (self.basic_user(given), repo) {
            (Err(()), _) => Some(challenge()),
            (Ok(user), Some(repo)) if !self.may_read(Some(&user), repo) => Some(self.denial(repo, 403, challenge)),
            (Ok(_), _) => None,
        }
    }

    fn check_bearer(&self, repo: Option<&str>, given: Option<&str>, own_url: &str) -> Option<Reply> {
        let challenge = |error: &str| {
            let realm = self.settings.realm.clone().unwrap_or_else(|| format!("{own_url}/token"));
            let mut text = format!("Bearer realm=\"{realm}\",service=\"{}\"", self.settings.service);
            if let Some(repo) = repo {
                text.push_str(&format!(",scope=\"repository:{repo}:pull\""));
            }
            if !error.is_empty() {
                text.push_str(&format!(",error=\"{error}\""));
            }
            unauthorized(self.settings.challenge.clone().unwrap_or(text))
        };
        let Some(token) = given.and_then(|given| given.strip_prefix("Bearer ")) else {
            return Some(challenge(""));
        };
        let Some(token) = self.tokens.get(token).filter(|token| token.good_until > Instant::now()) else {
            return Some(challenge("invalid_token"));
        };
        let repo = repo?;
        let allowed = token.repos.iter().any(|had| had == repo) && self.may_read(token.user.as_deref(), repo);
        (!allowed).then(|| self.denial(repo, 401, || challenge("insufficient_scope")))
    }

    fn denial(&self, repo: &str, usual: u16, challenge: impl FnOnce() -> Reply) -> Reply {
        let chosen = self.denials.iter().find(|(pattern, _)| glob(pattern, repo));
        match chosen.map_or(usual, |(_, status)| *status) {
            401 => challenge(),
            status => Reply::error(status, "requested access to the resource is denied"),
        }
    }

    /// The token service: `GET` with Basic credentials or none, `POST` with a form (RFC 6749 password grant).
    pub(crate) fn issue(&mut self, incoming: &Incoming) -> Reply {
        self.fetches += 1;
        let form = String::from_utf8_lossy(&incoming.body).into_owned();
        let field = |name: &str| form_values(&form, name).into_iter().next();
        let user = match (incoming.header("authorization"), field("username"), field("password")) {
            (None, Some(user), Some(password)) => {
                self.basic_user(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).map(Some)
            }
            (None, _, _) => Ok(None),
            (Some(given), _, _) => self.basic_user(given).map(Some),
        };
        let Ok(user) = user else {
            return Reply::error(401, "incorrect username or password");
        };
        let scopes = incoming.params("scope").into_iter().chain(form_values(&form, "scope"));
        let asked: Vec<String> =
            scopes.flat_map(|scope| scope.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        let repos: Vec<String> = asked
            .iter()
            .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .filter(|(repo, actions)| {
                actions.split(',').any(|action| action == "pull") && self.may_read(user.as_deref(), repo)
            })
            .map(|(repo, _)| repo.to_owned())
            .collect();
        if let Some(status) = self.settings.refuse_with
            && repos.is_empty()
            && !asked.is_empty()
        {
            return Reply::error(status, "requested access to the resource is denied");
        }
        let entropy = Source::bytes(format!("{}{:?}{:?}", self.fetches, Instant::now(), user)).sha256();
        let token = format!("{}{}", self.settings.prefix, &entropy[7..39]);
        let good_until = Instant::now() + Duration::from_millis(self.settings.lifetime_ms);
        self.tokens.insert(token.clone(), Token { user, repos, good_until });
        let mut answer = json!({});
        if self.settings.field != TokenField::AccessToken {
            answer["token"] = json!(token);
        }
        if self.settings.field != TokenField::Token {
            answer["access_token"] = json!(token);
        }
        if let Some(seconds) = self.settings.expires_in {
            answer["expires_in"] = json!(seconds);
        }
        Reply::json(200, &answer)
    }
}

/// Whether a request is subject to the accounts at all.
pub(crate) fn is_guarded(kind: Kind) -> bool {
    !matches!(kind, Kind::Token | Kind::Other | Kind::Connection)
}

fn unauthorized(challenge: String) -> Reply {
    let mut reply = Reply::error(401, "authentication required");
    reply.set("WWW-Authenticate", challenge);
    reply
}

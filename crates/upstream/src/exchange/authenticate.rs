use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cache::{Authority, Credential, FailureKind};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use oci::Repository;
use url::Url;

use super::{Call, Exchange, Reply, drain};
use crate::challenge::{self, Bearer, Challenge};
use crate::failure::Failure;
use crate::pause::retry_after;
use crate::realm;
use crate::token::{Purpose, Token};

/// The longest answer of a token service that is read, in bytes.
const LONGEST_TOKEN: usize = 128 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The credential that a request carries.
struct Sent {
    header: HeaderValue,
    /// It is a token, fetched for this request and for this scope.
    fresh_for: Option<String>,
}

impl Exchange {
    /// Sends a request with the credential that the endpoint is known or found to ask for.
    pub(super) async fn authorized(
        &self,
        repository: &Repository,
        authority: &Authority,
        call: &Call,
    ) -> Result<Reply, Failure> {
        let known = self.challenge.lock().expect("no panic while held").clone();
        let mut denied = None;
        let mut sent = match known {
            Some(known) => match self.respond(&known, repository, authority, None).await {
                Ok(sent) => sent,
                // Perhaps it is not asked for here.
                Err(failure) if is_refusal(&failure) => {
                    denied = Some(failure);
                    None
                }
                Err(failure) => {
                    // The registry may name another token service by now: it is asked anew next time.
                    self.remember(None);
                    return Err(failure);
                }
            },
            None => None,
        };
        let mut tries = 0;
        loop {
            let reply = self.follow(repository, authority, call, sent.as_ref().map(|sent| &sent.header)).await?;
            if reply.response.status() != StatusCode::UNAUTHORIZED || reply.redirected {
                return Ok(reply);
            }
            if let Some(failure) = denied {
                return Err(failure);
            }
            let challenge = challenge::read(reply.response.headers())?;
            drain(reply.response).await;
            let unauthorized = || {
                let reason = match authority {
                    Authority::Anonymous => "this is not public: the registry wants a credential",
                    _ => "the registry does not accept this credential",
                };
                Failure::new(FailureKind::Unauthorized, reason)
            };
            let challenge = challenge.ok_or_else(unauthorized)?;
            tries += 1;
            if tries > 2 {
                return Err(unauthorized());
            }
            let answered = self.respond(&challenge, repository, authority, sent).await;
            // A challenge that cannot be answered at all is not worth remembering.
            let sound = answered.as_ref().err().is_none_or(is_refusal);
            self.remember(sound.then(|| plain(&challenge)));
            sent = answered?;
            if sent.is_none() {
                return Err(unauthorized());
            }
        }
    }

    /// What the endpoint is taken to ask for from now on.
    fn remember(&self, challenge: Option<Challenge>) {
        *self.challenge.lock().expect("no panic while held") = challenge;
    }

    /// The credential that answers a challenge, other than the one that was refused; `None` if there is none.
    async fn respond(
        &self,
        challenge: &Challenge,
        repository: &Repository,
        authority: &Authority,
        refused: Option<Sent>,
    ) -> Result<Option<Sent>, Failure> {
        let credential = match authority {
            Authority::Anonymous => None,
            Authority::Own | Authority::Prefetch => self.shared.credential.as_ref(),
            Authority::Client(credential) => Some(credential),
        };
        match challenge {
            Challenge::Basic => {
                let Some(credential) = credential else { return Ok(None) };
                let header = basic(credential);
                let tried = refused.is_some_and(|refused| refused.header == header);
                Ok((!tried).then_some(Sent { header, fresh_for: None }))
            }
            Challenge::Bearer(bearer) => {
                let usual = || format!("repository:{}{repository}:pull", self.prefix);
                let scope = bearer.scope.clone().unwrap_or_else(usual);
                if refused.as_ref().is_some_and(|refused| refused.fresh_for.as_ref() == Some(&scope)) {
                    return Ok(None);
                }
                let purpose = Purpose {
                    endpoint: self.url.clone(),
                    authority: authority.clone(),
                    repository: repository.clone(),
                };
                let refused = refused.map(|refused| refused.header);
                let fetch = self.fetch_token(bearer, &scope, authority, credential);
                let obtained = self.shared.tokens.obtain(purpose, refused.as_ref(), fetch).await?;
                let fresh_for = obtained.fresh.then_some(scope);
                Ok(Some(Sent { header: obtained.header, fresh_for }))
            }
        }
    }

    async fn fetch_token(
        &self,
        bearer: &Bearer,
        scope: &str,
        authority: &Authority,
        credential: Option<&Credential>,
    ) -> Result<Token, Failure> {
        let mut url = realm::token_url(bearer, &self.url, &self.shared.token_hosts)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &bearer.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope);
        }
        let header = credential.map(basic);
        let mut again = true;
        loop {
            let outcome = self.ask_token_service(&url, header.as_ref(), authority).await;
            match outcome {
                Err(failure) if failure.again && again => again = false,
                // How the token service is says nothing about the endpoint, and asking both again helps neither.
                Err(failure) => return Err(Failure { again: false, unwell: false, ..failure }),
                Ok(token) => return Ok(token),
            }
        }
    }

    async fn ask_token_service(
        &self,
        url: &Url,
        header: Option<&HeaderValue>,
        authority: &Authority,
    ) -> Result<Token, Failure> {
        self.shared.metrics.token_fetches.inc();
        let call = Call { method: Method::GET, target: String::new(), accept: JSON, from: 0, until: None };
        let response = self.request(url, &call, header, false).await.map_err(|failure| match failure.kind {
            // The registry named a place that larder may not ask: its answer is at fault, not who asked.
            FailureKind::Refused => Failure::invalid(failure.reason),
            _ => failure,
        })?;
        let status = response.status();
        if status == StatusCode::OK {
            let idle = self.shared.deadlines.idle;
            let body = tokio::time::timeout(idle, Limited::new(response.into_body(), LONGEST_TOKEN).collect()).await;
            let body = body.map_err(|_| Failure::timeout("the token service's answer does not end in time"))?;
            return Token::read(
                &body.map_err(|_| Failure::unavailable("the token service's answer broke off"))?.to_bytes(),
            );
        }
        let wait = retry_after(response.headers(), SystemTime::now());
        drain(response).await;
        Err(match status.as_u16() {
            401 => Failure::new(FailureKind::Unauthorized, "the token service does not accept this credential"),
            403 => Failure::new(FailureKind::Denied, "the token service denies access"),
            429 => self.shared.pauses.begin(&self.label, authority, wait),
            500.. => Failure::unavailable(format!("the token service's status is {status}")),
            _ => Failure::invalid(format!("the token service's status is {status}")),
        })
    }
}

/// Whether somebody said no to the credential, rather than that there was no answer.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Unauthorized | FailureKind::Denied)
}

fn basic(credential: &Credential) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{}:{}", credential.username(), credential.password()));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is a header's value");
    header.set_sensitive(true);
    header
}

/// The part of a challenge that is the same for all repositories.
fn plain(challenge: &Challenge) -> Challenge {
    match challenge {
        Challenge::Basic => Challenge::Basic,
        Challenge::Bearer(bearer) => Challenge::Bearer(Bearer { scope: None, ..bearer.clone() }),
    }
}

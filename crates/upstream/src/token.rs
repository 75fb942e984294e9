use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::Authority;
use http::HeaderValue;
use oci::Repository;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::failure::Failure;

/// So many tokens are kept per upstream.
const MOST: usize = 2048;
/// How often those that ran out are forgotten, and the credentials that they belong to.
const SWEEP: Duration = Duration::from_secs(60);
/// A token service that does not say how long a token lasts means so long, and no client may be given less
/// (distribution's "Token Authentication Specification").
const UNSAID: f64 = 60.0;
/// Beyond this a token is fetched anew anyway.
const LONGEST: f64 = 3600.0;

/// A token with how long to use it.
#[derive(Clone)]
pub(crate) struct Token {
    header: HeaderValue,
    good_until: Instant,
}

/// For what a token is: it never leaves what is the same in all three.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Purpose {
    pub(crate) endpoint: Url,
    pub(crate) authority: Authority,
    pub(crate) repository: Repository,
}

/// The tokens of an upstream. One is fetched at a time for each purpose; who waited takes part in the outcome.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    by_purpose: HashMap<Purpose, Arc<Slot>>,
    swept: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    fetches: AtomicU64,
    held: tokio::sync::Mutex<Held>,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    failure: Option<Failure>,
}

/// A header that carries a token, and whether the token was fetched for this call.
pub(crate) struct Obtained {
    pub(crate) header: HeaderValue,
    pub(crate) fresh: bool,
}

impl Tokens {
    /// A token other than `refused`, kept or fetched. Cancelling ends the fetch; the next in line begins anew.
    pub(crate) async fn obtain(
        &self,
        purpose: Purpose,
        refused: Option<&HeaderValue>,
        fetch: impl Future<Output = Result<Token, Failure>>,
    ) -> Result<Obtained, Failure> {
        let slot = self.slot(purpose);
        let before = slot.fetches.load(Ordering::Acquire);
        let mut held = slot.held.lock().await;
        if let Some(token) = &held.token
            && token.good_until > Instant::now()
            && refused != Some(&token.header)
        {
            return Ok(Obtained { header: token.header.clone(), fresh: false });
        }
        if slot.fetches.load(Ordering::Acquire) != before
            && let Some(failure) = &held.failure
        {
            return Err(failure.clone());
        }
        let outcome = fetch.await;
        slot.fetches.fetch_add(1, Ordering::Release);
        match outcome {
            Ok(token) => {
                let header = token.header.clone();
                *held = Held { token: Some(token), failure: None };
                Ok(Obtained { header, fresh: true })
            }
            Err(failure) => {
                *held = Held { token: None, failure: Some(failure.clone()) };
                Err(failure)
            }
        }
    }

    fn slot(&self, purpose: Purpose) -> Arc<Slot> {
        let mut slots = self.0.lock().expect("no panic while held");
        if let Some(slot) = slots.by_purpose.get(&purpose) {
            return slot.clone();
        }
        slots.make_room(Instant::now());
        slots.by_purpose.entry(purpose).or_default().clone()
    }
}

impl Slots {
    fn make_room(&mut self, now: Instant) {
        let full = self.by_purpose.len() >= MOST;
        if !full && self.swept.is_some_and(|swept| now < swept + SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.by_purpose.retain(|_, slot| {
            let good = |held: &Held| held.token.as_ref().is_some_and(|token| token.good_until > now);
            Arc::strong_count(slot) > 1 || slot.held.try_lock().map_or(true, |held| good(&held))
        });
        if full {
            // All good still: some have to be fetched again.
            let mut excess = self.by_purpose.len().saturating_sub(MOST * 3 / 4);
            self.by_purpose.retain(|_, slot| {
                let goes = excess > 0 && Arc::strong_count(slot) == 1;
                excess -= usize::from(goes);
                !goes
            });
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Token {
    /// Reads a token service's answer.
    pub(crate) fn read(body: &[u8]) -> Result<Token, Failure> {
        let unusable = || Failure::invalid("the token service's answer holds no usable token");
        let answer: Answer = serde_json::from_slice(body).map_err(|_| unusable())?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
        if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(unusable());
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| unusable())?;
        header.set_sensitive(true);
        let seconds = match &answer.expires_in {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        let lasts = seconds.filter(|seconds| seconds.is_finite()).unwrap_or(UNSAID).clamp(UNSAID, LONGEST);
        // Renewed a little early, so that it does not run out on its way.
        let used = lasts - (lasts / 10.0).min(30.0);
        Ok(Token { header, good_until: Instant::now() + Duration::from_secs_f64(used) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(repository: &str) -> Purpose {
        let repository = repository.parse().unwrap();
        Purpose { endpoint: "https://e.example".parse().unwrap(), authority: Authority::Anonymous, repository }
    }

    fn token(text: &str) -> Token {
        Token::read(format!("{{\"token\":\"{text}\"}}").as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn answers() {
        for (body, header, seconds) in [
            (r#"{"token":"a"}"#, "Bearer a", 54),
            (r#"{"access_token":"a","expires_in":300}"#, "Bearer a", 270),
            (r#"{"token":"a","access_token":"b","expires_in":0}"#, "Bearer a", 54),
            (r#"{"token":"","access_token":"b","expires_in":-1}"#, "Bearer b", 54),
            (r#"{"token":"a","expires_in":1e300,"issued_at":3}"#, "Bearer a", 3570),
            (r#"{"token":"a","expires_in":"600"}"#, "Bearer a", 570),
            (r#"{"token":"a","expires_in":[]}"#, "Bearer a", 54),
        ] {
            let token = Token::read(body.as_bytes()).unwrap();
            assert_eq!(token.header, header, "{body}");
            assert!(token.header.is_sensitive());
            assert_eq!((token.good_until - Instant::now()).as_secs(), seconds, "{body}");
        }
        for body in
            ["", "[]", "{}", r#"{"token":""}"#, r#"{"token":"a b"}"#, r#"{"token":"a\r\nX: y"}"#, r#"{"token":1}"#]
        {
            assert!(Token::read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_fetch_for_all_who_wait_also_if_it_fails() {
        let tokens = Tokens::default();
        let fetches = AtomicU64::new(0);
        let fetch = |outcome: Result<Token, Failure>| async {
            fetches.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            outcome
        };
        let failed = || Err(Failure::unavailable("down"));
        let (one, two) = tokio::join!(
            tokens.obtain(purpose("a"), None, fetch(failed())),
            tokens.obtain(purpose("a"), None, fetch(failed()))
        );
        assert!(one.is_err() && two.is_err());
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        let (one, two) = tokio::join!(
            tokens.obtain(purpose("a"), None, fetch(Ok(token("x")))),
            tokens.obtain(purpose("a"), None, fetch(Ok(token("y"))))
        );
        assert_eq!(
            (one.unwrap().header, two.unwrap().header),
            ("Bearer x".parse().unwrap(), "Bearer x".parse().unwrap())
        );
        assert_eq!(fetches.load(Ordering::SeqCst), 2);
        let refused = "Bearer x".parse().unwrap();
        let (one, two) = tokio::join!(
            tokens.obtain(purpose("a"), Some(&refused), fetch(Ok(token("z")))),
            tokens.obtain(purpose("a"), Some(&refused), fetch(Ok(token("z"))))
        );
        assert!(one.unwrap().fresh && !two.unwrap().fresh);
        assert_eq!(fetches.load(Ordering::SeqCst), 3);
        tokens.obtain(purpose("b"), None, fetch(Ok(token("b")))).await.unwrap();
        assert_eq!(fetches.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_is_given_up_is_done_by_the_next() {
        let tokens = Tokens::default();
        let slow = tokens.obtain(purpose("a"), None, std::future::pending());
        assert!(tokio::time::timeout(Duration::from_secs(1), slow).await.is_err());
        let next = tokens.obtain(purpose("a"), None, async { Ok(token("x")) }).await;
        assert!(next.unwrap().fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn not_more_are_kept_than_allowed() {
        let tokens = Tokens::default();
        for number in 0..MOST + 100 {
            tokens.obtain(purpose(&format!("r{number}")), None, async { Ok(token("x")) }).await.unwrap();
        }
        assert!(tokens.0.lock().unwrap().by_purpose.len() <= MOST);
        // Those that ran out go by themselves.
        tokio::time::advance(SWEEP * 2).await;
        tokens.obtain(purpose("last"), None, async { Ok(token("x")) }).await.unwrap();
        assert_eq!(tokens.0.lock().unwrap().by_purpose.len(), 1);
    }
}

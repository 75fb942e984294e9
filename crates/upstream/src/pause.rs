use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cache::{Authority, FailureKind};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::time::Instant;

use crate::failure::Failure;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// Where a 429 does not say, or nothing that can be understood.
const UNSAID: Duration = Duration::from_secs(5);
/// So many pauses are remembered. Beyond that the one that ends first is forgotten.
const MOST: usize = 4096;

/// How long a 429 asks to wait (RFC 9110, "Retry-After"), 1 s to 1 h.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| parse(text.trim(), now));
    asked.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST)
}

fn parse(text: &str, now: SystemTime) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        // Too many digits are still a number, and a large one.
        return Some(text.parse().map_or(LONGEST, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(SHORTEST))
}

/// Until when whom an endpoint asked to wait.
#[derive(Default)]
pub(crate) struct Pauses(Mutex<HashMap<(Arc<str>, Authority), Instant>>);

impl Pauses {
    /// Refuses while a pause lasts.
    pub(crate) fn check(&self, endpoint: &Arc<str>, authority: &Authority) -> Result<(), Failure> {
        let mut pauses = self.0.lock().expect("no panic while held");
        if pauses.is_empty() {
            return Ok(());
        }
        let key = (endpoint.clone(), authority.clone());
        let Some(until) = pauses.get(&key) else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            pauses.remove(&key);
            return Ok(());
        }
        let kind = FailureKind::RateLimited { retry_after: left.max(SHORTEST) };
        Err(Failure::new(kind, "the upstream asked to wait"))
    }

    /// Remembers a pause; the failure that it is at the same time.
    pub(crate) fn begin(&self, endpoint: &Arc<str>, authority: &Authority, length: Duration) -> Failure {
        let mut pauses = self.0.lock().expect("no panic while held");
        let now = Instant::now();
        pauses.retain(|_, until| *until > now);
        if pauses.len() >= MOST
            && let Some(first) = pauses.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone())
        {
            pauses.remove(&first);
        }
        pauses.insert((endpoint.clone(), authority.clone()), now + length);
        Failure::new(
            FailureKind::RateLimited { retry_after: length },
            "the upstream says that there were too many requests",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_and_nonsense() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let date = |seconds: u64| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for (text, seconds) in [
            ("7".to_owned(), 7),
            (" 7 ".to_owned(), 7),
            ("0".to_owned(), 1),
            ("86400".to_owned(), 3600),
            ("99999999999999999999999".to_owned(), 3600),
            ("1e99".to_owned(), 5),
            ("-1".to_owned(), 5),
            ("1.5".to_owned(), 5),
            ("soon".to_owned(), 5),
            (String::new(), 5),
            (date(1_800_000_030), 30),
            (date(1_700_000_000), 1),
            (date(1_900_000_000), 3600),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), UNSAID);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_for_one_endpoint_and_one_authority() {
        let pauses = Pauses::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        pauses.begin(&a, &Authority::Anonymous, Duration::from_secs(5));
        assert!(pauses.check(&a, &Authority::Own).is_ok());
        assert!(pauses.check(&b, &Authority::Anonymous).is_ok());
        tokio::time::advance(Duration::from_millis(4500)).await;
        let failure = pauses.check(&a, &Authority::Anonymous).unwrap_err();
        assert_eq!(failure.kind, FailureKind::RateLimited { retry_after: SHORTEST });
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(pauses.check(&a, &Authority::Anonymous).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn not_more_are_remembered_than_allowed() {
        let pauses = Pauses::default();
        for number in 0..MOST + 10 {
            pauses.begin(&format!("{number}").into(), &Authority::Anonymous, Duration::from_secs(5));
        }
        assert_eq!(pauses.0.lock().unwrap().len(), MOST);
    }

    proptest! {
        #[test]
        fn always_within_bounds(text in "\\PC{0,40}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.insert(RETRY_AFTER, value);
            }
            let wait = retry_after(&headers, SystemTime::now());
            prop_assert!((SHORTEST..=LONGEST).contains(&wait));
        }
    }
}

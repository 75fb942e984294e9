use std::sync::{Mutex, PoisonError};

use http::HeaderMap;

use crate::header;

/// Below this part of the whole, few are left: a tenth.
const FEW: i64 = 10;

/// What an upstream last said is left of the pulls that it allows larder itself. What it allows clients that brought a
/// credential is theirs, and not counted here.
#[derive(Default)]
pub(crate) struct Quota(Mutex<Left>);

#[derive(Clone, Copy, Default)]
struct Left {
    limit: Option<i64>,
    remaining: Option<i64>,
}

impl Left {
    fn is_scarce(self) -> bool {
        matches!(self, Left { limit: Some(limit), remaining: Some(remaining) } if remaining <= limit / FEW)
    }
}

impl Quota {
    /// Takes in what an answer says, if it says anything.
    pub(crate) fn note(&self, source: &str, headers: &HeaderMap) {
        let Some(remaining) = header::quota(headers, "ratelimit-remaining") else { return };
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = left.is_scarce();
        left.remaining = Some(remaining);
        left.limit = header::quota(headers, "ratelimit-limit").or(left.limit);
        match (before, left.is_scarce()) {
            (false, true) => {
                tracing::warn!(
                    source,
                    remaining,
                    limit = left.limit,
                    "few pulls are left: tags are asked for less often"
                );
            }
            (true, false) => {
                tracing::info!(source, remaining, limit = left.limit, "enough pulls are left again");
            }
            _ => {}
        }
    }

    /// Whether few are left.
    pub(crate) fn is_scarce(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_scarce()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_few() {
        let quota = Quota::default();
        let say = |limit: &str, remaining: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-limit", limit.parse().unwrap());
            headers.insert("ratelimit-remaining", remaining.parse().unwrap());
            quota.note("a", &headers);
            quota.is_scarce()
        };
        assert!(!say("100;w=21600", "11;w=21600"));
        assert!(say("100;w=21600", "10;w=21600"));
        assert!(say("100;w=21600", "0;w=21600"));
        // An answer that says nothing changes nothing.
        quota.note("a", &HeaderMap::new());
        assert!(quota.is_scarce());
        assert!(!say("100;w=21600", "99;w=21600"));
        assert!(!say("nonsense", "90"));
    }
}

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{UnitError, split};

/// A length of time as people write it: `250ms`, `5m`, `1h30m`, `7d`. A century at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

const SPANS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Span, UnitError> {
        let mut total = Some(0u64);
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = split(rest, |c| c.is_ascii_digit());
            let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
            let factor = SPANS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
            total = match (total, number.parse::<u64>(), factor) {
                (Some(total), Ok(number), Some(factor)) => {
                    number.checked_mul(factor).and_then(|part| part.checked_add(total))
                }
                _ => None,
            };
            rest = after;
            if total.is_none() {
                break;
            }
        }
        match total {
            // A century: what is longer is a mistake, and would overflow sums of times.
            Some(total) if !text.is_empty() && total <= 100 * 366 * 86_400_000 => {
                Ok(Span(Duration::from_millis(total)))
            }
            _ => Err(UnitError::Span { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPANS {
            // Weeks are read but not written: "7d" is what people say.
            if rest >= factor && unit != "w" {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, millis, written) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("5m", 300_000, "5m"),
            ("90m", 5_400_000, "1h30m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1w", 604_800_000, "7d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_millis(), span.to_string().as_str()), (millis, written), "{text}");
            assert_eq!(serde_json::to_value(span).unwrap(), written);
            assert_eq!(serde_json::from_value::<Span>(text.into()).unwrap(), span);
        }
        for text in ["", "5", "5 m", "m", "-5m", "5y", "5M", "1.5h", "99999999999999999999s", "9999999w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

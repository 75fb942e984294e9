use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::section::textual;

/// A length of time as people write it: `250ms`, `5m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes as people write it: `64KiB`, `20GiB`, `500MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// How much a store may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the filesystem that the store is on, 1 to 100.
    Percent(u8),
    /// The same, but at most so many bytes.
    PercentUpTo(u8, u64),
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// There.
    On(SocketAddr),
    /// Not at all.
    Off,
}

const SPANS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
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
            _ => Err(format!("{text:?} is no length of time; write it like \"10s\", \"5m\", \"1h30m\" or \"7d\"")),
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

/// Of units that mean the same, the last is the one that is written.
const SIZES: [(&str, u64); 15] = [
    ("", 1),
    ("B", 1),
    ("KB", 1000),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let (number, unit) = split(text, |c| c.is_ascii_digit());
        let factor = SIZES.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
        let size = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        size.map(Size).ok_or_else(|| format!("{text:?} is no size; write it like \"64MiB\", \"20GiB\" or \"500GB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The unit that leaves the smallest whole number: 20 GiB, but 500 GB.
        let whole = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match SIZES.iter().filter(whole).max_by_key(|(_, factor)| *factor) {
            Some((unit, factor)) if *factor > 1 => write!(f, "{} {}", self.0 / factor, unit),
            _ => write!(f, "{} B", self.0),
        }
    }
}

impl Size {
    /// The size with one decimal, for people.
    pub fn about(self) -> String {
        let large = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match large.into_iter().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => format!("{:.1} {unit}", self.0 as f64 / factor as f64),
            None => format!("{} B", self.0),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let budget = match text.strip_suffix('%') {
            Some(share) => share.parse().ok().filter(|share| (1..=100).contains(share)).map(Budget::Percent),
            None => text.parse().ok().filter(|Size(size)| *size > 0).map(|Size(size)| Budget::Bytes(size)),
        };
        budget.ok_or_else(|| format!("{text:?} is no budget; write a size like \"20GiB\" or a share like \"80%\""))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Bytes(size) => write!(f, "at most {}", Size(*size)),
            Budget::Percent(share) => write!(f, "at most {share}% of its filesystem"),
            Budget::PercentUpTo(share, size) => write!(f, "at most {share}% of its filesystem and {}", Size(*size)),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        text.parse().map(Address).map_err(|_| {
            format!("{text:?} is no address with a port; write it like \"127.0.0.1:5000\" or \"0.0.0.0:5000\"")
        })
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Listener, String> {
        match text {
            "off" => Ok(Listener::Off),
            _ => text.parse().map(Listener::On).map_err(|_| {
                format!("{text:?} is no address with a port; write it like \"127.0.0.1:5001\", or \"off\"")
            }),
        }
    }
}

textual!(
    Span: "a length of time such as \"5m\"",
    Size: "a size such as \"64MiB\"",
    Budget: "a size such as \"20GiB\" or a share such as \"80%\"",
    Address: "an address such as \"127.0.0.1:5000\"",
    Listener: "an address such as \"127.0.0.1:5001\", or \"off\"",
);

/// Splits a text where a character is not of the kind any more.
fn split(text: &str, kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !kind(c)).unwrap_or(text.len()))
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
        }
        for text in ["", "5", "5 m", "m", "-5m", "5y", "5M", "1.5h", "99999999999999999999s", "9999999w"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, written) in [
            ("0", 0, "0 B"),
            ("1000", 1000, "1 kB"),
            ("20GiB", 20 << 30, "20 GiB"),
            ("20Gi", 20 << 30, "20 GiB"),
            ("20 GiB", 20 << 30, "20 GiB"),
            ("500GB", 500_000_000_000, "500 GB"),
            ("1537B", 1537, "1537 B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, written), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "20gb", "99999999TiB", "1G1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn rough_sizes() {
        for (bytes, written) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 30, "20.0 GiB")] {
            assert_eq!(Size(bytes).about(), written);
        }
    }

    #[test]
    fn budgets() {
        assert_eq!("80%".parse(), Ok(Budget::Percent(80)));
        assert_eq!("1GiB".parse(), Ok(Budget::Bytes(1 << 30)));
        for text in ["0%", "101%", "%", "0", "x", "80.5%"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }

    #[test]
    fn listeners() {
        assert_eq!("off".parse(), Ok(Listener::Off));
        assert!(matches!("[::]:1".parse(), Ok(Listener::On(_))));
        assert!("localhost:1".parse::<Listener>().is_err());
    }
}

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

pub use units::{Size, Span};

use super::section::textual;

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

impl Budget {
    /// Below this hardly an image's manifests fit: whoever writes it forgot the unit.
    const LEAST: u64 = 1 << 20;
    /// Below this hardly a layer fits, and pulls pass through uncached.
    const USEFUL: u64 = 64 << 20;

    /// What is to be said of a store that may hold so many bytes, if that is too few to be of use.
    pub fn warning(bytes: u64) -> Option<String> {
        (bytes < Budget::USEFUL).then(|| {
            format!(
                "the store may hold {} and no more: most layers are larger and pass through uncached; give store.budget (or \
                 --budget) {} or more, or larder a larger filesystem",
                Size(bytes).about(),
                Size(Budget::USEFUL)
            )
        })
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let budget = match text.strip_suffix('%') {
            Some(share) => share.parse().ok().filter(|share| (1..=100).contains(share)).map(Budget::Percent),
            None => text.parse().ok().map(|Size(size)| Budget::Bytes(size)),
        };
        match budget {
            Some(Budget::Bytes(size)) if size < Budget::LEAST => {
                let unit = if text.bytes().all(|byte| byte.is_ascii_digit()) {
                    format!("a number alone is bytes; write \"{text}GiB\" if that is meant")
                } else {
                    "a layer has hundreds of MiB; write a size like \"20GiB\" or a share like \"80%\"".to_owned()
                };
                Err(format!(
                    "{text:?} is too little to keep an image, at least {} is needed: {unit}",
                    Size(Budget::LEAST)
                ))
            }
            Some(budget) => Ok(budget),
            None => Err(format!("{text:?} is no budget; write a size like \"20GiB\" or a share like \"80%\"")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        assert_eq!("80%".parse(), Ok(Budget::Percent(80)));
        assert_eq!("1GiB".parse(), Ok(Budget::Bytes(1 << 30)));
        for text in ["0%", "101%", "%", "0", "x", "80.5%", "20", "1048575", "1023KiB"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
        assert_eq!("1MiB".parse(), Ok(Budget::Bytes(1 << 20)));
        let hint = |text: &str| text.parse::<Budget>().unwrap_err();
        assert!(hint("20").contains("\"20GiB\"") && !hint("20KiB").contains("20KiBGiB"), "{}", hint("20KiB"));
        assert!(Budget::warning((64 << 20) - 1).is_some_and(|text| text.contains("64 MiB or more")));
        assert_eq!(Budget::warning(64 << 20), None);
    }

    #[test]
    fn listeners() {
        assert_eq!("off".parse(), Ok(Listener::Off));
        assert!(matches!("[::]:1".parse(), Ok(Listener::On(_))));
        assert!("localhost:1".parse::<Listener>().is_err());
    }
}

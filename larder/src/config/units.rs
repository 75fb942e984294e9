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

#[cfg(test)]
mod tests {
    use super::*;

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

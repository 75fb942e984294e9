use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{UnitError, split};

/// A number of bytes as people write it: `64KiB`, `20GiB`, `500MB`, and as Kubernetes does: `20Gi`, `500M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// Of units that mean the same, the last is the one that is written.
const SIZES: [(&str, u64); 19] = [
    ("", 1),
    ("B", 1),
    ("k", 1000),
    ("KB", 1000),
    ("kB", 1000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
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

impl Size {
    /// The size with one decimal, for people.
    pub fn about(self) -> String {
        let large = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match large.into_iter().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => format!("{:.1} {unit}", self.0 as f64 / factor as f64),
            None => format!("{} B", self.0),
        }
    }

    /// The number and the unit that leaves the smallest whole number: 20 GiB, but 500 GB.
    fn parts(self) -> (u64, &'static str) {
        let whole = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match SIZES.iter().filter(whole).max_by_key(|(_, factor)| *factor) {
            Some((unit, factor)) if *factor > 1 => (self.0 / factor, unit),
            _ => (self.0, "B"),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        let (number, unit) = split(text, |c| c.is_ascii_digit());
        let factor = SIZES.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
        let size = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        size.map(Size).ok_or_else(|| UnitError::Size { text: text.to_owned() })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = self.parts();
        write!(f, "{number} {unit}")
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (number, unit) = self.parts();
        serializer.collect_str(&format_args!("{number}{unit}"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, written) in [
            ("0", 0, "0 B"),
            ("1000", 1000, "1 kB"),
            ("20GiB", 20 << 30, "20 GiB"),
            ("20Gi", 20 << 30, "20 GiB"),
            ("20 GiB", 20 << 30, "20 GiB"),
            ("500GB", 500_000_000_000, "500 GB"),
            ("500G", 500_000_000_000, "500 GB"),
            ("1537B", 1537, "1537 B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, written), "{text}");
            let json = serde_json::to_value(size).unwrap();
            assert_eq!(json, written.replace(' ', ""));
            assert_eq!(serde_json::from_value::<Size>(json).unwrap(), size);
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
}

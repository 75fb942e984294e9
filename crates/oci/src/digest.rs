use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// A digest algorithm that larder accepts (OCI image specification, "Registered algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the default of the ecosystem.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A content digest: `sha256:` or `sha512:` and lower-case hexadecimal (OCI image specification, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// 32 bytes of SHA-256.
    Sha256([u8; 32]),
    /// 64 bytes of SHA-512.
    Sha512([u8; 64]),
}

/// Why a text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text is not of the form `algorithm:hex`.
    #[error("a digest is written algorithm:hex, such as sha256:e3b0c442…")]
    Form,
    /// The algorithm is not one that larder accepts.
    #[error("the digest's algorithm is not supported (sha256 and sha512 are)")]
    Algorithm,
    /// The encoded part has the wrong length or holds something else than lower-case hexadecimal digits.
    #[error("the digest's hexadecimal part has the wrong length or is not lower-case hexadecimal")]
    Encoding,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    /// The algorithm that made this digest.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes of the digest.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }

    /// The part after the colon.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.as_bytes().len() * 2);
        for byte in self.as_bytes() {
            text.push(DIGITS[usize::from(byte >> 4)] as char);
            text.push(DIGITS[usize::from(byte & 15)] as char);
        }
        text
    }

    /// Reads the digest from its parts, as they stand in a file's path (`sha256`, `e3b0…`).
    pub fn from_parts(algorithm: &str, hex: &str) -> Result<Digest, DigestError> {
        fn decode<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
            let hex = hex.as_bytes();
            if hex.len() != 2 * N {
                return Err(DigestError::Encoding);
            }
            let nibble = |c: u8| match c {
                b'0'..=b'9' => Ok(c - b'0'),
                b'a'..=b'f' => Ok(c - b'a' + 10),
                _ => Err(DigestError::Encoding),
            };
            let mut bytes = [0; N];
            for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
            }
            Ok(bytes)
        }
        match algorithm {
            "sha256" => decode(hex).map(Digest::Sha256),
            "sha512" => decode(hex).map(Digest::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        Digest::from_parts(algorithm, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in the making. A clone goes on from the same point.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Starts a digest over no bytes.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            State::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_and_writes() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::sha256(b""));
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        let long = Digest::of(Algorithm::Sha512, b"larder");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert_eq!(long.to_string().len(), 7 + 128);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        use DigestError::*;
        let hex = &EMPTY[7..];
        for (text, error) in [
            (String::new(), Form),
            (hex.to_owned(), Form),
            ("sha256:".into(), Encoding),
            ("sha256:../../etc/passwd".into(), Encoding),
            (format!("sha256:{}", &hex[1..]), Encoding),
            (format!("sha256:{hex}0"), Encoding),
            (format!("sha256:{}", hex.to_uppercase()), Encoding),
            (format!("sha512:{hex}"), Encoding),
            (format!("md5:{}", &hex[..32]), Algorithm),
            (format!("SHA256:{hex}"), Algorithm),
            (format!("sha256+b64u:{hex}"), Algorithm),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_or_refused(text in "(sha256|sha512|md5|)[:+]?[0-9a-fA-F/.]{0,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn a_digest_does_not_depend_on_the_cuts(bytes in proptest::collection::vec(any::<u8>(), 0..500), cut in 0usize..500) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = Hasher::new(super::Algorithm::Sha256);
            hasher.update(head);
            let mut other = hasher.clone();
            hasher.update(tail);
            other.update(tail);
            prop_assert_eq!(hasher.finish(), Digest::sha256(&bytes));
            prop_assert_eq!(other.finish(), Digest::sha256(&bytes));
        }
    }
}

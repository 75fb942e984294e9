use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cache::Credential;
use http::HeaderValue;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The header cannot be used: another scheme than Basic, no base64, too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unusable;

/// Reads an `Authorization` header (RFC 7617). Nothing, or an empty name with an empty password, is nobody.
pub(crate) fn read(header: Option<&HeaderValue>) -> Result<Option<Credential>, Unusable> {
    let Some(header) = header else { return Ok(None) };
    let bytes = header.as_bytes();
    // Before anything is decoded: four characters stand for three bytes.
    if bytes.len() > 6 + (2 * Credential::LIMIT + 1).div_ceil(3) * 4 {
        return Err(Unusable);
    }
    let (scheme, rest) = bytes.split_at_checked(6).ok_or(Unusable)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(Unusable);
    }
    let decoded = BASE64.decode(rest.trim_ascii()).map_err(|_| Unusable)?;
    let text = std::str::from_utf8(&decoded).map_err(|_| Unusable)?;
    let (username, password) = text.split_once(':').ok_or(Unusable)?;
    let control = text.bytes().any(|c| c.is_ascii_control());
    if control || username.len() > Credential::LIMIT || password.len() > Credential::LIMIT {
        return Err(Unusable);
    }
    Ok((!username.is_empty() || !password.is_empty()).then(|| Credential::new(username, password)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn basic(text: &str) -> Result<Option<Credential>, Unusable> {
        let value = format!("Basic {}", BASE64.encode(text));
        read(Some(&HeaderValue::from_str(&value).unwrap()))
    }

    #[test]
    fn names_and_passwords() {
        assert_eq!(read(None), Ok(None));
        assert_eq!(basic(":"), Ok(None));
        assert_eq!(basic("a:b"), Ok(Some(Credential::new("a", "b"))));
        assert_eq!(basic("a:b:c"), Ok(Some(Credential::new("a", "b:c"))));
        assert_eq!(basic(":token"), Ok(Some(Credential::new("", "token"))));
        let long = "x".repeat(Credential::LIMIT);
        assert_eq!(basic(&format!("{long}:{long}")), Ok(Some(Credential::new(&*long, &*long))));
        for value in ["basic YTpi", "BASIC YTpi", "Basic  YTpi ", "Basic YTpi"] {
            let read = read(Some(&HeaderValue::from_str(value).unwrap()));
            assert_eq!(read, Ok(Some(Credential::new("a", "b"))), "{value}");
        }
    }

    #[test]
    fn unusable_headers() {
        for value in ["", "Basic", "Basic ", "Basic !", "Bearer YTpi", "Digest a", "YTpi", "Basic YWI=", "Basic gIA6"] {
            assert_eq!(read(Some(&HeaderValue::from_str(value).unwrap())), Err(Unusable), "{value}");
        }
        assert_eq!(basic(&format!("a:{}", "x".repeat(Credential::LIMIT + 1))), Err(Unusable));
        assert_eq!(basic("a:b\r\nX: y"), Err(Unusable));
        let huge = HeaderValue::from_str(&format!("Basic {}", "A".repeat(1 << 20))).unwrap();
        assert_eq!(read(Some(&huge)), Err(Unusable));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(username in "[^:\\p{Cc}]{1,20}", password in "[^\\p{Cc}]{0,20}") {
            let read = basic(&format!("{username}:{password}"));
            prop_assert_eq!(read, Ok(Some(Credential::new(username, password))));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(32u8..255, 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = read(Some(&value));
            }
        }
    }
}

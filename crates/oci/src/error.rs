use serde::Serialize;

/// The error codes of the distribution specification ("Error Codes"), and `UNKNOWN` for what it has no code for: a gateway's
/// troubles, which registries answer so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    Unknown,
}

/// The JSON body of an error answer.
///
/// ```
/// let body = oci::ErrorBody::new(oci::ErrorCode::TooManyRequests, "try again in 5 s").to_json();
/// assert_eq!(body, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"try again in 5 s"}]}"#);
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    errors: [Entry; 1],
}

#[derive(Clone, Debug, Serialize)]
struct Entry {
    code: ErrorCode,
    message: String,
}

impl ErrorBody {
    /// A body with one error.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
        ErrorBody { errors: [Entry { code, message: message.into() }] }
    }

    /// The body as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and codes always serialize")
    }
}

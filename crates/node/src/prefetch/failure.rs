use cache::FailureKind;
use tonic::Code;

use crate::cri::CriError;

/// The longest message of a NodeCache, in characters.
const MESSAGE: usize = 1000;

/// Why an image is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub reason: Reason,
    /// For people. Holds no credential.
    pub message: String,
}

/// Why an image is not ready, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The registry does not have it.
    ImageNotFound,
    /// The registry gives it to nobody without a credential.
    CredentialNeeded,
    /// The registry does not answer, or says that it cannot.
    RegistryUnavailable,
    /// The registry wants to be left alone for a while.
    RateLimited,
    /// The filesystem of images is as full as prefetch may make it, or fuller.
    DiskFull,
    /// It is there, but for other machines.
    PlatformMissing,
    /// What came was not what its digest says.
    DigestMismatch,
    /// The tag is said to mean another digest than what came.
    TagDiffers,
    /// The runtime gave the pull up because nothing came.
    PullStalled,
    /// It was there and somebody else removed it.
    Removed,
    /// The runtime does not answer.
    RuntimeUnavailable,
    /// Something else, which the message tells.
    PullFailed,
}

impl Reason {
    /// As NodeCaches and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ImageNotFound => "ImageNotFound",
            Reason::CredentialNeeded => "CredentialNeeded",
            Reason::RegistryUnavailable => "RegistryUnavailable",
            Reason::RateLimited => "RateLimited",
            Reason::DiskFull => "DiskFull",
            Reason::PlatformMissing => "PlatformMissing",
            Reason::DigestMismatch => "DigestMismatch",
            Reason::TagDiffers => "TagDiffers",
            Reason::PullStalled => "PullStalled",
            Reason::Removed => "Removed",
            Reason::RuntimeUnavailable => "RuntimeUnavailable",
            Reason::PullFailed => "PullFailed",
        }
    }

    /// Whether it says something of the image, so that it counts among the retries that an ImageCache allows.
    pub(super) fn counts(self) -> bool {
        self != Reason::RuntimeUnavailable
    }
}

/// What runtimes write of what registries, networks and disks say to them. They have no codes for it: containerd gives Unknown for most. The first
/// that is found counts, so what others may quote comes first.
const WORDS: &[(Reason, &[&str])] = &[
    (Reason::DiskFull, &["no space left on device", "disk quota exceeded"]),
    (Reason::RateLimited, &["429 too many requests", "toomanyrequests", "too many requests"]),
    (
        Reason::CredentialNeeded,
        &[
            "401 unauthorized",
            "403 forbidden",
            "insufficient_scope",
            "authorization failed",
            "pull access denied",
            "authentication required",
            "unauthorized:",
            "access denied",
            "no basic auth credentials",
            "denied:",
        ],
    ),
    (
        Reason::PlatformMissing,
        &["no match for platform", "no image found in image index for", "no child with platform"],
    ),
    (
        Reason::DigestMismatch,
        &["unexpected commit digest", "digest mismatch", "does not match digest", "failed precondition"],
    ),
    (
        Reason::RegistryUnavailable,
        &[
            "dial tcp",
            "connection refused",
            "connection reset",
            "no such host",
            "network is unreachable",
            "no route to host",
            "i/o timeout",
            "handshake",
            "x509:",
            "timeout awaiting response headers",
            "unexpected eof",
            "500 internal server error",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway timeout",
        ],
    ),
    (Reason::ImageNotFound, &["not found", "manifest unknown", "name unknown"]),
    (Reason::PullStalled, &["context canceled", "no progress"]),
];

impl Failure {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Failure {
        Failure { reason, message: message.into() }
    }

    /// What it means that larder could not get an image into its store.
    pub fn of_store(error: &cache::Error) -> Failure {
        let text = error.reason.to_lowercase();
        let reason = match error.kind {
            _ if text.contains("no space left on device") => Reason::DiskFull,
            FailureKind::NotFound if text.contains("no match for platform") => Reason::PlatformMissing,
            FailureKind::NotFound => Reason::ImageNotFound,
            FailureKind::Unauthorized | FailureKind::Denied => Reason::CredentialNeeded,
            FailureKind::RateLimited { .. } => Reason::RateLimited,
            FailureKind::Unavailable | FailureKind::Timeout => Reason::RegistryUnavailable,
            FailureKind::Invalid | FailureKind::Refused => Reason::PullFailed,
        };
        Failure { reason, message: presentable(&error.reason) }
    }

    /// What the failure of a pull means.
    pub fn of(error: &CriError) -> Failure {
        let reason = match error {
            CriError::Path(_) | CriError::Silent(_) => Reason::RuntimeUnavailable,
            CriError::Failed { code, message } => {
                let text = message.to_lowercase();
                let told = WORDS.iter().find(|(_, words)| words.iter().any(|word| text.contains(word)));
                match (told, code) {
                    (Some((reason, _)), _) => *reason,
                    (None, Code::NotFound) => Reason::ImageNotFound,
                    (None, _) => Reason::PullFailed,
                }
            }
        };
        Failure { reason, message: presentable(&error.to_string()) }
    }
}

/// A message without what of URLs may be secret, on one line and not too long.
fn presentable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MESSAGE));
    for (number, word) in text.split_whitespace().enumerate() {
        if number > 0 {
            shown.push(' ');
        }
        shown.push_str(&without_secrets(word));
    }
    match shown.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// A word whose URLs have neither queries, in which signed downloads carry their right, nor user names and passwords.
fn without_secrets(word: &str) -> String {
    let Some(scheme) = word.find("://") else { return word.to_owned() };
    let (before, rest) = word.split_at(scheme + 3);
    let end = rest.find(['"', '\'', ')', '>']).unwrap_or(rest.len());
    let (url, after) = rest.split_at(end);
    let url = url.split_once(['?', '#']).map_or(url, |(url, _)| url);
    let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{before}{host}{path}{}", without_secrets(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: Code, message: &str) -> Reason {
        Failure::of(&CriError::Failed { code, message: message.to_owned() }).reason
    }

    #[test]
    fn a_runtimes_words_become_a_reason() {
        let image = "failed to pull and unpack image \"docker.io/library/app:1\": failed to resolve image";
        let of = |text: &str| reason(Code::Unknown, &format!("{image}: {text}"));
        assert_eq!(
            reason(Code::NotFound, &format!("{image}: docker.io/library/app:1: not found")),
            Reason::ImageNotFound
        );
        assert_eq!(reason(Code::NotFound, "nothing"), Reason::ImageNotFound);
        assert_eq!(
            of("unexpected status from HEAD request to https://ghcr.io/v2/a/manifests/1: 401 Unauthorized"),
            Reason::CredentialNeeded
        );
        assert_eq!(
            of(
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"
            ),
            Reason::CredentialNeeded
        );
        assert_eq!(
            of("failed to do request: Head \"https://x/\": dial tcp: lookup x: no such host"),
            Reason::RegistryUnavailable
        );
        assert_eq!(
            of("unexpected status from HEAD request to https://x/: 503 Service Unavailable"),
            Reason::RegistryUnavailable
        );
        assert_eq!(of("unexpected status from HEAD request to https://x/: 429 Too Many Requests"), Reason::RateLimited);
        assert_eq!(of("write /var/lib/containerd/x: no space left on device"), Reason::DiskFull);
        assert_eq!(of("no match for platform in manifest sha256:1: not found"), Reason::PlatformMissing);
        assert_eq!(
            of("unexpected commit digest sha256:1, expected sha256:2: failed precondition"),
            Reason::DigestMismatch
        );
        assert_eq!(of("context canceled"), Reason::PullStalled);
        assert_eq!(of("something new"), Reason::PullFailed);
        assert_eq!(Failure::of(&CriError::Silent("gone".into())).reason, Reason::RuntimeUnavailable);
    }

    #[test]
    fn a_message_has_no_credential() {
        let shown = presentable(
            "failed to do request: Get \"https://robot:s3cret@cdn.example/blob?X-Sig=s3cret&a=b\": EOF, (https://y/z#s3cret)\n at\tonce",
        );
        assert_eq!(shown, "failed to do request: Get \"https://cdn.example/blob\": EOF, (https://y/z) at once");
        let two = presentable("\"https://a/?s3cret\",\"https://u:s3cret@b/c\"");
        assert_eq!(two, "\"https://a/\",\"https://b/c\"");
    }

    #[test]
    fn a_message_fits() {
        let shown = presentable(&"ä".repeat(5000));
        assert_eq!(shown.chars().count(), MESSAGE + 1);
    }

    #[test]
    fn reasons_are_words() {
        assert_eq!(format!("{:?}", Reason::TagDiffers), Reason::TagDiffers.as_str());
    }
}

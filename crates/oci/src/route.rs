use crate::name::NameError;
use crate::reference::ReferenceError;
use crate::{Digest, Name, Reference, Registry};

/// A request's target within the distribution API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: does this speak the API?
    Ping,
    /// `/v2/_catalog`, which the specification no longer has.
    Catalog,
    /// Something within a repository.
    Repository {
        /// The repository, with its registry.
        name: Name,
        /// What is asked of it.
        endpoint: Endpoint,
    },
}

/// What is asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `manifests/<reference>`
    Manifest(Reference),
    /// `blobs/<digest>`
    Blob(Digest),
    /// `blobs/uploads/…`
    Upload,
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
}

/// Why a path is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The path is none of the API's.
    #[error("this path is not part of the distribution API")]
    Unknown,
    /// The registry or the repository is not well-formed.
    #[error(transparent)]
    Name(NameError),
    /// The tag or digest is not well-formed.
    #[error(transparent)]
    Reference(ReferenceError),
}

impl From<NameError> for RouteError {
    fn from(error: NameError) -> RouteError {
        RouteError::Name(error)
    }
}

impl<E: Into<ReferenceError>> From<E> for RouteError {
    fn from(error: E) -> RouteError {
        RouteError::Reference(error.into())
    }
}

impl Route {
    /// Reads a request's path, in the mirror form (`namespace` is the value of `ns`, already decoded) or the path form
    /// (the first element is the registry). A name in neither form belongs to `unqualified`, which is what Docker's
    /// `registry-mirrors` asks for.
    ///
    /// The path is taken as it stands on the wire; of percent-encodings only that of the colon is known, since nothing
    /// else in a valid path needs one.
    pub fn parse(path: &str, namespace: Option<&str>, unqualified: Option<&Registry>) -> Result<Route, RouteError> {
        let decoded;
        let path = if path.contains('%') {
            decoded = path.replace("%3A", ":").replace("%3a", ":");
            decoded.as_str()
        } else {
            path
        };
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Route::Ping),
            Some("/_catalog") => return Ok(Route::Catalog),
            Some(rest) => rest.strip_prefix('/').ok_or(RouteError::Unknown)?,
            None => return Err(RouteError::Unknown),
        };
        // From the right, because a repository may contain any word of the API.
        let (name, endpoint) = if let Some(name) = rest.strip_suffix("/tags/list") {
            (name, Endpoint::Tags)
        } else if let Some((name, _)) = upload(rest) {
            (name, Endpoint::Upload)
        } else {
            let (head, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
            let (name, kind) = head.rsplit_once('/').ok_or(RouteError::Unknown)?;
            match kind {
                // The name first: a path with `..` in it is an invalid name, whatever its end looks like.
                "manifests" => {
                    return Route::within(name, namespace, unqualified, || Ok(Endpoint::Manifest(last.parse()?)));
                }
                "blobs" => return Route::within(name, namespace, unqualified, || Ok(Endpoint::Blob(last.parse()?))),
                "referrers" => {
                    return Route::within(name, namespace, unqualified, || Ok(Endpoint::Referrers(last.parse()?)));
                }
                _ => return Err(RouteError::Unknown),
            }
        };
        Route::within(name, namespace, unqualified, || Ok(endpoint))
    }

    fn within(
        name: &str,
        namespace: Option<&str>,
        unqualified: Option<&Registry>,
        endpoint: impl FnOnce() -> Result<Endpoint, RouteError>,
    ) -> Result<Route, RouteError> {
        let name = match namespace {
            Some(namespace) => {
                let registry: Registry = namespace.parse()?;
                // Some clients give the registry both ways.
                let doubled = name.split_once('/').filter(|(first, _)| {
                    Registry::looks_like(first) && Registry::from_element(first).as_ref() == Ok(&registry)
                });
                Name::new(registry.clone(), doubled.map_or(name, |(_, rest)| rest).parse()?)
            }
            None => match (Name::parse(name), unqualified) {
                (Err(NameError::NoRegistry), Some(registry)) => Name::new(registry.clone(), name.parse()?),
                (Err(NameError::NoRegistry), None) => {
                    name.parse::<crate::Repository>()?;
                    return Err(NameError::NoRegistry.into());
                }
                (parsed, _) => parsed?,
            },
        };
        Ok(Route::Repository { name, endpoint: endpoint()? })
    }
}

/// Splits `name/blobs/uploads`, with or without an upload's identity behind it. A digest is never `uploads`, so the last
/// such place decides.
fn upload(rest: &str) -> Option<(&str, &str)> {
    if let Some(name) = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/")) {
        return Some((name, ""));
    }
    let (head, id) = rest.rsplit_once('/')?;
    head.strip_suffix("/blobs/uploads").map(|name| (name, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(path: &str, ns: Option<&str>) -> Result<String, RouteError> {
        match Route::parse(path, ns, None)? {
            Route::Repository { name, .. } => Ok(name.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_reach_the_same_name() {
        for (path, ns, expected) in [
            ("/v2/library/nginx/manifests/1.27", Some("docker.io"), "docker.io/library/nginx"),
            ("/v2/nginx/manifests/1.27", Some("docker.io"), "docker.io/library/nginx"),
            ("/v2/docker.io/nginx/manifests/1.27", None, "docker.io/library/nginx"),
            ("/v2/docker.io/library/nginx/manifests/1.27", None, "docker.io/library/nginx"),
            ("/v2/docker.io/library/nginx/manifests/1.27", Some("docker.io"), "docker.io/library/nginx"),
            ("/v2/reg.local__5000/a/b/tags/list", None, "reg.local:5000/a/b"),
            ("/v2/a/b/tags/list", Some("reg.local:5000"), "reg.local:5000/a/b"),
            ("/v2/localhost/a/tags/list", None, "localhost/a"),
        ] {
            assert_eq!(name(path, ns).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn names_that_look_like_routes() {
        for (path, repository) in [
            ("/v2/ghcr.io/a/manifests/b/manifests/c", "a/manifests/b"),
            ("/v2/ghcr.io/blobs/uploads/manifests/c", "blobs/uploads"),
            ("/v2/ghcr.io/tags/list/tags/list", "tags/list"),
            ("/v2/ghcr.io/v2/v2/tags/list", "v2/v2"),
        ] {
            assert_eq!(name(path, None), Ok(format!("ghcr.io/{repository}")), "{path}");
        }
        assert!(matches!(
            Route::parse("/v2/ghcr.io/a/blobs/uploads/123", None, None),
            Ok(Route::Repository { endpoint: Endpoint::Upload, .. })
        ));
    }

    #[test]
    fn encoded_colons_are_read_and_nothing_else_is_decoded() {
        let path = format!("/v2/ghcr.io/a/blobs/{}", DIGEST.replace(':', "%3A"));
        assert!(matches!(Route::parse(&path, None, None), Ok(Route::Repository { endpoint: Endpoint::Blob(_), .. })));
        for path in ["/v2/ghcr.io/a%2fb/tags/list", "/v2/ghcr.io/%2e%2e/tags/list", "/v2/ghcr.io/a%00/tags/list"] {
            assert!(matches!(Route::parse(path, None, None), Err(RouteError::Name(_))), "{path}");
        }
    }

    #[test]
    fn bad_paths() {
        for path in ["", "/", "/v1/", "/v2x", "/v2/a", "/v2/ghcr.io/a/other/b", "/metrics"] {
            assert!(Route::parse(path, None, None).is_err(), "{path}");
        }
        for path in [
            "/v2/ghcr.io/a/../b/manifests/x",
            "/v2/ghcr.io//manifests/x",
            "/v2/ghcr.io/A/manifests/x",
            "/v2//manifests/x",
        ] {
            assert!(matches!(Route::parse(path, None, None), Err(RouteError::Name(_))), "{path}");
        }
        for path in ["/v2/ghcr.io/a/blobs/sha256:1", "/v2/ghcr.io/a/manifests/.x", "/v2/ghcr.io/a/referrers/latest"] {
            assert!(matches!(Route::parse(path, None, None), Err(RouteError::Reference(_))), "{path}");
        }
        assert_eq!(name("/v2/nginx/manifests/1", None), Err(RouteError::Name(NameError::NoRegistry)));
    }

    #[test]
    fn unqualified_names_belong_where_the_caller_says() {
        let hub: Registry = "docker.io".parse().unwrap();
        let Ok(Route::Repository { name, .. }) = Route::parse("/v2/nginx/manifests/1", None, Some(&hub)) else {
            panic!()
        };
        assert_eq!(name.to_string(), "docker.io/library/nginx");
    }

    proptest! {
        #[test]
        fn never_panics(path in "/v2/\\PC{0,60}", ns in proptest::option::of("\\PC{0,20}")) {
            let _ = Route::parse(&path, ns.as_deref(), None);
        }
    }
}

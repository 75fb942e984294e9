use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cache::{Credential, Engine, Keep, Opener};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use oci::{ErrorCode, MediaType, Name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::body::Body;
use crate::failure::Failure;

/// Where a cluster's controller says what is in use, at the address for nodes: `PUT` of a [`Keep`], answered by a list of
/// [`cache::HeldImage`]. No name of a repository leads there.
pub const KEEP_PATH: &str = "/larder/v1alpha1/images";

/// Where it says what nodes may ask for on behalf of ImageCaches, and with which credentials: `PUT` of [`Wanted`], answered by `{}`. It counts
/// until the next or the end of the process.
pub const WANTED_PATH: &str = "/larder/v1alpha1/wanted";

/// The longest list that is read, in bytes: tens of thousands of images.
const LIMIT: usize = 8 << 20;

/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What ImageCaches want. Shows itself to nobody.
#[derive(Serialize, Deserialize, Default)]
pub struct Wanted {
    /// Each repository once.
    pub repositories: Vec<WantedRepository>,
}

/// A repository of which ImageCaches want something. Shows itself to nobody.
#[derive(Serialize, Deserialize)]
pub struct WantedRepository {
    /// Its name with its registry, such as `docker.io/library/nginx`.
    pub name: String,
    /// What opens it, besides the registry's own credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Login>,
}

/// A user name and a password. Shows itself to nobody.
#[derive(Serialize, Deserialize)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
    /// What it opens may go into nodes' container runtimes.
    #[serde(default)]
    pub runtime: bool,
}

/// Takes what a controller says, by the path at which it says so.
pub(crate) async fn answer(engine: &Engine, request: &mut http::Request<Incoming>) -> Result<Answer, Failure> {
    if *request.method() != Method::PUT {
        return Err(bad(StatusCode::METHOD_NOT_ALLOWED, "say it by PUT"));
    }
    let text = match request.uri().path() {
        KEEP_PATH => serde_json::to_vec(&engine.keep(read::<Keep>(request).await?).await),
        _ => {
            engine.want(openers(read(request).await?)?);
            serde_json::to_vec(&serde_json::Map::new())
        }
    };
    let text = text.map_err(|_| bad(StatusCode::INTERNAL_SERVER_ERROR, "what is here cannot be written down"))?;
    let mut answer = Answer::new(StatusCode::OK);
    answer.media_type(&MediaType::JSON);
    answer.header(header::CONTENT_LENGTH, text.len().into());
    answer.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.body = Body::memory(Bytes::from(text));
    Ok(answer)
}

/// Whether a controller says something at a path.
pub(crate) fn is_told(path: &str) -> bool {
    [KEEP_PATH, WANTED_PATH].contains(&path)
}

fn bad(status: StatusCode, message: &'static str) -> Failure {
    Failure::new(status, ErrorCode::Unsupported, message)
}

async fn read<T: DeserializeOwned>(request: &mut http::Request<Incoming>) -> Result<T, Failure> {
    let body = Limited::new(request.body_mut(), LIMIT).collect();
    let text = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(bad(StatusCode::PAYLOAD_TOO_LARGE, "the list is longer than 8 MiB"));
        }
        Ok(Err(_)) => return Err(bad(StatusCode::BAD_REQUEST, "the list broke off")),
        Err(_) => return Err(bad(StatusCode::REQUEST_TIMEOUT, "the list did not come")),
    };
    // The error would quote it.
    serde_json::from_slice(&text).map_err(|_| bad(StatusCode::BAD_REQUEST, "this is no list that this larder can read"))
}

fn openers(wanted: Wanted) -> Result<HashMap<Name, Vec<Opener>>, Failure> {
    let one = |repository: WantedRepository| {
        let name = Name::parse(&repository.name).map_err(|_| bad(StatusCode::BAD_REQUEST, "it names no repository"))?;
        let is_long = |login: &Login| login.username.len().max(login.password.len()) > Credential::LIMIT;
        if repository.logins.iter().any(is_long) {
            return Err(bad(StatusCode::BAD_REQUEST, "a credential is too long"));
        }
        let opener = |Login { username, password, runtime }: Login| Opener {
            credential: Credential::new(username, password),
            runtime,
        };
        Ok((name, repository.logins.into_iter().map(opener).collect()))
    };
    wanted.repositories.into_iter().map(one).collect()
}

use std::time::Duration;

use bytes::Bytes;
use cache::{Engine, Keep};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use oci::{ErrorCode, MediaType};

use crate::answer::Answer;
use crate::body::Body;
use crate::failure::Failure;

/// Where a cluster's controller says what is in use, at the address for nodes: `PUT` of a [`Keep`], answered by a list of
/// [`cache::HeldImage`]. No name of a repository leads there.
pub const KEEP_PATH: &str = "/larder/v1alpha1/images";

/// The longest list that is read, in bytes: tens of thousands of images.
const LIMIT: usize = 8 << 20;

/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes what is in use, and says what is here of it.
pub(crate) async fn answer(engine: &Engine, request: &mut http::Request<Incoming>) -> Result<Answer, Failure> {
    let bad = |status, message| Failure::new(status, ErrorCode::Unsupported, message);
    if *request.method() != Method::PUT {
        return Err(bad(StatusCode::METHOD_NOT_ALLOWED, "say by PUT what is in use"));
    }
    let body = Limited::new(request.body_mut(), LIMIT).collect();
    let text = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(bad(StatusCode::PAYLOAD_TOO_LARGE, "the list is longer than 8 MiB"));
        }
        Ok(Err(_)) => return Err(bad(StatusCode::BAD_REQUEST, "the list broke off")),
        Err(_) => return Err(bad(StatusCode::REQUEST_TIMEOUT, "the list did not come")),
    };
    let keep: Keep = serde_json::from_slice(&text)
        .map_err(|_| bad(StatusCode::BAD_REQUEST, "this is no list of images that this larder can read"))?;
    let held = engine.keep(keep).await;
    let text = serde_json::to_vec(&held)
        .map_err(|_| bad(StatusCode::INTERNAL_SERVER_ERROR, "what is here cannot be written down"))?;
    let mut answer = Answer::new(StatusCode::OK);
    answer.media_type(&MediaType::JSON);
    answer.header(header::CONTENT_LENGTH, text.len().into());
    answer.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.body = Body::memory(Bytes::from(text));
    Ok(answer)
}

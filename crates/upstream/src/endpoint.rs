use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::Empty;
use url::Url;

use crate::address::{Resolver, SystemResolver};
use crate::directory::reach;
use crate::exchange::{Client, drain};
use crate::failure::Failure;
use crate::settings::{SettingsError, UpstreamSettings};

/// How an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAnswer {
    /// Its URL, as the settings have it; of the registry's own host where they have none.
    pub url: String,
    /// That it answers as a registry does, or why not, in words without a secret.
    pub answer: Result<(), String>,
}

/// Asks each endpoint of an upstream for `/v2/`, all at once and with nobody's right. That a credential is wanted is an answer, and so is that
/// there were too many questions. Cancellation safe.
///
/// # Errors
/// The settings are not usable.
pub async fn ask_endpoints(upstream: &UpstreamSettings, limit: Duration) -> Result<Vec<EndpointAnswer>, SettingsError> {
    let resolver: Arc<dyn Resolver> = Arc::new(SystemResolver::new());
    let (urls, client) = reach(upstream, &resolver, limit)?;
    let texts = upstream.endpoints.iter().map(|endpoint| endpoint.url.clone());
    let texts = texts.chain(urls.iter().skip(upstream.endpoints.len()).map(|url| plain(url).to_owned()));
    let asked = texts.zip(&urls).map(async |(text, url)| {
        let answer = match tokio::time::timeout(limit, ask(&client, url)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("it does not answer within {} s", limit.as_secs())),
        };
        EndpointAnswer { url: text, answer }
    });
    Ok(join_all(asked).await)
}

/// A URL as people write it.
fn plain(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

async fn ask(client: &Client, url: &Url) -> Result<(), String> {
    let mut url = url.clone();
    let path = url.path().trim_matches('/').to_owned();
    // As in the requests for content: what follows /v2/ in the path belongs to the names of repositories.
    url.set_path(&match path.split_once('/') {
        Some(("v2", _)) => "/v2/".to_owned(),
        None if path == "v2" || path.is_empty() => "/v2/".to_owned(),
        _ => format!("/{path}/v2/"),
    });
    let mut request = http::Request::new(Empty::new());
    *request.uri_mut() = url.as_str().parse().map_err(|_| "its URL cannot be asked".to_owned())?;
    let answer = client.request(request).await.map_err(|error| Failure::of_request(&error).told())?;
    let status = answer.status();
    drain(answer).await;
    match status {
        StatusCode::OK | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => Ok(()),
        status => Err(format!("it answers {status} at {}, as no registry does", url.path())),
    }
}

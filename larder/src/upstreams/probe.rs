use std::time::Duration;

use api::UpstreamSpec;
use cache::Rules;
use controller::{Answered, Prober};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use upstream::{EndpointAnswer, ask_endpoints};

use super::settings::settings;

/// How long an endpoint may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks endpoints of Upstreams whether they are there.
pub struct Endpoints;

impl Prober for Endpoints {
    fn probe<'a>(&'a self, spec: &'a UpstreamSpec) -> BoxFuture<'a, Result<Vec<Answered>, String>> {
        async move {
            // Nobody is shown a credential for it.
            let settings = settings(spec, None, &Rules::default());
            let answers = ask_endpoints(&settings, LIMIT).await.map_err(|error| error.to_string())?;
            let said = |EndpointAnswer { url, answer }: EndpointAnswer| Answered { url, failure: answer.err() };
            Ok(answers.into_iter().map(said).collect())
        }
        .boxed()
    }
}

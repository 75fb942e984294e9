use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::StatusCode;
use kube::Client;

use crate::follow::RENEWED_AFTER;
use crate::line::{self, ApiServer, NoWay};
use crate::need::refusal;

/// A client of the API server for single requests, set up anew when its credentials may have run out.
///
/// An answer of the API server begins within thirty seconds or is an error.
#[derive(Debug)]
pub struct Session {
    server: ApiServer,
    open: Mutex<Option<Open>>,
}

struct Open {
    client: Client,
    since: Instant,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects when it is first used.
    pub fn new(server: ApiServer) -> Session {
        Session { server, open: Mutex::default() }
    }

    /// The client. Cancellation safe.
    ///
    /// # Errors
    /// Nothing tells where the API server is or who we are to it.
    pub async fn client(&self) -> Result<Client, NoWay> {
        if let Some(open) = &*self.open() {
            return Ok(open.client.clone());
        }
        let client = line::connect(&self.server, Arc::new(|| {})).await?;
        *self.open() = Some(Open { client: client.clone(), since: Instant::now() });
        Ok(client)
    }

    /// Takes note that a request failed: where its credentials or certificates may be the reason, they are read anew for the next.
    pub fn failed(&self, error: &(dyn Error + 'static)) {
        let mut open = self.open();
        let old = open.as_ref().is_some_and(|open| open.since.elapsed() >= RENEWED_AFTER);
        if old || refusal(error) == Some(StatusCode::UNAUTHORIZED) {
            *open = None;
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        // Nothing that holds the lock leaves it half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

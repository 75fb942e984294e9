//! Sources against registries that misbehave, on 127.0.0.1.
#![allow(clippy::unwrap_used, reason = "a test ends where anything is missing")]

mod answers;
mod authentication;
mod bench;
mod dialling;
mod front;
mod limits;
mod redirects;
mod replacing;
mod retries;
mod tls;

//! The engine: a [`Store`], filled from [`Source`]s, that answers the OCI distribution API.
//!
//! ```text
//! Engine::manifest   tags.rs → access.rs → store, else flight.rs → sources       manifests.rs
//! Engine::blob       access.rs → store, else fill/: one task, any number of readers      blobs.rs
//! Engine::document   lists of tags and referrers                                  documents.rs
//! ```
//!
//! The same engine serves the registry and the node role, with other stores and sources.
#![forbid(unsafe_code)]

mod access;
mod blobs;
mod blocking;
mod bucket;
mod credential;
mod documents;
mod engine;
mod fill;
mod flight;
mod images;
mod keep;
mod manifests;
mod metrics;
mod pages;
mod passes;
mod pulls;
mod reply;
mod rules;
mod source;
mod store;
mod tags;

pub use bucket::Bucket;
pub use credential::{Authority, Claim, Credential, Opener, Purpose};
pub use engine::{Engine, EngineSettings};
pub use fill::{FillReader, Filling, HELD_BACK};
pub use images::WholeImage;
pub use keep::{HeldImage, Keep, KeepBudget, KnownImage};
pub use metrics::Metrics;
pub use passes::{Pass, Spent};
pub use pulls::{Answering, ForImageCaches, PodsPull, Pulls};
pub use reply::{Blob, BlobReply, Chunk, Content, DocumentReply, Error, ManifestReply, Outcome, Request};
pub use rules::{Freshness, Rules};
pub use source::{
    Ask, BlobBody, BlobHead, ByteStream, Document, DocumentQuery, FailureKind, ManifestBody, ManifestHead, NoUpstream,
    Source, SourceError, SourceKind, Upstream, Upstreams,
};
pub use store::{
    Budget, DiskStore, Ingest, Record, RecordKind, ScrubProgress, ScrubReport, Shelf, Store, StoreError, StoreSettings,
    Usage, doubt, scrub,
};

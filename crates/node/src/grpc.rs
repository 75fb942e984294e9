//! Questions over a Unix socket by gRPC, with messages written down by hand: only the fields that are looked at.

use std::path::Path;

use http::uri::PathAndQuery;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// The longest answer, in bytes: the bound of containerd's own clients. A node with many containers, each with its labels, goes beyond
/// gRPC's usual 4 MiB.
const ANSWER: usize = 16 << 20;

/// The way to a socket, as this process sees it; `None` if its path cannot be written as one.
pub(crate) fn endpoint(socket: &Path) -> Option<Endpoint> {
    socket.to_str().and_then(|path| Endpoint::from_shared(format!("unix://{path}")).ok())
}

/// Asks once. Cancellation safe: who answers is told that nobody waits any more.
pub(crate) async fn call<Q, A>(channel: &Channel, path: &'static str, question: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    ask(channel, path, Request::new(question)).await
}

/// As [`call`], with metadata of the caller's choice.
pub(crate) async fn ask<Q, A>(channel: &Channel, path: &'static str, question: Request<Q>) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER);
    client.ready().await.map_err(|error| tonic::Status::unavailable(crate::error::innermost(&error)))?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(question, PathAndQuery::from_static(path), codec).await?.into_inner())
}

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;

use super::wire::{Frame, Query};
use crate::members::{Member, NodeId};

/// What the exchange stands on: the way to other nodes. All that is above it decides whom to ask, and what to answer.
///
/// A program's nodes stand on sockets. In a simulation there may be thousands of them in one process, on a network that is
/// only counted; what comes in from it is given to [`Swarm::answer`](crate::Swarm::answer) of the node that is asked.
#[async_trait::async_trait]
pub trait Ground: Send + Sync + 'static {
    /// Puts a question to a node, and gives its answer when the head of it is there, or says why there will be none. Bounds how long
    /// a connection takes, and nothing else. Cancellation-safe: dropped, the question, or the answer, is given up.
    async fn ask(&self, node: &Member, query: &Query) -> Result<Answer<Arriving>, Lost>;

    /// Where bytes are kept.
    fn disk(&self) -> Disk {
        Disk::Files
    }
}

/// Frames on their way from a node, in order. It may fail at any time; it does not end before the answer does.
pub type Arriving = Pin<Box<dyn Stream<Item = Result<Frame, Lost>> + Send>>;

/// Where the bytes of pieces are kept.
#[derive(Clone, Debug)]
pub enum Disk {
    /// In the files that the store gives.
    Files,
    /// Nowhere: nothing is written or read, and so much of these bytes as is needed, at most [`FRAME`](super::wire::FRAME), stands for what would be.
    Counted(Bytes),
}

/// Why a node could not be asked, or stopped answering: it is dead as far as the asker can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node answers.
#[derive(Debug)]
pub enum Answer<Frames> {
    /// Frames follow.
    Frames(Frames),
    /// Others have it.
    Holders(Vec<NodeId>),
    /// Nothing: the status says why.
    Nothing(StatusCode),
}

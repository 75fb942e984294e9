//! Nodes that share what they pull.
//!
//! Each piece of each blob has a home among the nodes ([`Placement`]), which all nodes work out alike from the list of
//! [`Members`]. [`Health`] says whom to pass over just now, [`Identity`] whom to believe, and [`mint`] makes the
//! certificates where nobody else does. [`Swarm`] is one node's part in the exchange: [`Peers`] is what its engine asks,
//! [`Exchange`] what other nodes ask. [`probe`] tells whether a node can be asked at all. [`Ground`] is where
//! the decisions end and the network begins.
#![forbid(unsafe_code)]

mod certs;
mod exchange;
mod health;
mod identity;
mod members;
mod placement;
mod slices;

pub use certs::{Authority, AuthorityError, Ca, Certificate, Leaf, MintError, Minted, Request, Signed, mint};
pub use exchange::{
    Answer, Arriving, Disk, Distrust, Exchange, FRAME, Frame, Giving, Ground, Heard, Lost, Metrics, No, Part, Peers,
    Query, Settings, Stretch, Swarm, Unheard, WithPeers, probe,
};
pub use health::{Admission, Health, PassedOver, Reason};
pub use identity::{Expiry, Files, Identity, IdentityError, Role};
pub use members::{Changes, Member, Members, NodeId};
pub use placement::{Order, PIECE, Placement, piece_count, piece_of, piece_range, pieces};
pub use slices::{Endpoint, Slice, Slices};

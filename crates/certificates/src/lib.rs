//! The certificates by which nodes and registry of a cluster know each other, without anybody who has to think of them.
//!
//! [`plan`] is pure: from what the Secrets hold and the time, it says what they shall hold. [`look`] reads them, and applies that;
//! [`keep`] does so for ever. Only one may do it at a time: whoever leads.
//!
//! There are three Secrets, for whoever runs a pod that mounts a Secret can read the whole of it, and every node runs an agent: that of the
//! nodes has nothing but their own certificate, that of the registry its own, and the authority's key is in a third, which nobody
//! mounts.
#![forbid(unsafe_code)]

mod keep;
mod plan;
mod standing;
mod terms;

pub use keep::{KeepError, Settings, keep, look};
pub use plan::{Plan, Step, plan};
pub use standing::{Data, Found, HOLDERS, Standing};
pub use terms::Terms;

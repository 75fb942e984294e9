//! hosts.toml files: what larder writes into them, and how it takes it back.

pub(crate) mod adopt;
pub(crate) mod directory;
pub(crate) mod hosts;
pub(crate) mod remember;

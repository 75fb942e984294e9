use api::{CachePolicy, CachePolicyStatus};
use kube::core::error_boundary::InvalidObject;

/// What is kept of the CachePolicy besides what it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownPolicy {
    /// Its generation.
    pub generation: Option<i64>,
    /// What its status says.
    pub status: CachePolicyStatus,
    /// Why it cannot be read, if so.
    pub unreadable: Option<String>,
}

impl KnownPolicy {
    /// Of one that can be read.
    pub fn of(policy: &CachePolicy) -> KnownPolicy {
        let status = policy.status.clone().unwrap_or_default();
        KnownPolicy { generation: policy.metadata.generation, status, unreadable: None }
    }

    /// Of one that cannot. What its status says is not known either.
    pub fn of_unreadable(invalid: &InvalidObject) -> KnownPolicy {
        let status = CachePolicyStatus::default();
        KnownPolicy { generation: invalid.metadata.generation, status, unreadable: Some(invalid.to_string()) }
    }
}

use oci::{Digest, Image};
use serde::{Deserialize, Serialize};

use crate::store::Budget;

/// What a cluster's controller says of the images that it knows: those that are in use or pinned are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keep {
    /// What nothing has used for so many seconds goes though there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_for: Option<u64>,
    /// The most that the store may hold, where that is less than what it was told itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<KeepBudget>,
    /// The images.
    pub images: Vec<KnownImage>,
}

/// How much a store may hold. Of two limits the smaller counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeepBudget {
    /// A share of its file system, in hundredths.
    pub percent: u32,
    /// So many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl From<KeepBudget> for Budget {
    fn from(budget: KeepBudget) -> Budget {
        let share = f64::from(budget.percent.clamp(1, 100)) / 100.0;
        budget.bytes.map_or(Budget::Share(share), |bytes| Budget::ShareUpTo(share, bytes))
    }
}

/// An image that a cluster knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownImage {
    /// Its name.
    pub image: Image,
    /// What is known to run under that name, beside what its tag means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
    /// It is in use or pinned. What is not is only asked about.
    #[serde(default)]
    pub keep: bool,
}

/// How much of an image is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldImage {
    /// Its name.
    pub image: Image,
    /// What its tag meant when the origin was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// How many seconds ago that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// How many seconds such an answer is believed; for ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_for: Option<u64>,
    /// All of it is here, of at least one platform, and nothing is missing of another one that anybody has begun to fetch.
    pub whole: bool,
    /// The bytes of it that are here.
    pub bytes: u64,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
}

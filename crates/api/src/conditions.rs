//! Conditions of a status: their types, and how they are kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator, json_schema};

/// The object is taken and acted on. False says what to change in it.
pub const READY: &str = "Ready";

/// An endpoint of an [`Upstream`](crate::Upstream) answers; of a [`CachedImage`](crate::CachedImage), the origin
/// has it.
pub const AVAILABLE: &str = "Available";

/// Every image of an [`ImageCache`](crate::ImageCache) is ready on every node that it selects.
pub const WARM: &str = "Warm";

/// Some images of an [`ImageCache`](crate::ImageCache) cannot be made ready; [`ImageCacheStatus::failures`](crate::ImageCacheStatus::failures) has the reasons.
pub const FAILING: &str = "Failing";

/// The most conditions that a status has.
pub const LIMIT: usize = 16;

/// The longest message of a condition, in characters, by the schema of all conditions in Kubernetes.
const MESSAGE_LIMIT: usize = 32768;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet, or any more.
    Unknown,
}

impl Status {
    /// As conditions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Status {
        if holds { Status::True } else { Status::False }
    }
}

/// What was found out about an object.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// The condition's type, such as [`READY`].
    pub kind: &'a str,
    /// Whether it holds.
    pub status: Status,
    /// Why, in one word in CamelCase, which does not change with circumstances.
    pub reason: &'a str,
    /// The same for people. What is too long for a condition is cut.
    pub message: &'a str,
    /// The `metadata.generation` of the object that was looked at.
    pub generation: Option<i64>,
}

/// Writes a finding into the conditions. The time of transition changes only with the status.
///
/// Returns whether anything changed; if not, there is nothing to tell the API server.
pub fn set(conditions: &mut Vec<Condition>, finding: &Finding<'_>, now: &Time) -> bool {
    let message: String = finding.message.chars().take(MESSAGE_LIMIT).collect();
    let mut condition = Condition {
        type_: finding.kind.to_owned(),
        status: finding.status.as_str().to_owned(),
        reason: finding.reason.to_owned(),
        message,
        observed_generation: finding.generation,
        last_transition_time: now.clone(),
    };
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == finding.kind) else {
        conditions.push(condition);
        return true;
    };
    if old.status == condition.status {
        condition.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != condition;
    *old = condition;
    changed
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of that type is true for that generation of the object, or a later one.
pub fn holds(conditions: &[Condition], kind: &str, generation: Option<i64>) -> bool {
    find(conditions, kind).is_some_and(|condition| {
        condition.status == Status::True.as_str() && condition.observed_generation >= generation
    })
}

/// The schema of a list of conditions, as all of Kubernetes has them.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": LIMIT,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                    "description": "What the condition is about.",
                },
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The metadata.generation of the object that was looked at. If it is less than the current one, the condition is out of date.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When the status last changed.",
                },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "Why, in one word for programs.",
                },
                "message": {
                    "type": "string",
                    "maxLength": MESSAGE_LIMIT,
                    "description": "Why, for people.",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Time {
        serde_json::from_value(serde_json::json!(format!("2026-01-01T00:00:{seconds:02}Z"))).unwrap()
    }

    #[test]
    fn the_time_of_transition_changes_with_the_status() {
        let mut conditions = Vec::new();
        let mut finding =
            Finding { kind: WARM, status: false.into(), reason: "Pulling", message: "1 of 2", generation: Some(1) };
        assert!(set(&mut conditions, &finding, &time(1)));
        assert!(!set(&mut conditions, &finding, &time(2)), "nothing is new");
        finding.message = "2 of 2";
        assert!(set(&mut conditions, &finding, &time(3)));
        assert_eq!(conditions[0].last_transition_time, time(1));
        assert!(!holds(&conditions, WARM, Some(1)));

        finding.status = Status::True;
        assert!(set(&mut conditions, &finding, &time(4)));
        assert_eq!((conditions.len(), &conditions[0].last_transition_time), (1, &time(4)));
        assert!(holds(&conditions, WARM, Some(1)));
        assert!(!holds(&conditions, WARM, Some(2)), "it is about an older object");
        assert!(!holds(&conditions, READY, None));
    }

    #[test]
    fn a_message_fits() {
        let mut conditions = Vec::new();
        let message = "ä".repeat(MESSAGE_LIMIT + 1);
        let finding =
            Finding { kind: READY, status: Status::Unknown, reason: "New", message: &message, generation: None };
        set(&mut conditions, &finding, &time(1));
        assert_eq!(find(&conditions, READY).unwrap().message.chars().count(), MESSAGE_LIMIT);
    }
}

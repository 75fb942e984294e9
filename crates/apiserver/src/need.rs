use std::error::Error;
use std::fmt;

use http::StatusCode;
use kube::Resource;

use crate::cause::{causes, innermost};
use crate::line::Refused;

/// What a request needs to be allowed, as a rule of RBAC says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    group: String,
    resources: String,
    verbs: String,
    namespace: Option<String>,
    custom: bool,
}

impl Need {
    /// To do `verbs` (separated by commas, as in `list, watch`) to the objects of a kind: those of a namespace, or all.
    pub fn of<K: Resource<DynamicType: Default>>(verbs: &str, namespace: Option<&str>) -> Need {
        let kind = K::DynamicType::default();
        let group = K::group(&kind).into_owned();
        // Groups of Kubernetes itself have no dot, or end in k8s.io.
        let custom = group.contains('.') && !group.ends_with(".k8s.io");
        Need {
            group,
            resources: K::plural(&kind).into_owned(),
            verbs: verbs.to_owned(),
            namespace: namespace.map(str::to_owned),
            custom,
        }
    }

    /// The same for a part of the objects, such as `status`.
    #[must_use]
    pub fn part(mut self, subresource: &str) -> Need {
        self.resources = format!("{}/{subresource}", self.resources);
        self
    }

    /// What to do so that it is allowed.
    fn remedy(&self) -> String {
        let role = match &self.namespace {
            Some(namespace) => format!("a Role in the namespace {namespace}"),
            None => "a ClusterRole".to_owned(),
        };
        let binding = if self.namespace.is_some() { "a RoleBinding there" } else { "a ClusterRoleBinding" };
        format!("Let {role} have the rule {self}, and {binding} give it to who is named above")
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { "''" } else { &self.group };
        write!(f, "{{apiGroups: [{group}], resources: [{}], verbs: [{}]}}", self.resources, self.verbs)
    }
}

/// Why a request that needs this failed, with what to do about it where that is known.
pub fn reason(error: &(dyn Error + 'static), need: &Need) -> String {
    match refusal(error) {
        Some(StatusCode::FORBIDDEN) => format!("{}. {}", innermost(error), need.remedy()),
        Some(_) => format!(
            "{}. The token or client certificate is not, or no longer, one that this cluster knows",
            innermost(error)
        ),
        None if need.custom && is_missing(error) => format!(
            "this cluster has no {}.{}: install larder's custom resource definitions (chart/larder/crds)",
            need.resources, need.group
        ),
        None => innermost(error),
    }
}

/// The status of the refusal, 401 or 403, where an error is about one.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<StatusCode> {
    causes(error).find_map(|cause| cause.downcast_ref()).map(|refused: &Refused| refused.status)
}

/// Whether the API server says that there is no such thing.
pub(crate) fn is_missing(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(
        |cause| matches!(cause.downcast_ref(), Some(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND.as_u16()),
    )
}

#[cfg(test)]
mod tests {
    use api::{ImageCache, NodeCache};
    use k8s_openapi::api::core::v1::Node;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::core::Status;
    use kube::runtime::watcher;

    use super::*;

    #[test]
    fn a_refusal_is_found_below_other_errors_and_says_what_to_do() {
        let refused = Refused { status: StatusCode::FORBIDDEN, message: "User \"x\" cannot list".into() };
        let error = watcher::Error::InitialListFailed(kube::Error::Service(refused.into()));
        let text = reason(&error, &Need::of::<EndpointSlice>("list, watch", Some("larder")));
        assert!(text.contains("User \"x\" cannot list") && text.contains("a Role in the namespace larder"), "{text}");
        assert!(
            text.contains("{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}"),
            "{text}"
        );

        let text = reason(&error, &Need::of::<Node>("patch", None));
        assert!(
            text.contains("a ClusterRole ") && text.contains("{apiGroups: [''], resources: [nodes], verbs: [patch]}"),
            "{text}"
        );
        let need = Need::of::<NodeCache>("patch", None).part("status");
        assert!(need.to_string().contains("resources: [nodecaches/status]"), "{need}");
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_from_an_object_that_is_not() {
        let missing = || {
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(
                Status::failure("404 page not found", "NotFound").with_code(404),
            )))
        };
        assert!(is_missing(&missing()));
        let text = reason(&missing(), &Need::of::<ImageCache>("list, watch", None));
        assert!(text.contains("no imagecaches.larder.dev") && text.contains("install"), "{text}");
        let text = reason(&missing(), &Need::of::<Node>("get", None));
        assert!(!text.contains("install"), "{text}");
        assert!(refusal(&missing()).is_none());
    }
}

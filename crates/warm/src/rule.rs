use api::{ImageRule, Images};
use oci::{Image, Pattern, Reference};

/// Whether the policy lets an image be cached that an object of this namespace names.
pub fn covers(images: &Images, image: &Image, namespace: &str) -> bool {
    let matching = |rules: &[ImageRule]| rules.iter().any(|rule| matches(rule, image, namespace));
    (images.include.is_empty() || matching(&images.include)) && !matching(&images.exclude)
}

/// Whether the policy lets an image be cached that an object of some namespace names, whichever that is.
pub fn may_cover(images: &Images, image: &Image) -> bool {
    let anywhere = |rule: &ImageRule| ImageRule { namespace: None, ..rule.clone() };
    let included = images.include.iter().any(|rule| matches(&anywhere(rule), image, ""));
    let excluded = images.exclude.iter().filter(|rule| rule.namespace.is_none());
    (images.include.is_empty() || included) && !excluded.into_iter().any(|rule| matches(rule, image, ""))
}

/// Whether one of the rules of a node's cleanup keeps an image. Nodes do not know the namespaces of those who name it, so what a rule says of
/// these holds for all images.
pub fn keeps(rules: &[ImageRule], image: &Image) -> bool {
    rules.iter().any(|rule| matches(&ImageRule { namespace: None, ..rule.clone() }, image, ""))
}

/// All that a rule says must hold.
fn matches(rule: &ImageRule, image: &Image, namespace: &str) -> bool {
    let fits = |pattern: &Option<String>, text: &str| {
        pattern.as_deref().is_none_or(|pattern| Pattern::new(pattern).matches(text))
    };
    fits(&rule.namespace, namespace)
        && fits(&rule.registry, image.name.registry.as_str())
        && rule.repository.as_deref().is_none_or(|pattern| fits_repository(pattern, image))
}

/// A pattern with a colon is over `repository:tag`, which an image that is named by its digest does not have.
fn fits_repository(pattern: &str, image: &Image) -> bool {
    let repository = image.name.repository.as_str();
    match (&image.reference, pattern.contains(':')) {
        (_, false) => Pattern::new(pattern).matches(repository),
        (Reference::Tag(tag), true) => Pattern::new(pattern).matches(&format!("{repository}:{tag}")),
        (Reference::Digest(_), true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn images(json: Value) -> Images {
        serde_json::from_value(json).unwrap()
    }

    fn covered(rules: &Value, image: &str, namespace: &str) -> bool {
        covers(&images(rules.clone()), &image.parse().unwrap(), namespace)
    }

    #[test]
    fn everything_is_cached_where_no_rule_says_otherwise() {
        assert!(covered(&json!({}), "ghcr.io/a/b:1", "shop"));
    }

    #[test]
    fn what_a_rule_says_must_all_hold() {
        let digest = format!("ghcr.io/shop/api@sha256:{}", "a".repeat(64));
        for (rule, image, namespace, expected) in [
            (json!({"registry": "ghcr.io"}), "ghcr.io/shop/api:1", "shop", true),
            (json!({"registry": "ghcr.io"}), "quay.io/shop/api:1", "shop", false),
            (json!({"registry": "*.example:*"}), "reg.example:5000/a:1", "shop", true),
            (json!({"repository": "shop/*"}), "ghcr.io/shop/api:1", "shop", true),
            (json!({"repository": "shop/*"}), &digest, "shop", true),
            (json!({"repository": "shop"}), "ghcr.io/shop/api:1", "shop", false),
            (json!({"repository": "library/alpine"}), "docker.io/alpine:3.20", "shop", true),
            (json!({"repository": "*:latest"}), "ghcr.io/shop/api:latest", "shop", true),
            (json!({"repository": "*:latest"}), "ghcr.io/shop/api:1", "shop", false),
            (json!({"repository": "*:*"}), &digest, "shop", false),
            (json!({"namespace": "sh*"}), "ghcr.io/shop/api:1", "shop", true),
            (json!({"namespace": "sh*"}), "ghcr.io/shop/api:1", "other", false),
            (json!({"registry": "ghcr.io", "repository": "shop/*", "namespace": "shop"}), &digest, "shop", true),
            (json!({"registry": "quay.io", "repository": "shop/*", "namespace": "shop"}), &digest, "shop", false),
        ] {
            assert_eq!(covered(&json!({"include": [rule]}), image, namespace), expected, "{rule} {image} {namespace}");
            assert_eq!(covered(&json!({"exclude": [rule]}), image, namespace), !expected, "{rule} {image} {namespace}");
        }
    }

    #[test]
    fn a_cleanup_keeps_what_a_rule_matches_in_any_namespace() {
        let rules: Vec<ImageRule> =
            serde_json::from_value(json!([{"registry": "ghcr.io", "namespace": "shop"}, {"repository": "*:keep"}]))
                .unwrap();
        for (image, kept) in [("ghcr.io/a:1", true), ("quay.io/a:1", false), ("quay.io/a:keep", true)] {
            assert_eq!(keeps(&rules, &image.parse().unwrap()), kept, "{image}");
        }
        assert!(!keeps(&[], &"ghcr.io/a:1".parse().unwrap()));
    }

    #[test]
    fn what_some_namespace_may_have_cached_may_be() {
        let rules = images(
            json!({"include": [{"namespace": "shop"}, {"registry": "ghcr.io"}], "exclude": [{"namespace": "dev", "registry": "ghcr.io"}, {"repository": "*:latest"}]}),
        );
        for (image, may) in [("quay.io/a:1", true), ("ghcr.io/a:1", true), ("ghcr.io/a:latest", false)] {
            assert_eq!(may_cover(&rules, &image.parse().unwrap()), may, "{image}");
        }
        let rules = images(json!({"include": [{"registry": "ghcr.io", "namespace": "shop"}]}));
        assert!(!may_cover(&rules, &"quay.io/a:1".parse().unwrap()));
    }

    #[test]
    fn what_is_excluded_is_not_cached_though_it_is_included() {
        let rules = json!({"include": [{"registry": "ghcr.io"}, {"registry": "quay.io"}], "exclude": [{"repository": "*:latest"}]});
        assert!(covered(&rules, "quay.io/a:1", "shop"));
        assert!(!covered(&rules, "quay.io/a:latest", "shop"));
        assert!(!covered(&rules, "docker.io/a:1", "shop"));
    }
}

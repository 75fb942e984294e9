use oci::Tag;
use serde_json::Value;

use crate::source::Document;

/// Cuts a list of tags to the page that was asked for (distribution specification, "Listing Tags"), where the registry took no
/// notice of `n` or `last`, as those do that are older than the specification. A list that is right stays as it came.
pub(crate) fn page(document: Document, n: Option<u32>, last: Option<&str>) -> Document {
    let Ok(mut list) = serde_json::from_slice::<Value>(&document.bytes) else { return document };
    // Something else than tags cannot be put into an order, nor named in a query.
    let Some(Ok(mut tags)) = list.get("tags").and_then(Value::as_array).map(|tags| {
        let parse = |tag: &Value| tag.as_str().and_then(|tag| tag.parse::<Tag>().ok()).ok_or(());
        tags.iter().map(parse).collect::<Result<Vec<Tag>, ()>>()
    }) else {
        return document;
    };
    let limit = n.map_or(usize::MAX, |n| n as usize);
    // `last` is no part of its own page. A registry's own order is left alone as far as it can be seen to be one.
    let ignored = last.is_some_and(|last| {
        let sorted = || tags.is_sorted_by(|a, b| a.as_str() < b.as_str());
        tags.iter().any(|tag| tag.as_str() == last)
            || tags.first().is_some_and(|first| first.as_str() < last && sorted())
    });
    if !ignored && tags.len() <= limit {
        return document;
    }
    tags.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    if ignored && let Some(last) = last {
        tags.retain(|tag| tag.as_str() > last);
    }
    let mut next = None;
    if tags.len() > limit {
        tags.truncate(limit);
        next = tags.last().map(|last| format!("n={limit}&last={last}"));
    }
    list["tags"] = tags.iter().map(|tag| Value::from(tag.as_str())).collect();
    Document { bytes: list.to_string().into(), next, ..document }
}

#[cfg(test)]
mod tests {
    use oci::MediaType;

    use super::*;

    /// What becomes of a list, and of the link to the next page.
    fn paged(tags: &[&str], n: Option<u32>, last: Option<&str>) -> (Vec<String>, Option<String>) {
        let bytes = serde_json::json!({ "name": "a/b", "tags": tags }).to_string().into();
        let document = Document { bytes, media_type: MediaType::JSON, next: None, filters_applied: None };
        let document = page(document, n, last);
        let list: Value = serde_json::from_slice(&document.bytes).unwrap();
        assert_eq!(list["name"], "a/b");
        (list["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect(), document.next)
    }

    fn owned(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_list_that_is_right_stays() {
        assert_eq!(paged(&["b", "a"], None, None), (owned(&["b", "a"]), None));
        assert_eq!(paged(&["b", "c"], Some(2), Some("a")), (owned(&["b", "c"]), None));
        assert_eq!(paged(&["1.9", "1.10"], Some(5), Some("1.8")), (owned(&["1.9", "1.10"]), None));
        assert_eq!(paged(&[], Some(5), Some("z")), (owned(&[]), None));
        let odd = Document {
            bytes: r#"{"tags":null}"#.into(),
            media_type: MediaType::JSON,
            next: Some("last=x".into()),
            filters_applied: None,
        };
        let same = page(odd.clone(), Some(1), Some("a"));
        assert_eq!((same.bytes, same.next), (odd.bytes, odd.next));
    }

    #[test]
    fn what_comes_up_to_the_last_tag_is_left_out() {
        assert_eq!(paged(&["c", "a", "b", "d"], None, Some("b")), (owned(&["c", "d"]), None));
        assert_eq!(paged(&["a", "c"], None, Some("b")), (owned(&["c"]), None));
        assert_eq!(paged(&["a", "b"], None, Some("z")), (owned(&[]), None));
    }

    #[test]
    fn a_page_that_is_too_long_leads_to_the_next() {
        assert_eq!(paged(&["c", "a", "b"], Some(2), None), (owned(&["a", "b"]), Some("n=2&last=b".into())));
        assert_eq!(paged(&["a", "b", "c", "d"], Some(1), Some("b")), (owned(&["c"]), Some("n=1&last=c".into())));
        assert_eq!(paged(&["a", "b", "c"], Some(1), Some("b")), (owned(&["c"]), None));
    }
}

use std::sync::Arc;

/// The labels of an object. Small, since there are thousands: keys and values may be shared between objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All labels, by their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Labels {
        let mut labels: Vec<(Arc<str>, Arc<str>)> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        labels.sort_by(|one, other| one.0.cmp(&other.0));
        labels.dedup_by(|later, earlier| later.0 == earlier.0);
        Labels(labels.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_by_its_key() {
        let labels: Labels = [("zone", "b"), ("pool", "web"), ("arch", "")].into_iter().collect();
        assert_eq!((labels.get("pool"), labels.get("arch"), labels.get("poo")), (Some("web"), Some(""), None));
        assert_eq!(labels.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["arch", "pool", "zone"]);
        assert_eq!(Labels::default().get(""), None);
    }
}

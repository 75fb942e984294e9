use std::collections::HashSet;
use std::sync::Arc;

use super::HeldHere;

/// Texts, lists of them, and images that nodes have, which thousands of objects have in common: each is kept once.
#[derive(Debug, Default)]
pub struct Texts {
    texts: HashSet<Arc<str>>,
    lists: HashSet<Arc<[Arc<str>]>>,
    held: HashSet<Arc<HeldHere>>,
    /// What nobody has any more is let go when there are so many.
    sweep_at: usize,
}

/// Below this, sweeping is not worth it.
const FEW: usize = 4096;

impl Texts {
    /// The one text that says this.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.sweep();
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// The one list of these texts.
    pub fn list(&mut self, texts: Vec<Arc<str>>) -> Arc<[Arc<str>]> {
        if let Some(known) = self.lists.get(texts.as_slice()) {
            return known.clone();
        }
        self.sweep();
        let list: Arc<[Arc<str>]> = texts.into();
        self.lists.insert(list.clone());
        list
    }

    /// The one image of this name and digest.
    pub fn held(&mut self, image: &str, digest: Option<&str>) -> Arc<HeldHere> {
        let held = HeldHere { image: self.text(image), digest: digest.map(|digest| self.text(digest)) };
        if let Some(known) = self.held.get(&held) {
            return known.clone();
        }
        self.sweep();
        let held = Arc::new(held);
        self.held.insert(held.clone());
        held
    }

    fn len(&self) -> usize {
        self.texts.len() + self.lists.len() + self.held.len()
    }

    fn sweep(&mut self) {
        if self.len() < self.sweep_at.max(FEW) {
            return;
        }
        self.held.retain(|held| Arc::strong_count(held) > 1);
        self.lists.retain(|list| Arc::strong_count(list) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.sweep_at = 2 * self.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_is_one() {
        let mut texts = Texts::default();
        let (one, other) = (texts.text("a"), texts.text("a"));
        assert!(Arc::ptr_eq(&one, &other));
        let (first, second) = (texts.list(vec![one.clone()]), texts.list(vec![other]));
        assert!(Arc::ptr_eq(&first, &second));
        let other = texts.text("b");
        assert!(!Arc::ptr_eq(&first, &texts.list(vec![one, other])));
        let (first, second) = (texts.held("a", Some("b")), texts.held("a", Some("b")));
        assert!(Arc::ptr_eq(&first, &second) && first.image.as_ptr() == texts.text("a").as_ptr());
        assert!(!Arc::ptr_eq(&first, &texts.held("a", None)));
    }

    #[test]
    fn what_nobody_has_any_more_is_let_go() {
        let mut texts = Texts::default();
        let kept = texts.text("kept");
        for number in 0..10 * FEW {
            texts.held(&number.to_string(), None);
        }
        assert!(texts.len() <= 2 * FEW, "{}", texts.len());
        assert!(Arc::ptr_eq(&kept, &texts.text("kept")));
    }
}

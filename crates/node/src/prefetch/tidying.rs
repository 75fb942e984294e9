use std::collections::HashMap;

use api::OnDelete;

use super::keeper::{Held, Keeper};
use crate::cri::Mark;

/// Something to do to an image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tidying {
    /// Let the runtime remember this of it.
    Mark {
        /// The image's ID.
        id: String,
        /// What larder has to do with it.
        mark: Option<Mark>,
        /// Larder had it pulled, and it needs a credential.
        private: bool,
        /// Whether kubelet must leave it.
        pinned: bool,
    },
    /// Remove it.
    Remove {
        /// The image's ID.
        id: String,
        /// A name of it, for people.
        name: String,
        /// Its size.
        bytes: u64,
    },
}

impl Keeper {
    /// What is to be pinned, unpinned and removed now. Nothing counts as done by being named here: what the runtime has afterwards tells.
    pub fn tidying(&self) -> Vec<Tidying> {
        let Some(plan) = self.plan.as_ref().filter(|_| self.blind.is_none()) else { return Vec::new() };
        // What is there under the name counts while the one that its tag means now has not come.
        let mut wanted: HashMap<&str, bool> = HashMap::new();
        for wish in &plan.wishes {
            if let Some(held) = self.there(wish) {
                *wanted.entry(&held.image.id).or_insert(true) &= wish.on_delete == OnDelete::Remove;
            }
        }
        self.held.iter().filter_map(|held| self.tidy(held, wanted.get(held.image.id.as_str()).copied())).collect()
    }

    /// What to do to one image; `wanted` says that it is wanted, and whether it is removed afterwards.
    fn tidy(&self, held: &Held, wanted: Option<bool>) -> Option<Tidying> {
        let id = held.image.id.clone();
        let mark = |mark: Option<Mark>, pinned: bool| {
            let pinned = pinned && self.abilities.pins;
            let private = mark.is_some() && (held.private || self.private.contains(&id));
            (held.mark != mark || held.private != private || held.image.pinned != pinned).then(|| Tidying::Mark {
                id: id.clone(),
                mark,
                private,
                pinned,
            })
        };
        match (wanted, held.mark) {
            // Somebody else's pin is as good, and stays his.
            (Some(_), None) if held.image.pinned => None,
            (Some(remove), None) if self.ours.contains(&id) => mark(Some(Mark::after(remove)), true),
            (Some(_), None | Some(Mark::Found)) => mark(Some(Mark::Found), true),
            (Some(remove), Some(Mark::Keep | Mark::Remove)) => mark(Some(Mark::after(remove)), true),
            (None, None) => None,
            (None, Some(Mark::Found)) => mark(None, false),
            (None, Some(Mark::Keep)) => mark(Some(Mark::Keep), false),
            (None, Some(Mark::Remove)) if held.used || self.is_busy() => mark(Some(Mark::Remove), false),
            (None, Some(Mark::Remove)) => {
                Some(Tidying::Remove { id, name: held.name().to_owned(), bytes: held.image.bytes })
            }
        }
    }

    /// What is coming may be of the same layers as what would be removed.
    pub(super) fn is_busy(&self) -> bool {
        !self.pulling.is_empty() || self.efforts.values().any(|effort| effort.arrived)
    }
}

impl Held {
    /// What people call it.
    pub(super) fn name(&self) -> &str {
        self.image.tags.first().or(self.image.digests.first()).unwrap_or(&self.image.id)
    }
}

impl Mark {
    fn after(remove: bool) -> Mark {
        if remove { Mark::Remove } else { Mark::Keep }
    }
}

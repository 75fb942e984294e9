use std::collections::BTreeMap;
use std::sync::Arc;

use api::PullFailure;

/// The most failures that a status lists.
const LISTED: usize = 64;

/// An image, and the reason why it is not ready.
type Kind = (Arc<str>, Arc<str>);

/// What fails, put together from all nodes.
#[derive(Default)]
pub(crate) struct Failures {
    /// By image and reason.
    found: BTreeMap<Kind, Found>,
    pulls: u32,
}

struct Found {
    message: Arc<str>,
    nodes: u32,
    node: Arc<str>,
}

impl Failures {
    /// A pull failed on a node.
    pub fn on_node(&mut self, image: &Arc<str>, reason: &Arc<str>, message: &Arc<str>, node: &Arc<str>) {
        self.pulls += 1;
        let found = self.found.entry((image.clone(), reason.clone()));
        let found = found.or_insert_with(|| Found { message: message.clone(), nodes: 0, node: node.clone() });
        found.nodes += 1;
    }

    /// Something is wrong wherever it is pulled.
    pub fn everywhere(&mut self, image: &str, reason: &str, message: &str) {
        let found = Found { message: message.into(), nodes: 0, node: "".into() };
        self.found.entry((image.into(), reason.into())).or_insert(found);
    }

    /// How many pulls failed, over all nodes.
    pub fn pulls(&self) -> u32 {
        self.pulls
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// For people.
    pub fn message(&self) -> String {
        let Some(((image, _), found)) = self.worst().into_iter().next() else { return "nothing fails".to_owned() };
        let more = match self.found.len() {
            1 => String::new(),
            many => format!(" ({} more failures)", many - 1),
        };
        match found.nodes {
            0 => format!("{image}: {}{more}", found.message),
            1 => format!("{image} on {}: {}{more}", found.node, found.message),
            nodes => format!("{image} on {nodes} nodes, such as {}: {}{more}", found.node, found.message),
        }
    }

    /// As a status lists them.
    pub fn list(&self) -> Vec<PullFailure> {
        let failure = |((image, reason), found): (&Kind, &Found)| PullFailure {
            image: image.to_string(),
            reason: reason.to_string(),
            message: found.message.chars().take(1024).collect(),
            nodes: found.nodes,
            node: found.node.to_string(),
            last_attempt: None,
        };
        self.worst().into_iter().take(LISTED).map(failure).collect()
    }

    /// Those of the most nodes first, and what is wrong everywhere before them.
    fn worst(&self) -> Vec<(&Kind, &Found)> {
        let mut all: Vec<_> = self.found.iter().collect();
        let everywhere = |found: &Found| if found.nodes == 0 { u32::MAX } else { found.nodes };
        all.sort_by_key(|(_, found)| std::cmp::Reverse(everywhere(found)));
        all
    }
}

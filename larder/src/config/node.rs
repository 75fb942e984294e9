use std::path::PathBuf;
use std::time::Duration;

use super::section::Section;
use super::units::Span;

/// What only a node is told.
#[derive(Clone)]
pub struct Node {
    /// The larder registry that is asked before the origins.
    pub registry: Option<String>,
    /// Authorities (PEM) that vouch for it besides the system's.
    pub registry_ca: Option<PathBuf>,
    /// How long a runtime waits for the head of an answer at most.
    pub answer: Duration,
}

impl Default for Node {
    fn default() -> Node {
        Node { registry: None, registry_ca: None, answer: Duration::from_secs(8) }
    }
}

impl Node {
    /// Reads `[node]`.
    pub fn read(mut section: Section<'_>) -> Node {
        let default = Node::default();
        let answer = section.value("answer").map_or(default.answer, |Span(span)| span);
        // containerd gives up on a head after 30 s, and pays for it with every request.
        if !(Duration::from_millis(100)..=Duration::from_secs(25)).contains(&answer) {
            section.problem("answer", "must be between 100ms and 25s");
        }
        let node = Node { registry: section.value("registry"), registry_ca: section.value("registry_ca"), answer };
        section.finish();
        node
    }
}

//! Pictures of figures.

use plot::{Line, Picture};

use crate::fanout::Pull;
use crate::figure::spread;

/// How long it takes until all nodes have an image, over their number, in direct transfers by one node.
pub(crate) fn fanout(pulls: &[Pull]) -> String {
    let Some(ideal) = pulls.iter().find(|pull| pull.what == "direct" && pull.nodes == 1).map(|pull| pull.slowest_s)
    else {
        return String::new();
    };
    let series = |what: &str| -> Vec<(f64, f64)> {
        let mut nodes: Vec<usize> =
            pulls.iter().filter(|pull| pull.what == what && pull.layers == 1).map(|pull| pull.nodes).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let median = |nodes: usize| {
            let same = pulls.iter().filter(|p| p.what == what && p.layers == 1 && p.nodes == nodes);
            spread(same.map(|pull| pull.slowest_s / ideal)).map(|[_, median, _]| (nodes as f64, median))
        };
        nodes.into_iter().filter_map(median).collect()
    };
    let line = |what, name, colour| Line { name, colour, points: series(what) };
    let lines = vec![line("direct", "each from the origin", "#c0392b"), line("larder", "through larder", "#1f6f43")];
    let title = "Time until every node has the image, in transfers by one node alone";
    Picture { title, logarithmic: false, lines }.svg()
}

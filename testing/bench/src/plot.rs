//! Pictures of figures.

use crate::fanout::Pull;
use crate::figure::spread;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

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
    let (direct, larder) = (series("direct"), series("larder"));
    let all = || direct.iter().chain(&larder);
    let (most_x, most_y) = (all().map(|p| p.0).fold(1.0, f64::max), all().map(|p| p.1).fold(2.0, f64::max).ceil());
    let x = |nodes: f64| LEFT + (WIDTH - LEFT - RIGHT) * nodes / most_x;
    let y = |times: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * times / most_y;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Time until every node has the image, in transfers by one node alone</text>\n"
    );
    let step = (most_y / 8.0).ceil();
    let mut tick = 0.0;
    while tick <= most_y {
        svg.push_str(&format!(
            "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{tick} ×</text>\n",
            y(tick),
            x(most_x),
            LEFT - 8.0,
            y(tick) + 4.0
        ));
        tick += step;
    }
    let mut numbers: Vec<usize> = all().map(|point| point.0 as usize).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for nodes in numbers {
        let at = x(nodes as f64);
        let below = HEIGHT - BOTTOM + 18.0;
        svg.push_str(&format!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{nodes}</text>\n"));
    }
    let middle = (LEFT + x(most_x)) / 2.0;
    svg.push_str(&format!(
        "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">nodes that want it at once</text>\n",
        HEIGHT - 10.0
    ));
    for (points, name, colour) in [(&direct, "each from the origin", "#c0392b"), (&larder, "through larder", "#1f6f43")]
    {
        let line: Vec<String> =
            points.iter().map(|(nodes, times)| format!("{:.1},{:.1}", x(*nodes), y(*times))).collect();
        svg.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\n",
            line.join(" ")
        ));
        for (nodes, times) in points {
            svg.push_str(&format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n",
                x(*nodes),
                y(*times)
            ));
        }
        if let Some((nodes, times)) = points.last() {
            svg.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}: {times:.1} ×</text>\n",
                (x(*nodes) + 8.0).min(WIDTH - RIGHT - 10.0),
                y(*times) - 8.0
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

use std::fmt::Write;

use crate::figures::Figures;
use crate::scenario::Scenario;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#1f6f43", "#c0392b", "#2c5aa0", "#b7791f", "#6b4fa0"];

/// The time of which a thousandth of the nodes needs more, over their number, as a picture (SVG): a line for each kind of scenario.
pub fn plot(runs: &[(Scenario, Figures)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (scenario, _) in runs {
        if !names.contains(&scenario.name) {
            names.push(scenario.name);
        }
    }
    let most_x = runs.iter().map(|(scenario, _)| scenario.nodes as f64).fold(10.0, f64::max).log10();
    let least_x = runs.iter().map(|(scenario, _)| scenario.nodes as f64).fold(f64::MAX, f64::min).log10();
    let most_y = runs.iter().map(|(_, figures)| figures.times.p999).fold(2.0, f64::max).ceil();
    let x = |nodes: f64| LEFT + (WIDTH - LEFT - RIGHT) * (nodes.log10() - least_x) / (most_x - least_x).max(1.0);
    let y = |times: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * times / most_y;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Until 99.9 % of simulated nodes have the blob, in times over their own links alone</text>\n"
    );
    let step = (most_y / 6.0).ceil().max(1.0);
    let mut tick = 0.0;
    while tick <= most_y {
        let (at, end, text) = (y(tick), x(10_f64.powf(most_x)), LEFT - 8.0);
        // Writing into a String does not fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{tick} ×</text>",
            at + 4.0
        );
        tick += step;
    }
    let mut numbers: Vec<usize> = runs.iter().map(|(scenario, _)| scenario.nodes).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for nodes in numbers {
        let (at, below) = (x(nodes as f64), HEIGHT - BOTTOM + 18.0);
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{nodes}</text>");
    }
    let middle = (LEFT + x(10_f64.powf(most_x))) / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">nodes that want it at once</text>",
        HEIGHT - 10.0
    );
    for (name, colour) in names.into_iter().zip(COLOURS.into_iter().cycle()) {
        let mut points: Vec<(f64, f64)> = runs
            .iter()
            .filter(|(scenario, _)| scenario.name == name)
            .map(|(scenario, figures)| (scenario.nodes as f64, figures.times.p999))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line: Vec<String> =
            points.iter().map(|(nodes, times)| format!("{:.1},{:.1}", x(*nodes), y(*times))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (nodes, times) in &points {
            let _ =
                writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", x(*nodes), y(*times));
        }
        if let Some((nodes, times)) = points.last() {
            let (at, below) = (x(*nodes) + 8.0, y(*times) + 4.0);
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below:.1}\" fill=\"{colour}\">{name}: {times:.1} ×</text>");
        }
    }
    svg.push_str("</svg>\n");
    svg
}

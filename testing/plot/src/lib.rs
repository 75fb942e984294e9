//! Pictures of figures, for the documentation: how many times as long as alone something takes, over the number of nodes.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    /// What is above it.
    pub title: &'a str,
    /// Whether numbers of nodes are as far apart as their logarithms.
    pub logarithmic: bool,
    /// What is in it.
    pub lines: Vec<Line<'a>>,
}

/// A line of a picture.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// What stands at its end.
    pub name: &'a str,
    /// Its colour, as CSS has it.
    pub colour: &'a str,
    /// Numbers of nodes, which rise, and how many times as long it takes.
    pub points: Vec<(f64, f64)>,
}

impl Picture<'_> {
    /// As SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let scale = |nodes: f64| if self.logarithmic { nodes.log10() } else { nodes };
        let most_x = all().map(|point| point.0).fold(1.0, f64::max);
        let least = if self.logarithmic { scale(all().map(|point| point.0).fold(most_x, f64::min)) } else { 0.0 };
        let width = (scale(most_x) - least).max(1.0);
        let most_y = all().map(|point| point.1).fold(2.0, f64::max).ceil();
        let x = |nodes: f64| LEFT + (WIDTH - LEFT - RIGHT) * (scale(nodes) - least) / width;
        let y = |times: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * times / most_y;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{}</text>\n",
            self.title
        );
        // Writing into a String does not fail.
        let mut draw = |what: std::fmt::Arguments<'_>| {
            let _ = writeln!(svg, "{what}");
        };
        let step = (most_y / 8.0).ceil();
        let mut tick = 0.0;
        while tick <= most_y {
            let (at, end) = (y(tick), x(most_x));
            draw(format_args!("<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"));
            let (beside, below) = (LEFT - 8.0, at + 4.0);
            draw(format_args!("<text x=\"{beside}\" y=\"{below:.1}\" text-anchor=\"end\">{tick} ×</text>"));
            tick += step;
        }
        let mut numbers: Vec<usize> = all().map(|point| point.0 as usize).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for nodes in numbers {
            let (at, below) = (x(nodes as f64), HEIGHT - BOTTOM + 18.0);
            draw(format_args!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{nodes}</text>"));
        }
        let (middle, below) = (f64::midpoint(LEFT, x(most_x)), HEIGHT - 10.0);
        draw(format_args!(
            "<text x=\"{middle:.1}\" y=\"{below}\" text-anchor=\"middle\">nodes that want it at once</text>"
        ));
        for Line { name, colour, points } in &self.lines {
            let line: Vec<String> =
                points.iter().map(|(nodes, times)| format!("{:.1},{:.1}", x(*nodes), y(*times))).collect();
            draw(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
                line.join(" ")
            ));
            for (nodes, times) in points {
                let (at, height) = (x(*nodes), y(*times));
                draw(format_args!("<circle cx=\"{at:.1}\" cy=\"{height:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
            }
            if let Some((nodes, times)) = points.last() {
                let (at, above) = ((x(*nodes) + 8.0).min(WIDTH - RIGHT - 10.0), y(*times) - 8.0);
                draw(format_args!(
                    "<text x=\"{at:.1}\" y=\"{above:.1}\" fill=\"{colour}\">{name}: {times:.1} ×</text>"
                ));
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(logarithmic: bool) -> String {
        let points = vec![(10.0, 1.0), (100.0, 2.0), (1000.0, 4.0)];
        Picture { title: "t", logarithmic, lines: vec![Line { name: "n", colour: "#123", points }] }.svg()
    }

    #[test]
    fn points_are_where_they_belong() {
        assert!(picture(true).contains("points=\"60.0,242.5 315.0,175.0 570.0,40.0\""), "{}", picture(true));
        assert!(picture(false).contains("points=\"65.1,242.5 111.0,175.0 570.0,40.0\""), "{}", picture(false));
        assert!(picture(true).contains(">n: 4.0 ×</text>"));
    }
}

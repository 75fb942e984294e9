use plot::{Line, Picture};

use crate::figures::Figures;
use crate::scenario::Scenario;

const COLOURS: [&str; 5] = ["#1f6f43", "#c0392b", "#2c5aa0", "#b7791f", "#6b4fa0"];

/// The time of which a thousandth of the nodes needs more, over their number, as a picture (SVG): a line for each kind of scenario.
pub fn plot(runs: &[(Scenario, Figures)]) -> String {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (scenario, figures) in runs {
        let point = (scenario.nodes as f64, figures.times.p999);
        match lines.iter_mut().find(|line| line.name == scenario.name) {
            Some(line) => line.points.push(point),
            None => {
                let colour = COLOURS[lines.len() % COLOURS.len()];
                lines.push(Line { name: scenario.name, colour, points: vec![point] });
            }
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    let title = "Until 99.9 % of simulated nodes have the blob, in times over their own links alone";
    Picture { title, logarithmic: true, lines }.svg()
}

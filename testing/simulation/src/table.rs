use std::fmt::Write;

use crate::figures::Figures;
use crate::scenario::Scenario;

/// Figures as a table of Markdown, a line for each scenario.
pub fn table(runs: &[(Scenario, Figures)]) -> String {
    let mut text = String::from(
        "| what | nodes | blob, MiB | slowest, s | time in ideal ones: median | p99.9 | slowest | from the origin, blobs | into a zone, blobs | \
         sent by a node, blobs: mean | p99.9 | most | questions by a node: mean | most | took it from the origin itself |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (scenario, figures) in runs {
        let Figures { seconds, times, upload, asks, .. } = figures;
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} |",
            scenario.name,
            figures.nodes,
            scenario.blob >> 20,
            seconds.most,
            times.median,
            times.p999,
            times.most,
            figures.origin,
            figures.into_zone,
            upload.mean,
            upload.p999,
            upload.most,
            asks.mean,
            asks.most,
            figures.fell_back + figures.failed,
        );
    }
    text
}

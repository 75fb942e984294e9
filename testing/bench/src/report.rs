//! Tables for people, and raw values for programs.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::figure::{Figure, Goal, Unit, spread};
use crate::machine;
use crate::server::{Kind, Programs};

/// The table of the registry's figures.
pub(crate) fn table(figures: &[Figure], programs: &Programs, repetitions: usize, command: &str) -> String {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| programs.kinds().contains(kind)).collect();
    let mut text = format!(
        "`{command}` on {}.\n{}. Median of {repetitions} repetitions in which the servers took turns (least – most).\n\n",
        machine::describe(),
        programs.versions(),
    );
    for (kind, reason) in &programs.missing {
        text.push_str(&format!("{kind} is missing: {reason}\n\n"));
    }
    text.push_str("| what |");
    for kind in &kinds {
        text.push_str(&format!(" {kind} |"));
    }
    text.push_str(" must reach | reached | idle, others |\n|---|");
    text.push_str(&"---|".repeat(kinds.len() + 3));
    text.push('\n');
    for figure in figures {
        text.push_str(&format!("| {} |", figure.what));
        for kind in &kinds {
            let cell = figure.spread(*kind).map_or_else(|| "–".to_owned(), |values| cell(figure, *kind, values));
            text.push_str(&format!(" {cell} |"));
        }
        let goals: Vec<String> = figure.goals.iter().map(|goal| self::goal(goal, figure.unit)).collect();
        let reached: Vec<String> = figure
            .goals
            .iter()
            .zip(figure.reached())
            .map(|(goal, reached)| verdict(goal, figure.unit, reached))
            .collect();
        text.push_str(&format!(" {} | {} | {} |\n", goals.join(", "), reached.join(", "), self::machine(figure)));
    }
    text
}

fn cell(figure: &Figure, kind: Kind, [least, median, most]: [f64; 3]) -> String {
    let more = if figure.is_cut(kind) { "> " } else { "" };
    let (least, median, most) = (number(least, figure.unit), number(median, figure.unit), number(most, figure.unit));
    if least == most { format!("{more}{median}") } else { format!("{more}{median} ({least} – {most})") }
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Times => format!("{value:.2}"),
        _ if value.abs() < 10.0 => format!("{value:.2}"),
        _ if value.abs() < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn goal(goal: &Goal, unit: Unit) -> String {
    match goal {
        Goal::Limit(limit) if unit == Unit::Times => format!("≤ {limit:.2} ×"),
        Goal::Limit(limit) => format!("≤ {limit}{}", suffix(unit)),
        Goal::AtMostTimes(limit, kind) => format!("≤ {limit} × {kind}"),
        Goal::AtLeastTimes(limit, kind) => format!("≥ {limit} × {kind}"),
    }
}

fn verdict(goal: &Goal, unit: Unit, reached: Option<(f64, bool)>) -> String {
    let Some((value, enough)) = reached else { return "not measured".to_owned() };
    let word = if enough { "yes" } else { "**no**" };
    match goal {
        Goal::Limit(_) if unit == Unit::Times => format!("{word}: {value:.2} ×"),
        Goal::Limit(_) => format!("{word}: {}{}", number(value, unit), suffix(unit)),
        _ => format!("{word}: {value:.2} ×"),
    }
}

fn suffix(unit: Unit) -> &'static str {
    match unit {
        Unit::MibPerSecond => " MiB/s",
        Unit::PerSecond => "/s",
        Unit::Milliseconds => " ms",
        Unit::Mib => " MiB",
        Unit::Times => " ×",
    }
}

/// What of the processors was idle, and what others used, while larder was measured.
fn machine(figure: &Figure) -> String {
    let used = || figure.samples.iter().filter(|sample| sample.server == Kind::Larder).filter_map(|s| s.machine);
    match (spread(used().map(|used| used.idle)), spread(used().map(|used| used.foreign))) {
        (Some([_, idle, _]), Some([_, others, _])) => format!("{:.0} %, {:.0} %", idle * 100.0, others * 100.0),
        _ => "–".to_owned(),
    }
}

/// Keeps raw values; gives the file's path.
pub(crate) fn keep_raw(name: &str, values: &impl Serialize) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = crate::folder().join(format!("{name}-{now}.json"));
    fs::create_dir_all(crate::folder())?;
    fs::write(&path, serde_json::to_vec_pretty(values)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Puts a text between its marks in docs/benchmarks.md.
pub(crate) fn into_docs(name: &str, text: &str) -> Result<()> {
    let path = crate::workspace().join("docs/benchmarks.md");
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let (before, rest) = old.split_once(&begin).with_context(|| format!("{} has no {begin}", path.display()))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("{} has no {end}", path.display()))?;
    fs::write(&path, format!("{before}{begin}\n{}\n{end}{after}", text.trim()))?;
    Ok(())
}

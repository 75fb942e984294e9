//! Commands of a page, and whether what they say is what the page says.

/// A command, and what the page says that it prints.
#[derive(Debug)]
pub struct Step {
    pub command: String,
    pub output: String,
}

/// The commands of a page, in order: lines after `$ ` in indented blocks, with the lines that a here-document takes; or, where a block has no `$ `,
/// the whole block, of which no output is given.
pub fn steps(page: &str) -> Vec<Step> {
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in page.lines() {
        match (line.strip_prefix("    "), line.is_empty()) {
            (Some(code), _) => blocks.last_mut().expect("one is there").push(code),
            // An empty line may be part of what a command prints.
            (None, true) => blocks.last_mut().expect("one is there").push(""),
            (None, false) => blocks.push(Vec::new()),
        }
    }
    blocks.iter().flat_map(|block| steps_of(block)).collect()
}

fn steps_of(block: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = block.iter().skip_while(|line| line.is_empty());
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("$ ") else {
            match steps.last_mut() {
                Some(step) => step.output += &format!("{line}\n"),
                None => steps.push(Step { command: (*line).to_owned(), output: String::new() }),
            }
            continue;
        };
        let mut command = first.to_owned();
        if first.ends_with("<<EOF") {
            for line in lines.by_ref() {
                command += &format!("\n{line}");
                if *line == "EOF" {
                    break;
                }
            }
        }
        steps.push(Step { command, output: String::new() });
    }
    for step in &mut steps {
        step.output = step.output.trim().to_owned();
    }
    steps
}

/// Whether the same is said, but for blanks, ages and sizes, and what `...` stands for: the rest of a word or of a line, or as a line any
/// number of lines.
pub fn matches(page: &str, said: &str) -> bool {
    let lines =
        |text: &str| -> Vec<Vec<String>> { text.lines().map(words).filter(|words| !words.is_empty()).collect() };
    lines_match(&lines(page), &lines(said))
}

fn lines_match(page: &[Vec<String>], said: &[Vec<String>]) -> bool {
    match page.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line.len() == 1 && line[0] == "..." => {
            (0..=said.len()).any(|skipped| lines_match(rest, &said[skipped..]))
        }
        Some((line, rest)) => {
            said.split_first().is_some_and(|(first, said)| words_match(line, first) && lines_match(rest, said))
        }
    }
}

fn words_match(page: &[String], said: &[String]) -> bool {
    for (at, word) in page.iter().enumerate() {
        match (word.strip_suffix("..."), said.get(at)) {
            (Some(start), Some(other)) if at + 1 == page.len() => return other.starts_with(start),
            (Some(""), None) if at + 1 == page.len() => return true,
            (Some(start), Some(other)) if other.starts_with(start) => {}
            (_, Some(other)) if word == other => {}
            _ => return false,
        }
    }
    page.len() == said.len()
}

/// The words of a line; ages and sizes are all the same.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let is_unit = ["B", "KiB", "MiB", "GiB", "%"].contains(&word);
        match words.last_mut() {
            Some(last) if is_unit && last.parse::<f64>().is_ok() => *last = "SIZE".to_owned(),
            _ => words.push(if is_age(word) { "AGE".to_owned() } else { word.to_owned() }),
        }
    }
    words
}

/// Such as `12s` or `3m10s`.
fn is_age(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|one| one.is_ascii_digit());
    word.ends_with(['s', 'm', 'h', 'd'])
        && word.split_inclusive(['s', 'm', 'h', 'd']).all(|part| digits(&part[..part.len() - 1]))
}

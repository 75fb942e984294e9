use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration's text, and everything that was found wrong with it: people mend a file in one go, not error by error.
pub struct Document<'a> {
    origin: String,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

/// One thing that is wrong. Quotes no value, except where the value cannot be a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    line: usize,
    message: String,
}

/// All that is wrong with a file.
#[derive(Debug)]
pub struct Problems {
    origin: String,
    list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.list.iter().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {}", self.origin, problem.line, problem.message)?;
        }
        Ok(())
    }
}

impl<'a> Document<'a> {
    /// Takes a text; `origin` is what messages call it.
    pub fn new(origin: impl Into<String>, text: &'a str) -> Document<'a> {
        Document { origin: origin.into(), text, problems: RefCell::default() }
    }

    /// Reads the text as TOML.
    pub fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.problem(error.span().unwrap_or_default(), error.message());
        }
        table
    }

    /// Notes that something is wrong at a place of the text.
    pub fn problem(&self, at: Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        self.problems.borrow_mut().push(Problem { line, message: message.into() });
    }

    /// What was wrong, if anything.
    pub fn finish(&self) -> Result<(), Problems> {
        let mut list = self.problems.take();
        list.sort_by_key(|problem| problem.line);
        if list.is_empty() { Ok(()) } else { Err(Problems { origin: self.origin.clone(), list }) }
    }
}

/// A table of the configuration. Whoever reads it asks for every key it knows; [`finish`](Section::finish) refuses the
/// rest.
pub struct Section<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    name: String,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(document: &'a Document<'a>, table: &'a Spanned<DeTable<'a>>) -> Section<'a> {
        Section { document, table: table.get_ref(), span: 0..0, name: String::new(), known: Vec::new() }
    }

    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// The value of a key, if it is there and good. What is not good becomes a problem.
    pub fn value<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        match T::read(self.find(key)?) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.document.problem(fault.span, format!("{}: {}", self.full(key), fault.message));
                None
            }
        }
    }

    /// The values of a list that are good, each with its place. Each of the others becomes a problem.
    pub fn list<T: Setting>(&mut self, key: &'static str) -> Vec<Located<T>> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            let Fault { span, message } = Fault::kind(value, "a list");
            self.document.problem(span, format!("{}: {message}", self.full(key)));
            return Vec::new();
        };
        let mut good = Vec::new();
        for element in list {
            match Located::read(element) {
                Ok(value) => good.push(value),
                Err(fault) => self.document.problem(fault.span, format!("{}: {}", self.full(key), fault.message)),
            }
        }
        good
    }

    /// A table within this one.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let value = self.find(key)?;
        let section = self.within(key, value);
        if section.is_none() {
            self.document.problem(value.span(), format!("{} is a table: write [{0}]", self.full(key)));
        }
        section
    }

    /// The tables of an array within this one.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let tables: Option<Vec<Section<'a>>> = value
            .get_ref()
            .as_array()
            .and_then(|array| array.iter().map(|element| self.within(key, element)).collect());
        tables.unwrap_or_else(|| {
            let full = self.full(key);
            self.document.problem(value.span(), format!("{full} is a list of tables: write [[{full}]]"));
            Vec::new()
        })
    }

    fn within(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Section<'a>> {
        let table = value.get_ref().as_table()?;
        Some(Section { document: self.document, table, span: value.span(), name: self.full(key), known: Vec::new() })
    }

    /// Counts a key as known without reading it.
    pub fn know(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Whether a key is there, good or not.
    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Notes that what a key says is wrong.
    pub fn problem(&self, key: &str, message: impl fmt::Display) {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        let at = found.map_or(self.span.clone(), |(name, _)| name.span());
        self.document.problem(at, format!("{}: {message}", self.full(key)));
    }

    /// Notes that a value of a key is wrong.
    pub fn problem_with<T>(&self, key: &str, value: &Located<T>, message: impl fmt::Display) {
        self.document.problem(value.at.clone(), format!("{}: {message}", self.full(key)));
    }

    /// Refuses every key that nobody asked for.
    pub fn finish(self) {
        for (name, value) in self.table {
            let key = name.get_ref().as_ref();
            if self.known.contains(&key) {
                continue;
            }
            let message = if SECRETS.contains(&key) && value.get_ref().is_str() {
                format!("{}: secrets do not belong in this file; use {key}_file or {key}_env", self.full(key))
            } else {
                let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
                let help = match nearest(key, &self.known) {
                    Some(known) => format!("; did you mean {known:?}?"),
                    None => format!("; known here: {}", self.known.join(", ")),
                };
                format!("unknown key {key:?}{place}{help}")
            };
            self.document.problem(name.span(), message);
        }
    }

    /// The name of a key with those of the tables that it is in.
    pub fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// Keys that people try to write secrets into.
const SECRETS: [&str; 3] = ["password", "token", "secret"];

/// The known key that is nearest to what was written, if one is near.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let near = |candidate: &&'static str| {
        let distance = distance(key, candidate);
        (distance <= 1 + candidate.len() / 4).then_some((distance, *candidate))
    };
    known.iter().filter_map(near).min().map(|(_, candidate)| candidate)
}

/// How many letters must be put in, left out or changed to make one text the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// Why a value cannot be read, and where it stands.
pub struct Fault {
    span: Range<usize>,
    message: String,
}

impl Fault {
    /// A value of the wrong kind.
    pub fn kind(value: &Spanned<DeValue<'_>>, wanted: &str) -> Fault {
        Fault { span: value.span(), message: format!("expected {wanted}, found {}", value.get_ref().type_str()) }
    }

    /// A value of the right kind that says something wrong.
    pub fn at(value: &Spanned<DeValue<'_>>, message: impl fmt::Display) -> Fault {
        Fault { span: value.span(), message: message.to_string() }
    }
}

/// A value and its place in the text.
pub struct Located<T> {
    /// The value.
    pub value: T,
    at: Range<usize>,
}

impl<T: Setting> Setting for Located<T> {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Located<T>, Fault> {
        Ok(Located { value: T::read(value)?, at: value.span() })
    }
}

/// What can stand behind a key.
pub trait Setting: Sized {
    /// Reads it.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Fault>;
}

impl Setting for bool {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<bool, Fault> {
        value.get_ref().as_bool().ok_or_else(|| Fault::kind(value, "true or false"))
    }
}

impl Setting for u32 {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<u32, Fault> {
        let integer = value.get_ref().as_integer().ok_or_else(|| Fault::kind(value, "a whole number"))?;
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number > 0);
        number.ok_or_else(|| Fault::at(value, format_args!("expected a number from 1 to {}", u32::MAX)))
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Vec<T>, Fault> {
        value.get_ref().as_array().ok_or_else(|| Fault::kind(value, "a list"))?.iter().map(T::read).collect()
    }
}

/// Lets what is read from a text stand behind a key as a string.
macro_rules! textual {
    ($($type:ty: $wanted:literal),* $(,)?) => {$(
        impl $crate::config::section::Setting for $type {
            fn read(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
            ) -> Result<$type, $crate::config::section::Fault> {
                use $crate::config::section::Fault;
                let text = value.get_ref().as_str().ok_or_else(|| Fault::kind(value, $wanted))?;
                text.parse().map_err(|error| Fault::at(value, error))
            }
        }
    )*};
}
pub(super) use textual;

textual!(String: "a string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let known = ["listen", "store", "metrics", "requests_per_second"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("request_per_second", &known), Some("requests_per_second"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}

use std::fmt;

use serde::Serialize;

/// How much a finding matters to pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Some pulls do not go through larder, or soon may not.
    Warning,
    /// No pull goes through larder.
    Error,
}

/// One thing that a person should know about the node, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word in kebab-case, for scripts.
    pub code: &'static str,
    /// What is so, in plain words.
    pub what: String,
    /// What to do about it; empty if nothing is to be done.
    pub remedy: String,
}

impl Finding {
    /// A finding of any severity.
    pub fn new(severity: Severity, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { severity, code, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {} [{}]", self.what, self.code)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  {}", self.remedy)?;
        }
        Ok(())
    }
}

//! The files that are made from the types of `crates/api`: the definitions that the chart installs, and the page that people read. And objects by which
//! tests try what becomes of anything that somebody may write.

mod extremes;
mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use extremes::{LARGE, specs};
pub use page::page;

/// The first line of each file.
const NOTICE: &str = "Made from crates/api by `cargo run -p resources`; do not edit.";

/// A file that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its path within the repository.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Every file that is made.
///
/// # Errors
///
/// A definition cannot be written as YAML.
pub fn files() -> Result<Vec<Made>> {
    let definitions = api::definitions();
    let mut files = Vec::new();
    for definition in &definitions {
        let name = definition.metadata.name.as_deref().context("a definition has a name")?;
        let yaml = serde_saphyr::to_string(definition).with_context(|| format!("{name} cannot be written as YAML"))?;
        let path = Path::new("chart/larder/crds").join(format!("{}.yaml", definition.spec.names.plural));
        files.push(Made { path, text: format!("# {NOTICE}\n{yaml}") });
    }
    let text = format!("<!-- {NOTICE} -->\n\n{}", page(&definitions)?);
    files.push(Made { path: "docs/api.md".into(), text });
    Ok(files)
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

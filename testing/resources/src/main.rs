//! Writes the definitions of larder's custom resources into the chart, and their reference page.

use std::fs;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    for file in resources::files()? {
        let path = resources::root().join(&file.path);
        let folder = path.parent().context("every file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, file.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", file.path.display());
    }
    Ok(())
}

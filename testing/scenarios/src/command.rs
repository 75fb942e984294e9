use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// It cannot be started, or ends with anything but success; then with all that it printed.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

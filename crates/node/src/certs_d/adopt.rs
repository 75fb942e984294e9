//! Larder's host in a hosts.toml that somebody else wrote. The text is spliced, not printed anew: what was there stays
//! byte for byte.

use super::hosts::{Hosts, HostsError};

const BEGIN: &str = "# >>> larder: `larder node --uninstall` takes these lines out again\n";
const END: &str = "# <<< larder\n";

/// Why a file is left as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// containerd does not read it either.
    #[error(transparent)]
    Unreadable(#[from] HostsError),
    /// The mirror is named in it already, by somebody else and not in the first place.
    #[error("it names larder's mirror already, but after other hosts")]
    NamedAlready,
    /// Its hosts are written in a form that a further host cannot be put in front of.
    #[error("its hosts are written inline, so no host can be put in front of them")]
    Inline,
}

/// The lines that name larder's mirror. Only `pull` and `resolve`: any other word voids the file in some version of
/// containerd. No TLS key, so that http is asked at once. `dial_timeout` is for an agent that is stopped with a full
/// backlog; containerd 1.7 ignores it.
pub(crate) fn block(mirror: &str) -> String {
    format!("{BEGIN}[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n{END}")
}

/// The text of a hosts.toml with larder's host in front of all others; unchanged if it is there already.
///
/// `server` is left as it is: without one containerd appends the image's own registry as the last host, with one that
/// server, and either is what whoever wrote the file wants after the mirrors.
///
/// # Errors
/// If containerd would not read the text, or it cannot be extended without changing what it says.
pub fn adopt(text: &str, mirror: &str) -> Result<String, AdoptError> {
    let hosts = Hosts::parse(text)?;
    match hosts.position(mirror) {
        Some(0) => return Ok(text.to_owned()),
        Some(_) => return Err(AdoptError::NamedAlready),
        None => {}
    }
    let at = match hosts.first_table {
        Some(header) => above_comments(text, header),
        None => text.len(),
    };
    let (before, after) = text.split_at(at);
    let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let adopted = format!("{before}{newline}{}{after}", block(mirror));
    match Hosts::parse(&adopted) {
        Ok(hosts) if hosts.position(mirror) == Some(0) => Ok(adopted),
        _ => Err(AdoptError::Inline),
    }
}

/// The start of the comment that stands directly above a table; but the comment that opens a file is the file's own
/// (k3s knows its files by it).
fn above_comments(text: &str, header: usize) -> usize {
    let line_start = text[..header].rfind('\n').map_or(0, |newline| newline + 1);
    let mut at = line_start;
    while at > 0 {
        let previous = text[..at - 1].rfind('\n').map_or(0, |newline| newline + 1);
        if !text[previous..at].trim_start().starts_with('#') {
            return at;
        }
        at = previous;
    }
    line_start
}

/// The text without larder's host, or nothing if it has none that larder put there.
///
/// `unmarked` also takes out a host without larder's marks, for where larder is known to have put it there and somebody
/// printed the file anew without the comments.
pub fn strip(text: &str, mirror: &str, unmarked: bool) -> Option<String> {
    if let Some(begin) = text.find(BEGIN)
        && let Some(length) = text[begin..].find(END)
        && text[begin..begin + length].matches("\n[").count() == 1
    {
        return Some(format!("{}{}", &text[..begin], &text[begin + length + END.len()..]));
    }
    if !unmarked {
        return None;
    }
    let mut document: toml_edit::DocumentMut = text.parse().ok()?;
    document.get_mut("host")?.as_table_like_mut()?.remove(mirror)?;
    Some(document.to_string())
}

//! A hosts.toml as containerd reads it.

use toml_edit::{Document, Item, TableLike};

/// Why containerd does not read a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// It is no TOML.
    #[error("it is no valid TOML: {0}")]
    Toml(String),
    /// It has a word among its capabilities that voids the whole file.
    #[error("`{0}` is no capability that containerd knows, which voids the whole file")]
    Capability(String),
}

/// The hosts of a file.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// Their URLs in the order in which they are asked.
    pub urls: Vec<String>,
    /// Where the first table begins, in bytes; all before it is said of the file as a whole.
    pub first_table: Option<usize>,
    /// Whether `referrers` is used, which only containerd 2.2 and later know.
    pub referrers: bool,
}

impl Hosts {
    pub fn parse(text: &str) -> Result<Hosts, HostsError> {
        let document = Document::parse(text).map_err(|e| HostsError::Toml(e.message().to_owned()))?;
        let mut referrers = false;
        check(document.as_table(), &mut referrers)?;
        let mut found = Vec::new();
        if let Some(hosts) = document.get("host").and_then(Item::as_table) {
            for (url, item) in hosts.iter() {
                if let Some(host) = item.as_table_like() {
                    check(host, &mut referrers)?;
                }
                // A host that is not written as a table has no place in the order.
                found.extend(first_header(item).map(|at| (at, url.to_owned())));
            }
        }
        found.sort();
        let first_table = document.iter().filter_map(|(_, item)| first_header(item)).min();
        Ok(Hosts { urls: found.into_iter().map(|(_, url)| url).collect(), first_table, referrers })
    }

    pub fn position(&self, url: &str) -> Option<usize> {
        self.urls.iter().position(|known| known.trim_end_matches('/') == url)
    }
}

fn check(table: &dyn TableLike, referrers: &mut bool) -> Result<(), HostsError> {
    for word in table.get("capabilities").and_then(Item::as_array).into_iter().flatten() {
        match word.as_str() {
            Some("pull" | "resolve" | "push") => {}
            Some("referrers") => *referrers = true,
            _ => return Err(HostsError::Capability(word.to_string().trim().trim_matches(['"', '\'']).to_owned())),
        }
    }
    Ok(())
}

/// Where the first `[header]` of an item is.
fn first_header(item: &Item) -> Option<usize> {
    match item {
        Item::Table(table) => {
            let own = table.span().filter(|_| !table.is_implicit() && !table.is_dotted()).map(|span| span.start);
            own.into_iter().chain(table.iter().filter_map(|(_, item)| first_header(item))).min()
        }
        Item::ArrayOfTables(tables) => tables.iter().filter_map(|table| table.span()).map(|span| span.start).min(),
        _ => None,
    }
}

//! Follows the EndpointSlices of a Service as a node does, and prints a line of JSON for each list of nodes and each change of how
//! it stands with the API server. The log goes to standard error.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use node::membership::{ApiServer, PeerService, Seen, follow};
use peers::{Health, Member, Members};
use serde_json::{Value, json};

/// How often it looks how it stands with the API server.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<()> {
    let filter = "info,node::membership=debug,apiserver=debug,kube_runtime::watcher=debug";
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let service: PeerService = std::env::args().nth(1).context("which Service?")?.parse()?;
    let me = Member::new("me", "127.0.0.1:7440".parse()?, "");
    let members = Arc::new(Members::new(me));
    let seen = Arc::new(Seen::default());
    let following =
        follow(&service, &ApiServer::Environment, members.clone(), Arc::new(Health::default()), seen.clone());
    tokio::select! {
        never = following => match never {},
        ended = print(&members, &seen) => ended.map(|never| match never {}),
    }
}

async fn print(members: &Members, seen: &Seen) -> Result<Infallible> {
    let mut lists = members.subscribe();
    let mut lost = None;
    let mut look = tokio::time::interval(LOOK);
    loop {
        let line = tokio::select! {
            // A list comes before the news that it has come.
            biased;
            changed = lists.changed() => {
                changed?;
                json!({ "nodes": listed(&lists.borrow_and_update()) })
            }
            _ = look.tick() => {
                let now = seen.lost().map(|lost| lost.why);
                if lost.as_ref() == Some(&now) {
                    continue;
                }
                let line = json!({ "lost": now });
                lost = Some(now);
                line
            }
        };
        writeln!(stdout(), "{line}")?;
    }
}

fn listed(placement: &peers::Placement) -> BTreeMap<String, Value> {
    let members = placement.members().iter();
    members.map(|one| (one.id.to_string(), json!([one.address.to_string(), &*one.zone]))).collect()
}

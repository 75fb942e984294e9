use std::time::SystemTime;

use node::membership::{ApiServer, list};
use node::{Finding, Severity, examine_certificates, examine_neighbours};
use peers::Member;

use super::{PATIENCE, Told};
use crate::config::{MemberList, Peering};

/// Whether other nodes can be shared with, where that is configured.
pub async fn examine(peering: Option<&Peering>) -> Told {
    let Some(peering) = peering else { return Told::default() };
    let (folder, name) = (peering.certificates.clone(), peering.name.clone());
    let examined = tokio::task::spawn_blocking(move || examine_certificates(&folder, &name, SystemTime::now()));
    let (certificates, members) = tokio::join!(examined, members(peering));
    let (identity, mut findings) = certificates.expect("looking at certificates does not panic");
    let me = Member::new(peering.name.as_str(), peering.listen, &peering.zone);
    let members = match members {
        Ok(members) => {
            findings.extend(unlisted(peering, &me, &members));
            members
        }
        Err(finding) => {
            findings.push(finding);
            Vec::new()
        }
    };
    // Without a certificate nobody can be asked.
    let Some(identity) = identity else { return findings.into() };
    let (others, clocks) = examine_neighbours(&identity, &me, members, PATIENCE).await;
    findings.extend(others);
    Told { findings, clocks }
}

async fn members(peering: &Peering) -> Result<Vec<Member>, Finding> {
    match &peering.members {
        MemberList::Fixed(members) => Ok(members.clone()),
        MemberList::Service(service) => list(service, &ApiServer::Environment, PATIENCE).await.map_err(|error| {
            let remedy =
                "Until the API server tells, the agent goes by the last list that it had, or knows no other node.";
            Finding::new(Severity::Warning, "peers-unknown", error.to_string(), remedy)
        }),
    }
}

/// Whether others do not know of this node, because the Service does not.
fn unlisted(peering: &Peering, me: &Member, members: &[Member]) -> Option<Finding> {
    let MemberList::Service(service) = &peering.members else { return None };
    if members.iter().any(|member| member.id == me.id) {
        return None;
    }
    let what = format!("the Service {service} does not have this node, {:?}, among its nodes", me.id.as_str());
    let remedy = "See whether its pod is ready, and whether `name` in [node.peers] is what Kubernetes calls the node.";
    Some(Finding::new(Severity::Warning, "peers-not-listed", what, remedy))
}

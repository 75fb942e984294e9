use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use futures_util::future::{join, join_all};
use peers::{Distrust, Heard, Identity, Member, Members, Unheard, probe};

use crate::clock::Clock;
use crate::{Finding, Severity};

/// So many other nodes are asked: which ones differs from node to node, so that each is asked by some.
const MOST_ASKED: usize = 8;

/// Asks this node's own port and some of the other nodes whether they answer, all at once; each may take `limit`. Says what
/// is wrong, and what the others' clocks say. Cancellation safe.
///
/// `me` is this node with the address on which it listens, `list` all nodes.
pub async fn examine_neighbours(
    identity: &Identity,
    me: &Member,
    list: Vec<Member>,
    limit: Duration,
) -> (Vec<Finding>, Vec<Clock>) {
    let members = Members::new(me.clone());
    let refused = members.replace(list).refused;
    let placement = members.placement();
    let others: Vec<&Member> =
        placement.members().iter().map(AsRef::as_ref).filter(|one| !members.is_me(one)).collect();
    let asking = some_after(me, others).into_iter().map(|other| async move {
        let asked = SystemTime::now();
        (other, asked, probe(identity, other.address, limit).await, SystemTime::now())
    });
    let (own, asked) = join(probe(identity, reachable(me.address), limit), join_all(asking)).await;

    let expiry = identity.expiry();
    let outdated = !(expiry.begins..expiry.certificate).contains(&SystemTime::now());
    let mut findings: Vec<Finding> =
        own_port(me, &own).filter(|_| !(outdated && is_of_date(&own))).into_iter().collect();
    let mut clocks = Vec::new();
    for (other, begun, answer, ended) in asked {
        // What follows from the own certificate's dates is said of it alone, and not of each node again.
        if !(outdated && is_of_date(&answer)) {
            findings.extend(neighbour(other, &answer));
        }
        if let Ok(Heard { date: Some(date), .. }) = answer {
            clocks.push(Clock::read(other.id.as_str(), date, begun, ended));
        }
    }
    findings.extend(refused.iter().map(|one| {
        Finding::new(
            Severity::Warning,
            "peer-listed-twice",
            format!(
                "the node {} at {} is left out: its address is not one, or that of another node",
                one.id, one.address
            ),
            "Give each node a name and an address of its own in the list.",
        )
    }));
    (findings, clocks)
}

fn is_of_date(answer: &Result<Heard, Unheard>) -> bool {
    let of_date = |why: &Distrust| matches!(why, Distrust::Expired | Distrust::NotYetValid | Distrust::OutOfDate);
    matches!(answer, Err(Unheard::NotBelieved(why) | Unheard::Disbelieves(why)) if of_date(why))
}

/// Those whose names come next after this node's, around the circle of all names.
fn some_after<'a>(me: &Member, mut others: Vec<&'a Member>) -> Vec<&'a Member> {
    others.sort_by(|a, b| (a.id < me.id, &a.id).cmp(&(b.id < me.id, &b.id)));
    others.truncate(MOST_ASKED);
    others
}

/// Where a port that listens everywhere is reached from this machine.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn own_port(me: &Member, answer: &Result<Heard, Unheard>) -> Option<Finding> {
    let port = |code, what: String, remedy| Some(Finding::new(Severity::Warning, code, what, remedy));
    let address = me.address;
    match answer {
        Ok(heard) if heard.node == me.id => None,
        Ok(heard) => port(
            "peers-port-other",
            format!(
                "on {address}, where other nodes should find this one, {:?} answers and not {:?}",
                heard.node.as_str(),
                me.id.as_str()
            ),
            "If the name was changed, start `larder node` again; else give each agent of this machine a port of its own.",
        ),
        Err(Unheard::Unreachable(_) | Unheard::Silent) => port(
            "peers-port-closed",
            format!("other nodes find nobody on {address}: {}", reason(answer)),
            "Start `larder node` again, or look at its log.",
        ),
        Err(_) => port(
            "peers-port-strange",
            format!("who listens on {address} does not answer other nodes as this one should: {}", reason(answer)),
            "If the certificates were replaced, look at the log of `larder node`; else see who else uses the port.",
        ),
    }
}

fn reason(answer: &Result<Heard, Unheard>) -> String {
    answer.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

fn neighbour(other: &Member, answer: &Result<Heard, Unheard>) -> Option<Finding> {
    let Member { id, address, .. } = other;
    let unheard = match answer {
        Ok(heard) if heard.node == *id => return None,
        Ok(heard) => {
            return Some(Finding::new(
                Severity::Warning,
                "peer-other-name",
                format!("at the address of the node {id}, {address}, the node {} answers", heard.node),
                "Correct the list of nodes, or `name` in the configuration of that node.",
            ));
        }
        Err(unheard) => unheard,
    };
    let (code, remedy) = match unheard {
        Unheard::Unreachable(_) | Unheard::Silent => (
            "peer-unreachable",
            "See whether `larder node` runs there, and whether the network lets nodes reach each other at that port.",
        ),
        Unheard::Strange(_) => (
            "peer-strange",
            "See who listens there, and correct the address in the list of nodes if it is another one.",
        ),
        Unheard::NotBelieved(why) => ("peer-refused", remedy_here(why)),
        Unheard::Disbelieves(why) => ("peer-refuses", remedy_there(why)),
    };
    let what = match code {
        "peer-unreachable" => format!("the node {id} cannot be reached at {address}: {unheard}"),
        _ => format!("nothing is shared with the node {id} at {address}: {unheard}"),
    };
    Some(Finding::new(Severity::Warning, code, what, remedy))
}

/// What to do where this node does not believe another.
fn remedy_here(why: &Distrust) -> &'static str {
    match why {
        Distrust::NotYetValid => {
            "The clock of this machine is probably behind, or that of the other was ahead when the certificate was made: let \
             both keep time by NTP (chrony, systemd-timesyncd)."
        }
        Distrust::Expired | Distrust::OutOfDate => {
            "Give that node a new certificate (`larder certs --force`), unless the clock of this machine is ahead."
        }
        Distrust::OtherAuthority => {
            "Give both nodes certificates of one authority, or both authorities in the ca.crt of each."
        }
        Distrust::OtherRole | Distrust::Other(_) => "Give that node a certificate of its own, made by `larder certs`.",
    }
}

/// What to do where another node does not believe this one.
fn remedy_there(why: &Distrust) -> &'static str {
    match why {
        Distrust::NotYetValid | Distrust::Expired | Distrust::OutOfDate => {
            "If this node's own certificate is good by the clock of this machine, the clock of that node is probably wrong: \
             let both keep time by NTP (chrony, systemd-timesyncd)."
        }
        Distrust::OtherAuthority => {
            "Give both nodes certificates of one authority, or both authorities in the ca.crt of each."
        }
        Distrust::OtherRole | Distrust::Other(_) => "Look at the log of that node, and at the certificates of both.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, port: u16) -> Member {
        Member::new(name, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), "")
    }

    #[test]
    fn each_node_asks_those_that_come_after_it() {
        let all: Vec<Member> = (0..20).map(|n| member(&format!("node-{n:02}"), 100 + n)).collect();
        let asked = |me: usize| -> Vec<String> {
            let others = all.iter().filter(|one| one.id != all[me].id).collect();
            some_after(&all[me], others).into_iter().map(|one| one.id.to_string()).collect()
        };
        assert_eq!(asked(0)[..2], ["node-01", "node-02"]);
        assert_eq!(asked(15).len(), MOST_ASKED);
        assert_eq!(asked(15)[3..6], ["node-19", "node-00", "node-01"]);
        assert_eq!(some_after(&all[1], vec![&all[0]]).len(), 1);
    }

    #[test]
    fn a_port_that_is_open_everywhere_is_asked_here() {
        assert_eq!(reachable("0.0.0.0:7440".parse().unwrap()), "127.0.0.1:7440".parse().unwrap());
        assert_eq!(reachable("[::]:7440".parse().unwrap()), "[::1]:7440".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:7440".parse().unwrap()), "10.0.0.1:7440".parse().unwrap());
    }

    #[test]
    fn every_way_not_to_be_heard_has_words_and_a_remedy() {
        let other = member("b", 7440);
        let cases = [
            (Unheard::Silent, "peer-unreachable", "the node b cannot be reached at 127.0.0.1:7440: it does not answer"),
            (
                Unheard::NotBelieved(Distrust::NotYetValid),
                "peer-refused",
                "nothing is shared with the node b at 127.0.0.1:7440: its certificate is not good yet",
            ),
            (
                Unheard::Disbelieves(Distrust::OtherAuthority),
                "peer-refuses",
                "nothing is shared with the node b at 127.0.0.1:7440: to it this node's certificate is signed by another authority",
            ),
            (
                Unheard::Strange("it answers 404 Not Found".into()),
                "peer-strange",
                "nothing is shared with the node b at 127.0.0.1:7440: it answers 404 Not Found",
            ),
        ];
        for (unheard, code, what) in cases {
            let found = neighbour(&other, &Err(unheard)).expect("it is worth a word");
            assert_eq!((found.code, &*found.what), (code, what));
            assert!(!found.remedy.is_empty());
        }
        let clock = neighbour(&other, &Err(Unheard::NotBelieved(Distrust::NotYetValid))).expect("a finding");
        assert!(clock.remedy.contains("clock of this machine"), "{}", clock.remedy);
        let heard = |node: &str| Ok(Heard { node: node.into(), date: None });
        assert_eq!(neighbour(&other, &heard("b")), None);
        assert_eq!(neighbour(&other, &heard("c")).map(|one| one.code), Some("peer-other-name"));
        assert_eq!(own_port(&other, &heard("b")), None);
        assert_eq!(own_port(&other, &heard("c")).map(|one| one.code), Some("peers-port-other"));
    }
}

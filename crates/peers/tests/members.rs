//! Who is there.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::net::SocketAddr;

use peers::{Changes, Endpoint, Member, Members, NodeId, Slice, Slices};

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 7440).into()
}

fn member(name: &str, last: u8, zone: &str) -> Member {
    Member::new(name, address(last), zone)
}

fn ids(names: &[&str]) -> Vec<NodeId> {
    names.iter().map(|name| NodeId::from(*name)).collect()
}

fn listed(members: &Members) -> Vec<Member> {
    members.placement().members().iter().map(|member| (**member).clone()).collect()
}

#[test]
fn a_list_takes_the_place_of_the_one_before() {
    let members = Members::new(member("a", 1, "z"));
    assert!(members.alone() && members.placement().is_empty());
    let changes = members.replace([member("a", 1, "z"), member("b", 2, "z"), member("c", 3, "y")]);
    assert_eq!(changes, Changes { added: ids(&["a", "b", "c"]), ..Changes::default() });
    assert!(!members.alone());
    let held = members.placement();
    let changes = members.replace([member("a", 1, "z"), member("c", 4, "y"), member("d", 5, "z")]);
    let expected = Changes { added: ids(&["d"]), removed: ids(&["b"]), changed: ids(&["c"]), refused: vec![] };
    assert_eq!(changes, expected);
    assert_eq!(members.placement().get(&NodeId::from("c")).unwrap().address, address(4));
    assert_eq!(held.len(), 3, "what a request holds stays as it was");
}

#[test]
fn the_same_list_tells_nobody() {
    let members = Members::new(member("a", 1, ""));
    let mut told = members.subscribe();
    members.replace([member("a", 1, ""), member("b", 2, "")]);
    assert!(told.has_changed().unwrap());
    told.mark_unchanged();
    assert!(members.replace([member("b", 2, ""), member("a", 1, ""), member("a", 1, "")]).is_empty());
    assert!(!told.has_changed().unwrap());
    assert!(!members.replace([]).is_empty());
    assert!(told.has_changed().unwrap() && members.alone());
}

#[test]
fn what_nobody_can_use_is_refused() {
    let members = Members::new(member("a", 1, ""));
    let no_port = Member::new("b", ([10, 0, 0, 2], 0).into(), "");
    let no_host = Member::new("c", ([0, 0, 0, 0], 7440).into(), "");
    let no_name = member("", 3, "");
    let changes = members.replace([no_port.clone(), no_host.clone(), no_name.clone(), member("d", 4, "")]);
    assert_eq!(changes.refused, [no_port, no_host, no_name]);
    assert_eq!(listed(&members), [member("d", 4, "")]);
}

#[test]
fn names_and_addresses_are_there_once() {
    let members = Members::new(member("a", 1, ""));
    let changes = members.replace([member("b", 2, ""), member("b", 3, ""), member("c", 3, ""), member("d", 4, "")]);
    assert_eq!(changes.refused, [member("b", 2, ""), member("c", 3, "")]);
    assert_eq!(listed(&members), [member("b", 3, ""), member("d", 4, "")]);
}

#[test]
fn one_knows_oneself_by_name_and_by_address() {
    let members = Members::new(member("a", 1, "own"));
    assert_eq!(&*members.zone(), "own");
    members.replace([member("a", 9, "listed"), member("alias", 1, "")]);
    assert_eq!(&*members.zone(), "listed");
    assert!(members.is_me(&member("a", 9, "listed")) && members.is_me(&member("alias", 1, "")));
    assert!(!members.is_me(&member("b", 2, "")));
    assert!(members.alone());
}

fn endpoint(node: &str, last: u8) -> Endpoint {
    let zone = Some("z".to_owned());
    Endpoint { node: Some(node.to_owned()), address: address(last), zone, ready: true, terminating: false }
}

fn slice(name: &str, endpoints: impl Into<Vec<Endpoint>>) -> Slice {
    Slice { name: name.to_owned(), endpoints: endpoints.into() }
}

#[test]
fn slices_are_put_together() {
    let mut slices = Slices::default();
    slices.apply(slice("one", [endpoint("a", 1), endpoint("b", 2)]));
    slices.apply(slice("two", [endpoint("c", 3)]));
    assert_eq!(slices.members(), [member("a", 1, "z"), member("b", 2, "z"), member("c", 3, "z")]);
    slices.apply(slice("one", [endpoint("b", 7)]));
    assert_eq!(slices.members(), [member("b", 7, "z"), member("c", 3, "z")]);
    slices.delete("two");
    slices.delete("never seen");
    assert_eq!(slices.members(), [member("b", 7, "z")]);
    slices.restart([slice("three", [endpoint("d", 4)])]);
    assert_eq!(slices.members(), [member("d", 4, "z")]);
}

#[test]
fn a_node_that_moves_between_slices_is_there_throughout() {
    let mut slices = Slices::default();
    slices.apply(slice("one", [endpoint("a", 1)]));
    slices.apply(slice("two", [endpoint("a", 1)]));
    assert_eq!(slices.members(), [member("a", 1, "z")]);
    slices.apply(slice("one", []));
    assert_eq!(slices.members(), [member("a", 1, "z")]);
}

#[test]
fn only_nodes_that_are_ready_and_stay_count() {
    let mut slices = Slices::default();
    let starting = Endpoint { ready: false, ..endpoint("b", 2) };
    let ending = Endpoint { terminating: true, ..endpoint("c", 3) };
    let no_node = Endpoint { node: None, ..endpoint("d", 4) };
    let no_zone = Endpoint { zone: None, ..endpoint("e", 5) };
    slices.apply(slice("one", [endpoint("a", 1), starting, ending, no_node, no_zone]));
    assert_eq!(slices.members(), [member("a", 1, "z"), member("e", 5, "")]);
}

#[test]
fn of_two_pods_of_a_node_the_one_that_is_ready_counts() {
    let mut slices = Slices::default();
    let old = Endpoint { ready: false, terminating: true, ..endpoint("a", 1) };
    slices.apply(slice("one", [old, endpoint("a", 2)]));
    assert_eq!(slices.members(), [member("a", 2, "z")]);
}

#[test]
fn the_ipv4_address_is_preferred_on_all_nodes() {
    let v6 = Endpoint { address: "[2001:db8::1]:7440".parse().unwrap(), ..endpoint("a", 0) };
    for names in [["four", "six"], ["z-four", "a-six"]] {
        let mut slices = Slices::default();
        slices.apply(slice(names[0], [endpoint("a", 1)]));
        slices.apply(slice(names[1], [v6.clone()]));
        assert_eq!(slices.members(), [member("a", 1, "z")]);
    }
}

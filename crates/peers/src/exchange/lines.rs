use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::members::NodeId;

/// How many of those who took a piece are remembered in each zone.
const TAKERS: usize = 16;

/// Who takes which piece here, and where who asks next finds it: in each zone a piece goes from node to node in lines that
/// begin here, so that each node gives it about once.
#[derive(Default)]
pub(super) struct Lines(HashMap<u64, Vec<Line>>);

/// The lines of one piece in one zone.
struct Line {
    zone: Arc<str>,
    /// Who was told last where to take it, each as often as it may be asked for it.
    ends: VecDeque<NodeId>,
    /// How many answers are in progress.
    giving: usize,
}

/// What is to be done with who asks for a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Give it the piece, and call [`Lines::given`] when that ended.
    Give,
    /// These are to be asked, last first.
    Ask(Vec<NodeId>),
}

impl Lines {
    /// Gives `asker` the piece if fewer than `most` of its zone are given it, or sends it to the end of a line, of which it
    /// is an end itself from now on, to which `give` are sent.
    pub fn turn(&mut self, piece: u64, asker: &NodeId, zone: &Arc<str>, most: usize, give: usize) -> Turn {
        let line = self.line(piece, zone);
        line.ends.retain(|end| end != asker);
        let end = if line.giving < most { None } else { line.ends.pop_front() };
        let turn = match end {
            None => {
                line.giving += 1;
                Turn::Give
            }
            Some(end) => Turn::Ask(line.ends.front().cloned().into_iter().chain([end]).collect()),
        };
        for _ in 0..give {
            line.remember(asker);
        }
        turn
    }

    /// Gives `asker` the piece whoever takes it already. [`given`](Lines::given) is called when that ended.
    pub fn give(&mut self, piece: u64, asker: &NodeId, zone: &Arc<str>) {
        let line = self.line(piece, zone);
        line.giving += 1;
        if !line.ends.contains(asker) {
            line.remember(asker);
        }
    }

    /// An answer with the piece ended.
    pub fn given(&mut self, piece: u64, zone: &Arc<str>) {
        let line = self.line(piece, zone);
        line.giving = line.giving.saturating_sub(1);
    }

    /// Whether any answer is in progress.
    pub fn is_giving(&self) -> bool {
        self.0.values().flatten().any(|line| line.giving > 0)
    }

    /// One or two who took a piece, those of the zone first, other ones each time, and not the one who asks.
    pub fn takers(&mut self, piece: u64, but: &NodeId, zone: &Arc<str>) -> Vec<NodeId> {
        let Some(lines) = self.0.get_mut(&piece) else { return Vec::new() };
        lines.sort_by_key(|line| line.zone != *zone);
        let mut found: Vec<NodeId> = Vec::new();
        for line in lines {
            for _ in 0..line.ends.len() {
                if found.len() == 2 {
                    return found;
                }
                line.ends.rotate_left(1);
                if let Some(taker) = line.ends.back().filter(|taker| *taker != but && !found.contains(taker)) {
                    found.push(taker.clone());
                }
            }
        }
        found
    }

    fn line(&mut self, piece: u64, zone: &Arc<str>) -> &mut Line {
        let lines = self.0.entry(piece).or_default();
        let at = lines.iter().position(|line| line.zone == *zone).unwrap_or_else(|| {
            lines.push(Line { zone: zone.clone(), ends: VecDeque::new(), giving: 0 });
            lines.len() - 1
        });
        &mut lines[at]
    }
}

impl Line {
    /// Puts a node behind the others, of whom the first is forgotten where there are too many.
    fn remember(&mut self, taker: &NodeId) {
        if self.ends.len() == TAKERS {
            self.ends.pop_front();
        }
        self.ends.push_back(taker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId::from(format!("n{number}"))
    }

    fn to_ask(turn: Turn) -> NodeId {
        match turn {
            Turn::Ask(mut named) => named.pop().expect("somebody is named"),
            Turn::Give => panic!("it is given"),
        }
    }

    #[test]
    fn a_piece_goes_from_node_to_node_in_lines_of_the_same_length() {
        let (mut lines, zone) = (Lines::default(), "".into());
        let mut depth = HashMap::new();
        for number in 1..=2 {
            assert_eq!(lines.turn(0, &node(number), &zone, 2, 1), Turn::Give);
            depth.insert(node(number), 1);
        }
        for number in 3..=10 {
            let of_it = depth[&to_ask(lines.turn(0, &node(number), &zone, 2, 1))];
            depth.insert(node(number), of_it + 1);
        }
        assert_eq!(depth.values().max(), Some(&5));
        assert_eq!(to_ask(lines.turn(0, &node(9), &zone, 2, 1)), node(10), "nobody is sent to itself");
    }

    #[test]
    fn lines_that_branch_are_short() {
        let (mut lines, zone) = (Lines::default(), "".into());
        assert_eq!(lines.turn(0, &node(0), &zone, 1, 2), Turn::Give);
        let mut asked: HashMap<NodeId, usize> = HashMap::new();
        for number in 1..=1000 {
            *asked.entry(to_ask(lines.turn(0, &node(number), &zone, 1, 2))).or_default() += 1;
        }
        assert!(asked.values().all(|count| *count <= 2), "{asked:?}");
    }

    #[test]
    fn each_zone_has_its_own_line() {
        let (mut lines, here, there) = (Lines::default(), "a".into(), "b".into());
        assert_eq!(lines.turn(0, &node(1), &here, 1, 1), Turn::Give);
        assert_eq!(lines.turn(0, &node(2), &there, 1, 1), Turn::Give);
        assert_eq!(to_ask(lines.turn(0, &node(3), &here, 1, 1)), node(1));
        assert_eq!(to_ask(lines.turn(0, &node(4), &there, 1, 1)), node(2));
        assert_eq!(lines.takers(0, &node(5), &here), [node(3), node(4)], "those of the zone come first");
    }

    #[test]
    fn who_comes_when_nothing_is_given_any_more_is_given_it() {
        let (mut lines, zone) = (Lines::default(), "".into());
        assert_eq!(lines.turn(0, &node(1), &zone, 1, 1), Turn::Give);
        assert!(lines.is_giving());
        lines.given(0, &zone);
        assert!(!lines.is_giving());
        assert_eq!(lines.turn(0, &node(2), &zone, 1, 1), Turn::Give);
        lines.give(0, &node(3), &zone);
        assert_eq!(to_ask(lines.turn(0, &node(4), &zone, 1, 1)), node(1));
    }
}

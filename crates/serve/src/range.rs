use std::ops::Range;

/// What a `Range` header asks of content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything: no range, one in another unit, several, or one that is malformed (RFC 9110, 14.2: to be ignored).
    Whole,
    /// These bytes, at least one.
    Range(Range<u64>),
    /// Bytes that are not there: 416.
    Unsatisfiable,
}

/// What a `Range` header asks for, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Whole,
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl Asked {
    /// Reads a `Range` header (RFC 9110, 14.1.2). Numbers above 2^64 are as good as 2^64.
    pub(crate) fn parse(header: Option<&str>) -> Asked {
        header.and_then(Asked::read).unwrap_or(Asked::Whole)
    }

    fn read(header: &str) -> Option<Asked> {
        let (unit, range) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        if first.is_empty() {
            return Some(Asked::Last(number(last)?));
        }
        let first = number(first)?;
        if last.is_empty() {
            return Some(Asked::From { first, last: None });
        }
        let last = number(last)?;
        (first <= last).then_some(Asked::From { first, last: Some(last) })
    }

    /// The part of content of `size` bytes.
    pub(crate) fn of(self, size: u64) -> Part {
        match self {
            Asked::Whole => Part::Whole,
            Asked::From { first, .. } if first >= size => Part::Unsatisfiable,
            Asked::From { first, last } => {
                Part::Range(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Asked::Last(0) => Part::Unsatisfiable,
            Asked::Last(_) if size == 0 => Part::Unsatisfiable,
            Asked::Last(count) => Part::Range(size.saturating_sub(count)..size),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(header: &str, size: u64) -> Part {
        Asked::parse(Some(header)).of(size)
    }

    #[test]
    fn one_range() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Part::Range(0..1)),
            ("bytes=0-", 10, Part::Range(0..10)),
            ("bytes=2-5", 10, Part::Range(2..6)),
            ("bytes=2-500", 10, Part::Range(2..10)),
            ("bytes=9-", 10, Part::Range(9..10)),
            ("bytes=-3", 10, Part::Range(7..10)),
            ("bytes=-30", 10, Part::Range(0..10)),
            ("Bytes=0-99999999999999999999999", 10, Part::Range(0..10)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Part::Unsatisfiable),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-1", 0, Part::Unsatisfiable),
        ] {
            assert_eq!(part(header, size), expected, "{header} of {size}");
        }
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=1--2",
            "pages=1-2",
            "bytes 1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
        ] {
            assert_eq!(part(header, 10), Part::Whole, "{header}");
        }
        assert_eq!(Asked::parse(None).of(10), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_within_the_content(header in "(bytes=)?[0-9]{0,21}-[0-9]{0,21}(,[0-9]-)?|\\PC{0,20}", size: u64) {
            if let Part::Range(range) = part(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn first_and_last_are_kept(first in 0u64..1000, length in 1u64..1000, size in 1u64..3000) {
            let expected = match first < size {
                true => Part::Range(first..(first + length).min(size)),
                false => Part::Unsatisfiable,
            };
            prop_assert_eq!(part(&format!("bytes={first}-{}", first + length - 1), size), expected);
        }
    }
}

use std::time::Duration;

/// A piece that comes in less time than this comes quickly: so many at once that each takes longer are of use only where
/// those who give are slower than the link.
const QUICK: Duration = Duration::from_millis(500);
/// While pieces come quickly, at most one of so many that are left is fetched at a time, so that the last ones come one
/// after the other.
const TAPER: u64 = 3;
/// Fewer than this at a time would leave the link idle between two pieces.
const LEAST: usize = 2;

/// Which pieces of a blob are fetched now, ahead of who reads it in order.
///
/// Pieces that come at the same time share the link, so those in front come no sooner than those behind. A reader that is
/// given half of the blob in the last moment has still to take it in when the link has nothing to do any more. So where
/// pieces come quickly they are begun one after the other, none far ahead of the reader, and few at a time at the end. Where they come
/// slowly, what the reader does in the end takes no time beside that, and as many are fetched as are of use to other nodes.
#[derive(Debug)]
pub(super) struct Ahead {
    /// How many pieces the blob has.
    count: u64,
    /// The first that has not been begun.
    next: u64,
    coming: usize,
    /// How many may come at a time by now.
    most: usize,
    quick: bool,
}

impl Ahead {
    /// Of a blob of `count` pieces, from the piece `next` on, of which none is coming.
    pub fn new(next: u64, count: u64) -> Ahead {
        Ahead { count, next, coming: 0, most: 1, quick: true }
    }

    /// The next piece to be begun, if one is to be begun now: at most `parallel` come at a time, and none is `far` or more
    /// pieces beyond the one that is read.
    pub fn begin(&mut self, read: u64, parallel: usize, far: u64) -> Option<u64> {
        let left = self.count.saturating_sub(self.next);
        let (abreast, window) = if self.quick {
            let end = usize::try_from(left.div_ceil(TAPER)).unwrap_or(usize::MAX).max(LEAST);
            (parallel.min(self.most).min(end), far.min(parallel as u64))
        } else {
            (parallel, far)
        };
        if self.coming >= abreast.max(1) || self.next >= self.count.min(read.saturating_add(window.max(1))) {
            return None;
        }
        self.next += 1;
        self.coming += 1;
        Some(self.next - 1)
    }

    /// A piece that was begun has come, or will not, after so long.
    pub fn came(&mut self, after: Duration) {
        self.coming = self.coming.saturating_sub(1);
        self.quick = after < QUICK;
        self.most = self.most.saturating_add(1);
    }

    /// Time has passed, and no piece has come since so long: one more may come at a time from now on.
    pub fn waited(&mut self, since: Duration) {
        self.most = self.most.saturating_add(1);
        self.quick &= since < QUICK;
    }

    /// Whether it matters that time passes.
    pub fn is_waiting(&self) -> bool {
        self.quick
    }

    /// Whether all pieces have come.
    pub fn is_done(&self) -> bool {
        self.coming == 0 && self.next >= self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const LATE: Duration = Duration::from_secs(2);

    fn begun(ahead: &mut Ahead, read: u64) -> Vec<u64> {
        std::iter::from_fn(|| ahead.begin(read, 8, 64)).collect()
    }

    #[test]
    fn pieces_are_begun_one_after_the_other() {
        let mut ahead = Ahead::new(0, 100);
        assert_eq!(begun(&mut ahead, 0), [0]);
        ahead.waited(SOON);
        assert_eq!(begun(&mut ahead, 0), [1]);
        ahead.came(SOON);
        assert_eq!(begun(&mut ahead, 1), [2, 3], "one in its place, and one more");
        for _ in 0..20 {
            ahead.waited(SOON);
        }
        assert_eq!(begun(&mut ahead, 1), (4..9).collect::<Vec<_>>(), "eight at a time, none far from the reader");
    }

    #[test]
    fn what_comes_quickly_does_not_run_away_from_the_reader() {
        let mut ahead = Ahead::new(0, 100);
        for _ in 0..20 {
            ahead.waited(SOON);
        }
        assert_eq!(begun(&mut ahead, 0).len(), 8);
        ahead.came(SOON);
        assert_eq!(begun(&mut ahead, 0), [0; 0], "the first is still read");
        assert_eq!(begun(&mut ahead, 1), [8]);
    }

    #[test]
    fn what_comes_slowly_is_fetched_for_others_too() {
        let mut ahead = Ahead::new(0, 100);
        ahead.begin(0, 8, 64);
        ahead.came(LATE);
        assert_eq!(begun(&mut ahead, 0), (1..9).collect::<Vec<_>>());
        for piece in 9..64 {
            ahead.came(LATE);
            assert_eq!(begun(&mut ahead, 0), [piece]);
        }
        ahead.came(LATE);
        assert_eq!(begun(&mut ahead, 0), [0; 0], "64 are ahead of the reader");
    }

    #[test]
    fn pieces_that_do_not_come_hold_up_no_others() {
        let mut ahead = Ahead::new(0, 6);
        begun(&mut ahead, 0);
        ahead.waited(SOON);
        assert_eq!((begun(&mut ahead, 0), ahead.is_waiting()), (vec![1], true));
        assert_eq!(begun(&mut ahead, 0), [0; 0], "few at the end");
        ahead.waited(LATE);
        assert_eq!((begun(&mut ahead, 0), ahead.is_waiting()), (vec![2, 3, 4, 5], false));
    }

    #[test]
    fn the_last_ones_come_one_after_the_other_and_then_it_is_done() {
        let mut ahead = Ahead::new(0, 24);
        let mut most = [0; 25];
        let mut read = 0;
        while !ahead.is_done() {
            begun(&mut ahead, read);
            most[(24 - ahead.next) as usize] = ahead.coming;
            ahead.came(SOON);
            read += 1;
        }
        assert_eq!((ahead.next, read), (24, 24));
        assert!(most[0] <= 3 && most[3] <= 4, "{most:?}");
    }

    #[test]
    fn a_blob_of_one_piece_needs_no_second() {
        let mut ahead = Ahead::new(0, 1);
        assert_eq!(begun(&mut ahead, 0), [0]);
        assert!(!ahead.is_done());
        ahead.came(SOON);
        assert_eq!(begun(&mut ahead, 1), [0; 0]);
        assert!(ahead.is_done());
    }
}

//! Sets of transaction groups: what dirty time logs are made of. Source: `range_tree.c` and `space_reftree.c` as `vdev_dtl_*` uses them.

use alloc::vec::Vec;

/// A set of txgs, as sorted ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TxgRanges(Vec<(u64, u64)>);

impl TxgRanges {
    /// Adds the txgs from `first` to `last`, both included.
    pub fn add(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last.max(first));
        self.0.retain(|&(from, to)| {
            let apart = to.saturating_add(1) < first || from > last.saturating_add(1);
            if !apart {
                (first, last) = (first.min(from), last.max(to));
            }
            apart
        });
        let at = self.0.partition_point(|&(from, _)| from < first);
        self.0.insert(at, (first, last));
    }

    /// Takes out the txgs from `first` to `last`, both included.
    pub fn remove(&mut self, first: u64, last: u64) {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for &(from, to) in &self.0 {
            if from < first {
                rest.push((from, to.min(first - 1)));
            }
            if to > last {
                rest.push((from.max(last + 1), to));
            }
        }
        self.0 = rest.into_iter().filter(|(from, to)| from <= to).collect();
        self.0.dedup();
    }

    /// Whether `txg` is in the set.
    #[must_use]
    pub fn contains(&self, txg: u64) -> bool {
        let at = self.0.partition_point(|&(from, _)| from <= txg);
        at > 0 && self.0[at - 1].1 >= txg
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is in any of the sets.
    #[must_use]
    pub fn union(sets: &[TxgRanges]) -> Self {
        Self::in_at_least(sets, 1)
    }

    /// What is in at least `count` of the sets: with 1 their union, with all of them what they have in common.
    #[must_use]
    pub fn in_at_least(sets: &[TxgRanges], count: usize) -> Self {
        // Where the number of sets that hold a txg changes, and by how much.
        let mut steps: Vec<(u64, i32)> = Vec::new();
        for &(first, last) in sets.iter().flat_map(|set| &set.0) {
            steps.push((first, 1));
            if let Some(after) = last.checked_add(1) {
                steps.push((after, -1));
            }
        }
        steps.sort_unstable();
        let (mut out, mut depth, mut since) = (TxgRanges::default(), 0i64, None);
        let mut steps = steps.into_iter().peekable();
        while let Some((at, step)) = steps.next() {
            depth += i64::from(step);
            if steps.peek().is_some_and(|(next, _)| *next == at) {
                continue;
            }
            let enough = depth >= count.max(1) as i64;
            match since {
                None if enough => since = Some(at),
                Some(first) if !enough => {
                    out.0.push((first, at - 1));
                    since = None;
                }
                _ => {}
            }
        }
        out.0.extend(since.map(|first| (first, u64::MAX)));
        out
    }

    /// Every txg.
    #[must_use]
    pub fn all() -> Self {
        TxgRanges(Vec::from([(0, u64::MAX)]))
    }

    /// The first txg of the set.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|&(first, _)| first)
    }

    /// The last txg of the set.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|&(_, last)| last)
    }

    /// The ranges, first and last txg of each.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn txg_ranges_join_and_split() {
        let mut set = TxgRanges::default();
        set.add(5, 7);
        set.add(10, 10);
        assert_eq!(set.ranges(), [(5, 7), (10, 10)]);
        set.add(8, 9);
        assert_eq!(set.ranges(), [(5, 10)]);
        set.remove(7, 8);
        assert_eq!(set.ranges(), [(5, 6), (9, 10)]);
        assert!(set.contains(5) && set.contains(10) && !set.contains(7) && !set.contains(11));
        set.remove(0, u64::MAX - 1);
        assert!(set.is_empty());
    }

    #[test]
    fn what_several_sets_share() {
        let set = |ranges: &[(u64, u64)]| {
            let mut set = TxgRanges::default();
            ranges.iter().for_each(|(first, last)| set.add(*first, *last));
            set
        };
        let sets = [set(&[(1, 5), (9, 9)]), set(&[(3, 9)]), set(&[(5, u64::MAX)])];
        assert_eq!(TxgRanges::union(&sets).ranges(), [(1, u64::MAX)]);
        assert_eq!(TxgRanges::in_at_least(&sets, 2).ranges(), [(3, 9)]);
        assert_eq!(TxgRanges::in_at_least(&sets, 3).ranges(), [(5, 5), (9, 9)]);
        assert!(TxgRanges::in_at_least(&sets, 4).is_empty());
        assert_eq!(TxgRanges::in_at_least(&[set(&[(1, 2)]), set(&[(3, 4)])], 1).ranges(), [(1, 4)]);
        assert_eq!((sets[0].first(), sets[0].last(), TxgRanges::default().last()), (Some(1), Some(9), None));
    }
}

//! A set of disjoint byte ranges that is also ordered by size. Source: `zfs_range_tree_t` (`module/zfs/range_tree.c`).
//!
//! # Invariants
//! - Ranges are not empty, do not overlap and do not touch: neighbours are merged.
//! - `by_size` holds exactly the ranges of `by_start`.

use alloc::collections::{BTreeMap, BTreeSet};

/// A set of ranges `[start, end)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeTree {
    by_start: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    space: u64,
}

impl RangeTree {
    /// The empty set.
    #[must_use]
    pub(crate) const fn new() -> Self {
        RangeTree { by_start: BTreeMap::new(), by_size: BTreeSet::new(), space: 0 }
    }

    /// Bytes in it.
    #[must_use]
    pub(crate) fn space(&self) -> u64 {
        self.space
    }

    /// Number of ranges.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Size of the largest range.
    #[must_use]
    pub(crate) fn largest(&self) -> u64 {
        self.by_size.last().map_or(0, |(len, _)| *len)
    }

    /// The ranges `(start, length)` by start.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.by_start.iter().map(|(start, end)| (*start, end - start))
    }

    /// The first range `(start, length)` that ends after `from`.
    #[must_use]
    pub(crate) fn first_after(&self, from: u64) -> Option<(u64, u64)> {
        let before = self.by_start.range(..=from).next_back().filter(|(_, end)| **end > from);
        before.or_else(|| self.by_start.range(from..).next()).map(|(start, end)| (*start, end - start))
    }

    /// The lowest-lying range among the smallest ones of at least `len` bytes.
    #[must_use]
    pub(crate) fn best_fit(&self, len: u64) -> Option<(u64, u64)> {
        self.by_size.range((len, 0)..).next().map(|(len, start)| (*start, *len))
    }

    fn insert(&mut self, start: u64, end: u64) {
        self.by_start.insert(start, end);
        self.by_size.insert((end - start, start));
    }

    fn take(&mut self, start: u64, end: u64) {
        self.by_start.remove(&start);
        self.by_size.remove(&(end - start, start));
    }

    /// Adds a range. False, and nothing changes, if some of it is in the set already.
    #[must_use]
    pub(crate) fn add(&mut self, start: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let Some(end) = start.checked_add(len) else { return false };
        let left = self.by_start.range(..end).next_back().map(|(s, e)| (*s, *e));
        if left.is_some_and(|(_, e)| e > start) {
            return false;
        }
        let right = self.by_start.range(end..).next().map(|(s, e)| (*s, *e));
        let (mut from, mut to) = (start, end);
        if let Some((s, e)) = left.filter(|(_, e)| *e == start) {
            self.take(s, e);
            from = s;
        }
        if let Some((s, e)) = right.filter(|(s, _)| *s == end) {
            self.take(s, e);
            to = e;
        }
        self.insert(from, to);
        self.space += len;
        true
    }

    /// Removes a range. False, and nothing changes, if some of it is not in the set.
    #[must_use]
    pub(crate) fn remove(&mut self, start: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let Some(end) = start.checked_add(len) else { return false };
        let Some((s, e)) = self.by_start.range(..=start).next_back().map(|(s, e)| (*s, *e)) else {
            return false;
        };
        if e < end {
            return false;
        }
        self.take(s, e);
        if s < start {
            self.insert(s, start);
        }
        if end < e {
            self.insert(end, e);
        }
        self.space -= len;
        true
    }

    /// Adds what of a range is not yet in the set; the number of bytes that were there already.
    pub(crate) fn add_missing(&mut self, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let overlaps = self.overlaps(start, end);
        let mut doubled = 0;
        for (s, e) in &overlaps {
            doubled += e - s;
            let _ = self.remove(*s, e - s);
        }
        let _ = self.add(start, end - start);
        doubled
    }

    /// Removes what of a range is in the set; the number of bytes that were not.
    pub(crate) fn clear(&mut self, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let mut missing = len;
        for (s, e) in self.overlaps(start, end) {
            missing -= e - s;
            let _ = self.remove(s, e - s);
        }
        missing
    }

    /// Takes what of a range is in the set out of it; the parts `(start, length)` that were not.
    pub(crate) fn take_overlap(&mut self, start: u64, len: u64) -> alloc::vec::Vec<(u64, u64)> {
        let end = start.saturating_add(len);
        let (mut rest, mut at) = (alloc::vec::Vec::new(), start);
        for (s, e) in self.overlaps(start, end) {
            if s > at {
                rest.push((at, s - at));
            }
            let _ = self.remove(s, e - s);
            at = e;
        }
        if end > at {
            rest.push((at, end - at));
        }
        rest
    }

    /// Parts `[start, end)` of the set inside the given range.
    fn overlaps(&self, start: u64, end: u64) -> alloc::vec::Vec<(u64, u64)> {
        let first = self.by_start.range(..=start).next_back().map_or(start, |(s, _)| *s);
        self.by_start
            .range(first..end)
            .filter(|(_, e)| **e > start)
            .map(|(s, e)| ((*s).max(start), (*e).min(end)))
            .collect()
    }

    /// Whether all of a range is in the set.
    #[cfg(test)]
    pub(crate) fn contains(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        len == 0 || self.by_start.range(..=start).next_back().is_some_and(|(_, e)| *e >= end)
    }

    /// Whether any of a range is in the set.
    #[must_use]
    pub(crate) fn overlaps_any(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        self.by_start.range(..end).next_back().is_some_and(|(_, e)| *e > start)
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> RangeTree {
        core::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge_and_split() {
        let mut tree = RangeTree::new();
        assert!(tree.add(100, 50) && tree.add(200, 50) && tree.add(150, 50));
        assert_eq!(tree.iter().collect::<Vec<_>>(), [(100, 150)]);
        assert!(!tree.add(240, 20) && !tree.add(90, 20) && !tree.add(120, 1));
        assert!(tree.remove(120, 10));
        assert_eq!(tree.iter().collect::<Vec<_>>(), [(100, 20), (130, 120)]);
        assert!(!tree.remove(110, 30) && !tree.remove(0, 1));
        assert_eq!((tree.space(), tree.largest(), tree.len()), (140, 120, 2));
        assert_eq!(tree.best_fit(10), Some((100, 20)));
        assert_eq!(tree.best_fit(21), Some((130, 120)));
        assert_eq!(tree.first_after(119), Some((100, 20)));
        assert_eq!(tree.first_after(120), Some((130, 120)));
    }

    #[test]
    fn partial_operations_tell_what_was_there() {
        let mut tree = RangeTree::new();
        assert!(tree.add(0, 10) && tree.add(20, 10));
        assert_eq!(tree.add_missing(5, 20), 10);
        assert_eq!(tree.iter().collect::<Vec<_>>(), [(0, 30)]);
        assert_eq!(tree.clear(25, 10), 5);
        assert_eq!(tree.iter().collect::<Vec<_>>(), [(0, 25)]);
        assert_eq!(tree.clear(100, 10), 10);
        assert!(tree.add(30, 10));
        assert_eq!(tree.take_overlap(20, 15), [(25, 5)]);
        assert_eq!(tree.iter().collect::<Vec<_>>(), [(0, 20), (35, 5)]);
        assert_eq!(tree.take_overlap(50, 5), [(50, 5)]);
    }

    #[test]
    fn agrees_with_a_bitmap() {
        let mut seed = 0x5eed_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        let mut bits = [false; 256];
        let mut tree = RangeTree::new();
        for _ in 0..20_000 {
            let (start, len) = (next() % 240, 1 + next() % 15);
            let range = start as usize..(start + len) as usize;
            if next() % 2 == 0 {
                let free = bits[range.clone()].iter().all(|b| !b);
                assert_eq!(tree.add(start, len), free);
                if free {
                    bits[range].fill(true);
                }
            } else {
                let full = bits[range.clone()].iter().all(|b| *b);
                assert_eq!(tree.remove(start, len), full);
                if full {
                    bits[range].fill(false);
                }
            }
            assert_eq!(tree.space(), bits.iter().filter(|b| **b).count() as u64);
        }
        for (start, len) in tree.iter() {
            assert!(tree.contains(start, len) && !tree.contains(start, len + 1));
        }
    }
}

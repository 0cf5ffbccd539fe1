//! Sets of block ids as disjoint, not touching, half-open ranges.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A set of `u64`, kept as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start of a range to its end (exclusive).
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds `start..end`, joining what it touches.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        let joined: Vec<u64> =
            self.ranges.range(..=end).rev().take_while(|&(_, &e)| e >= start).map(|(&s, _)| s).collect();
        for s in joined {
            let e = self.ranges.remove(&s).expect("the key was just seen");
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// The range that holds `value`.
    pub(crate) fn range_of(&self, value: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=value).next_back().map(|(&s, &e)| (s, e)).filter(|&(_, e)| value < e)
    }

    pub(crate) fn contains(&self, value: u64) -> bool {
        self.range_of(value).is_some()
    }

    /// Start of the first range that ends behind `value`, not before `value`.
    pub(crate) fn next_from(&self, value: u64) -> Option<u64> {
        if self.contains(value) { Some(value) } else { self.ranges.range(value..).next().map(|(&s, _)| s) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&s, &e)| (s, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_answer_like_a_bit_set() {
        let mut set = RangeSet::default();
        let mut model = [false; 200];
        let mut x = 12345u64;
        for _ in 0..400 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (start, len) = ((x >> 33) % 190, (x >> 50) % 5);
            set.insert(start, start + len);
            model[start as usize..(start + len) as usize].fill(true);
            let expected: usize = model.iter().filter(|&&b| b).count();
            assert_eq!(set.iter().map(|(s, e)| e - s).sum::<u64>() as usize, expected);
            for (i, &b) in model.iter().enumerate() {
                assert_eq!(set.contains(i as u64), b);
                let next = model.iter().enumerate().skip(i).find(|&(_, &b)| b).map(|(i, _)| i as u64);
                assert_eq!(set.next_from(i as u64), next);
            }
            if expected > 150 {
                set = RangeSet::default();
                model.fill(false);
            }
        }
    }
}

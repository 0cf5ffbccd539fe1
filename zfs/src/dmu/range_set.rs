//! Sets of block ids as disjoint ranges.

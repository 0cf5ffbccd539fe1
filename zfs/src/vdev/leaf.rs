//! Leaf vdevs: a device with its errors and with the txgs that it missed. Source: `vdev_t` of disks and files, `vdev_dtl_*`.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::block::BlockDevice;
use platform::sync::RwLock;

/// How a leaf stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafState {
    /// It is there.
    Online,
    /// Taken out of service on purpose.
    Offline,
    /// Taken out of service because of its errors.
    Faulted,
    /// Not found.
    Missing,
}

/// Errors of a leaf since the pool was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Reads that failed.
    pub read: u64,
    /// Writes and flushes that failed.
    pub write: u64,
    /// Reads that gave other bytes than were written.
    pub checksum: u64,
}

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

    /// The ranges, first and last txg of each.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}

/// A leaf vdev.
pub struct Leaf {
    /// Its guid.
    pub guid: u64,
    /// Guid of its top-level vdev.
    pub top_guid: u64,
    /// Index of its top-level vdev.
    pub top: u32,
    /// The sector size of its top-level vdev, as a power of two.
    pub ashift: u8,
    /// Where it was when the configuration was written.
    pub path: Option<String>,
    /// The device; `None` if it is missing or out of service.
    pub device: Option<Arc<dyn BlockDevice>>,
    /// How it stands.
    pub state: LeafState,
    errors: [AtomicU64; 3],
    missing: RwLock<TxgRanges>,
}

impl Leaf {
    pub(super) fn new(guid: u64, device: Option<Arc<dyn BlockDevice>>, state: LeafState) -> Leaf {
        Leaf {
            guid,
            top_guid: 0,
            top: 0,
            ashift: 9,
            path: None,
            device,
            state,
            errors: Default::default(),
            missing: RwLock::default(),
        }
    }

    /// Takes over the errors and the missed txgs of the same leaf in an older tree.
    pub(super) fn inherit(&self, old: &Leaf) {
        for (new, old) in self.errors.iter().zip(&old.errors) {
            new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *self.missing.write() = old.missing.read().clone();
    }

    /// Its errors since the pool was opened, or since [`Leaf::clear_errors`].
    #[must_use]
    pub fn errors(&self) -> ErrorCounts {
        let [read, write, checksum] = [0, 1, 2].map(|i| self.errors[i].load(Ordering::Relaxed));
        ErrorCounts { read, write, checksum }
    }

    /// Forgets its errors (`zpool clear`).
    pub fn clear_errors(&self) {
        self.errors.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(crate) fn count_read_error(&self) {
        self.errors[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_write_error(&self) {
        self.errors[1].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_checksum_error(&self) {
        self.errors[2].fetch_add(1, Ordering::Relaxed);
    }

    /// Txgs whose writes did not all reach it (`DTL_MISSING`): what was born in them is not to be trusted there.
    #[must_use]
    pub fn missing(&self) -> TxgRanges {
        self.missing.read().clone()
    }

    /// Replaces the set of missed txgs: read from disk, or shrunk by a resilver.
    pub fn set_missing(&self, txgs: TxgRanges) {
        *self.missing.write() = txgs;
    }

    /// A write of this txg did not reach it.
    pub fn note_missing(&self, txg: u64) {
        if !self.missing.read().contains(txg) {
            self.missing.write().add(txg, txg);
        }
    }

    /// Whether it should hold what was written in txg `birth`.
    pub(crate) fn has(&self, birth: u64) -> bool {
        self.device.is_some() && !self.missing.read().contains(birth)
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
}

//! Leaf vdevs: a device with its errors and with the txgs that it missed. Source: `vdev_t` of disks and files, `vdev_dtl_*`.

use super::TxgRanges;
use alloc::string::String;
use alloc::sync::Arc;
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
    record: Arc<Record>,
}

/// What became of a leaf's I/O: the same for the leaf in every tree that it is part of, so that what an old tree's I/O finds out
/// is not lost.
#[derive(Default)]
struct Record {
    errors: [AtomicU64; 3],
    missing: RwLock<TxgRanges>,
    /// `DTL_SCRUB`: births of blocks that the scan at hand could not bring here.
    unrepaired: RwLock<TxgRanges>,
}

impl Leaf {
    pub(super) fn new(guid: u64, device: Option<Arc<dyn BlockDevice>>, state: LeafState) -> Leaf {
        Leaf { guid, top_guid: 0, top: 0, ashift: 9, path: None, device, state, record: Arc::default() }
    }

    /// Shares the errors and the missed txgs of the same leaf in an older tree.
    pub(super) fn inherit(&mut self, old: &Leaf) {
        self.record = Arc::clone(&old.record);
    }

    /// Its errors since the pool was opened, or since [`Leaf::clear_errors`].
    #[must_use]
    pub fn errors(&self) -> ErrorCounts {
        let [read, write, checksum] = [0, 1, 2].map(|i| self.record.errors[i].load(Ordering::Relaxed));
        ErrorCounts { read, write, checksum }
    }

    /// Forgets its errors (`zpool clear`).
    pub fn clear_errors(&self) {
        self.record.errors.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(crate) fn count_read_error(&self) {
        self.record.errors[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_write_error(&self) {
        self.record.errors[1].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_checksum_error(&self) {
        self.record.errors[2].fetch_add(1, Ordering::Relaxed);
    }

    /// Txgs whose writes did not all reach it (`DTL_MISSING`): what was born in them is not to be trusted there.
    #[must_use]
    pub fn missing(&self) -> TxgRanges {
        self.record.missing.read().clone()
    }

    /// Replaces the set of missed txgs: read from disk, or shrunk by a resilver.
    pub fn set_missing(&self, txgs: TxgRanges) {
        *self.record.missing.write() = txgs;
    }

    /// A write of this txg did not reach it.
    pub fn note_missing(&self, txg: u64) {
        if !self.record.missing.read().contains(txg) {
            self.record.missing.write().add(txg, txg);
        }
    }

    /// A scan could not write a block of that birth here.
    pub(crate) fn note_unrepaired(&self, birth: u64) {
        self.record.unrepaired.write().add(birth, birth);
    }

    /// A scan begins: it has failed at nothing yet.
    pub(crate) fn forget_unrepaired(&self) {
        *self.record.unrepaired.write() = TxgRanges::default();
    }

    /// A scan brought everything up to `txg` here, but for what it noted (`vdev_dtl_reassess`).
    pub(crate) fn excise(&self, txg: u64) {
        let unrepaired = core::mem::take(&mut *self.record.unrepaired.write());
        let mut missing = self.record.missing.write();
        missing.remove(0, txg);
        *missing = TxgRanges::union(&[missing.clone(), unrepaired]);
    }

    /// Whether it is there and should hold what was written in txg `birth`.
    pub(crate) fn has(&self, birth: u64) -> bool {
        self.device.is_some() && !self.record.missing.read().contains(birth)
    }
}

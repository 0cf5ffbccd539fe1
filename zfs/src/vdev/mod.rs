//! The vdev tree: from a [`Dva`] to bytes on devices.

pub mod label;

use crate::error::Result;
use crate::ondisk::nvlist::NvList;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::BlockDevice;

/// A device with the guid that the tree knows it by.
pub type Member = (u64, Arc<dyn BlockDevice>);

/// A leaf vdev.
pub struct Leaf {
    /// Its guid.
    pub guid: u64,
    /// Guid of its top-level vdev.
    pub top_guid: u64,
    /// Index of its top-level vdev.
    pub top: u32,
    /// Its sector size, as a power of two.
    pub ashift: u8,
    /// The device; `None` if it is missing.
    pub device: Option<Arc<dyn BlockDevice>>,
}

/// A top-level vdev: what a [`crate::ondisk::blkptr::Dva`] names.
pub struct TopVdev {
    /// Its index.
    pub id: u32,
    /// Its guid.
    pub guid: u64,
    /// Sector size of its allocations, as a power of two.
    pub ashift: u8,
    /// Allocatable size in bytes.
    pub asize: u64,
}

impl TopVdev {
    /// The allocated size of a block of `psize` bytes (`vdev_psize_to_asize`).
    #[must_use]
    pub fn psize_to_asize(&self, psize: u64) -> u64 {
        psize.next_multiple_of(1 << self.ashift)
    }
}

/// All vdevs of a pool.
pub struct VdevTree {}

impl VdevTree {
    /// Opens the tree that `config` describes: a `vdev_tree` list, be it of the root or of one top-level vdev.
    /// `devices` are found in it by guid.
    pub fn open(config: &NvList, devices: &[Member]) -> Result<VdevTree> {
        let _ = (config, devices);
        todo!()
    }

    /// The top-level vdevs by index; `None` where one was removed.
    #[must_use]
    pub fn tops(&self) -> &[Option<TopVdev>] {
        todo!()
    }

    /// The top-level vdev of that index.
    pub fn top(&self, id: u32) -> Result<&TopVdev> {
        let _ = id;
        todo!()
    }

    /// All leaves.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Leaf> {
        todo!()
    }

    /// Makes all completed writes durable on all devices.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// Whether any device refuses writes.
    #[must_use]
    pub fn read_only(&self) -> bool {
        todo!()
    }
}

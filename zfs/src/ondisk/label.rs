//! The four labels of a leaf vdev. Source: `vdev_label_t` (`include/sys/vdev_impl.h`).
//!
//! ```text
//!   0 K  pad 1 (8 K)      8 K boot environment (8 K)      16 K nvlist (112 K)      128 K uberblock ring (128 K)
//! ```
//! Labels 0 and 1 lie at the start of the device, 2 and 3 at its end, which is rounded down to whole labels.

use crate::ondisk::uberblock::{UBERBLOCK_SLOT_MAX, UBERBLOCK_SLOT_MIN};

/// Labels of a leaf vdev.
pub const LABELS: usize = 4;
/// Size of one label in bytes.
pub const LABEL_SIZE: u64 = 256 << 10;
/// Offset of the boot environment block in a label, in bytes.
pub const BOOT_ENV_OFFSET: u64 = 8 << 10;
/// Offset of the nvlist in a label, in bytes.
pub const NVLIST_OFFSET: u64 = 16 << 10;
/// Size of the nvlist with its embedded checksum, in bytes.
pub const NVLIST_SIZE: usize = 112 << 10;
/// Offset of the uberblock ring in a label, in bytes.
pub const RING_OFFSET: u64 = 128 << 10;
/// Size of the uberblock ring in bytes.
pub const RING_SIZE: usize = 128 << 10;
/// The smallest device of a pool, in bytes (`SPA_MINDEVSIZE`).
pub const MIN_DEVICE_SIZE: u64 = 64 << 20;
/// Slots at the end of the ring that are reserved for multihost writes.
pub const MMP_SLOTS: usize = 1;

/// Offset of label `index` on a device of `size` bytes; the device must hold four (`vdev_label_offset`).
#[must_use]
pub fn label_offset(size: u64, index: usize) -> u64 {
    let size = size - size % LABEL_SIZE;
    let index64 = index as u64;
    if index < LABELS / 2 { index64 * LABEL_SIZE } else { size - (LABELS as u64 - index64) * LABEL_SIZE }
}

/// Size of an uberblock slot in bytes.
#[must_use]
pub fn slot_size(ashift: u8) -> usize {
    (1usize << ashift.min(13)).clamp(UBERBLOCK_SLOT_MIN, UBERBLOCK_SLOT_MAX)
}

/// Number of slots in the ring.
#[must_use]
pub fn slot_count(ashift: u8) -> usize {
    RING_SIZE / slot_size(ashift)
}

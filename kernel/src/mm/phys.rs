//! Physical memory and how the kernel sees it: the direct map.

use crate::arch::paging::{self, Flags, UNCACHED};
use core::sync::atomic::{AtomicU64, Ordering};

/// Where physical address 0 is mapped.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the image is mapped, less its physical address.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Size of a frame and of a page in bytes.
pub const FRAME_SIZE: u64 = 4096;

static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// The direct map's view of a physical address. Only RAM is mapped from the start; see [`map_device`].
#[inline]
pub fn to_virt(physical: u64) -> *mut u8 {
    (DIRECT_MAP + physical) as *mut u8
}

/// Whether an address lies in the direct map.
#[inline]
pub fn is_direct(address: *const u8) -> bool {
    (DIRECT_MAP..super::stack::REGION).contains(&(address as u64))
}

/// The physical address behind an address in the direct map (the heap, frames) or in the kernel image.
#[inline]
pub fn to_phys(address: *const u8) -> u64 {
    let address = address as u64;
    if address >= KERNEL_BASE {
        address - KERNEL_BASE
    } else {
        debug_assert!(address >= DIRECT_MAP, "not a direct-map address");
        address - DIRECT_MAP
    }
}

/// Physical address of the kernel's own top page table. Its upper half is the template of all address spaces; its
/// lower half is empty.
pub fn kernel_pml4() -> u64 {
    KERNEL_ROOT.load(Ordering::Relaxed)
}

pub(super) fn set_kernel_pml4(root: u64) {
    KERNEL_ROOT.store(root, Ordering::Relaxed);
}

/// Maps `len` bytes of device memory at `physical` uncached; the virtual address (as [`to_virt`] gives it). Done at
/// boot, before address spaces copy the upper half of the top table.
pub fn map_device(physical: u64, len: u64) -> u64 {
    let start = physical & !(FRAME_SIZE - 1);
    let end = (physical + len).next_multiple_of(FRAME_SIZE);
    let flags = Flags::WRITABLE | Flags::NO_EXECUTE | UNCACHED;
    for page in (start..end).step_by(FRAME_SIZE as usize) {
        paging::map_kernel(DIRECT_MAP + page, page, flags);
    }
    DIRECT_MAP + physical
}

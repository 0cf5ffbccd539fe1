//! Physical frames: a buddy allocator.
//!
//! Each frame of RAM has a 16-byte record in one table. A record says what its frame is: the head of a free block
//! (and then links the block into its order's list), part of a slab of the heap, or anything else.

use super::phys::{self, DIRECT_MAP, FRAME_SIZE};
use crate::arch::paging;
use crate::boot::BootInfo;
use crate::sync::IrqLock;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Orders 0 (4 KiB) to 18 (1 GiB).
const ORDERS: usize = 19;
const NONE: u32 = u32::MAX;

const KIND_RESERVED: u8 = 0;
const KIND_USED: u8 = 1;
const KIND_FREE: u8 = 2;

/// What is known about one frame. The heap uses the fields of the frames that it owns as slabs.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) next: u32,
    pub(super) prev: u32,
    kind: u8,
    order: u8,
    pub(super) used: u16,
    pub(super) free_head: u16,
    pub(super) listed: u16,
}

struct Buddy {
    heads: [u32; ORDERS],
    frames: usize,
}

static BUDDY: IrqLock<Buddy> = IrqLock::new(Buddy { heads: [NONE; ORDERS], frames: 0 });
static TABLE: AtomicPtr<Frame> = AtomicPtr::new(core::ptr::null_mut());
static FREE: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The record of frame number `pfn`.
#[inline]
pub(super) fn record(pfn: u32) -> *mut Frame {
    // SAFETY: frame numbers come from the allocator, so they lie in the table.
    unsafe { TABLE.load(Ordering::Relaxed).add(pfn as usize) }
}

impl Buddy {
    fn push(&mut self, pfn: u32, order: usize) {
        let next = self.heads[order];
        // SAFETY: both are frames of the table; the lock is held.
        unsafe {
            let frame = &mut *record(pfn);
            (frame.kind, frame.order, frame.next, frame.prev) = (KIND_FREE, order as u8, next, NONE);
            if next != NONE {
                (*record(next)).prev = pfn;
            }
        }
        self.heads[order] = pfn;
    }

    fn unlink(&mut self, pfn: u32, order: usize) {
        // SAFETY: the frame is in the list of `order`; the lock is held.
        unsafe {
            let Frame { next, prev, .. } = *record(pfn);
            if prev == NONE {
                self.heads[order] = next;
            } else {
                (*record(prev)).next = next;
            }
            if next != NONE {
                (*record(next)).prev = prev;
            }
            (*record(pfn)).kind = KIND_USED;
        }
    }

    fn take(&mut self, order: usize) -> Option<u32> {
        let mut from = (order..ORDERS).find(|o| self.heads[*o] != NONE)?;
        let pfn = self.heads[from];
        self.unlink(pfn, from);
        while from > order {
            from -= 1;
            self.push(pfn + (1 << from), from);
        }
        Some(pfn)
    }

    fn give(&mut self, mut pfn: u32, mut order: usize) {
        while order + 1 < ORDERS {
            let buddy = pfn ^ 1 << order;
            if buddy as usize + (1 << order) > self.frames {
                break;
            }
            // SAFETY: inside the table; the lock is held.
            let record = unsafe { *record(buddy) };
            if record.kind != KIND_FREE || usize::from(record.order) != order {
                break;
            }
            self.unlink(buddy, order);
            pfn &= !(1 << order);
            order += 1;
        }
        self.push(pfn, order);
    }

    /// Gives back `start..end`, as the largest aligned blocks that it consists of.
    fn give_range(&mut self, mut start: u32, end: u32) {
        while start < end {
            let aligned = (start.trailing_zeros() as usize).min(ORDERS - 1);
            let fits = (end - start).ilog2() as usize;
            let order = aligned.min(fits);
            self.give(start, order);
            start += 1 << order;
        }
    }
}

/// One frame, its content undefined.
pub fn alloc() -> Option<u64> {
    alloc_contiguous(1, 1)
}

/// One frame of zeros.
pub fn alloc_zeroed() -> Option<u64> {
    let frame = alloc()?;
    // SAFETY: ours, and in the direct map.
    unsafe { phys::to_virt(frame).write_bytes(0, FRAME_SIZE as usize) };
    Some(frame)
}

/// `count` frames in a row, the first one aligned to `align` frames (a power of two).
pub fn alloc_contiguous(count: usize, align: usize) -> Option<u64> {
    let order = count.max(align).checked_next_power_of_two()?.ilog2() as usize;
    if order >= ORDERS || count == 0 {
        return None;
    }
    let mut buddy = BUDDY.lock();
    let pfn = buddy.take(order)?;
    buddy.give_range(pfn + count as u32, pfn + (1 << order));
    FREE.fetch_sub(count as u64, Ordering::Relaxed);
    Some(u64::from(pfn) * FRAME_SIZE)
}

/// Gives back a frame of [`alloc`].
pub fn free(frame: u64) {
    free_contiguous(frame, 1);
}

/// Gives back `count` frames; any part of an allocation may be given back on its own.
pub fn free_contiguous(first: u64, count: usize) {
    let pfn = (first / FRAME_SIZE) as u32;
    debug_assert!(first.is_multiple_of(FRAME_SIZE), "not a frame: {first:#x}");
    BUDDY.lock().give_range(pfn, pfn + count as u32);
    FREE.fetch_add(count as u64, Ordering::Relaxed);
}

/// Frames that the allocator manages.
pub fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Frames that are free now.
pub fn free_count() -> u64 {
    FREE.load(Ordering::Relaxed)
}

/// The most free frames in a row that one allocation could get; 0 if that cannot be known without waiting. For reports.
pub fn largest() -> u64 {
    let Some(buddy) = BUDDY.try_lock() else { return 0 };
    buddy.heads.iter().rposition(|head| *head != NONE).map_or(0, |order| 1 << order)
}

/// Boot-time memory: the ranges that are in use before the allocator exists.
struct Early {
    reserved: [(u64, u64); 8],
    count: usize,
    next: u64,
    end: u64,
}

impl Early {
    fn reserve(&mut self, start: u64, end: u64) {
        if end > start {
            self.reserved[self.count] = (start, end);
            self.count += 1;
        }
    }

    /// The first byte at or after `at` that no reserved range holds, and the end of that gap.
    fn gap(&self, mut at: u64, limit: u64) -> Option<(u64, u64)> {
        let reserved = &self.reserved[..self.count];
        while let Some((_, end)) = reserved.iter().find(|(start, end)| (*start..*end).contains(&at)) {
            at = *end;
        }
        let end = reserved.iter().map(|(start, _)| *start).filter(|start| *start > at).min().unwrap_or(limit);
        (at < limit).then(|| (at, end.min(limit)))
    }

    /// Zeroed, page-aligned memory, never given back.
    fn take(&mut self, bytes: u64) -> u64 {
        let at = self.next;
        self.next += bytes.next_multiple_of(FRAME_SIZE);
        assert!(self.next <= self.end, "not enough memory to boot");
        // SAFETY: RAM that nobody uses, 1:1 mapped by the boot tables, which stay loaded until the tables are built.
        unsafe { (at as *mut u8).write_bytes(0, bytes as usize) };
        at
    }
}

/// Builds the direct map, the kernel's page tables and the frame allocator. `image_extra`: bytes in use behind the
/// image.
pub fn init(boot: &BootInfo, image_extra: u64) {
    let mut early = Early { reserved: [(0, 0); 8], count: 0, next: 0, end: 0 };
    // The first MiB holds firmware tables and the start-up code of further processors.
    early.reserve(0, 1 << 20);
    early.reserve(0x20_0000, (paging::image_end() + image_extra).next_multiple_of(FRAME_SIZE));
    if let Some(initrd) = &boot.initrd {
        early.reserve(initrd.start & !(FRAME_SIZE - 1), initrd.end.next_multiple_of(FRAME_SIZE));
    }
    // The largest gap that the boot tables map.
    let mut best = (0, 0);
    for &(start, end) in boot.ram() {
        let (mut at, limit) = (start.next_multiple_of(FRAME_SIZE), (end & !(FRAME_SIZE - 1)).min(1 << 32));
        while let Some((from, to)) = early.gap(at, limit) {
            if to - from > best.1 - best.0 {
                best = (from, to);
            }
            at = to;
        }
    }
    (early.next, early.end) = best;
    let highest = boot.ram().iter().map(|r| r.1).max().unwrap_or(0);
    let frames = (highest / FRAME_SIZE) as usize;
    let table = early.take((frames * size_of::<Frame>()) as u64);
    let root = paging::build_kernel_tables(boot, image_extra, &mut || early.take(FRAME_SIZE));
    phys::set_kernel_pml4(root);
    crate::arch::cpu::this().root.store(root, Ordering::Relaxed);
    TABLE.store((DIRECT_MAP + table) as *mut Frame, Ordering::Relaxed);
    early.reserve(best.0, early.next);
    add_free_memory(boot, &early, frames);
}

fn add_free_memory(boot: &BootInfo, early: &Early, frames: usize) {
    let mut buddy = BUDDY.lock();
    buddy.frames = frames;
    let mut total = 0;
    const { assert!(KIND_RESERVED == 0, "the zeroed table says reserved") };
    for &(start, end) in boot.ram() {
        let (mut at, limit) = (start.next_multiple_of(FRAME_SIZE), end & !(FRAME_SIZE - 1));
        while let Some((from, to)) = early.gap(at, limit) {
            buddy.give_range((from / FRAME_SIZE) as u32, (to / FRAME_SIZE) as u32);
            total += (to - from) / FRAME_SIZE;
            at = to;
            if at >= limit {
                break;
            }
        }
    }
    FREE.store(total, Ordering::Relaxed);
    TOTAL.store(total, Ordering::Relaxed);
}

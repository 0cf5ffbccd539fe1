//! The page tables of one address space: entries of 4 KiB pages in the low half.
//!
//! # Entries
//! An entry that is not zero holds a frame. Without the present bit it is held but not accessible (`PROT_NONE`).
//! Frames with the [`SHARED`] bit belong to a [`super::file_pages::Pages`]; all others belong to the entry.
//! The caller serialises changes (the address space's lock) and forgets translations.
//!
//! # Top tables are never freed
//! A processor that has gone on to a kernel thread keeps the last top table loaded. So those of dead address spaces
//! are emptied, forgotten everywhere, and kept for the next one.

use super::{frame, phys};
use crate::arch::paging::{ADDRESS, Flags};
use crate::arch::tlb;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use platform::sync::Mutex;

/// The page is accessible.
pub const PRESENT: u64 = Flags::PRESENT.bits();
/// The page can be written.
pub const WRITABLE: u64 = Flags::WRITABLE.bits();
/// The frame belongs to somebody else (a bit that the processor ignores).
pub const SHARED: u64 = Flags::BIT_9.bits();
/// No instruction fetches.
pub const NO_EXECUTE: u64 = Flags::NO_EXECUTE.bits();

const PAGE: u64 = phys::FRAME_SIZE;

/// The frame in an entry.
pub const fn frame_of(entry: u64) -> u64 {
    entry & ADDRESS
}

/// No frame is left for a page or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfFrames;

/// A tree of page tables whose upper half is the kernel's.
#[derive(Debug)]
pub struct PageTable {
    root: u64,
}

fn slot(table: u64, virt: u64, level: u32) -> *mut u64 {
    let index = virt >> (12 + 9 * (level - 1)) & 511;
    phys::to_virt(table + index * 8).cast()
}

static SPARE_ROOTS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Frames that are tables, and those that entries own.
static TABLES: AtomicU64 = AtomicU64::new(0);
static PRIVATE: AtomicI64 = AtomicI64::new(0);

/// Frames that are page tables, the kernel's own (but for those of its first moments) included.
pub fn tables() -> u64 {
    TABLES.load(Ordering::Relaxed)
}

/// Frames that belong to entries: the private pages of all address spaces.
pub fn private_pages() -> u64 {
    PRIVATE.load(Ordering::Relaxed).max(0) as u64
}

/// How many frames an entry owns.
fn owned(entry: u64) -> i64 {
    i64::from(entry != 0 && entry & SHARED == 0)
}

/// Gives a table back that nothing leads to.
pub fn free_table(table: u64) {
    TABLES.fetch_sub(1, Ordering::Relaxed);
    frame::free(table);
}

/// An empty table.
pub fn new_table() -> Option<u64> {
    let table = frame::alloc_zeroed()?;
    TABLES.fetch_add(1, Ordering::Relaxed);
    Some(table)
}

impl PageTable {
    /// Empty tables.
    pub fn new() -> Result<Self, OutOfFrames> {
        if let Some(root) = SPARE_ROOTS.lock().pop() {
            return Ok(PageTable { root });
        }
        let root = new_table().ok_or(OutOfFrames)?;
        let (from, to) = (phys::to_virt(phys::kernel_pml4()), phys::to_virt(root));
        // SAFETY: both are whole frames in the direct map; the upper half (entries 256..512) never changes after boot.
        unsafe { to.add(2048).copy_from_nonoverlapping(from.add(2048), 2048) };
        Ok(PageTable { root })
    }

    /// Physical address of the top table, for CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The entry for `virt`; 0 if there is none.
    pub fn get(&self, virt: u64) -> u64 {
        let mut table = self.root;
        for level in [4, 3, 2] {
            // SAFETY: `table` is one of our tables.
            let entry = unsafe { slot(table, virt, level).read_volatile() };
            if entry == 0 {
                return 0;
            }
            table = entry & ADDRESS;
        }
        // SAFETY: as above.
        unsafe { slot(table, virt, 1).read_volatile() }
    }

    /// Sets the entry for `virt`, making tables on the way.
    pub fn set(&mut self, virt: u64, entry: u64) -> Result<(), OutOfFrames> {
        let mut table = self.root;
        for level in [4, 3, 2] {
            let slot = slot(table, virt, level);
            // SAFETY: `table` is one of our tables; a new one is cleared before it is linked.
            unsafe {
                let mut next = slot.read_volatile();
                if next == 0 {
                    next = new_table().ok_or(OutOfFrames)? | PRESENT | WRITABLE;
                    slot.write_volatile(next);
                }
                table = next & ADDRESS;
            }
        }
        let slot = slot(table, virt, 1);
        // SAFETY: as above.
        let old = unsafe { slot.read_volatile() };
        // SAFETY: as above.
        unsafe { slot.write_volatile(entry) };
        PRIVATE.fetch_add(owned(entry) - owned(old), Ordering::Relaxed);
        Ok(())
    }

    /// Calls `change` with every entry in `start..end` that is not zero and stores what it answers. Skips what has
    /// no tables, so that a reservation of terabytes costs nothing.
    pub fn for_each(&mut self, start: u64, end: u64, mut change: impl FnMut(u64, u64) -> u64) {
        let mut virt = start;
        let mut difference = 0;
        'next: while virt < end {
            let mut table = self.root;
            for level in [4, 3, 2] {
                // SAFETY: `table` is one of our tables.
                let entry = unsafe { slot(table, virt, level).read_volatile() };
                if entry == 0 {
                    let span = 1u64 << (12 + 9 * (level - 1));
                    virt = (virt & !(span - 1)) + span;
                    continue 'next;
                }
                table = entry & ADDRESS;
            }
            let table_end = (virt & !(512 * PAGE - 1)) + 512 * PAGE;
            while virt < end.min(table_end) {
                let slot = slot(table, virt, 1);
                // SAFETY: as above.
                unsafe {
                    let entry = slot.read_volatile();
                    if entry != 0 {
                        let new = change(virt, entry);
                        slot.write_volatile(new);
                        difference += owned(new) - owned(entry);
                    }
                }
                virt += PAGE;
            }
        }
        if difference != 0 {
            PRIVATE.fetch_add(difference, Ordering::Relaxed);
        }
    }

    fn free_tables(table: u64, level: u32) {
        for index in 0..512 {
            // SAFETY: `table` is one of our tables, which nobody uses any more.
            let entry = unsafe { phys::to_virt(table + index * 8).cast::<u64>().read() };
            if entry == 0 {
                continue;
            }
            if level > 1 {
                Self::free_tables(entry & ADDRESS, level - 1);
            } else if entry & SHARED == 0 {
                PRIVATE.fetch_sub(1, Ordering::Relaxed);
                frame::free(entry & ADDRESS);
            }
        }
        free_table(table);
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        let mut tables = Vec::new();
        for index in 0..256 {
            let slot = phys::to_virt(self.root + index * 8).cast::<u64>();
            // SAFETY: our top table; nobody runs in this address space any more.
            unsafe {
                if slot.read() != 0 {
                    tables.push(slot.read() & ADDRESS);
                    slot.write_volatile(0);
                }
            }
        }
        tlb::shootdown(self.root, 0, super::usercopy::USER_END);
        for table in tables {
            Self::free_tables(table, 3);
        }
        SPARE_ROOTS.lock().push(self.root);
    }
}

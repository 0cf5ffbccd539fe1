//! The page tables of one address space, in the machine's memory: see [`super::tree`].
//!
//! # Top tables are never freed
//! A processor that has gone on to a kernel thread keeps the last top table loaded. So those of dead address spaces
//! are emptied, forgotten everywhere, and kept for the next one.

pub use super::tree::{
    EXAMINED, LARGE, LARGE_PAGE, NO_EXECUTE, OutOfFrames, PRESENT, SHARED, WRITABLE, frame_of, frames_in,
};

use super::tree::{Memory, Tree};
use super::{frame, phys};
use crate::arch::tlb;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use platform::sync::Mutex;

/// A tree of page tables whose upper half is the kernel's.
#[derive(Debug)]
pub struct PageTable(Tree<DirectMap>);

/// Tables lie in frames, which the direct map shows.
#[derive(Debug)]
pub struct DirectMap(());

static SPARE_ROOTS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Frames that are tables, those that entries own, and large pages.
static TABLES: AtomicU64 = AtomicU64::new(0);
static PRIVATE: AtomicI64 = AtomicI64::new(0);
static LARGE_PAGES: AtomicI64 = AtomicI64::new(0);

/// Frames that are page tables, the kernel's own (but for those of its first moments) included.
pub fn tables() -> u64 {
    TABLES.load(Ordering::Relaxed)
}

/// Frames that belong to entries: the private pages of all address spaces.
pub fn private_pages() -> u64 {
    PRIVATE.load(Ordering::Relaxed).max(0) as u64
}

/// Pages of 2 MiB of all address spaces.
pub fn large_pages() -> u64 {
    LARGE_PAGES.load(Ordering::Relaxed).max(0) as u64
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

impl Memory for DirectMap {
    fn read(&self, at: u64) -> u64 {
        // SAFETY: the tree reads words of its own tables only, which are frames.
        unsafe { phys::to_virt(at).cast::<u64>().read_volatile() }
    }

    fn write(&mut self, at: u64, entry: u64) {
        // SAFETY: as above; a new table is cleared before it is linked, so a processor that walks them finds entries.
        unsafe { phys::to_virt(at).cast::<u64>().write_volatile(entry) }
    }

    fn new_table(&mut self) -> Result<u64, OutOfFrames> {
        new_table().ok_or(OutOfFrames)
    }

    fn free_table(&mut self, table: u64) {
        free_table(table);
    }

    fn free_frames(&mut self, first: u64, count: u64) {
        frame::free_contiguous(first, count as usize);
    }

    fn forget(&mut self, root: u64, start: u64, end: u64) {
        tlb::shootdown(root, start, end);
    }

    fn count(&mut self, frames: i64, large: i64) {
        PRIVATE.fetch_add(frames, Ordering::Relaxed);
        if large != 0 {
            LARGE_PAGES.fetch_add(large, Ordering::Relaxed);
        }
    }
}

impl PageTable {
    /// Empty tables.
    pub fn new() -> Result<Self, OutOfFrames> {
        if let Some(root) = SPARE_ROOTS.lock().pop() {
            return Ok(PageTable(Tree::new(DirectMap(()), root)));
        }
        let root = new_table().ok_or(OutOfFrames)?;
        let (from, to) = (phys::to_virt(phys::kernel_pml4()), phys::to_virt(root));
        // SAFETY: both are whole frames in the direct map; the upper half (entries 256..512) never changes after boot.
        unsafe { to.add(2048).copy_from_nonoverlapping(from.add(2048), 2048) };
        Ok(PageTable(Tree::new(DirectMap(()), root)))
    }
}

impl Deref for PageTable {
    type Target = Tree<DirectMap>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for PageTable {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        // Nobody runs in this address space any more.
        self.0.clear();
        SPARE_ROOTS.lock().push(self.0.root());
    }
}

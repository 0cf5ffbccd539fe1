//! Page faults: filling the pages of an address space when they are first touched.
//!
//! # Whose pages
//! - Pages of files that may not be written to here are *borrowed*: the page tables point into the file system's own
//!   cached block, which never changes and lives as long as one page of it is mapped. A file that is mapped to be read
//!   costs no second copy. Writing to one after `mprotect` (or from outside) makes a copy first.
//! - Private pages that may be written are copies from the start: programs change most of such an area (relocations),
//!   and a copy now is cheaper than a second fault.
//! - Private memory without a file begins as zeros, in pages of 2 MiB where [`super::large`] says so.
//!
//! Locks: as in [`super::address_space`]; a file is read with none held, and what was found is checked against the
//! area's stamp.

use super::address_space::{AddressSpace, PAGE, State, entry_for, with_rights};
use super::file_pages::{Have, PageError};
use super::page_table::{self, LARGE, LARGE_PAGE, PRESENT, PageTable, SHARED, frame_of};
use super::vma::{self, Backing, Prot, Vma};
use super::{frame, phys, pressure};
use crate::arch::tlb;
use crate::sched;
use alloc::sync::Arc;
use bytes::Bytes;
use core::ops::Range;
use core::sync::atomic::Ordering;
use vfs::Errno;

/// How many pages around a fault are copied from a file at once.
const CLUSTER: u64 = 16;
/// How many pages around a fault are borrowed from a file's block at once.
const BORROW_CLUSTER: u64 = 64;
/// How many pages of growing memory are filled at once.
const GROWTH: u64 = 16;

/// Why an access cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped there (`SEGV_MAPERR`).
    NotMapped,
    /// The area does not allow it (`SEGV_ACCERR`).
    Forbidden,
    /// Behind the end of a file, or it cannot be read (`SIGBUS`).
    Bus,
    /// The machine has no memory left.
    OutOfMemory,
}

/// What an access wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To execute.
    Execute,
}

fn set(table: &mut PageTable, page: u64, entry: u64) -> Result<(), FaultError> {
    table.set(page, entry).map_err(|page_table::OutOfFrames| {
        if entry & SHARED == 0 {
            frame::free(frame_of(entry));
        }
        FaultError::OutOfMemory
    })
}

/// Copies `bytes`, a page at most, into a new frame; the rest of it is zeros.
fn copied(bytes: &[u8]) -> Result<u64, FaultError> {
    let frame = frame::alloc().ok_or(FaultError::OutOfMemory)?;
    let at = phys::to_virt(frame);
    // SAFETY: a fresh frame that nobody else knows; `bytes` is not longer.
    unsafe {
        at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        at.add(bytes.len()).write_bytes(0, PAGE as usize - bytes.len());
    }
    Ok(frame)
}

/// The part of a file's block that a fault may use: which pages of the area, and where the first one lies in the block.
struct Window {
    pages: Range<u64>,
    in_block: u64,
}

/// The whole pages of `block`, which begins at `block_at` in the file, that lie in the area and near `page`. `None` if
/// `page` is not whole in it.
fn window(start: u64, area: &Vma, page: u64, block_at: u64, block: &Bytes, cluster: u64) -> Option<Window> {
    let offset = area.backing.offset();
    // Where the block's ends would be in memory; file offsets and addresses differ by a constant.
    let to_virt = |at: u64| (at + start).checked_sub(offset);
    let near = page & !(cluster * PAGE - 1);
    let first = to_virt(block_at.next_multiple_of(PAGE).max(offset))?.max(near).max(start);
    let behind = (block_at + block.len() as u64) & !(PAGE - 1);
    let end = (behind + start).saturating_sub(offset).min(near + cluster * PAGE).min(area.end);
    (first..end)
        .contains(&page)
        .then(|| Window { pages: first..end, in_block: first - start + offset - block_at })
}

impl State {
    /// Zeros for `page`; for the next pages, too, if memory is being used in order.
    fn fill_zeros(&mut self, page: u64, end: u64, prot: Prot) -> Result<(), FaultError> {
        let frame = frame::alloc_zeroed().ok_or(FaultError::OutOfMemory)?;
        set(&mut self.table, page, entry_for(frame, prot, false, true))?;
        if self.table.get(page - PAGE) == 0 || !pressure::plenty() {
            return Ok(());
        }
        let mut next = page + PAGE;
        // Not into the next 2 MiB: these may become a large page.
        let end = end.min(page + GROWTH * PAGE).min(next.next_multiple_of(LARGE));
        while next < end && self.table.get(next) == 0 {
            let Some(frame) = frame::alloc_zeroed() else { break };
            set(&mut self.table, next, entry_for(frame, prot, false, true))?;
            next += PAGE;
        }
        Ok(())
    }

    /// Installs the pages of a window that are still missing.
    fn install(
        &mut self,
        window: &Window,
        block: &Bytes,
        prot: Prot,
        borrow: bool,
    ) -> Result<(), FaultError> {
        for virt in window.pages.clone().step_by(PAGE as usize) {
            if self.table.get(virt) != 0 {
                continue;
            }
            let at = (window.in_block + (virt - window.pages.start)) as usize;
            let bytes = &block[at..at + PAGE as usize];
            if borrow {
                let frame = phys::to_phys(bytes.as_ptr());
                set(&mut self.table, virt, entry_for(frame, prot, true, false))?;
                self.borrowed.insert(virt, block.clone());
            } else {
                set(&mut self.table, virt, entry_for(copied(bytes)?, prot, false, true))?;
            }
        }
        Ok(())
    }
}

impl AddressSpace {
    /// Serves a page fault, or says why it cannot be.
    pub fn fault(&self, address: u64, access: Access) -> Result<(), FaultError> {
        self.fault_in(address, access).map(drop)
    }

    /// The same; the first address behind the page that is there now.
    pub(super) fn fault_in(&self, address: u64, access: Access) -> Result<u64, FaultError> {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let page = address & !(PAGE - 1);
        let write = access == Access::Write;
        let mut may_be_large = write;
        loop {
            if !pressure::admit() {
                return Err(FaultError::OutOfMemory);
            }
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let (start, area) = vma::find(&state.areas, address).ok_or(FaultError::NotMapped)?;
            let allowed = match access {
                Access::Read => area.prot.any(),
                Access::Write => area.prot.write(),
                Access::Execute => area.prot.exec(),
            };
            if !allowed {
                return Err(FaultError::Forbidden);
            }
            let (prot, end) = (area.prot, area.end);
            let entry = state.table.get(page);
            if entry != 0 && entry & SHARED == 0 {
                // Another thread was faster, or rights came back to a page that was kept.
                let large = state.table.leaf(page) & LARGE_PAGE != 0;
                let size = if large { LARGE } else { PAGE };
                let first = page & !(size - 1);
                state.table.change(first, first + size, |_, entry| with_rights(entry, prot));
                return Ok(first + size);
            }
            match &area.backing {
                Backing::Anonymous if may_be_large && state.room_for_large(page).is_some() => {
                    drop(guard);
                    // Once: else it is a small one.
                    may_be_large = false;
                    if self.fill_large(page) {
                        return Ok((page & !(LARGE - 1)) + LARGE);
                    }
                }
                Backing::Anonymous => return state.fill_zeros(page, end, prot).map(|()| page + PAGE),
                Backing::Shared(pages, offset, file) => {
                    let index = (offset + (page - start)) / PAGE;
                    let writable = write || file.is_none();
                    let have = pages.present(index, write);
                    if let Some(Have::Frame(frame)) = have {
                        let entry = entry_for(frame, prot, true, writable);
                        return set(&mut state.table, page, entry).map(|()| page + PAGE);
                    }
                    let pages = Arc::clone(pages);
                    drop(guard);
                    match have {
                        Some(Have::Borrowed) => pages.own(index),
                        Some(Have::Moving) => {
                            sched::yield_now();
                            Ok(())
                        }
                        _ => pages.fill(index),
                    }
                    .map_err(|e| match e {
                        PageError::Bus => FaultError::Bus,
                        PageError::OutOfFrames => FaultError::OutOfMemory,
                    })?;
                }
                Backing::File(..) if entry != 0 => {
                    if write {
                        return self.own_page(state, page, prot).map(|()| page + PAGE);
                    }
                    let entry = entry_for(frame_of(entry), prot, true, false);
                    return set(&mut state.table, page, entry).map(|()| page + PAGE);
                }
                Backing::File(..) => {
                    let area = area.clone();
                    drop(guard);
                    if self.fill_private(start, &area, page)? {
                        return Ok(page + PAGE);
                    }
                }
            }
        }
    }

    /// Replaces a borrowed page by a copy of its own. All processors have forgotten the old one before the new one can be
    /// seen.
    fn own_page(&self, state: &mut State, page: u64, prot: Prot) -> Result<(), FaultError> {
        let entry = state.table.get(page);
        // SAFETY: the frame is part of a block that `borrowed` keeps; nobody writes to it.
        let old = unsafe { core::slice::from_raw_parts(phys::to_virt(frame_of(entry)), PAGE as usize) };
        let frame = copied(old)?;
        set(&mut state.table, page, entry & !PRESENT)?;
        tlb::shootdown(self.root(), page, page + PAGE);
        let entry = entry_for(frame, prot, false, true);
        set(&mut state.table, page, entry)?;
        state.borrowed.remove(&page);
        Ok(())
    }

    /// Brings in the pages of a file around `page`. `false` if the area has changed meanwhile.
    fn fill_private(&self, start: u64, area: &Vma, page: u64) -> Result<bool, FaultError> {
        let Backing::File(file, offset) = &area.backing else { return Ok(false) };
        let bus = |error: Errno| {
            crate::log!(Error, "reading a mapped file failed: {error}");
            FaultError::Bus
        };
        let at = offset + (page - start);
        if let Some((block_at, block)) = file.inode().read_shared(at).map_err(bus)? {
            let borrow = !area.prot.write() && can_be_mapped(&block, block_at);
            let cluster = if borrow { BORROW_CLUSTER } else { CLUSTER };
            if let Some(window) = window(start, area, page, block_at, &block, cluster) {
                let mut state = self.state.lock();
                return if state.is_same(start, area, page) {
                    state.install(&window, &block, area.prot, borrow).map(|()| true)
                } else {
                    Ok(false)
                };
            }
        }
        // The last page of a file, or one of several small blocks.
        let mut bytes = [0; PAGE as usize];
        let n = file.inode().read_at(at, &mut bytes).map_err(bus)?;
        let mut state = self.state.lock();
        if !state.is_same(start, area, page) {
            return Ok(false);
        }
        if n == 0 {
            return Err(FaultError::Bus);
        }
        if state.table.get(page) == 0 {
            let entry = entry_for(copied(&bytes)?, area.prot, false, true);
            set(&mut state.table, page, entry)?;
        }
        Ok(true)
    }

    /// Writes into the application's memory from outside, whatever the rights: to build stacks and clear tails.
    pub fn poke(&self, mut address: u64, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let (page, at) = (address & !(PAGE - 1), address % PAGE);
            let n = bytes.len().min((PAGE - at) as usize);
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let entry = state.table.get(page);
            if entry == 0 {
                drop(guard);
                self.fault(address, Access::Read).map_err(|_| Errno::EFAULT)?;
                continue;
            }
            if entry & SHARED != 0 {
                let prot = vma::find(&state.areas, page).map_or(Prot::default(), |(_, area)| area.prot);
                if !state.borrowed.contains_key(&page) {
                    return Err(Errno::EFAULT);
                }
                self.own_page(state, page, prot).map_err(|_| Errno::ENOMEM)?;
                continue;
            }
            // SAFETY: the frame belongs to this space, whose program does not run yet.
            unsafe { phys::to_virt(frame_of(entry) + at).copy_from_nonoverlapping(bytes.as_ptr(), n) };
            address += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

/// Whether a block's pages are pages of memory, too.
pub(super) fn can_be_mapped(block: &Bytes, block_at: u64) -> bool {
    let address = block.as_ptr() as u64;
    address.is_multiple_of(PAGE) && block_at.is_multiple_of(PAGE) && phys::is_direct(block.as_ptr())
}

//! An application's memory: areas, page tables, and demand paging between them.
//!
//! # Invariants
//! - Every entry of the page tables lies in an area; an area may lack entries, which are made by the first fault.
//! - A private page belongs to its entry alone. A shared page belongs to its [`Pages`], a borrowed one to a block that
//!   `borrowed` keeps; the entries of both say [`SHARED`].
//! - A frame is freed only after all processors have forgotten it.
//! - Large pages ([`super::large`]) hold private zeros and what was written over them. One may lie in several areas as long as they
//!   have the same rights: what is done to a range splits those that cross its ends.
//!
//! Lock order: `state` → [`Pages`]. `state` is not held while a file is read or written: a fault lets go, reads, and
//! looks whether the area is still the one it knew (its stamp).

pub use super::fault::{Access, FaultError};
use super::file_pages::Pages;
use super::page_table::{
    EXAMINED, LARGE, LARGE_PAGE, NO_EXECUTE, OutOfFrames, PRESENT, PageTable, SHARED, WRITABLE, frame_of,
    frames_in,
};
use super::usercopy::USER_END;
use super::vma::{self, Areas, Backing, Large, Prot, Vma};
use super::{frame, phys, pressure};
use crate::arch::tlb;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::AtomicU64;
use platform::sync::{Mutex, MutexGuard};
use vfs::Errno;
use vfs::mapped::{Mapped, Pages as _};

/// Bytes of a page.
pub const PAGE: u64 = phys::FRAME_SIZE;
/// Lowest address that may be mapped: null pointers fault.
pub const LOWEST: u64 = 0x1_0000;
/// Below this, free ranges are looked for.
const MMAP_TOP: u64 = 0x7fff_f7ff_f000;

/// What an address space consists of.
pub(super) struct State {
    // Dropped before what its entries point to.
    pub(super) table: PageTable,
    pub(super) areas: Areas,
    /// Blocks of the file system's cache that pages point into: see [`super::fault`].
    pub(super) borrowed: BTreeMap<u64, Bytes>,
    /// `PR_SET_THP_DISABLE`.
    pub(super) only_small: bool,
    brk_start: u64,
    brk: u64,
    next_stamp: u64,
}

/// The memory of one application.
pub struct AddressSpace {
    me: Weak<AddressSpace>,
    root: u64,
    pub(super) state: Mutex<State>,
    /// Page faults served, for `/proc`.
    pub faults: AtomicU64,
}

/// The entry of a page. `writable`: as far as `prot` allows.
pub(super) fn entry_for(frame: u64, prot: Prot, shared: bool, writable: bool) -> u64 {
    let mut entry = frame;
    entry |= if prot.any() { PRESENT } else { 0 };
    entry |= if writable && prot.write() { WRITABLE } else { 0 };
    entry |= if prot.exec() { 0 } else { NO_EXECUTE };
    entry | if shared { SHARED } else { 0 }
}

/// The entry of a private page, small or large, with the rights of `prot`.
pub(super) fn with_rights(entry: u64, prot: Prot) -> u64 {
    entry_for(frame_of(entry), prot, false, true) | entry & (LARGE_PAGE | EXAMINED)
}

/// What a new area holds.
pub struct Content {
    prot: Prot,
    backing: Backing,
    name: &'static str,
    large: Large,
}

impl Content {
    /// An area without a name, in pages of any size.
    pub fn new(prot: Prot, backing: Backing) -> Self {
        Content { prot, backing, name: "", large: Large::Unsaid }
    }

    /// What `/proc/self/maps` calls it.
    pub fn named(self, name: &'static str) -> Self {
        Content { name, ..self }
    }

    /// Never in large pages.
    pub fn in_small_pages(self) -> Self {
        Content { large: Large::Never, ..self }
    }
}

fn range(start: u64, len: u64) -> Result<(u64, u64), Errno> {
    if !start.is_multiple_of(PAGE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(len).and_then(|e| e.checked_next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    if end > USER_END { Err(Errno::EINVAL) } else { Ok((start, end)) }
}

/// What an unmapping left to be done without the lock.
#[derive(Default)]
pub(super) struct Removed {
    /// The first of some frames in a row, and how many.
    frames: Vec<(u64, u64)>,
    borrowed: Vec<Bytes>,
    shared: Vec<(Arc<Pages>, u64, u64)>,
}

impl Removed {
    /// Frames that an entry owned.
    pub(super) fn add_frames(&mut self, entry: u64) {
        let (first, count) = (frame_of(entry), frames_in(entry));
        match self.frames.last_mut() {
            Some((start, len)) if *start + *len * PAGE == first => *len += count,
            _ => self.frames.push((first, count)),
        }
    }
}

impl State {
    fn stamp(&mut self) -> u64 {
        self.next_stamp += 1;
        self.next_stamp
    }

    fn remove(&mut self, start: u64, end: u64) -> Removed {
        vma::split(&mut self.areas, start);
        vma::split(&mut self.areas, end);
        let keys: Vec<u64> = self.areas.range(start..end).map(|(k, _)| *k).collect();
        let mut removed = Removed::default();
        for key in keys {
            let Some(area) = self.areas.remove(&key) else { continue };
            self.take_pages(key, area.end, &mut removed);
            if let Backing::Shared(pages, offset, _) = area.backing {
                removed.shared.push((pages, offset, offset + (area.end - key)));
            }
        }
        removed
    }

    /// Empties the entries of a range.
    fn take_pages(&mut self, start: u64, end: u64, removed: &mut Removed) {
        let borrowed = &mut self.borrowed;
        self.table.change(start, end, |virt, entry| {
            if entry & SHARED == 0 {
                removed.add_frames(entry);
            } else {
                removed.borrowed.extend(borrowed.remove(&virt));
            }
            0
        });
    }

    /// Whether the area around `page` is still the one that a fault saw.
    pub(super) fn is_same(&self, start: u64, area: &Vma, page: u64) -> bool {
        vma::find(&self.areas, page).is_some_and(|(s, a)| s == start && a.stamp == area.stamp)
    }

    fn insert(&mut self, start: u64, end: u64, content: Content) {
        let Content { prot, backing, name, large } = content;
        let stamp = self.stamp();
        self.areas.insert(start, Vma { end, prot, backing, name, large, stamp });
        vma::merge(&mut self.areas, start);
    }
}

impl AddressSpace {
    /// An empty one.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let table = PageTable::new().map_err(|OutOfFrames| Errno::ENOMEM)?;
        let space = Arc::new_cyclic(|me| AddressSpace {
            me: Weak::clone(me),
            root: table.root(),
            state: Mutex::new(State {
                table,
                areas: BTreeMap::new(),
                borrowed: BTreeMap::new(),
                only_small: false,
                brk_start: 0,
                brk: 0,
                next_stamp: 0,
            }),
            faults: AtomicU64::new(0),
        });
        let mut spaces = SPACES.lock();
        spaces.retain(|space| space.strong_count() > 0);
        spaces.push(Arc::downgrade(&space));
        drop(spaces);
        Ok(space)
    }

    /// Physical address of the top page table.
    pub fn root(&self) -> u64 {
        self.root
    }

    pub(super) fn finish(&self, removed: Removed, start: u64, end: u64) {
        if !removed.frames.is_empty() || !removed.shared.is_empty() || !removed.borrowed.is_empty() {
            tlb::shootdown(self.root, start, end);
        }
        for (first, count) in removed.frames {
            frame::free_contiguous(first, count as usize);
        }
        drop(removed.borrowed);
        if removed.shared.is_empty() {
            return;
        }
        for (pages, from, to) in &removed.shared {
            if let Err(error) = pages.write_back(*from, *to) {
                crate::log!(Error, "writing back a shared mapping failed: {error}");
            }
        }
        drop(removed.shared);
        Mapped::forget();
    }

    /// Maps `len` bytes at `hint`, or where there is room; with `fixed` exactly there, replacing what was there.
    /// Gives the address.
    pub fn map(&self, hint: u64, len: u64, fixed: bool, content: Content) -> Result<u64, Errno> {
        let len = len.checked_next_multiple_of(PAGE).filter(|l| *l > 0).ok_or(Errno::EINVAL)?;
        let mut removed = Removed::default();
        let mut state = self.state.lock();
        let start = if fixed {
            let (start, end) = range(hint, len).map_err(|_| Errno::EINVAL)?;
            if start < LOWEST {
                return Err(Errno::EPERM);
            }
            removed = state.remove(start, end);
            start
        } else {
            let hint = hint & !(PAGE - 1);
            let end = hint.saturating_add(len);
            if hint >= LOWEST && end <= USER_END && vma::is_free(&state.areas, hint, end) {
                hint
            } else {
                // What may consist of large pages alone begins where one does, as on Linux.
                let whole = matches!(content.backing, Backing::Anonymous) && len.is_multiple_of(LARGE);
                let align = if whole { LARGE } else { PAGE };
                vma::find_free(&state.areas, LOWEST, MMAP_TOP, len, align, 0).ok_or(Errno::ENOMEM)?
            }
        };
        if let Backing::Shared(pages, _, _) = &content.backing {
            pages.add_space(&self.me);
        }
        state.insert(start, start + len, content);
        drop(state);
        self.finish(removed, start, start + len);
        Ok(start)
    }

    /// Whether nothing is mapped in a range.
    pub fn is_free(&self, start: u64, len: u64) -> bool {
        vma::is_free(&self.state.lock().areas, start, start.saturating_add(len))
    }

    /// Unmaps a range; what was not mapped does not matter.
    pub fn unmap(&self, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = range(start, len)?;
        let removed = self.state.lock().remove(start, end);
        self.finish(removed, start, end);
        Ok(())
    }

    /// Unmaps everything, writing shared mappings back: at the end of a program.
    pub fn clear(&self) {
        let removed = self.state.lock().remove(0, USER_END);
        self.finish(removed, 0, USER_END);
    }

    /// `mprotect`. [`Errno::ENOMEM`] if a part is not mapped.
    pub fn protect(&self, start: u64, len: u64, prot: Prot) -> Result<(), Errno> {
        if len == 0 {
            return if start.is_multiple_of(PAGE) { Ok(()) } else { Err(Errno::EINVAL) };
        }
        let (start, end) =
            range(start, len).map_err(|e| if start.is_multiple_of(PAGE) { Errno::ENOMEM } else { e })?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        vma::split(&mut state.areas, start);
        vma::split(&mut state.areas, end);
        let mut at = start;
        for (key, area) in state.areas.range(start..end) {
            if *key != at {
                return Err(Errno::ENOMEM);
            }
            if let Backing::Shared(_, _, Some(file)) = &area.backing
                && prot.write()
                && !file.flags().writable()
            {
                return Err(Errno::EACCES);
            }
            at = area.end;
        }
        if at < end {
            return Err(Errno::ENOMEM);
        }
        let keys: Vec<u64> = state.areas.range(start..end).map(|(k, _)| *k).collect();
        let mut changed = false;
        for key in keys {
            state.next_stamp += 1;
            let stamp = state.next_stamp;
            let Some(area) = state.areas.get_mut(&key) else { continue };
            area.prot = prot;
            area.stamp = stamp;
            let end = area.end;
            state.table.change(key, end, |_, entry| {
                let new = if entry & SHARED != 0 {
                    entry_for(frame_of(entry), prot, true, entry & WRITABLE != 0)
                } else {
                    with_rights(entry, prot)
                };
                changed |= new != entry;
                new
            });
            vma::merge(&mut state.areas, key);
        }
        drop(guard);
        if changed {
            tlb::shootdown(self.root, start, end);
        }
        Ok(())
    }

    /// `mremap`: the new address.
    pub fn remap(&self, old: u64, old_len: u64, new_len: u64, to: Remap) -> Result<u64, Errno> {
        let (start, old_end) = range(old, old_len)?;
        let new_len = new_len.checked_next_multiple_of(PAGE).filter(|l| *l > 0).ok_or(Errno::EINVAL)?;
        let old_len = old_end - start;
        if new_len < old_len && !matches!(to, Remap::Fixed(_)) {
            self.unmap(start + new_len, old_len - new_len)?;
            return Ok(start);
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (area_start, area) = vma::find(&state.areas, start).ok_or(Errno::EFAULT)?;
        if area.end < old_end {
            return Err(Errno::EFAULT);
        }
        let area = Vma { backing: area.backing.advanced(start - area_start), ..area.clone() };
        let new_end = start.checked_add(new_len).ok_or(Errno::ENOMEM)?;
        if !matches!(to, Remap::Fixed(_)) {
            if new_len == old_len {
                return Ok(start);
            }
            if area.end == old_end && new_end <= USER_END && vma::is_free(&state.areas, old_end, new_end) {
                if let Some(area) = state.areas.get_mut(&area_start) {
                    area.end = new_end;
                }
                return Ok(start);
            }
        }
        let (target, removed) = match to {
            Remap::InPlace => return Err(Errno::ENOMEM),
            // Where large pages can stay whole.
            Remap::MayMove => (
                vma::find_free(&state.areas, LOWEST, MMAP_TOP, new_len, LARGE, start % LARGE)
                    .ok_or(Errno::ENOMEM)?,
                Removed::default(),
            ),
            Remap::Fixed(target) => {
                let (target, end) = range(target, new_len)?;
                if target < old_end && start < end || target < LOWEST {
                    return Err(Errno::EINVAL);
                }
                (target, state.remove(target, end))
            }
        };
        let kept = old_len.min(new_len);
        let moved = state.table.transfer(start, target, kept);
        let mut rest = Removed::default();
        if moved.is_ok() {
            let blocks: Vec<u64> = state.borrowed.range(start..start + kept).map(|(page, _)| *page).collect();
            for page in blocks {
                if let Some(block) = state.borrowed.remove(&page) {
                    state.borrowed.insert(page - start + target, block);
                }
            }
            // The shared pages live on in their new place: nothing to write back for them.
            rest = Removed { shared: Vec::new(), ..state.remove(start, old_end) };
            let Vma { prot, backing, name, large, .. } = area;
            state.insert(target, target + new_len, Content { prot, backing, name, large });
        }
        drop(guard);
        tlb::shootdown(self.root, start, old_end);
        self.finish(rest, start, old_end);
        self.finish(removed, target, target + new_len);
        moved.map(|()| target).map_err(|OutOfFrames| Errno::ENOMEM)
    }

    /// `madvise(MADV_DONTNEED)`: private pages read as at first again.
    pub fn discard(&self, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = range(start, len)?;
        let mut removed = Removed::default();
        self.state.lock().take_pages(start, end, &mut removed);
        tlb::shootdown(self.root, start, end);
        self.finish(removed, start, end);
        Ok(())
    }

    /// Whether all of a range is mapped.
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        let state = self.state.lock();
        let mut at = start;
        while at < end {
            match vma::find(&state.areas, at) {
                Some((_, area)) => at = area.end,
                None => return false,
            }
        }
        true
    }

    /// Brings in the pages of a range, as far as its file and the memory reach (`MAP_POPULATE`).
    pub fn populate(&self, start: u64, len: u64, prot: Prot) {
        if !prot.any() {
            return;
        }
        let access = if prot.write() { Access::Write } else { Access::Read };
        let (mut page, end) = (start, start.saturating_add(len));
        while page < end && pressure::plenty() {
            match self.fault_in(page, access) {
                Ok(behind) => page = behind,
                Err(_) => return,
            }
        }
    }

    /// Brings in all pages of a range (`MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`).
    pub fn fault_in_all(&self, start: u64, end: u64, access: Access) -> Result<(), Errno> {
        let mut page = start;
        while page < end {
            page = self.fault_in(page, access).map_err(|error| match error {
                FaultError::Forbidden => Errno::EINVAL,
                FaultError::Bus => Errno::EFAULT,
                FaultError::NotMapped | FaultError::OutOfMemory => Errno::ENOMEM,
            })?;
        }
        Ok(())
    }

    /// `msync`: writes what was changed through shared mappings in a range to the files; durable if `sync`.
    pub fn sync(&self, start: u64, len: u64, sync: bool) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let (start, end) = range(start, len).map_err(|_| Errno::ENOMEM)?;
        let mut work = Vec::new();
        {
            let state = self.state.lock();
            let mut covered = start;
            let first = vma::find(&state.areas, start).map_or(start, |(s, _)| s);
            for (key, area) in state.areas.range(first..end) {
                if *key > covered {
                    return Err(Errno::ENOMEM);
                }
                covered = area.end;
                if let Backing::Shared(pages, offset, Some(file)) = &area.backing {
                    let from = offset + (start.max(*key) - key);
                    let to = offset + (end.min(area.end) - key);
                    work.push((Arc::clone(pages), from, to, Arc::clone(file)));
                }
            }
            if covered < end {
                return Err(Errno::ENOMEM);
            }
        }
        for (pages, from, to, file) in work {
            pages.write_back(from, to)?;
            if sync {
                file.inode().fsync()?;
            }
        }
        Ok(())
    }

    /// Sets where the heap begins: behind the program.
    pub fn set_brk_start(&self, start: u64) {
        let mut state = self.state.lock();
        state.brk_start = start;
        state.brk = start;
    }

    /// `brk`: the new end of the heap, or the old one if it cannot be moved there.
    pub fn brk(&self, to: u64) -> u64 {
        let mut state = self.state.lock();
        let old = state.brk;
        if to < state.brk_start || to > USER_END {
            return old;
        }
        let (old_end, new_end) = (old.next_multiple_of(PAGE), to.next_multiple_of(PAGE));
        let mut removed = Removed::default();
        if new_end > old_end {
            if !vma::is_free(&state.areas, old_end, new_end) {
                return old;
            }
            let content = Content::new(Prot(Prot::READ | Prot::WRITE), Backing::Anonymous).named("[heap]");
            state.insert(old_end, new_end, content);
        } else if new_end < old_end {
            removed = state.remove(new_end, old_end);
        }
        state.brk = to;
        drop(state);
        self.finish(removed, new_end, old_end.max(new_end));
        to
    }

    /// Write-protects the pages `first..last` of `pages`, so that the next write is noticed.
    pub fn protect_pages(&self, pages: &Pages, first: u64, last: u64) {
        self.change_pages(pages, first, last, |entry| entry & !WRITABLE);
    }

    /// Forgets the pages `first..last` of `pages`.
    pub fn drop_pages(&self, pages: &Pages, first: u64, last: u64) {
        self.change_pages(pages, first, last, |_| 0);
    }

    fn change_pages(&self, wanted: &Pages, first: u64, last: u64, change: impl Fn(u64) -> u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut flush: Option<(u64, u64)> = None;
        for (start, area) in &state.areas {
            let Backing::Shared(pages, offset, _) = &area.backing else { continue };
            if pages.id != wanted.id {
                continue;
            }
            let page_start = offset / PAGE;
            let pages_len = (area.end - start) / PAGE;
            let from = first.max(page_start) - page_start;
            let to = last.saturating_sub(page_start).min(pages_len);
            if from >= to {
                continue;
            }
            let (from, to) = (start + from * PAGE, start + to * PAGE);
            let mut any = false;
            state.table.change(from, to, |_, entry| {
                let new = if entry & SHARED != 0 { change(entry) } else { entry };
                any |= new != entry;
                new
            });
            if any {
                flush = Some(flush.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
            }
        }
        drop(guard);
        if let Some((from, to)) = flush {
            tlb::shootdown(self.root, from, to);
        }
    }

    /// Lets go of all borrowed pages; they are borrowed again when they are touched. Whether there were any.
    fn give_back(&self, mut state: MutexGuard<'_, State>) -> bool {
        let mut borrowed = core::mem::take(&mut state.borrowed);
        borrowed.keys().for_each(|page| state.table.change(*page, page + PAGE, |_, _| 0));
        drop(state);
        if borrowed.is_empty() {
            return false;
        }
        tlb::shootdown(self.root, 0, USER_END);
        borrowed.clear();
        true
    }

    /// Identity of a futex word: the same in all address spaces that share it.
    pub fn futex_key(&self, address: u64) -> (u64, u64) {
        let state = self.state.lock();
        match vma::find(&state.areas, address) {
            Some((start, Vma { backing: Backing::Shared(pages, offset, _), .. })) => {
                (pages.id << 1 | 1, offset + (address - start))
            }
            _ => (self.root, address),
        }
    }

    /// The shared pages whose first page is mapped at `address`, if that is so.
    pub fn shared_at(&self, address: u64) -> Option<Arc<Pages>> {
        match self.state.lock().areas.get(&address).map(|area| &area.backing) {
            Some(Backing::Shared(pages, 0, _)) => Some(Arc::clone(pages)),
            _ => None,
        }
    }
}

static SPACES: Mutex<Vec<Weak<AddressSpace>>> = Mutex::new(Vec::new());

/// All of them.
pub(super) fn all() -> Vec<Arc<AddressSpace>> {
    SPACES.lock().iter().filter_map(Weak::upgrade).collect()
}

/// Lets go of the borrowed pages of all address spaces, so that the cache's blocks can be freed.
pub fn release_borrowed() {
    for space in &all() {
        space.give_back(space.state.lock());
    }
}

/// As [`release_borrowed`], for an allocation in need: never waits for a lock, and allocates nothing. Whether there were
/// any.
pub fn try_release_borrowed() -> bool {
    let Some(spaces) = SPACES.try_lock() else { return false };
    let mut any = false;
    for space in spaces.iter().filter_map(Weak::upgrade) {
        any |= space.state.try_lock().is_some_and(|state| space.give_back(state));
    }
    any
}

/// Where `mremap` may put the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remap {
    /// Only where it is.
    InPlace,
    /// Elsewhere if need be.
    MayMove,
    /// At this address.
    Fixed(u64),
}

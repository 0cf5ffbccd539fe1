//! An application's memory: areas, page tables, and demand paging between them.
//!
//! # Invariants
//! - Every entry of the page tables lies in an area; an area may lack entries, which are made by the first fault.
//! - A private page belongs to its entry alone. A shared page belongs to its [`Pages`].
//! - A frame is freed only after all processors have forgotten it.
//!
//! Lock order: `state` → [`Pages`]. `state` is not held while a file is read or written: a fault lets go, reads, and
//! looks whether the area is still the one it knew (its stamp).

use super::file_pages::{PageError, Pages};
use super::page_table::{self, NO_EXECUTE, OutOfFrames, PRESENT, PageTable, SHARED, WRITABLE, frame_of};
use super::usercopy::USER_END;
use super::vma::{self, Areas, Backing, Prot, Vma};
use super::{frame, phys};
use crate::arch::tlb;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::sync::Mutex;
use vfs::Errno;
use vfs::mapped::{Mapped, Pages as _};

/// Bytes of a page.
pub const PAGE: u64 = phys::FRAME_SIZE;
/// Lowest address that may be mapped: null pointers fault.
pub const LOWEST: u64 = 0x1_0000;
/// Below this, free ranges are looked for.
const MMAP_TOP: u64 = 0x7fff_f7ff_f000;
/// How much of a file one fault brings in, in pages.
const CLUSTER: u64 = 16;

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

struct State {
    table: PageTable,
    areas: Areas,
    brk_start: u64,
    brk: u64,
    next_stamp: u64,
}

/// The memory of one application.
pub struct AddressSpace {
    me: Weak<AddressSpace>,
    root: u64,
    state: Mutex<State>,
    /// Page faults served, for `/proc`.
    pub faults: AtomicU64,
}

fn entry_for(frame: u64, prot: Prot, shared: bool, writable: bool) -> u64 {
    let mut entry = frame;
    entry |= if prot.any() { PRESENT } else { 0 };
    entry |= if writable && prot.write() { WRITABLE } else { 0 };
    entry |= if prot.exec() { 0 } else { NO_EXECUTE };
    entry | if shared { SHARED } else { 0 }
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
struct Removed {
    frames: Vec<u64>,
    shared: Vec<(Arc<Pages>, u64, u64)>,
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
            self.table.for_each(key, area.end, |_, entry| {
                if entry & SHARED == 0 {
                    removed.frames.push(frame_of(entry));
                }
                0
            });
            if let Backing::Shared(pages, offset, _) = area.backing {
                removed.shared.push((pages, offset, offset + (area.end - key)));
            }
        }
        removed
    }

    fn insert(&mut self, start: u64, end: u64, prot: Prot, backing: Backing, name: &'static str) {
        let stamp = self.stamp();
        self.areas.insert(start, Vma { end, prot, backing, name, stamp });
        vma::merge(&mut self.areas, start);
    }
}

impl AddressSpace {
    /// An empty one.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let table = PageTable::new().map_err(|OutOfFrames| Errno::ENOMEM)?;
        Ok(Arc::new_cyclic(|me| AddressSpace {
            me: Weak::clone(me),
            root: table.root(),
            state: Mutex::new(State { table, areas: BTreeMap::new(), brk_start: 0, brk: 0, next_stamp: 0 }),
            faults: AtomicU64::new(0),
        }))
    }

    /// Physical address of the top page table.
    pub fn root(&self) -> u64 {
        self.root
    }

    fn finish(&self, removed: Removed, start: u64, end: u64) {
        if !removed.frames.is_empty() || !removed.shared.is_empty() {
            tlb::shootdown(self.root, start, end);
        }
        for frame in removed.frames {
            frame::free(frame);
        }
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
    pub fn map(
        &self,
        hint: u64,
        len: u64,
        fixed: bool,
        prot: Prot,
        backing: Backing,
        name: &'static str,
    ) -> Result<u64, Errno> {
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
                vma::find_free(&state.areas, LOWEST, MMAP_TOP, len).ok_or(Errno::ENOMEM)?
            }
        };
        if let Backing::Shared(pages, _, _) = &backing {
            pages.add_space(&self.me);
        }
        state.insert(start, start + len, prot, backing, name);
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
            state.table.for_each(key, end, |_, entry| {
                let shared = entry & SHARED != 0;
                let new = entry_for(frame_of(entry), prot, shared, !shared || entry & WRITABLE != 0);
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
            Remap::MayMove => (
                vma::find_free(&state.areas, LOWEST, MMAP_TOP, new_len).ok_or(Errno::ENOMEM)?,
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
        let mut moved = Vec::new();
        state.table.for_each(start, start + old_len.min(new_len), |virt, entry| {
            moved.push((virt - start + target, entry));
            0
        });
        let rest = state.remove(start, old_end);
        let rest_frames = rest.frames;
        state.insert(target, target + new_len, area.prot, area.backing, area.name);
        let mut result = Ok(target);
        for (virt, entry) in moved {
            if state.table.set(virt, entry).is_err() {
                result = Err(Errno::ENOMEM);
            }
        }
        drop(guard);
        // The shared pages live on in their new place: nothing to write back for them.
        tlb::shootdown(self.root, start, old_end);
        self.finish(Removed { frames: rest_frames, shared: Vec::new() }, start, old_end);
        self.finish(removed, target, target + new_len);
        result
    }

    /// `madvise(MADV_DONTNEED)`: private pages read as at first again.
    pub fn discard(&self, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = range(start, len)?;
        let mut removed = Removed::default();
        self.state.lock().table.for_each(start, end, |_, entry| {
            if entry & SHARED == 0 {
                removed.frames.push(frame_of(entry));
            }
            0
        });
        tlb::shootdown(self.root, start, end);
        self.finish(removed, start, end);
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
            let prot = Prot(Prot::READ | Prot::WRITE);
            state.insert(old_end, new_end, prot, Backing::Anonymous, "[heap]");
        } else if new_end < old_end {
            removed = state.remove(new_end, old_end);
        }
        state.brk = to;
        drop(state);
        self.finish(removed, new_end, old_end.max(new_end));
        to
    }

    /// Serves a page fault, or says why it cannot be.
    pub fn fault(&self, address: u64, access: Access) -> Result<(), FaultError> {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let page = address & !(PAGE - 1);
        loop {
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
            let prot = area.prot;
            let entry = state.table.get(page);
            if entry != 0 && entry & SHARED == 0 {
                // Another thread was faster, or rights came back to a page that was kept.
                return set(&mut state.table, page, entry_for(frame_of(entry), prot, false, true));
            }
            let write = access == Access::Write;
            match &area.backing {
                Backing::Anonymous => {
                    let frame = frame::alloc_zeroed().ok_or(FaultError::OutOfMemory)?;
                    return set(&mut state.table, page, entry_for(frame, prot, false, true));
                }
                Backing::Shared(pages, offset, file) => {
                    let index = (offset + (page - start)) / PAGE;
                    let writable = write || file.is_none();
                    if let Some(frame) = pages.present(index, write) {
                        return set(&mut state.table, page, entry_for(frame, prot, true, writable));
                    }
                    let pages = Arc::clone(pages);
                    drop(guard);
                    pages.fill(index).map_err(|e| match e {
                        PageError::Bus => FaultError::Bus,
                        PageError::OutOfFrames => FaultError::OutOfMemory,
                    })?;
                }
                Backing::File(..) => {
                    let (area, stamp) = (area.clone(), area.stamp);
                    drop(guard);
                    if self.fill_private(start, &area, stamp, page)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads the pages around `page` from the file and installs those that are still missing. `false` if the area has
    /// changed meanwhile.
    fn fill_private(&self, start: u64, area: &Vma, stamp: u64, page: u64) -> Result<bool, FaultError> {
        let Backing::File(file, offset) = &area.backing else { return Ok(false) };
        let cluster = CLUSTER * PAGE;
        let from = (page & !(cluster - 1)).max(start);
        let to = ((page & !(cluster - 1)) + cluster).min(area.end);
        let mut buffer = alloc::vec![0u8; (to - from) as usize];
        let n = file.inode().read_at(offset + (from - start), &mut buffer).map_err(|error| {
            crate::log!(Error, "reading a mapped file failed: {error}");
            FaultError::Bus
        })?;
        let mut state = self.state.lock();
        let same = vma::find(&state.areas, page).is_some_and(|(s, a)| s == start && a.stamp == stamp);
        if !same {
            return Ok(false);
        }
        if (page - from) as usize >= n {
            return Err(FaultError::Bus);
        }
        for (i, bytes) in buffer[..n.next_multiple_of(PAGE as usize).min((to - from) as usize)]
            .chunks(PAGE as usize)
            .enumerate()
        {
            let virt = from + i as u64 * PAGE;
            if state.table.get(virt) != 0 {
                continue;
            }
            let Some(frame) = frame::alloc() else {
                // What lies around is a favour; only the page itself must be there.
                if virt == page {
                    return Err(FaultError::OutOfMemory);
                } else {
                    continue;
                };
            };
            // SAFETY: a fresh frame that nobody else knows; `bytes` is a whole page.
            unsafe { phys::to_virt(frame).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            set(&mut state.table, virt, entry_for(frame, area.prot, false, true))?;
        }
        Ok(true)
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
            state.table.for_each(from, to, |_, entry| {
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

    /// Writes into the application's memory from outside, whatever the rights: to build stacks and clear tails.
    pub fn poke(&self, mut address: u64, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let at = address % PAGE;
            let n = bytes.len().min((PAGE - at) as usize);
            let entry = self.state.lock().table.get(address & !(PAGE - 1));
            if entry == 0 {
                self.fault(address, Access::Read).map_err(|_| Errno::EFAULT)?;
                continue;
            }
            // SAFETY: the frame belongs to this space, whose program does not run yet.
            unsafe { phys::to_virt(frame_of(entry) + at).copy_from_nonoverlapping(bytes.as_ptr(), n) };
            address += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
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

    /// Bytes mapped, and bytes present in private or shared pages.
    pub fn size(&self) -> (u64, u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut present = 0;
        let mut mapped = 0;
        for (start, area) in &state.areas {
            mapped += area.end - start;
            state.table.for_each(*start, area.end, |_, entry| {
                present += PAGE;
                entry
            });
        }
        (mapped, present)
    }

    /// `/proc/self/maps`.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let state = self.state.lock();
        for (start, area) in &state.areas {
            let shared = matches!(area.backing, Backing::Shared(..));
            let flag = |bit, c| if area.prot.0 & bit != 0 { c } else { '-' };
            let (r, w, x) = (flag(1, 'r'), flag(2, 'w'), flag(4, 'x'));
            let s = if shared { 's' } else { 'p' };
            let (ino, name) = match area.backing.file() {
                Some(file) => (file.inode().ino(), String::from_utf8_lossy(&file.place.path()).into_owned()),
                None => (0, area.name.into()),
            };
            let offset = area.backing.offset();
            let dev = if ino == 0 { "00:00" } else { "00:01" };
            let line = alloc::format!("{start:08x}-{:08x} {r}{w}{x}{s} {offset:08x} {dev} {ino}", area.end);
            let _ =
                if name.is_empty() { writeln!(text, "{line} ") } else { writeln!(text, "{line:<72} {name}") };
        }
        text
    }

    /// The area that an address lies in: its start, and what it maps.
    pub fn locate(&self, address: u64) -> Option<(u64, String)> {
        let state = self.state.lock();
        let (start, area) = vma::find(&state.areas, address)?;
        let name = match area.backing.file() {
            Some(file) => String::from_utf8_lossy(&file.place.path()).into_owned(),
            None => area.name.into(),
        };
        Some((start - area.backing.offset().min(start), name))
    }
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

fn set(table: &mut PageTable, page: u64, entry: u64) -> Result<(), FaultError> {
    table.set(page, entry).map_err(|page_table::OutOfFrames| {
        if entry & SHARED == 0 {
            frame::free(frame_of(entry));
        }
        FaultError::OutOfMemory
    })
}

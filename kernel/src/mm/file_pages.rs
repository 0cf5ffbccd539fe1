//! The pages behind shared mappings: of a file, or of nothing (`MAP_SHARED | MAP_ANONYMOUS`).
//!
//! # Coherence with read and write
//! A file's content lives in its file system; this holds the frames that are mapped. [`vfs::mapped`] connects the
//! two: what is written is copied into frames that are present, what is read is overlaid with changed frames, `fsync`
//! writes changed frames back. A page that was not written yet is borrowed: its frame is part of the file system's own
//! cached block, so that it costs nothing; writing to it, or to the file, ends that. A frame counts as changed from the first write fault on, until it is written back
//! and its mappings are write-protected again.
//!
//! Lock order: address space → `state`. Neither is held while the file is read or written.

use super::address_space::AddressSpace;
use super::fault::can_be_mapped;
use super::page_table::OutOfFrames;
use super::{frame, phys};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::sync::Mutex;
use vfs::Errno;
use vfs::inode::Inode;
use vfs::types::Sync;

const PAGE: u64 = phys::FRAME_SIZE;

/// Whose the frame of a page is.
enum Owner {
    /// Ours.
    Us,
    /// Part of a block of the file system's cache: never changed.
    Cache(Bytes),
    /// As before, and a copy of our own is about to take its place.
    Moving(#[expect(dead_code, reason = "it keeps the block alive")] Bytes),
}

struct Page {
    frame: u64,
    dirty: bool,
    owner: Owner,
}

/// Frames that shared objects own.
static OURS: AtomicU64 = AtomicU64::new(0);

/// Frames that shared objects own: of nothing, or changed copies of files.
pub fn owned_pages() -> u64 {
    OURS.load(Ordering::Relaxed)
}

impl Page {
    /// A page with a frame of its own.
    fn ours(frame: u64) -> Self {
        OURS.fetch_add(1, Ordering::Relaxed);
        Page { frame, dirty: false, owner: Owner::Us }
    }

    fn is_ours(&self) -> bool {
        matches!(self.owner, Owner::Us)
    }

    /// Gives the frame back. Nobody may be able to reach it any more.
    fn free(self) {
        if self.is_ours() {
            OURS.fetch_sub(1, Ordering::Relaxed);
            frame::free(self.frame);
        }
    }
}

/// How a page is present.
pub enum Have {
    /// With a frame that may be mapped as was asked for.
    Frame(u64),
    /// Borrowed from the cache: call [`Pages::own`] before it is written.
    Borrowed,
    /// Another thread is making it our own: ask again.
    Moving,
}

struct State {
    pages: BTreeMap<u64, Page>,
    spaces: Vec<Weak<AddressSpace>>,
    /// Changes with every write to the file, so that a page that was read before is not installed after it.
    version: u64,
}

/// The frames of one shared object.
pub struct Pages {
    file: Option<Arc<dyn Inode>>,
    /// Identity, for futexes and `/proc/self/maps`.
    pub id: u64,
    state: Mutex<State>,
}

/// Why a page cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// It lies behind the end of the file, or the file cannot be read: SIGBUS.
    Bus,
    /// No memory.
    OutOfFrames,
}

impl From<OutOfFrames> for PageError {
    fn from(_: OutOfFrames) -> Self {
        PageError::OutOfFrames
    }
}

/// A frame's bytes.
pub fn bytes_of(frame: u64) -> *mut [u8] {
    core::ptr::slice_from_raw_parts_mut(phys::to_virt(frame), PAGE as usize)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Pages {
    /// The pages of `file`, or zeros.
    pub fn new(file: Option<Arc<dyn Inode>>) -> Arc<Self> {
        let state = State { pages: BTreeMap::new(), spaces: Vec::new(), version: 0 };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(Pages { file, id, state: Mutex::new(state) })
    }

    /// Zeros that belong to the kernel, too: so many bytes in a row, and where the kernel sees them. They stay for as long
    /// as the object.
    pub fn contiguous(len: u64) -> Result<(Arc<Self>, *mut u8), OutOfFrames> {
        let count = len.div_ceil(PAGE);
        let first = frame::alloc_contiguous(count as usize, 1).ok_or(OutOfFrames)?;
        let at = phys::to_virt(first);
        // SAFETY: frames of ours.
        unsafe { at.write_bytes(0, (count * PAGE) as usize) };
        let pages = Self::new(None);
        pages.state.lock().pages = (0..count).map(|i| (i, Page::ours(first + i * PAGE))).collect();
        Ok((pages, at))
    }

    /// Notes that `space` maps some of them.
    pub fn add_space(&self, space: &Weak<AddressSpace>) {
        let mut state = self.state.lock();
        state.spaces.retain(|s| s.strong_count() > 0);
        if !state.spaces.iter().any(|s| s.ptr_eq(space)) {
            state.spaces.push(Weak::clone(space));
        }
    }

    /// Page `index`, if it is present, to be written if `write`: then it counts as changed from now on.
    pub fn present(&self, index: u64, write: bool) -> Option<Have> {
        let mut state = self.state.lock();
        let page = state.pages.get_mut(&index)?;
        Some(match page.owner {
            Owner::Moving(_) => Have::Moving,
            Owner::Cache(_) if write => Have::Borrowed,
            _ => {
                page.dirty |= write;
                Have::Frame(page.frame)
            }
        })
    }

    /// Replaces a borrowed page by a copy of our own. Nobody sees the copy before all have forgotten the original. Not with
    /// a lock held.
    pub fn own(&self, index: u64) -> Result<(), PageError> {
        let new = frame::alloc().ok_or(PageError::OutOfFrames)?;
        {
            let mut state = self.state.lock();
            let Some(page) = state.pages.get_mut(&index) else {
                frame::free(new);
                return Ok(());
            };
            match core::mem::replace(&mut page.owner, Owner::Us) {
                Owner::Cache(block) => {
                    // SAFETY: a fresh frame; the block's page is alive and never changes.
                    unsafe {
                        phys::to_virt(new).copy_from_nonoverlapping(phys::to_virt(page.frame), PAGE as usize);
                    }
                    page.owner = Owner::Moving(block);
                }
                other => {
                    page.owner = other;
                    frame::free(new);
                    return Ok(());
                }
            }
        }
        for space in self.spaces() {
            space.drop_pages(self, index, index + 1);
        }
        let mut state = self.state.lock();
        // A write to the file may have removed it meanwhile.
        let old = match state.pages.get_mut(&index) {
            Some(page) if matches!(page.owner, Owner::Moving(_)) => core::mem::replace(page, Page::ours(new)),
            _ => {
                drop(state);
                frame::free(new);
                return Ok(());
            }
        };
        drop(state);
        drop(old);
        Ok(())
    }

    /// Forgets the borrowed pages that touch the bytes `start..end`: the file has changed there.
    fn forget_borrowed(&self, start: u64, end: u64) {
        let (first, last) = (start / PAGE, end.div_ceil(PAGE));
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            state.version += 1;
            let range = state.pages.range(first..last);
            let indices: Vec<u64> = range.filter(|(_, page)| !page.is_ours()).map(|(i, _)| *i).collect();
            gone.extend(indices.iter().filter_map(|index| state.pages.remove(index)));
        }
        if gone.is_empty() {
            return;
        }
        for space in self.spaces() {
            space.drop_pages(self, first, last);
        }
    }

    /// A page of the file's cached block, if it can be mapped as it is.
    fn borrow_page(&self, index: u64) -> Result<Option<Page>, PageError> {
        let Some(file) = &self.file else { return Ok(None) };
        let at = index * PAGE;
        let Some((block_at, block)) = file.read_shared(at).map_err(|_| PageError::Bus)? else {
            return Ok(None);
        };
        if !can_be_mapped(&block, block_at) || at + PAGE > block_at + block.len() as u64 {
            return Ok(None);
        }
        let frame = phys::to_phys(block.as_ptr()) + (at - block_at);
        Ok(Some(Page { frame, dirty: false, owner: Owner::Cache(block) }))
    }

    /// A page of our own, read from the file.
    fn read_page(&self, index: u64) -> Result<Page, PageError> {
        let frame = frame::alloc_zeroed().ok_or(PageError::OutOfFrames)?;
        let page = Page::ours(frame);
        // SAFETY: a fresh frame that nobody else knows.
        let bytes = unsafe { &mut *bytes_of(frame) };
        let read = match &self.file {
            Some(file) => file.read_at(index * PAGE, bytes),
            None => Ok(PAGE as usize),
        };
        if matches!(read, Ok(n) if n > 0) {
            Ok(page)
        } else {
            page.free();
            Err(PageError::Bus)
        }
    }

    /// Makes page `index` present, reading it from the file. Not with a lock held.
    pub fn fill(&self, index: u64) -> Result<(), PageError> {
        loop {
            let version = {
                let state = self.state.lock();
                if state.pages.contains_key(&index) {
                    return Ok(());
                }
                state.version
            };
            let page = match self.borrow_page(index)? {
                Some(page) => page,
                None => self.read_page(index)?,
            };
            let mut state = self.state.lock();
            if state.version == version && !state.pages.contains_key(&index) {
                state.pages.insert(index, page);
                return Ok(());
            }
            drop(state);
            page.free();
        }
    }

    fn spaces(&self) -> Vec<Arc<AddressSpace>> {
        self.state.lock().spaces.iter().filter_map(Weak::upgrade).collect()
    }

    /// Calls `visit` with the part of every present page that overlaps `start..start + len`: its bytes there, where
    /// they lie in the range, and whether the page is changed.
    fn overlapping(&self, start: u64, len: usize, mut visit: impl FnMut(*mut [u8], usize, bool)) {
        if len == 0 {
            return;
        }
        let end = start.saturating_add(len as u64);
        let state = self.state.lock();
        for (index, page) in state.pages.range(start / PAGE..end.div_ceil(PAGE)) {
            let from = start.max(index * PAGE);
            let to = end.min((index + 1) * PAGE);
            let at = phys::to_virt(page.frame + from % PAGE);
            let bytes = core::ptr::slice_from_raw_parts_mut(at, (to - from) as usize);
            visit(bytes, (from - start) as usize, page.dirty);
        }
    }

    fn write_page(&self, file: &Arc<dyn Inode>, index: u64, frame: u64) -> Result<(), Errno> {
        let size = file.stat()?.size;
        let len = size.saturating_sub(index * PAGE).min(PAGE) as usize;
        let mut copy = alloc::vec![0; len];
        // SAFETY: the frame belongs to this object and is not freed while `self` lives, but for truncation, which
        // only frees pages behind the end. The application may write meanwhile; then the page is dirty again.
        unsafe { phys::to_virt(frame).copy_to_nonoverlapping(copy.as_mut_ptr(), len) };
        if len == 0 { Ok(()) } else { file.write_at(index * PAGE, &copy, Sync::No) }
    }
}

impl vfs::mapped::Pages for Pages {
    fn written(&self, offset: u64, data: &[u8]) {
        self.forget_borrowed(offset, offset + data.len() as u64);
        self.overlapping(offset, data.len(), |bytes, at, _| {
            // SAFETY: a part of a frame of ours; sizes agree. The application races with itself only.
            unsafe { bytes.cast::<u8>().copy_from_nonoverlapping(data[at..].as_ptr(), bytes.len()) }
        });
    }

    fn emptied(&self, offset: u64, len: u64) {
        self.forget_borrowed(offset, offset.saturating_add(len));
        self.overlapping(offset, usize::try_from(len).unwrap_or(usize::MAX), |bytes, _, _| {
            // SAFETY: as above.
            unsafe { bytes.cast::<u8>().write_bytes(0, bytes.len()) }
        });
    }

    fn overlay(&self, offset: u64, buf: &mut [u8]) {
        self.overlapping(offset, buf.len(), |bytes, at, dirty| {
            if dirty {
                // SAFETY: as above.
                unsafe { buf[at..].as_mut_ptr().copy_from_nonoverlapping(bytes.cast::<u8>(), bytes.len()) }
            }
        });
    }

    fn write_back(&self, start: u64, end: u64) -> vfs::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (first, last) = (start / PAGE, end.div_ceil(PAGE));
        let dirty: Vec<(u64, u64)> = {
            let mut state = self.state.lock();
            let range = state.pages.range_mut(first..last).filter(|(_, p)| p.dirty);
            range
                .map(|(index, page)| {
                    page.dirty = false;
                    (*index, page.frame)
                })
                .collect()
        };
        if dirty.is_empty() {
            return Ok(());
        }
        for space in self.spaces() {
            space.protect_pages(self, first, last);
        }
        for (done, (index, frame)) in dirty.iter().enumerate() {
            if let Err(error) = self.write_page(file, *index, *frame) {
                let mut state = self.state.lock();
                for (index, _) in &dirty[done..] {
                    if let Some(page) = state.pages.get_mut(index) {
                        page.dirty = true;
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn reclaim(&self) -> vfs::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.write_back(0, u64::MAX)?;
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            let clean = state.pages.iter().filter(|(_, p)| !p.dirty && !matches!(p.owner, Owner::Moving(_)));
            let indices: Vec<u64> = clean.map(|(index, _)| *index).collect();
            gone.extend(indices.iter().filter_map(|index| Some((*index, state.pages.remove(index)?))));
        }
        for space in self.spaces() {
            for run in gone.chunk_by(|a, b| a.0 + 1 == b.0) {
                space.drop_pages(self, run[0].0, run[run.len() - 1].0 + 1);
            }
        }
        gone.into_iter().for_each(|(_, page)| page.free());
        Ok(())
    }

    fn truncated(&self, size: u64) {
        let first = size.div_ceil(PAGE);
        self.forget_borrowed(size, u64::MAX / 2);
        // First nobody may reach the frames any more, then they are freed.
        for space in self.spaces() {
            space.drop_pages(self, first, u64::MAX / PAGE);
        }
        let gone = self.state.lock().pages.split_off(&first);
        gone.into_values().for_each(Page::free);
        let tail = size.next_multiple_of(PAGE) - size;
        self.overlapping(size, tail as usize, |bytes, _, _| {
            // SAFETY: the part of a frame of ours behind the new end.
            unsafe { bytes.cast::<u8>().write_bytes(0, bytes.len()) }
        });
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Whoever drops the last mapping has written back before; see `AddressSpace::unmap`.
        core::mem::take(&mut self.state.get_mut().pages).into_values().for_each(Page::free);
    }
}

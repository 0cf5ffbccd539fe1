//! Where `mmap(MAP_SHARED)` and `read`/`write` of one file meet.
//!
//! The kernel keeps the pages of shared mappings; a file's content lives in its file system. This registry lets the
//! one side find the other: writes show up in mapped pages, reads see what was stored through a mapping, `fsync`
//! writes mapped pages back first. A file that nobody maps costs one atomic load.

use crate::errno::Result;
use crate::inode::Inode;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicUsize, Ordering};
use hashbrown::HashMap;
use platform::sync::Mutex;

/// The pages of a file's shared mappings, seen from the file.
pub trait Pages: core::any::Any + Send + Sync {
    /// `data` was written at `offset`: pages that are present take it over.
    fn written(&self, offset: u64, data: &[u8]);
    /// The range was made zeros (or a hole): pages that are present take it over.
    fn emptied(&self, offset: u64, len: u64);
    /// `buf` was read from the file at `offset`: bytes of changed pages replace it.
    fn overlay(&self, offset: u64, buf: &mut [u8]);
    /// Writes changed pages in the byte range `start..end` to the file.
    fn write_back(&self, start: u64, end: u64) -> Result<()>;
    /// Writes changed pages back and lets go of all that can be read again.
    fn reclaim(&self) -> Result<()>;
    /// The file now ends at `size`.
    fn truncated(&self, size: u64);
}

static COUNT: AtomicUsize = AtomicUsize::new(0);
type Files = Mutex<HashMap<(u64, u64), Weak<dyn Pages>>>;

static FILES: spin::Once<Files> = spin::Once::new();

fn files() -> &'static Files {
    FILES.call_once(|| Mutex::new(HashMap::new()))
}

/// The registry of mapped files.
pub struct Mapped;

impl Mapped {
    /// The pages of a file, if it is mapped shared.
    #[must_use]
    pub fn find(inode: &dyn Inode) -> Option<Arc<dyn Pages>> {
        if COUNT.load(Ordering::Acquire) == 0 {
            return None;
        }
        files().lock().get(&(inode.fs_id(), inode.ino()))?.upgrade()
    }

    /// The pages of a file, made by `make` if it is not mapped yet. The file counts as mapped until the last
    /// reference to them is gone and [`Mapped::forget`] was called.
    pub fn get_or_insert(inode: &dyn Inode, make: impl FnOnce() -> Arc<dyn Pages>) -> Arc<dyn Pages> {
        let mut files = files().lock();
        let key = (inode.fs_id(), inode.ino());
        if let Some(pages) = files.get(&key).and_then(Weak::upgrade) {
            return pages;
        }
        let pages = make();
        files.insert(key, Arc::downgrade(&pages));
        COUNT.store(files.len(), Ordering::Release);
        pages
    }

    /// Writes the changed pages of all files back: before a snapshot, and at the end.
    pub fn write_back_all() -> Result<()> {
        let all: alloc::vec::Vec<_> = files().lock().values().filter_map(Weak::upgrade).collect();
        all.iter().map(|pages| pages.write_back(0, u64::MAX)).fold(Ok(()), Result::and)
    }

    /// Lets go of the pages of all files that can be read again: memory is short.
    pub fn reclaim_all() -> Result<()> {
        let all: alloc::vec::Vec<_> = files().lock().values().filter_map(Weak::upgrade).collect();
        all.iter().map(|pages| pages.reclaim()).fold(Ok(()), Result::and)
    }

    /// Removes the entries of files that nobody maps any more.
    pub fn forget() {
        let mut files = files().lock();
        files.retain(|_, pages| pages.strong_count() > 0);
        COUNT.store(files.len(), Ordering::Release);
    }
}

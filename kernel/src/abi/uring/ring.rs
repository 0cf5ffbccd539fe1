//! The memory that a ring shares with its program, and the ring's state.
//!
//! # Layout of the shared memory
//! One object holds the indexes (each in a cache line of its own), the completions and the array of submission indexes;
//! another one the submission entries. The program maps them at [`OFF_SQ_RING`] or [`OFF_CQ_RING`], and at [`OFF_SQES`].
//! What the program writes there is read once and masked: nothing in it can lead outside.
//!
//! Lock order: `submit` → (anything); `complete` is a leaf.

use super::sqe::Sqe;
use crate::mm::file_pages::Pages;
use crate::process::Process;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use platform::sync::Mutex;
use vfs::Errno;
use vfs::events::EventFd;
use vfs::file::File;
use vfs::inode::{Ready, Stream};
use vfs::wait::Waiters;

/// Offsets for `mmap` (`IORING_OFF_*`).
pub const OFF_SQ_RING: u64 = 0;
/// The completions; the same object.
pub const OFF_CQ_RING: u64 = 0x800_0000;
/// The submission entries.
pub const OFF_SQES: u64 = 0x1000_0000;

/// `struct io_uring_sqe` and `struct io_uring_cqe` in bytes.
pub const SQE: usize = 64;
const CQE: u32 = 16;

/// Offsets in the shared object, as `struct io_uring_params` tells them.
pub const SQ_HEAD: u32 = 0;
/// The program's end of the submissions.
pub const SQ_TAIL: u32 = 64;
/// The program's end of the completions.
pub const CQ_HEAD: u32 = 128;
/// The kernel's end of the completions.
pub const CQ_TAIL: u32 = 192;
/// Masks and sizes of the two rings.
pub const SQ_MASK: u32 = 256;
/// As above.
pub const CQ_MASK: u32 = 260;
/// As above.
pub const SQ_ENTRIES: u32 = 264;
/// As above.
pub const CQ_ENTRIES: u32 = 268;
/// Submissions that named no entry.
pub const SQ_DROPPED: u32 = 272;
/// `IORING_SQ_*`.
pub const SQ_FLAGS: u32 = 276;
/// `IORING_CQ_*`.
pub const CQ_FLAGS: u32 = 280;
/// Completions that were lost: none ever.
pub const CQ_OVERFLOW: u32 = 284;
/// The completions.
pub const CQES: u32 = 320;

/// `IORING_SQ_CQ_OVERFLOW`: completions wait for room.
const FLAG_OVERFLOW: u32 = 2;

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1 << 63);

/// A completion that waits for room in the ring: its tag and result.
type Completion = (u64, i32);

/// What was registered with a ring.
#[derive(Default)]
pub struct Registered {
    /// Pieces of the program's memory.
    pub buffers: Vec<(u64, usize)>,
    /// Open files.
    pub files: Vec<Option<Arc<File>>>,
    /// Told of every completion.
    pub eventfd: Option<Arc<EventFd>>,
}

/// An `io_uring`.
pub struct Ring {
    /// Its number among the owners of watches; no address of a program's is as high.
    pub number: u64,
    /// Where the indexes and completions are, and the submission entries.
    pub objects: (Arc<Pages>, Arc<Pages>),
    base: *mut u8,
    entries: *mut u8,
    sq_entries: u32,
    cq_entries: u32,
    /// The process that made it.
    pub process: Weak<Process>,
    /// Held by who takes submissions.
    pub submit: Mutex<()>,
    complete: Mutex<VecDeque<Completion>>,
    /// What was registered.
    pub registered: Mutex<Registered>,
    /// Woken by completions.
    pub waiters: Waiters,
}

// SAFETY: the pointers lead to memory that `objects` keep; the words there are accessed atomically or copied.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Offset of the array of submission indexes.
pub fn array_offset(cq_entries: u32) -> u32 {
    CQES + cq_entries * CQE
}

impl Ring {
    /// A ring of these sizes, which are powers of two.
    pub fn new(process: &Arc<Process>, sq_entries: u32, cq_entries: u32) -> Result<Arc<Ring>, Errno> {
        let len = array_offset(cq_entries) + sq_entries * 4;
        let (rings, base) = Pages::contiguous(u64::from(len)).map_err(|_| Errno::ENOMEM)?;
        let (sqes, entries) =
            Pages::contiguous(u64::from(sq_entries) * SQE as u64).map_err(|_| Errno::ENOMEM)?;
        let ring = Ring {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            objects: (rings, sqes),
            base,
            entries,
            sq_entries,
            cq_entries,
            process: Arc::downgrade(process),
            submit: Mutex::new(()),
            complete: Mutex::new(VecDeque::new()),
            registered: Mutex::new(Registered::default()),
            waiters: Waiters::new(),
        };
        for (at, value) in [
            (SQ_MASK, sq_entries - 1),
            (CQ_MASK, cq_entries - 1),
            (SQ_ENTRIES, sq_entries),
            (CQ_ENTRIES, cq_entries),
        ] {
            ring.word(at).store(value, Ordering::Relaxed);
        }
        Ok(Arc::new(ring))
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: callers name aligned words inside the object, which lives as long as `self`.
        unsafe { &*self.base.add(offset as usize).cast::<AtomicU32>() }
    }

    /// Takes the next submission. `None` if there is none. With `submit` locked.
    pub fn next(&self) -> Option<Sqe> {
        loop {
            let head = self.word(SQ_HEAD).load(Ordering::Relaxed);
            if head == self.word(SQ_TAIL).load(Ordering::Acquire) {
                return None;
            }
            let slot = array_offset(self.cq_entries) + (head & (self.sq_entries - 1)) * 4;
            let index = self.word(slot).load(Ordering::Relaxed);
            let sqe = (index < self.sq_entries).then(|| {
                let mut bytes = [0; SQE];
                // SAFETY: entry `index` lies in the object; the program races with itself only.
                unsafe {
                    self.entries.add(index as usize * SQE).copy_to_nonoverlapping(bytes.as_mut_ptr(), SQE);
                }
                Sqe::parse(&bytes)
            });
            self.word(SQ_HEAD).store(head.wrapping_add(1), Ordering::Release);
            match sqe {
                Some(sqe) => return Some(sqe),
                None => drop(self.word(SQ_DROPPED).fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    /// Whether submissions have room.
    fn has_room(&self) -> bool {
        let used = self
            .word(SQ_TAIL)
            .load(Ordering::Acquire)
            .wrapping_sub(self.word(SQ_HEAD).load(Ordering::Relaxed));
        used < self.sq_entries
    }

    /// Completions that the program has not taken yet.
    pub fn completed(&self) -> u32 {
        self.word(CQ_TAIL).load(Ordering::Relaxed).wrapping_sub(self.word(CQ_HEAD).load(Ordering::Acquire))
    }

    /// Whether completions wait for room.
    pub fn overflown(&self) -> bool {
        self.word(SQ_FLAGS).load(Ordering::Relaxed) & FLAG_OVERFLOW != 0
    }

    fn put(&self, (data, result): Completion) -> bool {
        if self.completed() >= self.cq_entries {
            return false;
        }
        let tail = self.word(CQ_TAIL).load(Ordering::Relaxed);
        let at = (CQES + (tail & (self.cq_entries - 1)) * CQE) as usize;
        // SAFETY: a completion inside the object, which the program reads only after the tail has moved.
        unsafe {
            self.base.add(at).cast::<u64>().write_volatile(data);
            self.base.add(at + 8).cast::<u64>().write_volatile(u64::from(result as u32));
        }
        self.word(CQ_TAIL).store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    /// Moves completions that waited into the ring, as far as there is room.
    pub fn flush(&self) {
        let mut waiting = self.complete.lock();
        while let Some(next) = waiting.front().copied()
            && self.put(next)
        {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            self.word(SQ_FLAGS).fetch_and(!FLAG_OVERFLOW, Ordering::Relaxed);
        }
    }

    /// Reports a result to the program.
    pub fn complete(&self, data: u64, result: i64) {
        let completion = (data, result as i32);
        {
            let mut waiting = self.complete.lock();
            if !waiting.is_empty() || !self.put(completion) {
                waiting.push_back(completion);
                self.word(SQ_FLAGS).fetch_or(FLAG_OVERFLOW, Ordering::Relaxed);
            }
        }
        let counter = self.registered.lock().eventfd.clone();
        if let Some(counter) = counter {
            // A full counter is readable all the same.
            let _ = counter.write(&1u64.to_ne_bytes(), true);
        }
        self.waiters.wake();
    }
}

/// What the descriptor of a ring leads to. When the last one is closed, what waits for streams is called off.
pub struct RingFile(pub Arc<Ring>);

impl Stream for RingFile {
    fn ready(&self) -> Ready {
        let readable = if self.0.completed() > 0 || self.0.overflown() { Ready::IN } else { 0 };
        Ready(readable | if self.0.has_room() { Ready::OUT } else { 0 })
    }
    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.0.waiters)
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(process) = self.0.process.upgrade() {
            process.workers.cancel(self.0.number, None);
        }
    }
}

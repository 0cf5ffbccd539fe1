//! Block devices: submit a request, be told when it is complete.
//!
//! [`BlockDevice::submit`] returns at once; the completion runs later, in the context of the driver's thread (never
//! in an interrupt handler), and must not block on further I/O of the same device. [`Batch`] is the usual caller:
//! submit everything that is needed, then wait once.
//!
//! # Ordering and durability
//! Requests in flight may complete in any order. A completed [`Op::Write`] is durable only after an [`Op::Flush`]
//! that was *submitted after the write completed* has itself completed.

use crate::sync::{Condvar, Mutex};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// What a device is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// Usable size in bytes, a multiple of `sector_size`.
    pub size: u64,
    /// Smallest addressable unit in bytes: offsets and lengths of requests are multiples of it.
    pub sector_size: u32,
    /// The device's preferred unit in bytes (physical sector), at least `sector_size`.
    pub physical_sector_size: u32,
    /// Writes, flushes and discards fail with [`BlockError::ReadOnly`].
    pub read_only: bool,
    /// The device accepts [`Op::Discard`].
    pub discard: bool,
    /// How many requests it can usefully have in flight.
    pub queue_depth: u32,
}

/// One operation. Offsets and lengths are in bytes.
#[derive(Debug)]
pub enum Op {
    /// Fill `buf` from `offset`; the buffer comes back in the outcome.
    Read {
        /// First byte on the device.
        offset: u64,
        /// The buffer to fill whole.
        buf: Vec<u8>,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte on the device.
        offset: u64,
        /// What to write; shared, so a mirror writes one buffer to all its sides.
        data: Bytes,
    },
    /// Make every write that completed before this was submitted durable.
    Flush,
    /// Tell the device that a range no longer holds data. Its later content is undefined.
    Discard {
        /// First byte on the device.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// The medium or the transport failed.
    Io,
    /// The range does not lie within the device or is not aligned to its sectors.
    OutOfRange,
    /// The device cannot be written.
    ReadOnly,
    /// The device does not do this operation.
    Unsupported,
    /// The device is gone.
    Gone,
    /// The device has no room for the write (a sparse file on a full host file system).
    NoSpace,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockError::Io => "input/output error",
            BlockError::OutOfRange => "request outside the device",
            BlockError::ReadOnly => "device is read-only",
            BlockError::Unsupported => "operation not supported by the device",
            BlockError::Gone => "device is gone",
            BlockError::NoSpace => "no space left below the device",
        })
    }
}

impl core::error::Error for BlockError {}

/// The result of a request: for a read its filled buffer, else an empty vector.
pub type Outcome = Result<Vec<u8>, BlockError>;

/// An operation and whom to tell.
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Called exactly once.
    pub done: Box<dyn FnOnce(Outcome) + Send>,
}

/// A disk, or anything that behaves like one.
pub trait BlockDevice: Send + Sync {
    /// Its geometry and abilities. Constant, but for a `size` that may grow.
    fn info(&self) -> BlockInfo;

    /// Starts a request and returns without waiting for it. May briefly wait for a free queue slot.
    fn submit(&self, request: Request);
}

struct BatchState {
    pending: usize,
    outcomes: Vec<Option<Outcome>>,
}

/// A group of requests that is waited for once.
pub struct Batch {
    shared: Arc<(Mutex<BatchState>, Condvar)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        let state = BatchState { pending: 0, outcomes: Vec::new() };
        Batch { shared: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    /// Submits `op` to `device`; its outcome will be at the returned index of [`Batch::wait`]'s answer.
    pub fn submit(&self, device: &dyn BlockDevice, op: Op) -> usize {
        let index = {
            let mut state = self.shared.0.lock();
            state.pending += 1;
            state.outcomes.push(None);
            state.outcomes.len() - 1
        };
        let shared = Arc::clone(&self.shared);
        let done = Box::new(move |outcome: Outcome| {
            let mut state = shared.0.lock();
            state.outcomes[index] = Some(outcome);
            state.pending -= 1;
            if state.pending == 0 {
                shared.1.notify_all();
            }
        });
        device.submit(Request { op, done });
        index
    }

    /// Waits until everything submitted so far is complete; the outcomes in the order of submission.
    #[must_use]
    pub fn wait(self) -> Vec<Outcome> {
        let mut state = self.shared.0.lock();
        while state.pending > 0 {
            state = self.shared.1.wait(state);
        }
        core::mem::take(&mut state.outcomes).into_iter().map(|o| o.unwrap_or(Err(BlockError::Gone))).collect()
    }
}

/// Does one operation and waits for it.
pub fn run(device: &dyn BlockDevice, op: Op) -> Outcome {
    let batch = Batch::new();
    batch.submit(device, op);
    batch.wait().pop().unwrap_or(Err(BlockError::Gone))
}

/// Checks that a request lies inside the device and is aligned to its sectors.
pub fn check_range(info: &BlockInfo, op: &Op) -> Result<(), BlockError> {
    let (offset, len, writes) = match op {
        Op::Read { offset, buf } => (*offset, buf.len() as u64, false),
        Op::Write { offset, data } => (*offset, data.len() as u64, true),
        Op::Discard { offset, len } => (*offset, *len, true),
        Op::Flush => return Ok(()),
    };
    if writes && info.read_only {
        return Err(BlockError::ReadOnly);
    }
    let sector = u64::from(info.sector_size.max(1));
    let end = offset.checked_add(len).ok_or(BlockError::OutOfRange)?;
    if end > info.size || !offset.is_multiple_of(sector) || !len.is_multiple_of(sector) {
        return Err(BlockError::OutOfRange);
    }
    Ok(())
}

//! Memory for what a call carries between a file and the caller's memory.
//!
//! A call takes a piece and gives it back. Each processor keeps the largest that came back to it: most calls find one, and nothing is
//! allocated and cleared for a byte that is read into a large buffer. What a piece holds at first is of no meaning.

use super::user::CHUNK;
use crate::arch::cpu;
use crate::sched;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use spin::Mutex;

/// By processor. Nobody waits for a lock: it is held for a few instructions, and whoever finds it held does without.
static KEPT: [Mutex<Vec<u8>>; cpu::MAX_CPUS] = [const { Mutex::new(Vec::new()) }; cpu::MAX_CPUS];

/// A piece of memory.
pub(super) struct Scratch {
    bytes: Vec<u8>,
    len: usize,
}

impl Scratch {
    /// `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        let kept = KEPT[sched::cpu_index()].try_lock().map(|mut kept| core::mem::take(&mut *kept));
        let bytes = kept.filter(|bytes| bytes.len() >= len).unwrap_or_else(|| alloc::vec![0; len]);
        Scratch { bytes, len }
    }

    /// For a transfer of `total` bytes, which is made in pieces if it is a long one.
    pub(super) fn for_transfer(total: usize) -> Self {
        Self::new(total.min(CHUNK))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.bytes.len() <= CHUNK
            && let Some(mut kept) = KEPT[sched::cpu_index()].try_lock()
            && kept.len() < self.bytes.len()
        {
            core::mem::swap(&mut *kept, &mut self.bytes);
        }
    }
}

impl Deref for Scratch {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

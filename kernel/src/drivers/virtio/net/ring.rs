//! A queue whose chains are one buffer each. Buffers are made once, in memory that the device reaches.
//!
//! # Invariant
//! A [`Buffer`] is the only way to its memory. While the device has it, it is kept in [`Ring::held`], where nobody looks into it.

use crate::drivers::virtio::QueueMemory;
use crate::drivers::virtio::queue::{Queue, Segment};
use crate::mm::{frame, phys};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Memory for one frame, or for a part of one.
#[derive(Debug)]
pub(super) struct Buffer {
    address: u64,
    size: usize,
}

impl Buffer {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised frames of the direct map that are never freed; see the invariant.
        unsafe { core::slice::from_raw_parts(phys::to_virt(self.address), self.size) }
    }

    /// The same, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(phys::to_virt(self.address), self.size) }
    }
}

/// `count` buffers of `bytes` bytes each; `None` without memory.
pub(super) fn buffers(count: u16, bytes: usize) -> Option<Vec<Buffer>> {
    // Whole cache lines.
    let bytes = bytes.next_multiple_of(64);
    let pages = (usize::from(count) * bytes).div_ceil(phys::FRAME_SIZE as usize);
    let base = frame::alloc_contiguous(pages, 1)?;
    // SAFETY: fresh frames of the direct map.
    unsafe { phys::to_virt(base).write_bytes(0, pages * phys::FRAME_SIZE as usize) };
    Some((0..count).map(|n| Buffer { address: base + u64::from(n) * bytes as u64, size: bytes }).collect())
}

/// A queue and the buffers that the device has.
pub(super) struct Ring {
    queue: Queue,
    /// By head of the chain.
    held: Box<[Option<Buffer>]>,
}

impl Ring {
    /// A queue of `size` (a power of two) descriptors; `None` without memory.
    pub(super) fn new(size: u16, event_idx: bool) -> Option<Ring> {
        let queue = Queue::new(size, event_idx)?;
        Some(Ring { queue, held: (0..size).map(|_| None).collect() })
    }

    /// Where the queue lies.
    pub(super) fn memory(&self) -> QueueMemory {
        self.queue.memory()
    }

    /// Gives the first `len` bytes of a buffer to the device. There is always room: there are no more buffers than descriptors.
    pub(super) fn push(&mut self, buffer: Buffer, len: usize, device_writes: bool) {
        let segment = Segment { address: buffer.address, len: len.min(buffer.size) as u32, device_writes };
        let place = self.queue.push(&[segment]).and_then(|head| self.held.get_mut(usize::from(head)));
        debug_assert!(place.is_some(), "no more buffers than descriptors");
        if let Some(place) = place {
            *place = Some(buffer);
        }
    }

    /// Takes back the next buffer that the device is done with, and how many bytes it says it has written.
    pub(super) fn pop(&mut self) -> Option<(Buffer, usize)> {
        let (head, len) = self.queue.pop()?;
        let buffer = self.held.get_mut(usize::from(head))?.take()?;
        let len = buffer.size.min(len as usize);
        Some((buffer, len))
    }

    /// See [`Queue::wants_notify`].
    pub(super) fn wants_notify(&mut self) -> bool {
        self.queue.wants_notify()
    }

    /// Whether [`Ring::pop`] has something.
    pub(super) fn has_used(&self) -> bool {
        self.queue.has_used()
    }

    /// See [`Queue::set_interrupts`]; whether [`Ring::pop`] has something.
    pub(super) fn set_interrupts(&mut self, on: bool) -> bool {
        self.queue.set_interrupts(on);
        self.queue.has_used()
    }
}

//! Frames that are sent.
//!
//! A frame is written into a buffer that comes back when the device is done with it. Nobody waits for that: the next sender looks.

use super::header::Layout;
use super::ring::{Buffer, Ring, buffers};
use crate::drivers::virtio::QueueMemory;
use crate::mm::{frame, phys};
use alloc::vec::Vec;
use core::num::NonZeroU16;
use net::device::Fill;

/// The device is told of so many frames at the latest: it can work on them while more are made.
const BATCH: usize = 32;

/// Bytes of the longest frame that the device is to cut into segments.
pub(super) const LONG_FRAME: usize = 16 << 10;
/// Most buffers of that size; their share of the memory, and as many there are at least.
const LONG_MOST: u64 = 64;
const LONG_SHARE: u64 = 1024;
const LONG_LEAST: u64 = 8;

/// The sending side.
pub(super) struct Sender {
    ring: Ring,
    layout: Layout,
    /// Buffers that the device does not have. The one that came back last is used first: the processor may still know it.
    free: Vec<Buffer>,
    /// The same, for frames that the device cuts into segments, if it does.
    free_long: Vec<Buffer>,
    segments: bool,
    /// Bytes of the longest frame that is no such frame, with the header before it.
    plain: usize,
    /// Frames that the device was not told of.
    untold: usize,
}

/// How many long frames can be under way, in a queue of `size` descriptors.
fn long_buffers(size: u16) -> u16 {
    let memory = frame::total() * phys::FRAME_SIZE;
    let wanted = (memory / LONG_SHARE / LONG_FRAME as u64).clamp(LONG_LEAST, LONG_MOST);
    (size / 2).min(wanted as u16)
}

impl Sender {
    /// A queue of `size` descriptors, each with a buffer. `segments`: the device cuts long frames into segments.
    pub(super) fn new(
        size: u16,
        event_idx: bool,
        layout: Layout,
        longest: usize,
        segments: bool,
    ) -> Option<Sender> {
        let mut ring = Ring::new(size, event_idx)?;
        ring.set_interrupts(false);
        let plain = layout.len() + longest;
        let long = if segments { long_buffers(size) } else { 0 };
        let free = buffers(size - long, plain)?;
        let free_long = if segments { buffers(long, layout.len() + LONG_FRAME)? } else { Vec::new() };
        Some(Sender { ring, layout, free, free_long, segments, plain, untold: 0 })
    }

    /// Where the queue lies.
    pub(super) fn memory(&self) -> QueueMemory {
        self.ring.memory()
    }

    fn is_long(&self, buffer: &Buffer) -> bool {
        self.segments && buffer.bytes().len() > self.plain.next_multiple_of(64)
    }

    fn put_back(&mut self, buffer: Buffer) {
        if self.is_long(&buffer) {
            self.free_long.push(buffer);
        } else {
            self.free.push(buffer);
        }
    }

    fn reclaim(&mut self) {
        while let Some((buffer, _)) = self.ring.pop() {
            self.put_back(buffer);
        }
    }

    fn is_exhausted(&self) -> bool {
        self.free.is_empty() || self.segments && self.free_long.is_empty()
    }

    /// Whether a frame can be sent, however long it is.
    pub(super) fn has_room(&mut self) -> bool {
        if self.is_exhausted() {
            self.reclaim();
        }
        !self.is_exhausted()
    }

    /// See [`net::device::Device::send`]; whether the device must be told.
    pub(super) fn send(&mut self, len: usize, segment: Option<NonZeroU16>, fill: &mut Fill<'_>) -> bool {
        self.reclaim();
        let start = self.layout.len();
        let end = start + len;
        let buffer = if end > self.plain { self.free_long.pop() } else { self.free.pop() };
        let Some(mut buffer) = buffer else { return false };
        if end > buffer.bytes().len() {
            self.put_back(buffer);
            return false;
        }
        let (header, frame) = buffer.bytes_mut()[..end].split_at_mut(start);
        let partial = fill(frame);
        self.layout.write(header, frame, partial, segment);
        self.ring.push(buffer, end, false);
        self.untold += 1;
        self.untold >= BATCH && self.wants_notify()
    }

    /// Whether the device must be told of what was sent.
    pub(super) fn wants_notify(&mut self) -> bool {
        self.untold = 0;
        self.ring.wants_notify()
    }
}

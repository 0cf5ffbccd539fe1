//! Frames that are sent.
//!
//! A frame is written into a buffer that comes back when the device is done with it. Nobody waits for that: the next sender looks.

use super::header::Layout;
use super::ring::{Buffer, Ring};
use crate::drivers::virtio::QueueMemory;
use alloc::vec::Vec;
use net::device::Fill;

/// The device is told of so many frames at the latest: it can work on them while more are made.
const BATCH: usize = 32;

/// The sending side.
pub(super) struct Sender {
    ring: Ring,
    layout: Layout,
    /// Buffers that the device does not have. The one that came back last is used first: the processor may still know it.
    free: Vec<Buffer>,
    /// Frames that the device was not told of.
    untold: usize,
}

impl Sender {
    /// A queue of `size` descriptors, and as many buffers.
    pub(super) fn new(size: u16, event_idx: bool, layout: Layout, longest: usize) -> Option<Sender> {
        let (mut ring, free) = Ring::new(size, event_idx, layout.len() + longest)?;
        ring.set_interrupts(false);
        Some(Sender { ring, layout, free, untold: 0 })
    }

    /// Where the queue lies.
    pub(super) fn memory(&self) -> QueueMemory {
        self.ring.memory()
    }

    fn reclaim(&mut self) {
        while let Some((buffer, _)) = self.ring.pop() {
            self.free.push(buffer);
        }
    }

    /// Whether a frame can be sent.
    pub(super) fn has_room(&mut self) -> bool {
        if self.free.is_empty() {
            self.reclaim();
        }
        !self.free.is_empty()
    }

    /// See [`net::device::Device::send`]; whether the device must be told.
    pub(super) fn send(&mut self, len: usize, fill: &mut Fill<'_>) -> bool {
        self.reclaim();
        let Some(mut buffer) = self.free.pop() else { return false };
        let start = self.layout.len();
        let end = start + len;
        if end > buffer.bytes().len() {
            self.free.push(buffer);
            return false;
        }
        let (header, frame) = buffer.bytes_mut()[..end].split_at_mut(start);
        let partial = fill(frame);
        self.layout.write(header, partial);
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

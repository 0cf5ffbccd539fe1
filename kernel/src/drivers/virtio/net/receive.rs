//! Frames that arrive.
//!
//! Buffers stay with the device. One is taken out while its frame is looked at, and goes back. Only a frame that is spread over
//! several is copied, to one place for that. Nothing that the device says is believed: lengths and numbers of buffers are those that
//! there are, or the frame is lost.

use super::header::Layout;
use super::ring::{Buffer, Ring, buffers};
use crate::drivers::virtio::QueueMemory;
use alloc::vec::Vec;
use net::device::Frame;

/// Bytes of a buffer of a device that merges them: header and the longest packet of most networks, in whole cache lines.
const MERGED: usize = 1536;
/// The device is told of buffers that it has back when there are so many, or when no frame is left.
const BATCH: usize = 32;

/// The receiving side.
pub(super) struct Receiver {
    ring: Ring,
    layout: Layout,
    /// Bytes of the longest frame.
    longest: usize,
    /// Where frames are put together; `None` while one is looked at.
    assembly: Option<Vec<u8>>,
    /// Buffers given back that the device was not told of.
    untold: usize,
}

/// A frame, and the memory that it is in.
pub(super) enum Arrival {
    /// In a buffer, from `start` to `end`.
    Whole { buffer: Buffer, start: usize, end: usize, vouched: bool },
    /// Put together.
    Assembled { bytes: Vec<u8>, vouched: bool },
}

impl Arrival {
    /// The frame.
    pub(super) fn frame(&self) -> Frame<'_> {
        match self {
            Arrival::Whole { buffer, start, end, vouched } => {
                Frame { bytes: buffer.bytes().get(*start..*end).unwrap_or_default(), vouched: *vouched }
            }
            Arrival::Assembled { bytes, vouched } => Frame { bytes, vouched: *vouched },
        }
    }
}

impl Receiver {
    /// A queue of `size` descriptors, all of which have buffers.
    pub(super) fn new(size: u16, event_idx: bool, layout: Layout, longest: usize) -> Option<Receiver> {
        let whole = layout.len() + longest;
        let mut ring = Ring::new(size, event_idx)?;
        for buffer in buffers(size, if layout.merged { MERGED } else { whole })? {
            give(&mut ring, buffer);
        }
        let assembly = Some(if layout.merged { Vec::with_capacity(longest) } else { Vec::new() });
        Some(Receiver { ring, layout, longest, assembly, untold: 0 })
    }

    /// Where the queue lies.
    pub(super) fn memory(&self) -> QueueMemory {
        self.ring.memory()
    }

    /// See [`super::Nic::set_interrupts`].
    pub(super) fn set_interrupts(&mut self, on: bool) -> bool {
        self.ring.set_interrupts(on)
    }

    /// The next frame that can be one.
    pub(super) fn take(&mut self) -> Option<Arrival> {
        loop {
            let (buffer, len) = self.ring.pop()?;
            let start = self.layout.len();
            let (vouched, buffers) = match self.layout.read(&buffer.bytes()[..len]) {
                Some((vouched, buffers)) if buffers > 0 => (vouched, buffers),
                _ => {
                    give(&mut self.ring, buffer);
                    continue;
                }
            };
            if buffers == 1 {
                if len - start <= self.longest {
                    return Some(Arrival::Whole { buffer, start, end: len, vouched });
                }
                give(&mut self.ring, buffer);
            } else if let Some(bytes) = self.assemble(buffer, start..len, buffers - 1) {
                return Some(Arrival::Assembled { bytes, vouched });
            }
        }
    }

    /// Puts a frame together whose beginning is in `first`, and the rest in the next `more` buffers. `None` if it is too long, or if
    /// they are not there.
    fn assemble(&mut self, first: Buffer, place: core::ops::Range<usize>, more: usize) -> Option<Vec<u8>> {
        let mut bytes = self.assembly.take().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&first.bytes()[place]);
        give(&mut self.ring, first);
        let mut complete = true;
        for _ in 0..more {
            let Some((buffer, len)) = self.ring.pop() else {
                complete = false;
                break;
            };
            // A frame that is too long is taken to its end all the same.
            complete &= bytes.len() + len <= self.longest;
            if complete {
                bytes.extend_from_slice(&buffer.bytes()[..len]);
            }
            give(&mut self.ring, buffer);
        }
        if complete {
            return Some(bytes);
        }
        self.assembly = Some(bytes);
        None
    }

    /// Takes back the memory of a frame; whether the device must be told.
    pub(super) fn give_back(&mut self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::Whole { buffer, .. } => give(&mut self.ring, buffer),
            Arrival::Assembled { bytes, .. } => self.assembly = Some(bytes),
        }
        self.untold += 1;
        if self.untold < BATCH && self.ring.has_used() {
            return false;
        }
        self.untold = 0;
        self.ring.wants_notify()
    }
}

fn give(ring: &mut Ring, buffer: Buffer) {
    let size = buffer.bytes().len();
    ring.push(buffer, size, true);
}

//! A split virtqueue: descriptors, the ring of available chains, the ring of used ones.
//!
//! The memory is shared with the device, so it is only touched by volatile accesses; what the device writes there is
//! checked before use.

use super::QueueMemory;
use crate::mm::{frame, phys};
use core::sync::atomic::{Ordering, fence};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Legacy devices want the used ring on the next page of this size.
pub(super) const LEGACY_ALIGN: usize = 4096;

/// A physically contiguous piece of a request.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub device_writes: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A virtqueue's driver side.
pub struct Queue {
    size: u16,
    base: u64,
    used_offset: usize,
    /// First free descriptor; free ones are linked by `next`.
    free_head: u16,
    free: u16,
    next_available: u16,
    last_used: u16,
}

/// Bytes that one indirect descriptor takes.
pub const DESCRIPTOR_SIZE: usize = size_of::<Descriptor>();

impl Queue {
    /// A queue of `size` (a power of two) descriptors; `None` without memory.
    pub fn new(size: u16) -> Option<Queue> {
        let n = usize::from(size);
        let used_offset = (16 * n + 6 + 2 * n).next_multiple_of(LEGACY_ALIGN);
        let bytes = used_offset + 6 + 8 * n;
        let pages = bytes.div_ceil(4096);
        let base = frame::alloc_contiguous(pages, 1)?;
        // SAFETY: fresh frames of the direct map.
        unsafe { phys::to_virt(base).write_bytes(0, pages * 4096) };
        let queue =
            Queue { size, base, used_offset, free_head: 0, free: size, next_available: 0, last_used: 0 };
        for i in 0..size {
            queue.write_descriptor(i, Descriptor { address: 0, len: 0, flags: 0, next: i.wrapping_add(1) });
        }
        Some(queue)
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where it lies.
    pub fn memory(&self) -> QueueMemory {
        QueueMemory {
            size: self.size,
            descriptors: self.base,
            available: self.base + 16 * u64::from(self.size),
            used: self.base + self.used_offset as u64,
        }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        // SAFETY: the callers' offsets lie in the queue's memory.
        unsafe { phys::to_virt(self.base).add(offset).cast() }
    }

    fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        // SAFETY: index is below size; the device does not read it before it is made available.
        unsafe { self.at::<Descriptor>(usize::from(index) * 16).write_volatile(descriptor) }
    }

    fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: index is below size.
        unsafe { self.at::<Descriptor>(usize::from(index) * 16).read_volatile() }
    }

    /// Makes a chain of `segments` available; the index of its head, or `None` if there are too few descriptors.
    pub fn push(&mut self, segments: &[Segment]) -> Option<u16> {
        if segments.is_empty() || segments.len() > usize::from(self.free) {
            return None;
        }
        let head = self.free_head;
        let mut index = head;
        for (i, segment) in segments.iter().enumerate() {
            let next = self.descriptor(index).next;
            let more = if i + 1 < segments.len() { NEXT } else { 0 };
            self.write_descriptor(index, encode(*segment, more, next));
            self.free -= 1;
            index = next;
        }
        self.free_head = index;
        self.make_available(head);
        Some(head)
    }

    /// Makes a chain available that lies in an indirect table: `table` is memory for it, of [`DESCRIPTOR_SIZE`] bytes
    /// per segment, at physical address `table_address`.
    ///
    /// # Safety
    /// `table` is that memory, and stays untouched until the chain is used.
    pub unsafe fn push_indirect(
        &mut self,
        segments: &[Segment],
        table: *mut u8,
        table_address: u64,
    ) -> Option<u16> {
        if segments.is_empty() || self.free == 0 {
            return None;
        }
        for (i, segment) in segments.iter().enumerate() {
            let more = if i + 1 < segments.len() { NEXT } else { 0 };
            // SAFETY: promised by the caller.
            unsafe {
                table.cast::<Descriptor>().add(i).write_volatile(encode(*segment, more, i as u16 + 1));
            }
        }
        let head = self.free_head;
        let next = self.descriptor(head).next;
        let len = (segments.len() * DESCRIPTOR_SIZE) as u32;
        self.write_descriptor(head, Descriptor { address: table_address, len, flags: INDIRECT, next });
        self.free_head = next;
        self.free -= 1;
        self.make_available(head);
        Some(head)
    }

    fn make_available(&mut self, head: u16) {
        let ring = 16 * usize::from(self.size);
        let slot = usize::from(self.next_available & (self.size - 1));
        // SAFETY: inside the available ring.
        unsafe { self.at::<u16>(ring + 4 + 2 * slot).write_volatile(head) };
        self.next_available = self.next_available.wrapping_add(1);
        // The entry is there before the index says so.
        fence(Ordering::Release);
        // SAFETY: the ring's index.
        unsafe { self.at::<u16>(ring + 2).write_volatile(self.next_available) };
    }

    /// Whether the device wants to be told of what was pushed.
    pub fn wants_notify(&self) -> bool {
        // The index is written before the device's wish is read.
        fence(Ordering::SeqCst);
        // SAFETY: the used ring's flags.
        unsafe { self.at::<u16>(self.used_offset).read_volatile() & NO_NOTIFY == 0 }
    }

    /// Asks the device for interrupts, or not. A hint to the device.
    pub fn set_interrupts(&mut self, on: bool) {
        // SAFETY: the available ring's flags.
        unsafe {
            self.at::<u16>(16 * usize::from(self.size)).write_volatile(if on { 0 } else { NO_INTERRUPT });
        }
        fence(Ordering::SeqCst);
    }

    /// Whether [`Queue::pop`] has something.
    pub fn has_used(&self) -> bool {
        // SAFETY: the used ring's index.
        let index = unsafe { self.at::<u16>(self.used_offset + 2).read_volatile() };
        fence(Ordering::Acquire);
        index != self.last_used
    }

    /// Takes the next used chain: its head and how many bytes the device says it has written.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        if !self.has_used() {
            return None;
        }
        let slot = usize::from(self.last_used & (self.size - 1));
        let entry = self.used_offset + 4 + 8 * slot;
        // SAFETY: inside the used ring.
        let (head, len) =
            unsafe { (self.at::<u32>(entry).read_volatile(), self.at::<u32>(entry + 4).read_volatile()) };
        self.last_used = self.last_used.wrapping_add(1);
        let head = u16::try_from(head).ok().filter(|head| *head < self.size)?;
        self.release(head);
        Some((head, len))
    }

    fn release(&mut self, head: u16) {
        let mut last = head;
        let mut count = 1;
        let mut descriptor = self.descriptor(last);
        while descriptor.flags & (NEXT | INDIRECT) == NEXT && count < self.size {
            last = descriptor.next;
            descriptor = self.descriptor(last);
            count += 1;
        }
        descriptor.next = self.free_head;
        descriptor.flags = 0;
        self.write_descriptor(last, descriptor);
        self.free_head = head;
        self.free += count;
    }
}

fn encode(segment: Segment, flags: u16, next: u16) -> Descriptor {
    let write = if segment.device_writes { WRITE } else { 0 };
    Descriptor { address: segment.address, len: segment.len, flags: flags | write, next }
}

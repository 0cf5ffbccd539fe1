//! A split virtqueue: descriptors, the ring of available chains, the ring of used ones.
//!
//! The memory is shared with the device, so it is only touched by volatile accesses; what the device writes there is
//! checked before use. Which descriptors are free and which chains the device has is kept here, out of its reach: a chain that it has not
//! is not taken back.
//!
//! Notifications either way are suppressed by flags, or by indices if the device has agreed on that (virtio 1.2, 2.7.7 and 2.7.10).

use super::QueueMemory;
use crate::mm::{frame, phys};
use alloc::boxed::Box;
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
    /// Notifications by indices.
    event_idx: bool,
    /// By descriptor: the next one of its chain, or of the free ones.
    next: Box<[u16]>,
    /// By head: how many descriptors the chain has that is with the device; 0: none is.
    chains: Box<[u16]>,
    /// First free descriptor.
    free_head: u16,
    free: u16,
    next_available: u16,
    /// `next_available` when the device was last told, or did not want to be.
    announced: u16,
    last_used: u16,
}

/// Bytes that one indirect descriptor takes.
pub const DESCRIPTOR_SIZE: usize = size_of::<Descriptor>();

impl Queue {
    /// A queue of `size` (a power of two) descriptors; `None` without memory. `event_idx`: [`super::feature::EVENT_IDX`] is agreed on.
    pub fn new(size: u16, event_idx: bool) -> Option<Queue> {
        let n = usize::from(size);
        let used_offset = (16 * n + 6 + 2 * n).next_multiple_of(LEGACY_ALIGN);
        let bytes = used_offset + 6 + 8 * n;
        let pages = bytes.div_ceil(4096);
        let base = frame::alloc_contiguous(pages, 1)?;
        // SAFETY: fresh frames of the direct map.
        unsafe { phys::to_virt(base).write_bytes(0, pages * 4096) };
        let next = (1..=size).collect();
        let chains = alloc::vec![0; n].into_boxed_slice();
        let (free_head, free) = (0, size);
        let (next_available, announced, last_used) = (0, 0, 0);
        Some(Queue {
            size,
            base,
            used_offset,
            event_idx,
            next,
            chains,
            free_head,
            free,
            next_available,
            announced,
            last_used,
        })
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

    /// Makes a chain of `segments` available; the index of its head, or `None` if there are too few descriptors.
    pub fn push(&mut self, segments: &[Segment]) -> Option<u16> {
        if segments.is_empty() || segments.len() > usize::from(self.free) {
            return None;
        }
        let head = self.free_head;
        let mut index = head;
        for (i, segment) in segments.iter().enumerate() {
            let next = self.next[usize::from(index)];
            let more = if i + 1 < segments.len() { NEXT } else { 0 };
            self.write_descriptor(index, encode(*segment, more, next));
            index = next;
        }
        self.take_descriptors(head, segments.len() as u16, index);
        self.make_available(head);
        Some(head)
    }

    /// The first `count` free descriptors, from `head` on, become a chain; `rest` is the first that stays free.
    fn take_descriptors(&mut self, head: u16, count: u16, rest: u16) {
        self.chains[usize::from(head)] = count;
        self.free_head = rest;
        self.free -= count;
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
        let next = self.next[usize::from(head)];
        let len = (segments.len() * DESCRIPTOR_SIZE) as u32;
        self.write_descriptor(head, Descriptor { address: table_address, len, flags: INDIRECT, next });
        self.take_descriptors(head, 1, next);
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

    /// Whether the device wants to be told of what was pushed since this was asked last.
    pub fn wants_notify(&mut self) -> bool {
        let since = core::mem::replace(&mut self.announced, self.next_available);
        let new = self.next_available.wrapping_sub(since);
        // The index is written before the device's wish is read.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.used_offset + 4 + 8 * usize::from(self.size);
            // SAFETY: the used ring's last word, the index whose passing the device wants to be told of.
            let event = unsafe { self.at::<u16>(event).read_volatile() };
            return self.next_available.wrapping_sub(event).wrapping_sub(1) < new;
        }
        // SAFETY: the used ring's flags.
        new != 0 && unsafe { self.at::<u16>(self.used_offset).read_volatile() & NO_NOTIFY == 0 }
    }

    /// Asks the device for an interrupt with the next chain that it uses, or for none. A hint to the device.
    pub fn set_interrupts(&mut self, on: bool) {
        let ring = 16 * usize::from(self.size);
        if self.event_idx {
            // What has just been passed is passed again after 65,536 chains.
            let event = if on { self.last_used } else { self.last_used.wrapping_sub(1) };
            // SAFETY: the available ring's last word.
            unsafe { self.at::<u16>(ring + 4 + 2 * usize::from(self.size)).write_volatile(event) };
        } else {
            // SAFETY: the available ring's flags.
            unsafe { self.at::<u16>(ring).write_volatile(if on { 0 } else { NO_INTERRUPT }) };
        }
        // The device sees the wish before we look whether it has used something.
        fence(Ordering::SeqCst);
    }

    /// Chains that the device says it has used; more than it can have is none.
    fn pending(&self) -> u16 {
        // SAFETY: the used ring's index.
        let index = unsafe { self.at::<u16>(self.used_offset + 2).read_volatile() };
        fence(Ordering::Acquire);
        let pending = index.wrapping_sub(self.last_used);
        if pending <= self.size { pending } else { 0 }
    }

    /// Whether [`Queue::pop`] has something.
    pub fn has_used(&self) -> bool {
        self.pending() != 0
    }

    /// Takes the next used chain: its head and how many bytes the device says it has written.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        for _ in 0..self.pending() {
            let slot = usize::from(self.last_used & (self.size - 1));
            let entry = self.used_offset + 4 + 8 * slot;
            // SAFETY: inside the used ring.
            let (head, len) =
                unsafe { (self.at::<u32>(entry).read_volatile(), self.at::<u32>(entry + 4).read_volatile()) };
            self.last_used = self.last_used.wrapping_add(1);
            // A device that gives back what it has not is not listened to.
            if let Ok(head) = u16::try_from(head)
                && self.release(head)
            {
                return Some((head, len));
            }
        }
        None
    }

    /// Frees the chain at `head`; `false` if the device has none there.
    fn release(&mut self, head: u16) -> bool {
        let Some(count) = self.chains.get_mut(usize::from(head)).map(core::mem::take).filter(|n| *n > 0)
        else {
            return false;
        };
        let mut last = head;
        for _ in 1..count {
            last = self.next[usize::from(last)];
        }
        self.next[usize::from(last)] = self.free_head;
        self.free_head = head;
        self.free += count;
        true
    }
}

fn encode(segment: Segment, flags: u16, next: u16) -> Descriptor {
    let write = if segment.device_writes { WRITE } else { 0 };
    Descriptor { address: segment.address, len: segment.len, flags: flags | write, next }
}

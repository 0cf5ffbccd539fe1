//! The kernel heap.
//!
//! - Up to 2 KiB: slabs. A slab is one frame cut into equal objects; its record in the frame table counts them. In
//!   front of the slabs every processor keeps a small stack of free objects per size (with interrupts off, no lock).
//! - Beyond: whole frames from the buddy allocator, given back exactly.
//!
//! All memory lies in the direct map, so an object is physically contiguous and its address is a constant away from
//! what a device needs. May be used with interrupts off and under an [`IrqLock`].

use super::frame::{self, Frame};
use super::phys::{self, FRAME_SIZE};
use super::pressure;
use crate::arch::{IrqGuard, cpu};
use crate::sync::IrqLock;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

const NONE: u32 = u32::MAX;
const SIZES: [u16; 20] =
    [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 640, 768, 1024, 1344, 2048];
const LARGEST: usize = 2048;

/// Size class of each multiple of 16 bytes.
const CLASS_OF: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let (mut i, mut class) = (0, 0);
    while i < table.len() {
        if i * 16 > SIZES[class] as usize {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
};

/// Slabs of one size that have both free and used objects.
struct Class {
    partial: u32,
}

/// A processor's stack of free objects of one size, linked through the objects.
struct Magazine {
    head: *mut u8,
    count: usize,
}

struct Magazines(UnsafeCell<[Magazine; SIZES.len()]>);
// SAFETY: each processor touches its own alone, with interrupts off.
unsafe impl Sync for Magazines {}

static CLASSES: [IrqLock<Class>; SIZES.len()] =
    [const { IrqLock::new(Class { partial: NONE }) }; SIZES.len()];
static MAGAZINES: [Magazines; cpu::MAX_CPUS] = [const {
    Magazines(UnsafeCell::new([const { Magazine { head: core::ptr::null_mut(), count: 0 } }; SIZES.len()]))
}; cpu::MAX_CPUS];

/// Frames that are slabs, and those of larger blocks.
static SLABS: AtomicU64 = AtomicU64::new(0);
static LARGE: AtomicU64 = AtomicU64::new(0);

/// Frames of the heap: as slabs, and as blocks beyond 2 KiB.
pub fn pages() -> (u64, u64) {
    (SLABS.load(Ordering::Relaxed), LARGE.load(Ordering::Relaxed))
}

/// How many free objects a processor keeps at most.
fn capacity(class: usize) -> usize {
    (8192 / usize::from(SIZES[class])).clamp(4, 64)
}

fn class_for(layout: Layout) -> Option<usize> {
    let size = if layout.align() <= 16 {
        layout.size()
    } else {
        // Objects lie at multiples of their size in a frame: a power of two is aligned to itself.
        layout.size().max(layout.align()).next_power_of_two()
    };
    (size <= LARGEST).then(|| usize::from(CLASS_OF[size.div_ceil(16)]))
}

fn pages_for(layout: Layout) -> usize {
    layout.size().div_ceil(FRAME_SIZE as usize)
}

impl Class {
    fn unlink(&mut self, pfn: u32) {
        // SAFETY: a slab in this class's list; the class is locked.
        unsafe {
            let Frame { next, prev, .. } = *frame::record(pfn);
            if prev == NONE {
                self.partial = next;
            } else {
                (*frame::record(prev)).next = next;
            }
            if next != NONE {
                (*frame::record(next)).prev = prev;
            }
            (*frame::record(pfn)).listed = 0;
        }
    }

    fn link(&mut self, pfn: u32) {
        // SAFETY: a slab of this class that is in no list; the class is locked.
        unsafe {
            let record = &mut *frame::record(pfn);
            (record.next, record.prev, record.listed) = (self.partial, NONE, 1);
            if self.partial != NONE {
                (*frame::record(self.partial)).prev = pfn;
            }
        }
        self.partial = pfn;
    }

    fn new_slab(&mut self, size: usize) -> bool {
        let Some(address) = frame::alloc() else { return false };
        SLABS.fetch_add(1, Ordering::Relaxed);
        let pfn = (address / FRAME_SIZE) as u32;
        let objects = FRAME_SIZE as usize / size;
        // Free objects of a slab hold the number (from 1) of the next one; 0 ends the list.
        for i in 0..objects {
            let next = if i + 1 < objects { i as u16 + 2 } else { 0 };
            // SAFETY: inside the new frame.
            unsafe { phys::to_virt(address + (i * size) as u64).cast::<u16>().write(next) };
        }
        // SAFETY: the frame is ours, so its record is, too.
        unsafe {
            let record = &mut *frame::record(pfn);
            (record.used, record.free_head) = (0, 1);
        }
        self.link(pfn);
        true
    }

    fn take(&mut self, size: usize) -> *mut u8 {
        if self.partial == NONE && !self.new_slab(size) {
            return core::ptr::null_mut();
        }
        let pfn = self.partial;
        // SAFETY: a slab of this class with a free object.
        unsafe {
            let record = &mut *frame::record(pfn);
            let object =
                phys::to_virt(u64::from(pfn) * FRAME_SIZE).add((usize::from(record.free_head) - 1) * size);
            record.free_head = object.cast::<u16>().read();
            record.used += 1;
            if record.free_head == 0 {
                self.unlink(pfn);
            }
            object
        }
    }

    fn give(&mut self, object: *mut u8, size: usize) {
        let address = phys::to_phys(object);
        let pfn = (address / FRAME_SIZE) as u32;
        let number = (address % FRAME_SIZE) as usize / size;
        // SAFETY: an object of a slab of this class.
        unsafe {
            let record = &mut *frame::record(pfn);
            object.cast::<u16>().write(record.free_head);
            record.free_head = number as u16 + 1;
            record.used -= 1;
            let (unused, listed) = (record.used == 0, record.listed != 0);
            if !listed {
                self.link(pfn);
            }
            // Keep one slab, or a single object that comes and goes would take and give a frame each time.
            if unused && (self.partial != pfn || (*frame::record(pfn)).next != NONE) {
                self.unlink(pfn);
                SLABS.fetch_sub(1, Ordering::Relaxed);
                frame::free(u64::from(pfn) * FRAME_SIZE);
            }
        }
    }
}

#[cold]
fn refill(class: usize, magazine: &mut Magazine) {
    let size = usize::from(SIZES[class]);
    let mut slabs = CLASSES[class].lock();
    for _ in 0..capacity(class).div_ceil(2) {
        let object = slabs.take(size);
        if object.is_null() {
            break;
        }
        // SAFETY: a free object of at least 16 bytes.
        unsafe { object.cast::<*mut u8>().write(magazine.head) };
        magazine.head = object;
        magazine.count += 1;
    }
}

#[cold]
fn drain(class: usize, magazine: &mut Magazine) {
    let size = usize::from(SIZES[class]);
    let mut slabs = CLASSES[class].lock();
    for _ in 0..magazine.count / 2 {
        let object = magazine.head;
        // SAFETY: the magazine links free objects.
        magazine.head = unsafe { object.cast::<*mut u8>().read() };
        magazine.count -= 1;
        slabs.give(object, size);
    }
}

/// The calling processor's magazine.
///
/// # Safety
/// Interrupts are off as long as the reference lives.
unsafe fn magazine(class: usize) -> &'static mut Magazine {
    // SAFETY: this processor's own, by the caller's promise.
    unsafe { &mut (*MAGAZINES[cpu::this().index].0.get())[class] }
}

/// An object of a class; null without memory.
#[inline]
fn small(class: usize) -> *mut u8 {
    let _irq = IrqGuard::new();
    // SAFETY: interrupts are off.
    let magazine = unsafe { magazine(class) };
    if magazine.head.is_null() {
        refill(class, magazine);
        if magazine.head.is_null() {
            return core::ptr::null_mut();
        }
    }
    let object = magazine.head;
    // SAFETY: the magazine links free objects.
    magazine.head = unsafe { object.cast::<*mut u8>().read() };
    magazine.count -= 1;
    object
}

/// Whole frames; null without memory.
fn large(layout: Layout) -> *mut u8 {
    let align = layout.align().div_ceil(FRAME_SIZE as usize);
    let mut tries = 0;
    loop {
        if let Some(first) = frame::alloc_contiguous(pages_for(layout), align) {
            LARGE.fetch_add(pages_for(layout) as u64, Ordering::Relaxed);
            return phys::to_virt(first);
        }
        if !pressure::in_need(layout.size(), tries) {
            return core::ptr::null_mut();
        }
        tries += 1;
    }
}

/// Gives back `count` frames of a large block.
fn give_large(first: u64, count: usize) {
    LARGE.fetch_sub(count as u64, Ordering::Relaxed);
    frame::free_contiguous(first, count);
}

/// The kernel's allocator.
pub struct Heap;

// SAFETY: blocks are disjoint: a frame belongs to one slab or one large block, an object to one magazine or user.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_for(layout) else {
            return large(layout);
        };
        let mut tries = 0;
        loop {
            let object = small(class);
            if !object.is_null() || !pressure::in_need(layout.size(), tries) {
                return object;
            }
            tries += 1;
        }
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let Some(class) = class_for(layout) else {
            give_large(phys::to_phys(object), pages_for(layout));
            return;
        };
        let _irq = IrqGuard::new();
        // SAFETY: interrupts are off.
        let magazine = unsafe { magazine(class) };
        // SAFETY: the caller gives up an object of at least 16 bytes.
        unsafe { object.cast::<*mut u8>().write(magazine.head) };
        magazine.head = object;
        magazine.count += 1;
        if magazine.count > capacity(class) {
            drain(class, magazine);
        }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps to GlobalAlloc's rules for sizes.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class_for(layout), class_for(new)) {
            (Some(a), Some(b)) if a == b => return old,
            (None, None) => {
                let (had, wants) = (pages_for(layout), pages_for(new));
                if wants <= had {
                    let tail = phys::to_phys(old) + wants as u64 * FRAME_SIZE;
                    if had > wants {
                        give_large(tail, had - wants);
                    }
                    return old;
                }
            }
            _ => {}
        }
        // SAFETY: as GlobalAlloc's default does.
        unsafe {
            let to = self.alloc(new);
            if !to.is_null() {
                core::ptr::copy_nonoverlapping(old, to, layout.size().min(new_size));
                self.dealloc(old, layout);
            }
            to
        }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;

//! Kernel stacks: mapped page by page above an unmapped guard page. When a thread ends, its stack is kept for the next one, so that
//! a program that starts and ends threads all the time has no translation forgotten on all processors each time. But for a few, those
//! that nobody needs for a while are given back, and when memory gets short all that wait: by [`pressure`].

use super::{frame, phys::FRAME_SIZE, pressure};
use crate::arch::paging::{self, Flags};
use crate::arch::tlb;
use crate::sync::IrqLock;
use alloc::vec::Vec;

/// Where kernel stacks lie.
pub const REGION: u64 = 0xffff_e000_0000_0000;
/// Usable bytes of a kernel stack. The storage engine's call chains are deep.
pub const SIZE: u64 = 128 * 1024;
const STRIDE: u64 = 256 * 1024;
/// Frames of a stack.
pub const PAGES: usize = (SIZE / FRAME_SIZE) as usize;
const _: () = assert!((2u64 << 20).is_multiple_of(STRIDE) && REGION.is_multiple_of(2 << 20));

/// Stacks that wait and are kept also when memory is short.
pub const KEPT: usize = 8;
/// Stacks that are given back with one request to the other processors.
const BATCH: usize = 8;

struct Pool {
    /// Places that were ever used, each [`STRIDE`] bytes.
    places: u64,
    /// Tops of those that wait for a next thread.
    free: Vec<u64>,
    /// The fewest that waited since [`give_back_unused`].
    unused: usize,
    /// Tops of places without memory.
    empty: Vec<u64>,
}

impl Pool {
    /// The top of a place for another stack; `None` without memory. `free` and `empty` have room for all places from then on.
    fn place(&mut self) -> Option<u64> {
        if let Some(top) = self.empty.pop() {
            return Some(top);
        }
        let places = self.places as usize + 1;
        self.free.try_reserve(places - self.free.len()).ok()?;
        self.empty.try_reserve(places - self.empty.len()).ok()?;
        self.places += 1;
        Some(REGION + self.places * STRIDE)
    }

    /// A stack that waits.
    fn take(&mut self) -> Option<u64> {
        let top = self.free.pop();
        self.unused = self.unused.min(self.free.len());
        top
    }
}

static POOL: IrqLock<Pool> = IrqLock::new(Pool { places: 0, free: Vec::new(), unused: 0, empty: Vec::new() });

/// A kernel stack; goes back to the pool when dropped.
#[derive(Debug)]
pub struct Stack {
    top: u64,
}

impl Stack {
    /// A stack; `None` without memory, after others were asked for some.
    pub fn new() -> Option<Stack> {
        let mut tries = 0;
        loop {
            let stack = Self::try_new();
            if stack.is_some() || !pressure::in_need(SIZE as usize, tries) {
                return stack;
            }
            tries += 1;
        }
    }

    /// The same of the memory that there is.
    pub fn try_new() -> Option<Stack> {
        if let Some(top) = POOL.lock().take() {
            return Some(Stack { top });
        }
        let frames = frames()?;
        let Some(top) = Self::place() else {
            frames.into_iter().for_each(frame::free);
            return None;
        };
        for (page, frame) in (top - SIZE..top).step_by(FRAME_SIZE as usize).zip(frames) {
            paging::map_kernel(page, frame, Flags::WRITABLE | Flags::NO_EXECUTE);
        }
        Some(Stack { top })
    }

    /// A place with page tables.
    fn place() -> Option<u64> {
        let mut pool = POOL.lock();
        let top = pool.place()?;
        // A stack does not cross the reach of a table.
        if !paging::make_tables(top - SIZE) {
            pool.empty.push(top);
            return None;
        }
        Some(top)
    }

    /// Address just above the stack, aligned to 16.
    pub fn top(&self) -> u64 {
        self.top
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        POOL.lock().free.push(self.top);
    }
}

/// The frames of a stack, or none at all.
fn frames() -> Option<[u64; PAGES]> {
    let mut frames = [0; PAGES];
    for n in 0..PAGES {
        let Some(frame) = frame::alloc() else {
            frames[..n].iter().for_each(|frame| frame::free(*frame));
            return None;
        };
        frames[n] = frame;
    }
    Some(frames)
}

/// Gives the memory of stacks that wait back, but for [`KEPT`] of them. With no lock held: other processors are waited for.
pub fn give_back() {
    give_back_most(usize::MAX);
}

/// The same of those only that nobody needed since the last call. Whether some are left that may be given back another time.
pub fn give_back_unused() -> bool {
    let unused = {
        let mut pool = POOL.lock();
        let waiting = pool.free.len();
        core::mem::replace(&mut pool.unused, waiting)
    };
    give_back_most(unused);
    free() > KEPT
}

fn give_back_most(mut most: usize) {
    loop {
        let mut tops = [0; BATCH];
        let mut count = 0;
        {
            let mut pool = POOL.lock();
            while count < BATCH.min(most) && pool.free.len() > KEPT {
                let Some(top) = pool.take() else { break };
                tops[count] = top;
                count += 1;
            }
        }
        most -= count;
        let tops = &tops[..count];
        let (Some(lowest), Some(highest)) = (tops.iter().min(), tops.iter().max()) else { return };
        let mut frames = [None; BATCH * PAGES];
        let pages = tops.iter().flat_map(|top| (top - SIZE..*top).step_by(FRAME_SIZE as usize));
        for (page, frame) in pages.zip(&mut frames) {
            *frame = paging::unmap_kernel(page);
        }
        tlb::shootdown(0, lowest - SIZE, *highest);
        frames.into_iter().flatten().for_each(frame::free);
        POOL.lock().empty.extend_from_slice(tops);
    }
}

/// Frames of all stacks, in use or not.
pub fn pages() -> u64 {
    let pool = POOL.lock();
    (pool.places - pool.empty.len() as u64) * PAGES as u64
}

/// Stacks that wait for a next thread.
pub fn free() -> usize {
    POOL.lock().free.len()
}

/// Whether `address` lies in a guard page: a stack has overflowed.
pub fn is_guard(address: u64) -> bool {
    (REGION..REGION + (1 << 39)).contains(&address) && (address - REGION) % STRIDE < STRIDE - SIZE
}

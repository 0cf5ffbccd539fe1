//! Kernel stacks: mapped page by page above an unmapped guard page, and kept for the next thread when one ends (so
//! that no translation ever has to be forgotten).

use super::{frame, phys::FRAME_SIZE, pressure};
use crate::arch::paging::{self, Flags};
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

struct Pool {
    made: u64,
    free: Vec<u64>,
}

static POOL: IrqLock<Pool> = IrqLock::new(Pool { made: 0, free: Vec::new() });

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
        if let Some(top) = POOL.lock().free.pop() {
            return Some(Stack { top });
        }
        let frames = frames()?;
        let top = {
            let mut pool = POOL.lock();
            let top = REGION + (pool.made + 1) * STRIDE;
            // A stack does not cross the reach of a table.
            if !paging::make_tables(top - SIZE) {
                frames.into_iter().for_each(frame::free);
                return None;
            }
            pool.made += 1;
            top
        };
        for (page, frame) in (top - SIZE..top).step_by(FRAME_SIZE as usize).zip(frames) {
            paging::map_kernel(page, frame, Flags::WRITABLE | Flags::NO_EXECUTE);
        }
        Some(Stack { top })
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

/// Frames of all stacks that were made, in use or not.
pub fn pages() -> u64 {
    POOL.lock().made * PAGES as u64
}

/// Stacks that wait for a next thread.
pub fn free() -> usize {
    POOL.lock().free.len()
}

/// Whether `address` lies in a guard page: a stack has overflowed.
pub fn is_guard(address: u64) -> bool {
    (REGION..REGION + (1 << 39)).contains(&address) && (address - REGION) % STRIDE < STRIDE - SIZE
}

//! Kernel stacks: mapped page by page above an unmapped guard page, and kept for the next thread when one ends (so
//! that no translation ever has to be forgotten).

use super::{frame, phys::FRAME_SIZE};
use crate::arch::paging::{self, Flags};
use crate::sync::IrqLock;
use alloc::vec::Vec;

/// Where kernel stacks lie.
pub const REGION: u64 = 0xffff_e000_0000_0000;
/// Usable bytes of a kernel stack. The storage engine's call chains are deep.
pub const SIZE: u64 = 128 * 1024;
const STRIDE: u64 = 256 * 1024;

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
    /// A stack; `None` without memory.
    pub fn new() -> Option<Stack> {
        let number = {
            let mut pool = POOL.lock();
            if let Some(top) = pool.free.pop() {
                return Some(Stack { top });
            }
            pool.made += 1;
            pool.made - 1
        };
        let top = REGION + (number + 1) * STRIDE;
        for page in (top - SIZE..top).step_by(FRAME_SIZE as usize) {
            paging::map_kernel(page, frame::alloc()?, Flags::WRITABLE | Flags::NO_EXECUTE);
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

/// Whether `address` lies in a guard page: a stack has overflowed.
pub fn is_guard(address: u64) -> bool {
    (REGION..REGION + (1 << 39)).contains(&address) && (address - REGION) % STRIDE < STRIDE - SIZE
}

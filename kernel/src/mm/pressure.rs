//! When memory gets short.
//!
//! Below the *low* mark a thread, the reclaimer, takes memory back until there is some more: kernel stacks that wait for a thread, blocks
//! of the file systems' cache, file pages that can be read again, zeros in large pages. Below the *reserve*, which is the kernel's own
//! (transaction groups must be written to give memory back), applications get no page any more: their faults take memory back
//! themselves, wait a while, and at last fail with a named reason. An allocation of the kernel that finds nothing asks the cache once
//! more before it fails.
//!
//! Also where memory is plenty, the reclaimer gives back kernel stacks for which there was no thread for some time.

use super::{address_space, frame, large, phys, stack};
use crate::arch;
use crate::sched::{self, Bell};
use crate::time;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Once;
use vfs::mapped::Mapped;

/// The low mark as a share of all memory, and its bounds in frames.
const LOW_SHARE: u64 = 10;
const LOW_MIN: u64 = 512;
const LOW_MAX: u64 = 16_384;
/// How often a fault takes memory back before it gives up, and how long it waits each time: other threads may be
/// about to free some.
const PATIENCE: u32 = 200;
const WAIT_NS: u64 = 5_000_000;
/// What an allocation in need asks the cache for at least, in bytes.
const NEED_MIN: usize = 1 << 20;

/// Frames of a large page; the share of the memory that is left free by those that nobody asked for, and its least in frames:
/// 32 MiB, so that small machines have none.
const LARGE_FRAMES: u64 = 512;
const LARGE_SHARE: u64 = 4;
const LARGE_MIN: u64 = 8192;

/// A stack that waited for a thread for so long is given back.
const STACKS_NS: u64 = 10_000_000_000;

static LOW: AtomicU64 = AtomicU64::new(0);
static CALLED: AtomicBool = AtomicBool::new(false);
/// The reclaimer will look at the stacks that wait.
static STACKS: AtomicBool = AtomicBool::new(false);
/// The reclaimer's.
static BELL: Bell = Bell::new();

type Shrink = Box<dyn Fn(usize) -> usize + Send + Sync>;

/// Who can give memory back.
pub struct Holders {
    /// Gives back so many bytes of cached blocks, and says how many it was. Never waits.
    pub cache: Shrink,
    /// Gives back the names of files that are kept. May wait.
    pub names: Box<dyn Fn() + Send + Sync>,
}

static HOLDERS: Once<Holders> = Once::new();

fn low() -> u64 {
    LOW.load(Ordering::Relaxed)
}

fn reserve() -> u64 {
    low() / 2
}

/// Starts the thread that takes memory back from `holders`. Once.
pub fn start(holders: Holders) {
    HOLDERS.call_once(|| holders);
    LOW.store((frame::total() / LOW_SHARE).clamp(LOW_MIN, LOW_MAX), Ordering::Relaxed);
    drop(sched::spawn("reclaim", Box::new(run)));
}

fn run() {
    BELL.answer();
    let mut look = None;
    loop {
        BELL.wait(look.map_or(u64::MAX, |at: u64| at.saturating_sub(time::monotonic_ns())));
        while frame::free_count() < low() * 3 / 2 {
            if reclaim() == 0 {
                break;
            }
        }
        CALLED.store(false, Ordering::SeqCst);
        look = look_at_stacks(look);
    }
}

/// Gives back stacks that nobody needed for [`STACKS_NS`], if it is `at` or later; when to look again.
fn look_at_stacks(at: Option<u64>) -> Option<u64> {
    let now = time::monotonic_ns();
    let again = now + STACKS_NS;
    match at {
        None => STACKS.load(Ordering::SeqCst).then_some(again),
        Some(at) if now < at => Some(at),
        Some(_) if stack::give_back_unused() => Some(again),
        Some(_) => {
            STACKS.store(false, Ordering::SeqCst);
            // Threads that have ended meanwhile have told nobody.
            (stack::free() > stack::KEPT).then(|| {
                STACKS.store(true, Ordering::SeqCst);
                again
            })
        }
    }
}

/// To be called by a thread that ends: its stack will wait for another one.
pub fn stack_is_left() {
    if stack::free() >= stack::KEPT && !STACKS.swap(true, Ordering::SeqCst) {
        BELL.ring();
    }
}

fn call_reclaimer() {
    if !CALLED.swap(true, Ordering::SeqCst) {
        BELL.ring();
    }
}

/// Takes some memory back; how many frames became free meanwhile. With no lock held.
fn reclaim() -> u64 {
    let before = frame::free_count();
    stack::give_back();
    let wanted = (low() * 2).saturating_sub(frame::free_count()).max(LOW_MIN) * phys::FRAME_SIZE;
    if let Some(holders) = HOLDERS.get() {
        (holders.cache)(wanted as usize);
        if frame::free_count() < low() {
            (holders.names)();
        }
    }
    if frame::free_count() < low() {
        address_space::release_borrowed();
        if let Err(error) = Mapped::reclaim_all() {
            crate::log!(Error, "writing back a shared mapping failed: {error}");
        }
        if frame::free_count() < low() {
            large::give_back_zeros();
        }
    }
    frame::free_count().saturating_sub(before)
}

/// Whether an application may have another page. Takes memory back, and may wait, when it is short: with no lock held.
pub fn admit() -> bool {
    let free = frame::free_count();
    if free >= low() {
        return true;
    }
    call_reclaimer();
    if free > reserve() {
        return true;
    }
    (0..PATIENCE).any(|_| {
        if reclaim() == 0 {
            sched::sleep(WAIT_NS);
        }
        frame::free_count() > reserve()
    })
}

/// Whether an application may have something for which the kernel takes `count` frames that nobody can make it give back: only as long
/// as others have plenty. Takes memory back: with no lock held.
pub fn admit_fixed(count: u64) -> bool {
    let is_room = || frame::free_count() > low() * 2 + count;
    while !is_room() {
        if reclaim() == 0 {
            // Another thread may have been quicker.
            return is_room();
        }
    }
    true
}

/// Whether there is memory to be generous with.
pub fn plenty() -> bool {
    frame::free_count() > low() * 2
}

/// Whether there is memory for a page of 2 MiB that its program may never touch but for a part: much of all, or, where the program
/// wants it, what a small page would be admitted with generosity for.
pub fn plenty_for_large(wanted: bool) -> bool {
    let least = low() * 2 + LARGE_FRAMES;
    let spare = if wanted { 0 } else { (frame::total() / LARGE_SHARE).max(LARGE_MIN) };
    frame::free_count() > least + spare
}

/// An allocation of `bytes` found nothing, for the `tries`th time: asks the cache, or waits for others to give something
/// back. `true`: it is worth another try.
#[cold]
pub fn in_need(bytes: usize, tries: u32) -> bool {
    // The cache's lock wakes threads when it is let go, which only a thread may do that could sleep itself.
    if tries >= PATIENCE || !arch::interrupts_enabled() || !sched::is_running() {
        return false;
    }
    let shrink = |holders: &Holders| (holders.cache)(bytes.saturating_mul(2).max(NEED_MIN)) > 0;
    if !HOLDERS.get().is_some_and(shrink) && !address_space::try_release_borrowed() {
        sched::sleep(WAIT_NS);
    }
    true
}

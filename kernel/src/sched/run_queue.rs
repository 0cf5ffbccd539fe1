//! Who runs where: the processors' queues, stealing, the time slice.

use super::{Thread, idle, switch as stacks, timers};
use crate::arch::{IrqGuard, apic, cpu, fpu, paging};
use crate::sync::IrqLock;
use crate::time;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// How long a thread runs while others wait.
const SLICE_NS: u64 = 8_000_000;

struct RunQueue {
    ready: IrqLock<VecDeque<Arc<Thread>>>,
    /// Threads in `ready`, to look at without the lock.
    len: AtomicU64,
    idle: AtomicPtr<Thread>,
    /// The thread that was just switched away from.
    previous: AtomicPtr<Thread>,
    /// When the APIC timer will fire; `u64::MAX` if it is stopped.
    armed: AtomicU64,
    /// When the running thread has had its time.
    slice_end: AtomicU64,
}

static QUEUES: [RunQueue; cpu::MAX_CPUS] = [const {
    RunQueue {
        ready: IrqLock::new(VecDeque::new()),
        len: AtomicU64::new(0),
        idle: AtomicPtr::new(core::ptr::null_mut()),
        previous: AtomicPtr::new(core::ptr::null_mut()),
        armed: AtomicU64::new(u64::MAX),
        slice_end: AtomicU64::new(u64::MAX),
    }
}; cpu::MAX_CPUS];

fn mine() -> &'static RunQueue {
    &QUEUES[cpu::this().index]
}

/// Puts a runnable thread into a queue and sees to it that a processor looks there.
///
/// To wake a processor that sleeps costs more than most of what threads do between two sleeps. So the caller's own is preferred, where
/// it is about to be free: in an interrupt that came while it slept, or for a thread that a driver's thread wakes on its round
/// ([`share`]).
pub(super) fn enqueue(thread: Arc<Thread>) {
    let _irq = IrqGuard::new();
    let me = cpu::this();
    let last = thread.cpu.load(Ordering::Relaxed);
    let target = if thread.on_cpu.load(Ordering::SeqCst) {
        // It is still leaving that processor: only there it may be picked up.
        last
    } else if mine().len.load(Ordering::SeqCst) == 0 && is_soon_free() {
        me.index
    } else {
        let idle = idle::processors();
        if idle & 1 << last != 0 || idle == 0 { last } else { idle.trailing_zeros() as usize }
    };
    let urgent = thread.urgent.load(Ordering::Relaxed);
    {
        let queue = &QUEUES[target];
        let mut ready = queue.ready.lock();
        if urgent {
            ready.push_front(thread)
        } else {
            ready.push_back(thread)
        }
        queue.len.store(ready.len() as u64, Ordering::SeqCst);
    }
    if target == me.index {
        if urgent {
            me.need_resched.store(true, Ordering::Relaxed);
        }
        return;
    }
    if let Some(cpu) = cpu::get(target)
        && (idle::sleeps(target) || urgent && !idle::looks(target))
    {
        if urgent {
            cpu.need_resched.store(true, Ordering::Relaxed);
        }
        apic::send(cpu, apic::RESCHEDULE_VECTOR);
    }
}

/// Whether what runs on this processor leaves it at once. Interrupts are off.
fn is_soon_free() -> bool {
    super::is_running() && {
        let current = super::current_thread();
        current.is_idle() || current.urgent.load(Ordering::Relaxed)
    }
}

/// A thread that others expect to end its round goes on with another one: a processor that sleeps may take what waits here.
pub(super) fn share() {
    let _irq = IrqGuard::new();
    if mine().len.load(Ordering::SeqCst) > 0 {
        wake_idle();
    }
}

/// Wakes a processor that sleeps, if there is one: it steals. Interrupts are off.
fn wake_idle() {
    let idle = idle::processors() & !(1 << cpu::this().index);
    if idle != 0
        && let Some(cpu) = cpu::get(idle.trailing_zeros() as usize)
    {
        apic::send(cpu, apic::RESCHEDULE_VECTOR);
    }
}

/// Whether no thread waits for this processor.
pub(super) fn is_empty() -> bool {
    mine().len.load(Ordering::SeqCst) == 0
}

fn pop(queue: &RunQueue) -> Option<Arc<Thread>> {
    if queue.len.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let mut ready = queue.ready.lock();
    let thread = ready.pop_front();
    queue.len.store(ready.len() as u64, Ordering::SeqCst);
    thread
}

/// A thread from another processor's queue, if it has left that processor.
fn steal() -> Option<Arc<Thread>> {
    let me = cpu::this().index;
    for step in 1..cpu::count() {
        let queue = &QUEUES[(me + step) % cpu::count()];
        if queue.len.load(Ordering::SeqCst) == 0 {
            continue;
        }
        let Some(mut ready) = queue.ready.try_lock() else { continue };
        let found = ready.iter().position(|t| !t.on_cpu.load(Ordering::SeqCst));
        if let Some(at) = found {
            let thread = ready.remove(at);
            queue.len.store(ready.len() as u64, Ordering::SeqCst);
            return thread;
        }
    }
    None
}

/// Gives the processor to the next thread; with `requeue` the caller stays runnable. Returns when the caller runs
/// again, possibly on another processor. Interrupts are off.
pub(super) fn switch(requeue: bool) {
    let queue = mine();
    let current = super::current_thread();
    let next = match pop(queue).or_else(steal) {
        Some(next) => next,
        None if requeue || current.is_idle() => return,
        // SAFETY: set by `adopt_idle` from an Arc that is never dropped.
        None => unsafe {
            let idle = queue.idle.load(Ordering::Relaxed);
            Arc::increment_strong_count(idle);
            Arc::from_raw(idle)
        },
    };
    if core::ptr::eq(&raw const *next, current) {
        // Woken again before it had left.
        return;
    }
    if requeue && !current.is_idle() {
        let mut ready = queue.ready.lock();
        ready.push_back(super::current());
        queue.len.store(ready.len() as u64, Ordering::SeqCst);
    }
    // The registry keeps `next` alive (an idle thread is never dropped).
    let next: &'static Thread = {
        let pointer = Arc::as_ptr(&next);
        drop(next);
        // SAFETY: see above.
        unsafe { &*pointer }
    };
    switch_to(current, next);
}

fn switch_to(current: &'static Thread, next: &'static Thread) {
    let cpu = cpu::this();
    let queue = mine();
    fpu::vacate();
    let now = time::monotonic_ns();
    current.ran_ns.fetch_add(now.saturating_sub(current.since_ns.load(Ordering::Relaxed)), Ordering::Relaxed);
    next.since_ns.store(now, Ordering::Relaxed);
    next.cpu.store(cpu.index, Ordering::Relaxed);
    next.on_cpu.store(true, Ordering::SeqCst);
    queue.previous.store(current as *const Thread as *mut Thread, Ordering::Relaxed);
    cpu.current.store(next as *const Thread as *mut Thread, Ordering::Relaxed);
    cpu.kernel_stack.store(next.kernel_stack_top(), Ordering::Relaxed);
    next.load_context();
    if !next.is_idle() {
        queue.slice_end.store(now + SLICE_NS, Ordering::Relaxed);
        arm_timer(now + SLICE_NS);
    }
    // SAFETY: interrupts are off; `next` is not running anywhere (it came out of a queue and was not on_cpu, or is
    // this processor's idle thread), so its saved stack pointer is valid.
    unsafe { stacks::switch_stacks(current.rsp.get(), *next.rsp.get()) };
    finish_switch();
}

/// The first thing on the new stack: the previous thread has left its own.
pub(super) fn finish_switch() {
    let previous = mine().previous.swap(core::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: it was running a moment ago; if it is dead, `unregister` has left us a reference.
    unsafe {
        if let Some(thread) = previous.as_ref() {
            let dead = thread.dead.load(Ordering::Acquire);
            thread.on_cpu.store(false, Ordering::SeqCst);
            if dead {
                Thread::bury(previous);
            }
        }
    }
}

/// Leaves a dead thread. Interrupts are off.
pub(super) fn leave_for_ever() -> ! {
    switch(false);
    unreachable!("a dead thread was switched to");
}

/// Loads a top page table, if it is not loaded already. Interrupts are off.
pub(super) fn load_root(root: u64) {
    let cpu = cpu::this();
    if cpu.root.swap(root, Ordering::SeqCst) != root {
        paging::load(root);
    }
}

/// Sees to it that the timer fires at `deadline` or before. Interrupts are off.
pub(super) fn arm_timer(deadline: u64) {
    let queue = mine();
    if deadline < queue.armed.load(Ordering::Relaxed) {
        queue.armed.store(deadline, Ordering::Relaxed);
        apic::set_timer(deadline.saturating_sub(time::monotonic_ns()).max(1000));
    }
}

/// The timer has fired: wake sleepers, end slices.
pub fn timer_interrupt() {
    let queue = mine();
    queue.armed.store(u64::MAX, Ordering::Relaxed);
    if !super::is_running() {
        return;
    }
    let next = timers::ring();
    let waiting = queue.len.load(Ordering::SeqCst);
    let mut deadline = next.unwrap_or(u64::MAX);
    if !super::current_thread().is_idle() {
        let now = time::monotonic_ns();
        if now >= queue.slice_end.load(Ordering::Relaxed) {
            queue.slice_end.store(now + SLICE_NS, Ordering::Relaxed);
            if waiting > 0 {
                cpu::this().need_resched.store(true, Ordering::Relaxed);
            }
        }
        deadline = deadline.min(queue.slice_end.load(Ordering::Relaxed));
    }
    if deadline != u64::MAX {
        arm_timer(deadline);
    }
    // Threads wait here while another processor sleeps: it may steal one.
    if waiting > 0 {
        wake_idle();
    }
}

/// Makes the calling context this processor's idle thread.
pub(super) fn adopt_idle() {
    let idle = Arc::into_raw(Thread::new_idle()) as *mut Thread;
    let cpu = cpu::this();
    mine().idle.store(idle, Ordering::Relaxed);
    cpu.current.store(idle, Ordering::Relaxed);
    cpu.online.store(true, Ordering::Release);
}

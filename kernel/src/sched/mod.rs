//! Threads: one run queue per processor, preemption, parking, sleeping.
//!
//! # A thread's life
//! `wake` is a small state machine, as `std::thread::park` has it: RUNNING (or runnable), NOTIFIED (a token waits),
//! PARKED. Only the thread itself goes to PARKED; only the one who takes it from PARKED to RUNNING puts it into a run
//! queue, so a thread is in at most one queue.
//!
//! # Leaving a processor
//! A thread that is being switched away still runs on its stack until the switch is done; `on_cpu` says so. Whoever
//! wakes it meanwhile queues it on *that* processor, and nobody steals a thread that is `on_cpu`.
//!
//! # Lock order
//! timers → (nothing held) → run queue. Run queues are never locked two at a time.

mod bell;
mod idle;
mod run_queue;
mod switch;
mod thread;
mod timers;

pub use bell::Bell;
pub use thread::Thread;

use crate::arch::trap::TrapFrame;
use crate::arch::{self, IrqGuard, cpu, fpu};
use crate::mm::{frame, phys, pressure};
use crate::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use platform::thread::{Scheduler, Unpark};

pub use idle::idle_loop;
pub use run_queue::timer_interrupt;

/// The running thread. Valid for as long as the caller runs.
#[inline]
pub fn current_thread() -> &'static Thread {
    // SAFETY: a running thread is kept alive by the registry (or is an idle thread, which lives for ever).
    unsafe { &*cpu::current_ptr() }
}

/// The running thread, as a reference to keep.
pub fn current() -> Arc<Thread> {
    let thread = cpu::current_ptr();
    // SAFETY: the pointer came out of an Arc that the registry holds while the thread runs.
    unsafe {
        Arc::increment_strong_count(thread);
        Arc::from_raw(thread)
    }
}

/// Whether threads exist yet.
pub fn is_running() -> bool {
    !cpu::current_ptr().is_null()
}

/// Number of the processor that the caller runs on; it may be out of date at once.
pub fn cpu_index() -> usize {
    cpu::this().index
}

/// Starts a thread of the kernel's own, which cannot do without.
pub fn spawn(name: &str, main: Box<dyn FnOnce() + Send>) -> Arc<Thread> {
    try_spawn(name, main).expect("memory for a kernel stack")
}

/// Starts a thread; `None` if there is no memory for its stack.
pub fn try_spawn(name: &str, main: Box<dyn FnOnce() + Send>) -> Option<Arc<Thread>> {
    let thread = Thread::new(name, main)?;
    run_queue::enqueue(Arc::clone(&thread));
    Some(thread)
}

/// How many threads there are, and how many alarms of sleepers are set.
pub fn counts() -> (usize, usize) {
    (thread::count(), timers::count())
}

/// Starts a thread that goes ahead of the others whenever it is woken: drivers.
pub fn spawn_urgent(name: &str, main: Box<dyn FnOnce() + Send>) -> Arc<Thread> {
    let thread = Thread::new(name, main).expect("memory for a kernel stack");
    thread.urgent.store(true, Ordering::Relaxed);
    run_queue::enqueue(Arc::clone(&thread));
    thread
}

/// To be called by an urgent thread that has done a round of its work and begins another: those that it has woken need not wait for
/// its end, if there is a processor for them.
pub fn share() {
    if is_running() {
        run_queue::share();
    }
}

/// Ends the calling thread. What its stack owns is not dropped.
pub fn exit() -> ! {
    drop(current_thread().take_app());
    pressure::stack_is_left();
    arch::interrupts_off();
    thread::unregister(current_thread());
    run_queue::leave_for_ever()
}

/// Lets another thread run.
pub fn yield_now() {
    if !is_running() || !arch::interrupts_enabled() {
        core::hint::spin_loop();
        return;
    }
    let _irq = IrqGuard::new();
    run_queue::switch(true);
}

/// Sleeps until [`Thread::unpark`]; returns at once if that came before. May return early.
pub fn park() {
    if !is_running() {
        core::hint::spin_loop();
        return;
    }
    debug_assert!(arch::interrupts_enabled(), "parking with interrupts off");
    let _irq = IrqGuard::new();
    if current_thread().begin_park() {
        run_queue::switch(false);
    }
}

/// As [`park`], at most `ns` nanoseconds.
pub fn park_timeout(ns: u64) {
    if !is_running() {
        core::hint::spin_loop();
        return;
    }
    let deadline = time::monotonic_ns().saturating_add(ns);
    let alarm = timers::set(deadline, current());
    park();
    timers::cancel(alarm);
}

/// Sees to it that the timer interrupts this processor in `ns` nanoseconds or before.
pub fn interrupt_within(ns: u64) {
    let _irq = IrqGuard::new();
    run_queue::arm_timer(time::monotonic_ns().saturating_add(ns));
}

/// Sleeps `ns` nanoseconds.
pub fn sleep(ns: u64) {
    let deadline = time::monotonic_ns().saturating_add(ns);
    loop {
        let now = time::monotonic_ns();
        if now >= deadline {
            return;
        }
        park_timeout(deadline - now);
    }
}

/// Whether the running thread is to leave its processor to another one.
pub fn is_wanted() -> bool {
    cpu::this().need_resched.load(Ordering::Relaxed)
}

/// Called at the end of every interrupt: preemption.
pub fn after_interrupt(_frame: &TrapFrame) {
    let cpu = cpu::this();
    if !cpu.need_resched.load(Ordering::Relaxed)
        || cpu.preempt_off.load(Ordering::Relaxed) != 0
        || !is_running()
    {
        return;
    }
    cpu.need_resched.store(false, Ordering::Relaxed);
    if current_thread().is_idle() {
        // Its loop looks at the queue as soon as the interrupt returns.
        return;
    }
    let state = fpu::save();
    run_queue::switch(true);
    fpu::restore(&state);
}

/// Makes the calling context processor 0's idle thread and installs the scheduler for [`platform`]'s locks.
pub fn init() {
    run_queue::adopt_idle();
    platform::thread::install(&KernelScheduler);
}

/// Makes the calling context a further processor's idle thread.
pub fn init_cpu() {
    run_queue::adopt_idle();
}

struct KernelScheduler;

impl Scheduler for KernelScheduler {
    fn current(&self) -> Arc<dyn Unpark> {
        current()
    }
    fn park(&self) {
        park();
    }
    fn park_timeout(&self, ns: u64) {
        park_timeout(ns);
    }
    fn yield_now(&self) {
        yield_now();
    }
    fn spawn(&self, name: &str, main: Box<dyn FnOnce() + Send>) {
        drop(spawn(name, main));
    }
    fn cpus(&self) -> usize {
        cpu::all().filter(|c| c.online.load(Ordering::Relaxed)).count()
    }
    fn monotonic_ns(&self) -> u64 {
        time::monotonic_ns()
    }
    fn largest_piece(&self) -> usize {
        frame::largest() as usize * phys::FRAME_SIZE as usize
    }
    fn use_vectors(&self) {
        if is_running() {
            fpu::vacate();
        }
    }
}

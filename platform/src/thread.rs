//! Threads, and the hooks by which locks sleep.
//!
//! A lock needs to put its caller to sleep and to wake it; only the machine knows how. The host implementation
//! (std threads) installs itself; the kernel calls [`install`] before its first lock could be contended. With no
//! scheduler installed there is one thread, and parking spins.

use alloc::boxed::Box;
use alloc::sync::Arc;
use spin::Once;

/// A sleeping thread's alarm clock.
pub trait Unpark: Send + Sync {
    /// Wakes the thread, or lets its next [`Scheduler::park`] return at once (one token, like `std::thread`).
    fn unpark(&self);
}

/// The machine's threads.
pub trait Scheduler: Send + Sync {
    /// The calling thread's alarm clock.
    fn current(&self) -> Arc<dyn Unpark>;
    /// Sleeps until unparked. May return early.
    fn park(&self);
    /// Sleeps until unparked, at most `ns` nanoseconds. May return early.
    fn park_timeout(&self, ns: u64);
    /// Lets another thread run.
    fn yield_now(&self);
    /// Starts a detached thread.
    fn spawn(&self, name: &str, main: Box<dyn FnOnce() + Send>);
    /// How many threads can really run at once.
    fn cpus(&self) -> usize;
    /// Nanoseconds since some fixed point, for timeouts.
    fn monotonic_ns(&self) -> u64;
    /// See [`largest_piece`]. Only a machine without virtual memory of its own has something to say.
    fn largest_piece(&self) -> usize {
        usize::MAX
    }
    /// See [`use_vectors`]. Only a machine that shares its registers with an application has something to do.
    fn use_vectors(&self) {}
}

static SCHEDULER: Once<&'static dyn Scheduler> = Once::new();

/// Makes `scheduler` the machine's. Later calls have no effect.
pub fn install(scheduler: &'static dyn Scheduler) {
    SCHEDULER.call_once(|| scheduler);
}

struct Spinning;
struct NoThread;

impl Unpark for NoThread {
    fn unpark(&self) {}
}

impl Scheduler for Spinning {
    fn current(&self) -> Arc<dyn Unpark> {
        Arc::new(NoThread)
    }
    fn park(&self) {
        core::hint::spin_loop();
    }
    fn park_timeout(&self, _ns: u64) {
        core::hint::spin_loop();
    }
    fn yield_now(&self) {
        core::hint::spin_loop();
    }
    fn spawn(&self, name: &str, _main: Box<dyn FnOnce() + Send>) {
        panic!("thread {name} started before a scheduler was installed");
    }
    fn cpus(&self) -> usize {
        1
    }
    fn monotonic_ns(&self) -> u64 {
        0
    }
}

/// The installed scheduler.
pub fn scheduler() -> &'static dyn Scheduler {
    match SCHEDULER.get() {
        Some(s) => *s,
        #[cfg(any(feature = "std", test))]
        None => {
            install(&crate::host::StdScheduler);
            &crate::host::StdScheduler
        }
        #[cfg(not(any(feature = "std", test)))]
        None => &Spinning,
    }
}

#[cfg(any(feature = "std", test))]
const _: &dyn Scheduler = &Spinning;

/// Starts a detached thread on the installed scheduler.
pub fn spawn(name: &str, main: impl FnOnce() + Send + 'static) {
    scheduler().spawn(name, Box::new(main));
}

/// To be called before code that picks wider instructions than the base set's SSE2 at run time (AVX by cpuid: hash
/// and cipher crates), each time. In the kernel those registers may still hold an application's values, which are put
/// in safety now; that costs nothing when it was done already.
#[inline]
pub fn use_vectors() {
    scheduler().use_vectors();
}

/// How many bytes an allocation can get in one piece now, about: for those who can do with several smaller ones.
pub fn largest_piece() -> usize {
    scheduler().largest_piece()
}

/// How many threads can really run at once.
pub fn cpus() -> usize {
    scheduler().cpus().max(1)
}

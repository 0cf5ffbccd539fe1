//! The thread object.

use super::{run_queue, switch};
use crate::arch::fpu::{Beyond, FpuState};
use crate::arch::{IrqGuard, apic, cpu};
use crate::mm::phys;
use crate::mm::stack::Stack;
use crate::sync::IrqLock;
use crate::time;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

const RUNNING: u8 = 0;
const NOTIFIED: u8 = 1;
const PARKED: u8 = 2;

/// What an application thread carries for the layer that runs it.
pub type AppData = Arc<dyn Any + Send + Sync>;

type Main = Box<dyn FnOnce() + Send>;

/// A thread of the kernel. An application thread is one that has left the kernel by
/// [`enter_app`](crate::arch::trap::enter_app) and comes back by system calls and traps.
pub struct Thread {
    id: u64,
    name: String,
    wake: AtomicU8,
    idle: bool,
    pub(super) urgent: AtomicBool,
    /// It runs, or is just being switched away, on processor `cpu`.
    pub(super) on_cpu: AtomicBool,
    /// The processor it runs on, or ran on last.
    pub(super) cpu: AtomicUsize,
    pub(super) dead: AtomicBool,
    /// Its stack pointer while it does not run.
    pub(super) rsp: UnsafeCell<u64>,
    stack: UnsafeCell<Option<Stack>>,
    stack_top: u64,
    main: UnsafeCell<Option<Main>>,
    /// See [`fpu::saved`](crate::arch::fpu::saved).
    pub saved_fpu: AtomicPtr<FpuState>,
    /// See [`fpu::vacate`](crate::arch::fpu::vacate).
    pub beyond: Beyond,
    fs_base: AtomicU64,
    root: AtomicU64,
    app: UnsafeCell<Option<AppData>>,
    /// Nanoseconds on a processor, up to the last switch.
    pub(super) ran_ns: AtomicU64,
    pub(super) since_ns: AtomicU64,
}

// SAFETY: `rsp`, `stack`, `main` and `beyond` are touched only by the processor that switches the thread in or out, of which
// there is one at a time (`on_cpu`); `app` only before the thread runs and by the thread itself; the rest is atomic.
unsafe impl Sync for Thread {}
// SAFETY: as above; what `main` and `app` hold is Send.
unsafe impl Send for Thread {}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static REGISTRY: IrqLock<BTreeMap<u64, Arc<Thread>>> = IrqLock::new(BTreeMap::new());

/// Takes an ending thread out of the registry; the run queue keeps it until it has left its stack.
pub(super) fn unregister(thread: &Thread) {
    let reference = REGISTRY.lock().remove(&thread.id);
    thread.dead.store(true, Ordering::Release);
    if let Some(reference) = reference {
        // Given back by `Thread::bury`.
        let _ = Arc::into_raw(reference);
    }
}

/// How many threads there are, but for the idle ones.
pub(super) fn count() -> usize {
    REGISTRY.lock().len()
}

impl Thread {
    fn make(name: &str, stack: Option<Stack>, main: Option<Main>, idle: bool) -> Arc<Thread> {
        let stack_top = stack.as_ref().map_or(0, Stack::top);
        Arc::new(Thread {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: String::from(name),
            wake: AtomicU8::new(RUNNING),
            idle,
            urgent: AtomicBool::new(false),
            on_cpu: AtomicBool::new(idle),
            cpu: AtomicUsize::new(cpu::this().index),
            dead: AtomicBool::new(false),
            rsp: UnsafeCell::new(stack_top),
            stack: UnsafeCell::new(stack),
            stack_top,
            main: UnsafeCell::new(main),
            saved_fpu: AtomicPtr::new(core::ptr::null_mut()),
            beyond: Beyond::default(),
            fs_base: AtomicU64::new(0),
            root: AtomicU64::new(0),
            app: UnsafeCell::new(None),
            ran_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(time::monotonic_ns()),
        })
    }

    /// A registered thread that is in no run queue yet; `None` without memory for its stack.
    pub(super) fn new(name: &str, main: Main) -> Option<Arc<Thread>> {
        let stack = Stack::new()?;
        let thread = Self::make(name, Some(stack), Some(main), false);
        // SAFETY: the stack is new and nobody else sees the thread yet.
        unsafe { *thread.rsp.get() = switch::prepare(thread.stack_top) };
        REGISTRY.lock().insert(thread.id, Arc::clone(&thread));
        Some(thread)
    }

    /// The idle thread of the calling processor, which is the caller.
    pub(super) fn new_idle() -> Arc<Thread> {
        Self::make("idle", None, None, true)
    }

    /// Its number; unique since boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is a processor's idle thread.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Top of its kernel stack (0 for idle threads, which never enter the application).
    pub fn kernel_stack_top(&self) -> u64 {
        self.stack_top
    }

    /// What [`Thread::set_app`] was given.
    #[inline]
    pub fn app(&self) -> Option<&AppData> {
        // SAFETY: set only before the thread runs or by the thread itself; asked by the thread itself.
        unsafe { (*self.app.get()).as_ref() }
    }

    /// Attaches the layer above's data. Only for a thread that does not run yet, or by the thread itself.
    pub fn set_app(&self, app: AppData) {
        // SAFETY: see above; nobody else looks at it.
        unsafe { *self.app.get() = Some(app) };
    }

    pub(super) fn take_app(&self) -> Option<AppData> {
        // SAFETY: by the thread itself.
        unsafe { (*self.app.get()).take() }
    }

    fn is_current(&self) -> bool {
        core::ptr::eq(self, cpu::current_ptr())
    }

    /// Sets the FS base that it runs with.
    pub fn set_fs_base(&self, base: u64) {
        let _irq = IrqGuard::new();
        self.fs_base.store(base, Ordering::Relaxed);
        if self.is_current() {
            cpu::set_fs_base(base);
        }
    }

    /// The FS base that it runs with.
    pub fn fs_base(&self) -> u64 {
        self.fs_base.load(Ordering::Relaxed)
    }

    /// Sets the address space it runs in: physical address of a top page table; 0 = any (a kernel thread).
    pub fn set_cr3(&self, root: u64) {
        let _irq = IrqGuard::new();
        self.root.store(root, Ordering::Relaxed);
        if self.is_current() {
            // What a kernel thread has is not loaded when it is switched to: the FS base may be another thread's by now.
            self.load_context();
            if root == 0 {
                run_queue::load_root(phys::kernel_pml4());
            }
        }
    }

    /// Loads what belongs to the thread beyond its stack. Interrupts are off.
    pub(super) fn load_context(&self) {
        let root = self.root.load(Ordering::Relaxed);
        if root != 0 {
            run_queue::load_root(root);
            cpu::set_fs_base(self.fs_base.load(Ordering::Relaxed));
        }
    }

    /// Nanoseconds that it has run.
    pub fn cpu_ns(&self) -> u64 {
        let now = if self.on_cpu.load(Ordering::Relaxed) {
            time::monotonic_ns().saturating_sub(self.since_ns.load(Ordering::Relaxed))
        } else {
            0
        };
        self.ran_ns.load(Ordering::Relaxed) + now
    }

    /// The running thread wants to sleep: `false` if a token was waiting. Interrupts are off.
    pub(super) fn begin_park(&self) -> bool {
        loop {
            if self.wake.compare_exchange(NOTIFIED, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return false;
            }
            if self.wake.compare_exchange(RUNNING, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return true;
            }
        }
    }

    /// Wakes the thread, or lets its next park return at once. May be called by interrupt handlers.
    pub fn unpark(self: &Arc<Self>) {
        loop {
            match self.wake.load(Ordering::SeqCst) {
                NOTIFIED => return,
                RUNNING => {
                    if self
                        .wake
                        .compare_exchange(RUNNING, NOTIFIED, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                    {
                        return;
                    }
                }
                _ => {
                    if self.wake.compare_exchange(PARKED, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                    {
                        run_queue::enqueue(Arc::clone(self));
                        return;
                    }
                }
            }
        }
    }

    /// Makes the thread pass the return-to-application hook soon: interrupts the processor it runs on, and wakes it
    /// if it sleeps.
    pub fn kick(self: &Arc<Self>) {
        if self.on_cpu.load(Ordering::SeqCst)
            && let Some(cpu) = cpu::get(self.cpu.load(Ordering::Relaxed))
            && !self.is_current()
        {
            apic::send(cpu, apic::RESCHEDULE_VECTOR);
        }
        self.unpark();
    }

    /// Frees what a dead thread held; called on another stack, with interrupts off.
    ///
    /// # Safety
    /// The thread has left its stack for ever, after [`unregister`].
    pub(super) unsafe fn bury(thread: *const Thread) {
        // SAFETY: nobody uses the stack any more; `unregister` left one reference for us.
        unsafe {
            drop((*(*thread).stack.get()).take());
            drop(Arc::from_raw(thread));
        }
    }
}

impl platform::thread::Unpark for Thread {
    fn unpark(&self) {
        // SAFETY: threads only exist inside an Arc, which the caller's reference keeps alive.
        let this = unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        };
        Thread::unpark(&this);
    }
}

impl core::fmt::Debug for Thread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "thread {} {:?}", self.id, self.name)
    }
}

/// The first Rust code of every thread.
pub(super) extern "C" fn start() -> ! {
    run_queue::finish_switch();
    crate::arch::fpu::reset();
    crate::arch::interrupts_on();
    // SAFETY: only the thread itself takes its main function.
    let main = unsafe { (*super::current_thread().main.get()).take() };
    if let Some(main) = main {
        main();
    }
    super::exit()
}

//! Processes and their threads, as Linux programs know them.
//!
//! A [`Process`] owns descriptors, memory, signal handlers; a [`Task`] is one of its threads. The scheduler's thread
//! carries its task ([`current`]). One command runs at a time ([`commands`]).
//!
//! Lock order: `TABLE` → a process's `tasks` → a task's or process's signal state. None is held across file I/O.

pub mod boot;
mod commands;
pub mod console;
mod counters;
pub mod crash;
pub mod info;
mod kstat;
pub mod shutdown;
pub mod signals;
mod sys;
pub mod workers;

use crate::arch::fpu;
use crate::arch::trap::{self, TrapFrame};
use crate::mm::address_space::AddressSpace;
use crate::mm::usercopy;
use crate::sched::{self, Thread};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use platform::sync::{Mutex, RwLock};
use signals::{Actions, Pending, SigInfo};
use vfs::Errno;
use vfs::file::FdTable;
use vfs::locks::{LockTable, Owner};
use vfs::ops::Vfs;
use vfs::path::Place;
use vfs::wait::Waiters;

/// Descriptors that a process may have open at first, and at most.
pub const NOFILE: (u64, u64) = (1024, 1 << 20);

static VFS: spin::Once<Vfs> = spin::Once::new();
static TABLE: Mutex<BTreeMap<u32, Arc<Process>>> = Mutex::new(BTreeMap::new());
static NEXT_PID: AtomicU32 = AtomicU32::new(1);

/// The machine's files. Only after the root is mounted.
pub fn vfs() -> &'static Vfs {
    VFS.get().expect("the root is mounted before the first process")
}

/// The machine's file locks.
pub fn locks() -> &'static LockTable {
    static LOCKS: spin::Once<LockTable> = spin::Once::new();
    LOCKS.call_once(LockTable::new)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By `exit`, with this status.
    Exit(u8),
    /// By this signal.
    Signal(u8),
}

impl Ending {
    /// The status as a shell shows it.
    pub fn shell_status(self) -> u8 {
        match self {
            Ending::Exit(status) => status,
            Ending::Signal(signal) => 128 + signal,
        }
    }

    /// The status as `wait4` gives it.
    pub fn wait_status(self) -> u32 {
        match self {
            Ending::Exit(status) => u32::from(status) << 8,
            Ending::Signal(signal) => u32::from(signal),
        }
    }
}

/// User and group ids. They are shown and stored in files; nothing is refused because of them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Real, effective, saved user.
    pub uid: [u32; 3],
    /// Real, effective, saved group.
    pub gid: [u32; 3],
    /// Further groups.
    pub groups: Vec<u32>,
}

/// A program that runs.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its descriptors.
    pub fds: FdTable,
    /// Its working directory.
    pub cwd: Mutex<Arc<Place>>,
    /// Bits that new files do not get.
    pub umask: AtomicU32,
    /// Its memory.
    pub space: RwLock<Arc<AddressSpace>>,
    /// What it does on signals.
    pub actions: Mutex<Actions>,
    /// Signals for any of its threads.
    pub pending: Mutex<Pending>,
    /// Its threads.
    pub tasks: Mutex<BTreeMap<u32, Arc<Task>>>,
    /// Ids.
    pub credentials: Mutex<Credentials>,
    /// What `/proc` shows of the program.
    pub program: Mutex<Program>,
    /// Limits, as (soft, hard), by `RLIMIT_*`.
    pub limits: Mutex<[(u64, u64); 16]>,
    /// When it started, on the monotonic clock.
    pub started_ns: u64,
    /// Time used by threads that have ended.
    pub past_cpu_ns: AtomicU64,
    /// When `SIGALRM` is due (monotonic, 0 = never), and the interval after it.
    pub alarm: Mutex<(u64, u64)>,
    /// What works on its asynchronous requests.
    pub workers: workers::Workers,
    /// Its contexts of Linux AIO, by their number.
    pub aio: Mutex<BTreeMap<u64, Arc<crate::abi::aio::Context>>>,
    /// Its timers (`timer_create`), by number.
    pub timers: Mutex<BTreeMap<u32, crate::abi::timers::Timer>>,
    /// Woken when a signal has come (`signalfd`).
    pub signalled: Waiters,
    exiting: AtomicBool,
    ending: Mutex<Option<Ending>>,
    ended: Waiters,
    /// Woken when a vfork child has let go of its parent's memory.
    pub released: AtomicBool,
}

/// What runs in a process.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The executable's path.
    pub path: Vec<u8>,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment.
    pub env: Vec<Vec<u8>>,
    /// Its auxiliary vector.
    pub auxv: Vec<u8>,
}

/// A thread of a process.
pub struct Task {
    /// Its number; that of the process for its first thread.
    pub tid: u32,
    /// The process.
    pub process: Arc<Process>,
    /// What it is called (`PR_SET_NAME`).
    pub name: Mutex<Vec<u8>>,
    thread: spin::Once<Weak<Thread>>,
    /// Blocked signals, one bit each from bit 0 = signal 1.
    pub mask: AtomicU64,
    /// The mask to go back to after a handler that interrupted `sigsuspend` or `ppoll`.
    pub saved_mask: Mutex<Option<u64>>,
    /// Signals for this thread.
    pub pending: Mutex<Pending>,
    /// There may be a signal to take, or the process ends.
    pub attention: AtomicBool,
    /// Alternative signal stack: base, size, flags.
    pub alt_stack: Mutex<(u64, u64, u32)>,
    /// Where to write 0 when it ends (`CLONE_CHILD_CLEARTID`).
    pub clear_tid: AtomicU64,
    /// Head of its robust futex list.
    pub robust_list: AtomicU64,
    /// The FS base to start with.
    pub fs_base: AtomicU64,
    /// It is a worker that shall end.
    pub leaving: AtomicBool,
    /// What it has put off sending.
    pub outbox: net::Outbox,
    /// The system call that it makes, or has made last, may put something off.
    pub sending: AtomicBool,
}

/// The calling task. `None` in kernel threads.
pub fn try_current() -> Option<&'static Task> {
    sched::current_thread().app()?.downcast_ref::<Task>()
}

/// The calling task.
pub fn current() -> &'static Task {
    try_current().expect("system calls come from application threads")
}

/// The process with number `pid`.
pub fn find(pid: u32) -> Option<Arc<Process>> {
    TABLE.lock().get(&pid).cloned()
}

/// All processes.
pub fn all() -> Vec<Arc<Process>> {
    TABLE.lock().values().cloned().collect()
}

/// A new process or thread number.
pub fn next_pid() -> u32 {
    NEXT_PID.fetch_add(1, Ordering::Relaxed)
}

/// Everything a new process needs.
pub struct Birth {
    /// Its parent.
    pub parent: u32,
    /// Its descriptors.
    pub fds: FdTable,
    /// Its working directory.
    pub cwd: Arc<Place>,
    /// Its memory.
    pub space: Arc<AddressSpace>,
    /// What runs.
    pub program: Program,
}

fn default_limits() -> [(u64, u64); 16] {
    let mut limits = [(u64::MAX, u64::MAX); 16];
    limits[3] = (crate::exec::STACK_SIZE, u64::MAX);
    limits[4] = (0, u64::MAX);
    limits[7] = NOFILE;
    limits
}

impl Process {
    /// Makes a process and enters it in the table. It has no thread yet.
    pub fn new(birth: Birth) -> Arc<Process> {
        let process = Arc::new(Process {
            pid: next_pid(),
            parent: birth.parent,
            fds: birth.fds,
            cwd: Mutex::new(birth.cwd),
            umask: AtomicU32::new(0o022),
            space: RwLock::new(birth.space),
            actions: Mutex::new(Actions::default()),
            pending: Mutex::new(Pending::default()),
            tasks: Mutex::new(BTreeMap::new()),
            credentials: Mutex::new(Credentials::default()),
            program: Mutex::new(birth.program),
            limits: Mutex::new(default_limits()),
            started_ns: crate::time::monotonic_ns(),
            past_cpu_ns: AtomicU64::new(0),
            alarm: Mutex::new((0, 0)),
            workers: workers::Workers::default(),
            aio: Mutex::new(BTreeMap::new()),
            timers: Mutex::new(BTreeMap::new()),
            signalled: Waiters::new(),
            exiting: AtomicBool::new(false),
            ending: Mutex::new(None),
            ended: Waiters::new(),
            released: AtomicBool::new(false),
        });
        TABLE.lock().insert(process.pid, Arc::clone(&process));
        process
    }

    /// Its memory.
    pub fn space(&self) -> Arc<AddressSpace> {
        Arc::clone(&self.space.read())
    }

    /// Its threads.
    pub fn all_tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().values().cloned().collect()
    }

    /// Whether it is about to end.
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Acquire)
    }

    /// How it ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        if self.tasks.lock().is_empty() { *self.ending.lock() } else { None }
    }

    /// Who is woken when it has ended.
    pub fn ended(&self) -> &Waiters {
        &self.ended
    }

    /// Begins to end it: all its threads leave as soon as they come to the kernel's door.
    pub fn end(&self, how: Ending) {
        {
            let mut ending = self.ending.lock();
            if self.exiting.swap(true, Ordering::AcqRel) {
                return;
            }
            *ending = Some(how);
        }
        for task in self.all_tasks() {
            task.notify();
        }
    }

    /// Sends a signal to any of its threads.
    pub fn signal(&self, info: SigInfo) {
        if self.actions.lock().ignores(info.signal) && !self.blocked_somewhere(info.signal) {
            return;
        }
        self.pending.lock().add(info);
        self.signalled.wake();
        let tasks = self.all_tasks();
        let bit = signals::bit(info.signal);
        let ready = tasks.iter().find(|t| t.mask.load(Ordering::Relaxed) & bit == 0);
        match ready {
            Some(task) => task.notify(),
            // Blocked everywhere, but one may wait for it (`sigtimedwait`).
            None => tasks.iter().for_each(|t| t.notify()),
        }
    }

    fn blocked_somewhere(&self, signal: u8) -> bool {
        let bit = signals::bit(signal);
        self.tasks.lock().values().any(|t| t.mask.load(Ordering::Relaxed) & bit != 0)
    }

    /// Nanoseconds that its threads have run.
    pub fn cpu_ns(&self) -> u64 {
        let now: u64 = self.all_tasks().iter().filter_map(|t| t.thread()).map(|t| t.cpu_ns()).sum();
        now + self.past_cpu_ns.load(Ordering::Relaxed)
    }

    /// Takes it out of the table.
    pub fn reap(&self) {
        TABLE.lock().remove(&self.pid);
    }
}

impl Task {
    /// Makes a thread of `process` and enters it there. It does not run yet.
    pub fn new(process: &Arc<Process>, tid: u32, mask: u64) -> Arc<Task> {
        let task = Self::make(process, tid, mask);
        process.tasks.lock().insert(tid, Arc::clone(&task));
        // A signal that came before the process had a thread could tell none.
        if process.pending.lock().set() != 0 {
            task.attention.store(true, Ordering::SeqCst);
        }
        task
    }

    /// A task that works for `process` and takes no signals.
    pub fn outside(process: &Arc<Process>, tid: u32) -> Arc<Task> {
        Self::make(process, tid, u64::MAX)
    }

    fn make(process: &Arc<Process>, tid: u32, mask: u64) -> Arc<Task> {
        let path = process.program.lock().path.clone();
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Arc::new(Task {
            tid,
            process: Arc::clone(process),
            name: Mutex::new(name[..name.len().min(15)].to_vec()),
            thread: spin::Once::new(),
            mask: AtomicU64::new(mask),
            saved_mask: Mutex::new(None),
            pending: Mutex::new(Pending::default()),
            attention: AtomicBool::new(false),
            alt_stack: Mutex::new((0, 0, signals::SS_DISABLE)),
            clear_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            fs_base: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            outbox: net::Outbox::default(),
            sending: AtomicBool::new(false),
        })
    }

    /// Starts it with these registers. `EAGAIN` without memory; then it was never there.
    pub fn start(self: &Arc<Self>, frame: TrapFrame) -> Result<(), Errno> {
        // The start function has no captures, so its box owns no memory: a thread that enters the application never
        // comes back to free it.
        let name = self.name.lock().clone();
        let Some(thread) = sched::try_spawn(&String::from_utf8_lossy(&name), Box::new(first_steps)) else {
            self.process.tasks.lock().remove(&self.tid);
            return Err(Errno::EAGAIN);
        };
        STARTING.lock().insert(thread.id(), (Arc::clone(self), frame));
        Ok(())
    }

    /// The scheduler's thread, if it has begun.
    pub fn thread(&self) -> Option<Arc<Thread>> {
        self.thread.get()?.upgrade()
    }

    /// Makes it look for signals soon.
    pub fn notify(&self) {
        self.attention.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread() {
            thread.kick();
        }
    }

    /// Sends a signal to this thread.
    pub fn signal(&self, info: SigInfo) {
        let blocked = self.mask.load(Ordering::Relaxed) & signals::bit(info.signal) != 0;
        if !blocked && self.process.actions.lock().ignores(info.signal) {
            return;
        }
        self.pending.lock().add(info);
        self.process.signalled.wake();
        self.notify();
    }

    /// Whether a system call that waits should give up.
    pub fn interrupted(&self) -> bool {
        if !self.attention.load(Ordering::SeqCst) {
            return false;
        }
        if self.process.is_exiting() || self.leaving.load(Ordering::SeqCst) {
            return true;
        }
        let open = !self.mask.load(Ordering::Relaxed);
        let waiting = (self.pending.lock().set() | self.process.pending.lock().set()) & open;
        waiting != 0 && self.process.actions.lock().any_handled(waiting)
    }
}

static STARTING: Mutex<BTreeMap<u64, (Arc<Task>, TrapFrame)>> = Mutex::new(BTreeMap::new());

/// The first kernel code of an application thread.
fn first_steps() {
    let frame = adopt();
    fpu::reset();
    // SAFETY: the frame was made by `clone` or the loader for this address space; `adopt` has dropped all it owned.
    unsafe { trap::enter_app(&frame) }
}

fn adopt() -> TrapFrame {
    let id = sched::current_thread().id();
    let (task, mut frame) = loop {
        match STARTING.lock().remove(&id) {
            Some(start) => break start,
            None => sched::yield_now(),
        }
    };
    let thread = sched::current();
    task.thread.call_once(|| Arc::downgrade(&thread));
    thread.set_fs_base(task.fs_base.load(Ordering::Relaxed));
    thread.set_cr3(task.process.space().root());
    sched::current_thread().set_app(task);
    drop(thread);
    if current().attention.load(Ordering::SeqCst) {
        // Signals that came before it ran: as at the end of a system call.
        let mut state = fpu::FpuState::initial();
        fpu::publish(&mut state, || crate::abi::return_to_app(&mut frame));
    }
    frame
}

/// Ends the calling thread; the last one of a process takes the process with it.
pub fn exit_thread() -> ! {
    leave(current());
    sched::exit()
}

fn leave(task: &'static Task) {
    let process = Arc::clone(&task.process);
    // Before the word that says that its stack, where the list is, may be used again.
    crate::abi::futex::release_robust(task);
    let tid_word = task.clear_tid.load(Ordering::Relaxed);
    if tid_word != 0 {
        // The thread that joins sleeps on this word. It may be unmapped by now: no matter then.
        let _ = usercopy::write(tid_word, &0u32.to_le_bytes());
        crate::abi::futex::wake_address(tid_word, u32::MAX);
    }
    if let Some(thread) = task.thread() {
        process.past_cpu_ns.fetch_add(thread.cpu_ns(), Ordering::Relaxed);
    }
    let last = process.tasks.lock().len() == 1;
    if last {
        bury(&process);
    }
    sched::current_thread().set_cr3(0);
    let mut ending = process.ending.lock();
    ending.get_or_insert(Ending::Exit(0));
    drop(ending);
    process.tasks.lock().remove(&task.tid);
    process.ended.wake();
    if let Some(parent) = find(process.parent)
        && last
    {
        parent.signal(SigInfo::kernel(signals::SIGCHLD));
        parent.ended.wake();
    }
}

/// Lets go of what a process holds. Called by its last thread.
fn bury(process: &Arc<Process>) {
    process.workers.stop();
    process.aio.lock().clear();
    for file in process.fds.take_all() {
        closed(process, &file);
    }
    if Arc::strong_count(&process.space.read()) == 1 {
        process.space().clear();
    }
}

/// What closing a descriptor does beyond forgetting it: POSIX locks of the process on that file go.
pub fn closed(process: &Process, file: &Arc<vfs::file::File>) {
    let inode = file.inode();
    let key = (inode.fs_id(), inode.ino());
    locks().release(key, Owner::Process(process.pid));
    if Arc::strong_count(file) == 1 {
        locks().release(key, Owner::OpenFile(file.id()));
    }
}

/// Puts the root in place. Once, before the first process.
pub fn set_vfs(vfs: Vfs) -> Result<(), Errno> {
    if VFS.get().is_some() {
        return Err(Errno::EBUSY);
    }
    VFS.call_once(|| vfs);
    Ok(())
}

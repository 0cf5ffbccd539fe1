//! What runs beside a process's own threads: requests of `io_uring` and of Linux AIO.
//!
//! The engine's file calls wait for the disk by sleeping, so a request that may sleep needs a thread to do it. A process
//! that submits requests gets a pool of at most [`threads_max`] of them, started as the queue needs them; one without work for
//! [`IDLE_NS`] leaves, the last to have worked is called first. What would sleep for as long as somebody else likes (a pipe
//! without data) never occupies one of them: one further thread watches all such streams, see [`Workers::watch`].
//!
//! A worker runs in the process's address space and as a task of it that has no number in `/proc`, so that a request reaches
//! the program's memory as a system call does.
//!
//! A job is not forgotten: who puts it into the queue calls an idle thread under the same lock as such a thread looks into the
//! queue and lies down; without one, a thread is started, or all are at work and look again.
//!
//! Lock order: `starting`, `state`; `watches`. The last two are leaves; no job is run or dropped with one of them held.

use super::{Process, Task};
use crate::mm::{frame, stack};
use crate::sched::{self, Thread};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;
use vfs::inode::{Ready, Stream};
use vfs::poll::{wait_ready, with_watched};
use vfs::wait::Waiters;

/// Most threads of a process's pool, and most of them where memory is short. As many requests of one process are with the engine
/// at once: the deeper a disk's queue, the more it does.
const THREADS: (usize, usize) = (64, 16);
/// Which part of all memory the stacks of more than the few may take.
const STACKS_SHARE: u64 = 32;
/// So long does a thread wait for more to do.
const IDLE_NS: u64 = 5_000_000_000;
/// How long the end of a process sleeps between two looks whether its workers have left.
const LEAVING_NS: u64 = 100_000;

/// A request.
pub type Job = Box<dyn FnOnce() + Send>;

/// How watching a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// These of `poll`'s conditions hold.
    Ready(u32),
    /// The time has come.
    TimedOut,
    /// [`Workers::cancel`] was called.
    Cancelled,
}

/// A stream, or a time, that a request waits for.
pub struct Watch {
    /// Whose request it is: a ring's number.
    pub owner: u64,
    /// The request's name with its owner.
    pub name: u64,
    /// The stream; none for a mere timer.
    pub stream: Option<Arc<dyn Stream>>,
    /// Which of `poll`'s conditions are waited for.
    pub events: u32,
    /// On the scheduler's clock.
    pub deadline: Option<u64>,
    /// Called once, by the watching thread or by who cancels. Never sleeps.
    pub done: Box<dyn FnOnce(Outcome) + Send>,
}

impl Watch {
    fn outcome(&self, now: u64) -> Option<Outcome> {
        let ready = self.stream.as_ref().map_or(0, |s| s.ready().0 & (self.events | Ready::ERR | Ready::HUP));
        if ready != 0 {
            return Some(Outcome::Ready(ready));
        }
        self.deadline.is_some_and(|d| now >= d).then_some(Outcome::TimedOut)
    }
}

/// Most threads of a process's pool on this machine.
fn threads_max() -> usize {
    let (most, few) = THREADS;
    let affordable = frame::total() / STACKS_SHARE / stack::PAGES as u64;
    (affordable as usize).clamp(few, most)
}

/// A thread of the pool that may be without work.
struct Idle {
    thread: Arc<Thread>,
    /// Somebody has work for it. Set when it is taken from the list.
    called: AtomicBool,
}

impl Idle {
    fn call(&self) {
        self.called.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that use the process's memory, or will once they have been started.
    present: usize,
    tasks: Vec<Arc<Task>>,
    /// Threads of the pool that work or can be called.
    threads: usize,
    idle: Vec<Arc<Idle>>,
    watching: bool,
    stopping: bool,
}

/// The pool of a process.
#[derive(Default)]
pub struct Workers {
    state: Mutex<State>,
    /// Held while the watching thread is started: others rely on it only when it is there.
    starting: Mutex<()>,
    watches: Mutex<Vec<Watch>>,
    watches_changed: Changed,
}

/// Stands for the list of watches among the streams that it is waited for.
#[derive(Default)]
struct Changed(Waiters);

impl Stream for Changed {
    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.0)
    }
}

impl Workers {
    /// Has a job done soon by one of the pool's threads. Where there is none and no memory for one, it is done by the caller.
    pub fn submit(&self, process: &Arc<Process>, job: Job) {
        let called = {
            let mut state = self.state.lock();
            if state.stopping {
                drop(state);
                drop(job);
                return;
            }
            state.queue.push_back(job);
            let called = state.idle.pop();
            if called.is_none() {
                if state.threads >= threads_max() {
                    return;
                }
                state.threads += 1;
                state.present += 1;
            }
            called
        };
        match called {
            Some(idle) => idle.call(),
            None => {
                if !self.start(process, "worker", |process| process.workers.work_on()) {
                    self.state.lock().threads -= 1;
                    if let Some(job) = self.take() {
                        job();
                    }
                }
            }
        }
    }

    /// A job that no thread has begun with: for a caller who would only wait for it.
    pub fn take(&self) -> Option<Job> {
        self.state.lock().queue.pop_front()
    }

    /// Starts a thread, which counts as present already; false if there is no memory for it.
    fn start(&self, process: &Arc<Process>, name: &str, main: fn(&Arc<Process>)) -> bool {
        let task = Task::outside(process, super::next_pid());
        self.state.lock().tasks.push(Arc::clone(&task));
        let (owner, own, app) = (Arc::clone(process), Arc::clone(&task), Arc::clone(&task));
        let thread = sched::try_spawn(
            name,
            Box::new(move || {
                let thread = sched::current();
                own.thread.call_once(|| Arc::downgrade(&thread));
                thread.set_cr3(owner.space().root());
                thread.set_app(app);
                main(&owner);
                thread.set_cr3(0);
                owner.workers.left(&own);
            }),
        );
        if thread.is_none() {
            self.left(&task);
        }
        thread.is_some()
    }

    /// A thread no longer uses the process's memory.
    fn left(&self, task: &Arc<Task>) {
        let mut state = self.state.lock();
        state.tasks.retain(|other| !Arc::ptr_eq(other, task));
        state.present -= 1;
    }

    fn work_on(&self) {
        let idle = Arc::new(Idle { thread: sched::current(), called: AtomicBool::new(false) });
        loop {
            let job = {
                let mut state = self.state.lock();
                if state.stopping {
                    return;
                }
                let job = state.queue.pop_front();
                if job.is_none() {
                    idle.called.store(false, Ordering::SeqCst);
                    state.idle.push(Arc::clone(&idle));
                }
                job
            };
            match job {
                Some(job) => job(),
                None if self.is_called(&idle) => {}
                None => return,
            }
        }
    }

    /// Waits until an idle thread is called; false if nobody does so for long, and it is one of the pool no longer.
    fn is_called(&self, idle: &Arc<Idle>) -> bool {
        let deadline = crate::time::monotonic_ns().saturating_add(IDLE_NS);
        while !idle.called.load(Ordering::SeqCst) {
            let now = crate::time::monotonic_ns();
            if now < deadline {
                sched::park_timeout(deadline - now);
                continue;
            }
            let mut state = self.state.lock();
            let before = state.idle.len();
            state.idle.retain(|other| !Arc::ptr_eq(other, idle));
            if state.idle.len() < before {
                state.threads -= 1;
                return false;
            }
        }
        true
    }

    /// Waits for a stream or a time without a thread of the pool. Gives the watch back if there is no memory for the thread that watches.
    pub fn watch(&self, process: &Arc<Process>, watch: Watch) -> Result<(), Watch> {
        let starting = self.starting.lock();
        let start = {
            let mut state = self.state.lock();
            if state.stopping {
                return Ok(());
            }
            state.present += usize::from(!state.watching);
            !core::mem::replace(&mut state.watching, true)
        };
        if start && !self.start(process, "watcher", |process| process.workers.watch_all()) {
            self.state.lock().watching = false;
            return Err(watch);
        }
        drop(starting);
        self.watches.lock().push(watch);
        self.watches_changed.0.wake();
        Ok(())
    }

    fn watch_all(&self) {
        loop {
            let (streams, deadline, version) = {
                let watches = self.watches.lock();
                let streams: Vec<_> = watches.iter().filter_map(|w| w.stream.clone()).collect();
                let deadline = watches.iter().filter_map(|w| w.deadline).min();
                (streams, deadline, self.watches_changed.0.changes())
            };
            let streams = with_watched(&streams);
            let mut all: Vec<&dyn Stream> = streams.iter().map(|s| &**s).collect();
            all.push(&self.watches_changed);
            let mut ended = Vec::new();
            let look = || {
                let now = crate::time::monotonic_ns();
                let mut watches = self.watches.lock();
                let mut at = 0;
                while let Some(watch) = watches.get(at) {
                    match watch.outcome(now) {
                        Some(outcome) => ended.push((watches.swap_remove(at), outcome)),
                        None => at += 1,
                    }
                }
                (!ended.is_empty() || self.watches_changed.0.changes() != version).then_some(())
            };
            let interrupted = wait_ready(&all, deadline, look) == Err(vfs::Errno::EINTR);
            for (watch, outcome) in ended {
                (watch.done)(outcome);
            }
            if interrupted {
                return;
            }
        }
    }

    /// Ends the watches of `owner`, or the one that is called `name`; how many there were.
    pub fn cancel(&self, owner: u64, name: Option<u64>) -> usize {
        let wanted = |w: &Watch| w.owner == owner && name.is_none_or(|name| w.name == name);
        let ended: Vec<Watch> = self.watches.lock().extract_if(.., |w| wanted(w)).collect();
        self.watches_changed.0.wake();
        let count = ended.len();
        ended.into_iter().for_each(|watch| (watch.done)(Outcome::Cancelled));
        count
    }

    /// Forgets what was not begun, and waits until all threads have left: they use the process's memory.
    pub fn stop(&self) {
        let (queue, idle) = {
            let mut state = self.state.lock();
            if state.present == 0 {
                return;
            }
            state.stopping = true;
            (core::mem::take(&mut state.queue), core::mem::take(&mut state.idle))
        };
        idle.iter().for_each(|idle| idle.call());
        loop {
            let tasks = {
                let state = self.state.lock();
                if state.present == 0 {
                    break;
                }
                state.tasks.clone()
            };
            for task in &tasks {
                task.leaving.store(true, Ordering::SeqCst);
                task.notify();
            }
            sched::sleep(LEAVING_NS);
        }
        drop(queue);
        drop(core::mem::take(&mut *self.watches.lock()));
        *self.state.lock() = State::default();
    }
}

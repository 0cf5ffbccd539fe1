//! What runs beside a process's own threads: requests of `io_uring` and of Linux AIO.
//!
//! The engine's file calls wait for the disk by sleeping, so a request that may sleep needs a thread to do it. A process
//! that submits requests gets a pool of at most [`THREADS`] of them, started as the queue needs them and kept until the
//! process ends or runs another program. What would sleep for as long as somebody else likes (a pipe without data)
//! never occupies one of them: one further thread watches all such streams, see [`Workers::watch`].
//!
//! A worker runs in the process's address space and as a task of it that has no number in `/proc`, so that a request reaches
//! the program's memory as a system call does.
//!
//! Lock order: `state` and `watches` are leaves; no job is run or dropped with one of them held.

use super::{Process, Task};
use crate::sched;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::sync::Mutex;
use vfs::inode::{Ready, Stream};
use vfs::poll::{wait_ready, with_watched};
use vfs::wait::{Waiters, wait_on};

/// Most threads of a process's pool. As many requests of one process are with the engine at once.
const THREADS: usize = 16;
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

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    tasks: Vec<Arc<Task>>,
    threads: usize,
    idle: usize,
    watching: bool,
    stopping: bool,
}

/// The pool of a process.
#[derive(Default)]
pub struct Workers {
    state: Mutex<State>,
    work: Waiters,
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
    /// Has a job done soon by one of the pool's threads.
    pub fn submit(&self, process: &Arc<Process>, job: Job) {
        let more = {
            let mut state = self.state.lock();
            if state.stopping {
                drop(state);
                drop(job);
                return;
            }
            state.queue.push_back(job);
            let more = state.queue.len() > state.idle && state.threads < THREADS;
            state.threads += usize::from(more);
            more
        };
        if more {
            self.start(process, "worker", |process| process.workers.work_on());
        }
        self.work.wake();
    }

    /// A job that no thread has begun with: for a caller who would only wait for it.
    pub fn take(&self) -> Option<Job> {
        self.state.lock().queue.pop_front()
    }

    fn start(&self, process: &Arc<Process>, name: &str, main: fn(&Arc<Process>)) {
        let task = Task::outside(process, super::next_pid());
        self.state.lock().tasks.push(Arc::clone(&task));
        let process = Arc::clone(process);
        sched::spawn(
            name,
            Box::new(move || {
                let thread = sched::current();
                task.thread.call_once(|| Arc::downgrade(&thread));
                thread.set_cr3(process.space().root());
                thread.set_app(task);
                main(&process);
                thread.set_cr3(0);
                process.workers.state.lock().threads -= 1;
            }),
        );
    }

    fn work_on(&self) {
        loop {
            let next = || {
                let mut state = self.state.lock();
                if state.stopping { Some(None) } else { state.queue.pop_front().map(Some) }
            };
            let job = next().unwrap_or_else(|| {
                self.state.lock().idle += 1;
                let job = wait_on(&[&self.work], None, next).unwrap_or(None);
                self.state.lock().idle -= 1;
                job
            });
            match job {
                Some(job) => job(),
                None => return,
            }
        }
    }

    /// Waits for a stream or a time without a thread of the pool.
    pub fn watch(&self, process: &Arc<Process>, watch: Watch) {
        let start = {
            let mut state = self.state.lock();
            if state.stopping {
                return;
            }
            let start = !core::mem::replace(&mut state.watching, true);
            state.threads += usize::from(start);
            start
        };
        self.watches.lock().push(watch);
        if start {
            self.start(process, "watcher", |process| process.workers.watch_all());
        }
        self.watches_changed.0.wake();
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
        let (queue, tasks) = {
            let mut state = self.state.lock();
            if state.threads == 0 {
                return;
            }
            state.stopping = true;
            (core::mem::take(&mut state.queue), core::mem::take(&mut state.tasks))
        };
        for task in &tasks {
            task.leaving.store(true, Ordering::SeqCst);
        }
        while self.state.lock().threads > 0 {
            tasks.iter().for_each(|task| task.notify());
            self.work.wake();
            sched::sleep(LEAVING_NS);
        }
        drop(queue);
        drop(core::mem::take(&mut *self.watches.lock()));
        *self.state.lock() = State::default();
    }
}

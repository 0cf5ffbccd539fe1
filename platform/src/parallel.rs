//! Work spread over the machine's processors.
//!
//! A pool of threads, one less than there are processors, started when first needed and kept. The caller works along,
//! so a call never waits for a busy pool: at worst it does everything itself.
//!
//! # Invariants
//! - Jobs compute; they must not wait for I/O or for other jobs.
//! - The answers stand in the order of the items, whoever computed them.

use crate::sync::{Condvar, Mutex};
use crate::thread::{cpus, spawn};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::iter::Enumerate;

type Task = Box<dyn FnOnce() + Send>;

struct Pool {
    state: Mutex<PoolState>,
    work: Condvar,
}

struct PoolState {
    queue: VecDeque<Task>,
    threads: usize,
}

static POOL: Pool =
    Pool { state: Mutex::new(PoolState { queue: VecDeque::new(), threads: 0 }), work: Condvar::new() };

fn help(task: impl Fn() + Send + Sync + 'static, helpers: usize) {
    let task = Arc::new(task);
    let wanted = cpus() - 1;
    let mut state = POOL.state.lock();
    let missing = wanted.saturating_sub(state.threads);
    state.threads += missing;
    for _ in 0..helpers.min(wanted) {
        let task = Arc::clone(&task);
        state.queue.push_back(Box::new(move || task()));
        POOL.work.notify_one();
    }
    drop(state);
    for _ in 0..missing {
        spawn("parallel", serve);
    }
}

fn serve() {
    loop {
        let mut state = POOL.state.lock();
        let task = loop {
            match state.queue.pop_front() {
                Some(task) => break task,
                None => state = POOL.work.wait(state),
            }
        };
        drop(state);
        task();
    }
}

struct Job<T, R, F> {
    items: Mutex<Enumerate<vec::IntoIter<T>>>,
    results: Mutex<Results<R>>,
    done: Condvar,
    f: F,
}

struct Results<R> {
    values: Vec<Option<R>>,
    pending: usize,
}

/// Counts an item as done even if its computation panics, so that the caller does not wait for ever.
struct Done<'a, T, R, F> {
    job: &'a Job<T, R, F>,
    index: usize,
    value: Option<R>,
}

impl<T, R, F> Drop for Done<'_, T, R, F> {
    fn drop(&mut self) {
        let mut results = self.job.results.lock();
        results.values[self.index] = self.value.take();
        results.pending -= 1;
        if results.pending == 0 {
            self.job.done.notify_all();
        }
    }
}

impl<T, R, F: Fn(T) -> R> Job<T, R, F> {
    fn work(&self) {
        loop {
            let Some((index, item)) = self.items.lock().next() else { return };
            let mut done = Done { job: self, index, value: None };
            done.value = Some((self.f)(item));
        }
    }
}

/// Applies `f` to all items on all processors; the answers in the order of the items.
///
/// # Panics
/// If `f` panics.
pub fn map<T, R, F>(items: Vec<T>, f: F) -> Vec<R>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(T) -> R + Send + Sync + 'static,
{
    let count = items.len();
    let helpers = (cpus() - 1).min(count.saturating_sub(1));
    if helpers == 0 {
        return items.into_iter().map(f).collect();
    }
    let job = Arc::new(Job {
        items: Mutex::new(items.into_iter().enumerate()),
        results: Mutex::new(Results { values: (0..count).map(|_| None).collect(), pending: count }),
        done: Condvar::new(),
        f,
    });
    let shared = Arc::clone(&job);
    help(move || shared.work(), helpers);
    job.work();
    let mut results = job.results.lock();
    while results.pending > 0 {
        results = job.done.wait(results);
    }
    let values = core::mem::take(&mut results.values);
    values.into_iter().map(|v| v.expect("a parallel job panicked")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_in_the_order_of_the_items() {
        for n in [0usize, 1, 2, 1000] {
            let squares = map((0..n).collect(), |i| i * i);
            assert_eq!(squares, (0..n).map(|i| i * i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn callers_do_not_disturb_each_other() {
        let threads: Vec<_> = (0..4)
            .map(|t| std::thread::spawn(move || map((0..500).collect(), move |i: u64| i + t)))
            .collect();
        for (t, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), (t as u64..500 + t as u64).collect::<Vec<_>>());
        }
    }
}

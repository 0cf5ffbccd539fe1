//! Waiting until one of several streams is ready.

use crate::errno::{Errno, Result};
use crate::inode::Stream;
use crate::wait::{Waiters, wait_on};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::thread::scheduler;

/// How deeply streams may watch streams (`epoll` in `epoll`), as on Linux.
pub const DEPTH: usize = 5;

/// All streams below `stream`, itself first.
fn gather(stream: Arc<dyn Stream>, depth: usize, into: &mut Vec<Arc<dyn Stream>>) {
    let watched = stream.watched();
    into.push(stream);
    if depth < DEPTH {
        watched.into_iter().for_each(|below| gather(below, depth + 1, into));
    }
}

/// `streams` and all that they watch themselves.
#[must_use]
pub fn with_watched(streams: &[Arc<dyn Stream>]) -> Vec<Arc<dyn Stream>> {
    let mut all = Vec::new();
    streams.iter().for_each(|stream| gather(Arc::clone(stream), 0, &mut all));
    all
}

/// Sleeps until `attempt` gives a value; it is asked whenever something may have changed on one of `streams`, or a time
/// that one of them names has come. Errors as [`wait_on`].
pub fn wait_ready<T>(
    streams: &[&dyn Stream],
    deadline: Option<u64>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    let queues: Vec<&Waiters> = streams.iter().filter_map(|s| s.waiters()).collect();
    loop {
        // A stream's own time can only come nearer by a change that wakes its waiters.
        let named = || streams.iter().filter_map(|s| s.deadline()).min();
        let next = named();
        let until = [deadline, next].into_iter().flatten().min();
        let mut changed = false;
        let result = wait_on(&queues, until, || match attempt() {
            Some(value) => Some(Some(value)),
            None => {
                changed = named() != next;
                changed.then_some(None)
            }
        });
        match result {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(Errno::ETIMEDOUT) if deadline.is_none_or(|d| scheduler().monotonic_ns() < d) => {}
            Err(error) => return Err(error),
        }
    }
}

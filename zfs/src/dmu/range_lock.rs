//! Locks on ranges of bytes of an object, shared or exclusive. Source: `module/zfs/zfs_rlock.c`.
//!
//! First come, first served: a request waits for every earlier one that overlaps it and is not compatible, be that
//! one held or itself waiting. So neither readers nor writers starve.

use alloc::vec::Vec;
use platform::sync::{Condvar, Mutex};

struct Request {
    ticket: u64,
    start: u64,
    /// First byte after it; `u64::MAX` is to the end of everything.
    end: u64,
    exclusive: bool,
}

impl Request {
    fn conflicts(&self, other: &Request) -> bool {
        (self.exclusive || other.exclusive) && self.start < other.end && other.start < self.end
    }
}

#[derive(Default)]
struct Queue {
    next_ticket: u64,
    /// Held and waiting, in the order in which they came.
    requests: Vec<Request>,
}

/// The range locks of one object.
#[derive(Default)]
pub struct RangeLock {
    queue: Mutex<Queue>,
    released: Condvar,
}

/// A locked range; unlocks when dropped.
pub struct Range<'a> {
    lock: &'a RangeLock,
    ticket: u64,
}

impl RangeLock {
    /// Locks `[start, end)` for reading.
    pub fn shared(&self, start: u64, end: u64) -> Range<'_> {
        self.lock(start, end, false)
    }

    /// Locks `[start, end)` for writing.
    pub fn exclusive(&self, start: u64, end: u64) -> Range<'_> {
        self.lock(start, end, true)
    }

    fn lock(&self, start: u64, end: u64, exclusive: bool) -> Range<'_> {
        let mut queue = self.queue.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.requests.push(Request { ticket, start, end, exclusive });
        loop {
            let mine = queue.requests.iter().position(|r| r.ticket == ticket);
            let mine = mine.expect("a request stays queued until its guard is dropped");
            let (before, rest) = queue.requests.split_at(mine);
            if !before.iter().any(|r| r.conflicts(&rest[0])) {
                return Range { lock: self, ticket };
            }
            queue = self.released.wait(queue);
        }
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let mut queue = self.lock.queue.lock();
        queue.requests.retain(|r| r.ticket != self.ticket);
        let waiting = !queue.requests.is_empty();
        drop(queue);
        if waiting {
            self.lock.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;

    #[test]
    fn writers_exclude_each_other_and_readers() {
        let shared = Arc::new((RangeLock::default(), Mutex::new([0u32; 8])));
        let threads: Vec<_> = (0..8u64)
            .map(|t| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    for i in 0..2000 {
                        let slot = ((t + i) % 8) as usize;
                        let _range = shared.0.exclusive(slot as u64 * 10, slot as u64 * 10 + 10);
                        let seen = shared.1.lock()[slot];
                        std::thread::yield_now();
                        shared.1.lock()[slot] = seen + 1;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*shared.1.lock(), [2000; 8]);
    }

    #[test]
    fn readers_share_and_disjoint_ranges_do_not_wait() {
        let lock = RangeLock::default();
        let _a = lock.shared(0, 100);
        let _b = lock.shared(50, 150);
        let _c = lock.exclusive(150, u64::MAX);
    }
}

//! `epoll(7)`: a set of files that is watched for events.
//!
//! # Nothing is scanned
//! Every entry watches its stream's [`Waiters`](crate::wait::Waiters) from the moment it is added; a change puts the entry
//! into the list of those that may be ready, and waiting looks at that list alone. An entry that is reported by its state
//! (not `EPOLLET`) goes back into the list. Timers change without telling anybody: their entries are looked at by name.
//!
//! # Lock order
//! a set's entries → its list → (nothing). A change takes the list alone, as its caller may hold a stream's locks.

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::inode::{Ready, Stream};
use crate::poll;
use crate::wait::{Waiters, Watcher, wait_on};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;
use platform::thread::scheduler;

/// `EPOLLONESHOT`: after one report the entry rests until it is set again.
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`: report changes, not states.
pub const EDGE: u32 = 1 << 31;
/// Bits of a wish that are not events.
const FLAGS: u32 = ONESHOT | EDGE | 1 << 29 | 1 << 28;

/// What happened: events, and the caller's number for the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Events as `poll(2)` has them.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
}

/// By descriptor and open file: a descriptor may mean another file later.
type Key = (i32, u64);

struct Entry {
    set: Weak<Epoll>,
    key: Key,
    file: Weak<File>,
    timed: bool,
    /// What is wished; `None` while the entry rests.
    wish: Mutex<Option<Event>>,
    /// It is in the list.
    listed: AtomicBool,
}

impl Watcher for Entry {
    fn changed(&self) {
        if let Some(set) = self.set.upgrade() {
            set.list(self.key, &self.listed);
            set.waiters.wake();
        }
    }
}

impl Entry {
    fn stream(&self) -> Option<Arc<dyn Stream>> {
        self.file.upgrade()?.stream().cloned()
    }

    /// What is to be reported now.
    fn look(&self) -> Option<Event> {
        let wish = (*self.wish.lock())?;
        let events = self.stream()?.ready().0 & (wish.events & !FLAGS | Ready::ERR | Ready::HUP);
        (events != 0).then_some(Event { events, ..wish })
    }
}

#[derive(Default)]
struct Entries {
    all: BTreeMap<Key, Arc<Entry>>,
    timed: usize,
    /// Entries of closed files are looked for when there are so many.
    prune_at: usize,
}

impl Entries {
    fn remove(&mut self, key: Key) -> Option<Arc<Entry>> {
        let entry = self.all.remove(&key)?;
        self.timed -= usize::from(entry.timed);
        Some(entry)
    }

    /// Forgets closed files; its cost is spread over the additions that led to it.
    fn prune(&mut self) {
        if self.all.len() >= self.prune_at.max(16) {
            self.all.retain(|_, entry| entry.file.strong_count() > 0);
            self.timed = self.all.values().filter(|entry| entry.timed).count();
            self.prune_at = 2 * self.all.len();
        }
    }
}

/// A set.
#[derive(Default)]
pub struct Epoll {
    entries: Mutex<Entries>,
    /// Those that may be ready.
    list: Mutex<VecDeque<Key>>,
    waiters: Waiters,
}

impl Epoll {
    /// An empty set.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Epoll::default())
    }

    fn list(&self, key: Key, listed: &AtomicBool) {
        if !listed.swap(true, Ordering::SeqCst) {
            self.list.lock().push_back(key);
        }
    }

    /// `EPOLL_CTL_ADD`.
    ///
    /// # Errors
    /// [`Errno::EEXIST`], [`Errno::EPERM`] for files that are always ready, [`Errno::ELOOP`] if sets would watch each other.
    pub fn add(self: &Arc<Self>, fd: i32, file: &Arc<File>, wish: Event) -> Result<()> {
        let stream = file.stream().ok_or(Errno::EPERM)?;
        let below = poll::with_watched(core::slice::from_ref(stream));
        let me: *const Epoll = &**self;
        if below.iter().any(|s| core::ptr::addr_eq(Arc::as_ptr(s), me)) {
            return Err(Errno::ELOOP);
        }
        let mut entries = self.entries.lock();
        entries.prune();
        let key = (fd, file.id());
        if entries.all.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let entry = Arc::new(Entry {
            set: Arc::downgrade(self),
            key,
            file: Arc::downgrade(file),
            timed: stream.is_timed(),
            wish: Mutex::new(Some(wish)),
            listed: AtomicBool::new(false),
        });
        if let Some(waiters) = stream.waiters() {
            waiters.add(Arc::downgrade(&(Arc::clone(&entry) as Arc<dyn Watcher>)));
        }
        entries.timed += usize::from(entry.timed);
        entries.all.insert(key, Arc::clone(&entry));
        drop(entries);
        self.list(key, &entry.listed);
        self.waiters.wake();
        Ok(())
    }

    /// `EPOLL_CTL_MOD`. [`Errno::ENOENT`] if it is not in the set.
    pub fn modify(&self, fd: i32, file: &File, wish: Event) -> Result<()> {
        let key = (fd, file.id());
        let entry = self.entries.lock().all.get(&key).cloned().ok_or(Errno::ENOENT)?;
        *entry.wish.lock() = Some(wish);
        self.list(key, &entry.listed);
        self.waiters.wake();
        Ok(())
    }

    /// `EPOLL_CTL_DEL`. [`Errno::ENOENT`] if it is not in the set.
    pub fn remove(&self, fd: i32, file: &File) -> Result<()> {
        let entry = self.entries.lock().remove((fd, file.id())).ok_or(Errno::ENOENT)?;
        if let Some(waiters) = file.stream().and_then(|s| s.waiters()) {
            waiters.remove(&Arc::downgrade(&(entry as Arc<dyn Watcher>)));
        }
        Ok(())
    }

    /// Puts the timers into the list; when the next of them rings, if any does.
    fn look_at_timers(&self) -> Option<u64> {
        let entries = self.entries.lock();
        if entries.timed == 0 {
            return None;
        }
        let timed = entries.all.values().filter(|entry| entry.timed);
        timed
            .filter_map(|entry| {
                let stream = entry.stream()?;
                let due = stream.deadline();
                if due.is_none() && stream.ready().0 != 0 {
                    self.list(entry.key, &entry.listed);
                }
                due
            })
            .min()
    }

    /// Takes up to `max` events.
    fn take(&self, max: usize) -> Vec<Event> {
        let mut out = Vec::new();
        // Those that go back into the list are not looked at twice.
        let mut left = self.list.lock().len();
        while out.len() < max && left > 0 {
            left -= 1;
            let Some(key) = self.list.lock().pop_front() else { break };
            let Some(entry) = self.entries.lock().all.get(&key).cloned() else { continue };
            // Before the state: a change in between lists it again.
            entry.listed.store(false, Ordering::SeqCst);
            let Some(event) = entry.look() else { continue };
            let mut wish = entry.wish.lock();
            match &*wish {
                Some(wished) if wished.events & ONESHOT != 0 => *wish = None,
                Some(wished) if wished.events & EDGE == 0 => self.list(key, &entry.listed),
                _ => {}
            }
            out.push(event);
        }
        out
    }

    /// `epoll_wait`: up to `max` events, none if `deadline` (on the scheduler's clock) passes. [`Errno::EINTR`].
    pub fn wait(self: &Arc<Self>, max: usize, deadline: Option<u64>) -> Result<Vec<Event>> {
        loop {
            let timer = self.look_at_timers();
            let until = [deadline, timer].into_iter().flatten().min();
            let changes = self.waiters.changes();
            let result = wait_on(&[&self.waiters], until, || {
                let events = self.take(max);
                // A timer that was added or set meanwhile may ring earlier.
                let stale = self.waiters.changes() != changes && self.entries.lock().timed > 0;
                (!events.is_empty() || stale).then_some(events)
            });
            match result {
                Ok(events) if events.is_empty() => {}
                Err(Errno::ETIMEDOUT) if deadline.is_some_and(|d| scheduler().monotonic_ns() >= d) => {
                    self.look_at_timers();
                    return Ok(self.take(max));
                }
                Err(Errno::ETIMEDOUT) => {}
                result => return result,
            }
        }
    }
}

impl Stream for Epoll {
    fn ready(&self) -> Ready {
        self.look_at_timers();
        let listed: Vec<Key> = self.list.lock().iter().copied().collect();
        let entries = self.entries.lock();
        let ready = listed.iter().any(|key| entries.all.get(key).is_some_and(|entry| entry.look().is_some()));
        Ready(if ready { Ready::IN } else { 0 })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }

    fn is_timed(&self) -> bool {
        // A timer may be added at any time.
        true
    }

    fn deadline(&self) -> Option<u64> {
        self.look_at_timers()
    }

    fn watched(&self) -> Vec<Arc<dyn Stream>> {
        self.entries.lock().all.values().filter_map(|entry| entry.stream()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::FileSystem;
    use crate::path::Place;
    use crate::pipe::pipe;
    use crate::tmpfs::Tmpfs;
    use crate::types::OpenFlags;
    use platform::thread::scheduler;

    fn open(stream: Arc<dyn Stream>) -> Arc<File> {
        let fs = Tmpfs::new("t", 1, 1 << 20, Arc::new(platform::host::SystemClock));
        File::new(Place::detached(fs.root(), b"x"), OpenFlags::RDWR, Some(stream)).unwrap()
    }

    fn now(epoll: &Arc<Epoll>) -> Vec<Event> {
        epoll.wait(10, Some(scheduler().monotonic_ns())).unwrap()
    }

    const IN: Event = Event { events: Ready::IN, data: 7 };

    #[test]
    fn states_and_edges_and_single_shots() {
        let (r, w) = pipe();
        let file = open(r);
        for (flags, again) in [(0, 1), (EDGE, 0), (ONESHOT, 0)] {
            let epoll = Epoll::new();
            epoll.add(3, &file, Event { events: IN.events | flags, ..IN }).unwrap();
            assert!(now(&epoll).is_empty());
            w.write(b"a", true).unwrap();
            assert_eq!(now(&epoll), [IN]);
            assert_eq!(now(&epoll).len(), again, "{flags:x}");
            w.write(b"b", true).unwrap();
            assert_eq!(now(&epoll).len(), usize::from(flags != ONESHOT), "{flags:x}");
            epoll.modify(3, &file, IN).unwrap();
            assert_eq!(now(&epoll), [IN]);
            file.read(&mut [0; 8]).unwrap();
            assert!(now(&epoll).is_empty());
        }
    }

    #[test]
    fn files_come_and_go() {
        let (r, w) = pipe();
        let file = open(r);
        let epoll = Epoll::new();
        assert_eq!(epoll.remove(3, &file), Err(Errno::ENOENT));
        epoll.add(3, &file, IN).unwrap();
        assert_eq!(epoll.add(3, &file, IN), Err(Errno::EEXIST));
        w.write(b"a", true).unwrap();
        let outer = Epoll::new();
        let inner = open(Arc::clone(&epoll) as Arc<dyn Stream>);
        outer.add(4, &inner, IN).unwrap();
        assert_eq!(now(&outer), [IN]);
        assert_eq!(epoll.add(5, &open(outer as Arc<dyn Stream>), IN), Err(Errno::ELOOP));
        drop(file);
        assert!(now(&epoll).is_empty());
    }

    #[test]
    fn a_sleeper_sees_what_comes_later() {
        let (r, w) = pipe();
        let file = open(r);
        let epoll = Epoll::new();
        let other = Arc::clone(&epoll);
        let kept = Arc::clone(&file);
        let thread = std::thread::spawn(move || {
            other.add(3, &kept, IN).unwrap();
            w.write(b"a", true).unwrap();
            w
        });
        assert_eq!(epoll.wait(1, None), Ok(alloc::vec![IN]));
        drop(thread.join().unwrap());
    }
}

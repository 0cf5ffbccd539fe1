//! `epoll(7)`: a set of files that is watched for events.
//!
//! # Edge-triggered entries
//! Every change of a stream wakes its [`Waiters`], which count that. Such an entry is reported when it is ready and the
//! count has moved since it was reported last.

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::inode::{Ready, Stream};
use crate::poll::{self, wait_ready};
use crate::wait::Waiters;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use platform::sync::Mutex;

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

struct Entry {
    file: Weak<File>,
    wish: Event,
    resting: bool,
    /// The count of changes at the last report; `None` before the first.
    reported: Option<u64>,
}

impl Entry {
    fn stream(&self) -> Option<Arc<dyn Stream>> {
        self.file.upgrade()?.stream().cloned()
    }

    /// What is to be reported now.
    fn look(&self) -> Option<(Event, Option<u64>)> {
        if self.resting {
            return None;
        }
        let stream = self.stream()?;
        // Before the state: a change in between makes one report too many, not one too few.
        let changes = stream.waiters().map(Waiters::changes);
        if self.wish.events & EDGE != 0 && self.reported.is_some() && self.reported == changes {
            return None;
        }
        let events = stream.ready().0 & (self.wish.events & !FLAGS | Ready::ERR | Ready::HUP);
        (events != 0).then_some((Event { events, ..self.wish }, changes))
    }
}

/// A set.
#[derive(Default)]
pub struct Epoll {
    /// By descriptor and open file: a descriptor may mean another file later.
    entries: Mutex<BTreeMap<(i32, u64), Entry>>,
    waiters: Waiters,
}

impl Epoll {
    /// An empty set.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Epoll::default())
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
        entries.retain(|_, entry| entry.file.strong_count() > 0);
        let key = (fd, file.id());
        if entries.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let entry = Entry { file: Arc::downgrade(file), wish, resting: false, reported: None };
        entries.insert(key, entry);
        drop(entries);
        self.waiters.wake();
        Ok(())
    }

    /// `EPOLL_CTL_MOD`. [`Errno::ENOENT`] if it is not in the set.
    pub fn modify(&self, fd: i32, file: &File, wish: Event) -> Result<()> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&(fd, file.id())).ok_or(Errno::ENOENT)?;
        *entry = Entry { file: Weak::clone(&entry.file), wish, resting: false, reported: None };
        drop(entries);
        self.waiters.wake();
        Ok(())
    }

    /// `EPOLL_CTL_DEL`. [`Errno::ENOENT`] if it is not in the set.
    pub fn remove(&self, fd: i32, file: &File) -> Result<()> {
        self.entries.lock().remove(&(fd, file.id())).map(drop).ok_or(Errno::ENOENT)
    }

    /// Takes up to `max` events.
    fn take(&self, max: usize) -> Vec<Event> {
        let mut out = Vec::new();
        let mut entries = self.entries.lock();
        for entry in entries.values_mut() {
            if out.len() == max {
                break;
            }
            if let Some((event, changes)) = entry.look() {
                entry.reported = changes;
                entry.resting = entry.wish.events & ONESHOT != 0;
                out.push(event);
            }
        }
        out
    }

    /// `epoll_wait`: up to `max` events, none if `deadline` (on the scheduler's clock) passes. [`Errno::EINTR`].
    pub fn wait(self: &Arc<Self>, max: usize, deadline: Option<u64>) -> Result<Vec<Event>> {
        loop {
            let me: Arc<dyn Stream> = Arc::clone(self) as Arc<dyn Stream>;
            let streams = poll::with_watched(&[me]);
            let streams: Vec<&dyn Stream> = streams.iter().map(|s| &**s).collect();
            let set = self.waiters.changes();
            let result = wait_ready(&streams, deadline, || {
                let events = self.take(max);
                // A set that has changed has other streams to wait for.
                (!events.is_empty() || self.waiters.changes() != set).then_some(events)
            });
            match result {
                Ok(events) if events.is_empty() => {}
                Err(Errno::ETIMEDOUT) => return Ok(Vec::new()),
                result => return result,
            }
        }
    }
}

impl Stream for Epoll {
    fn ready(&self) -> Ready {
        let ready = self.entries.lock().values().any(|entry| entry.look().is_some());
        Ready(if ready { Ready::IN } else { 0 })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }

    fn watched(&self) -> Vec<Arc<dyn Stream>> {
        self.entries.lock().values().filter_map(Entry::stream).collect()
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

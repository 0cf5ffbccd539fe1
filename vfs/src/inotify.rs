//! `inotify(7)`: being told what happens to files and in directories.
//!
//! The functions that change files say so by [`notify`] and [`notify_place`]; as long as nobody watches anything, that is one look at
//! a counter. A watch keeps its file in memory, so that its number stays its own.
//!
//! Lock order: `TABLE` → an instance's `state`; both are leaves otherwise.

use crate::errno::{Errno, Result};
use crate::inode::{Inode, Ready, Stream};
use crate::path::Place;
use crate::types::FileType;
use crate::wait::{Waiters, wait_on};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use hashbrown::HashMap;
use platform::sync::Mutex;

bitflags! {
    /// What happened, and how a watch is meant: Linux's bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Events: u32 {
        /// Read.
        const ACCESS = 0x1;
        /// Written or truncated.
        const MODIFY = 0x2;
        /// Attributes changed.
        const ATTRIB = 0x4;
        /// A file that was open for writing was closed.
        const CLOSE_WRITE = 0x8;
        /// Another one was closed.
        const CLOSE_NOWRITE = 0x10;
        /// Opened.
        const OPEN = 0x20;
        /// Moved away from the directory.
        const MOVED_FROM = 0x40;
        /// Moved into the directory.
        const MOVED_TO = 0x80;
        /// Made in the directory.
        const CREATE = 0x100;
        /// Removed from the directory.
        const DELETE = 0x200;
        /// The watched file itself has lost its last name.
        const DELETE_SELF = 0x400;
        /// The watched file itself was moved.
        const MOVE_SELF = 0x800;
        /// All that may be asked for.
        const ALL = 0xfff;
        /// Events were lost.
        const Q_OVERFLOW = 0x4000;
        /// The watch has ended.
        const IGNORED = 0x8000;
        /// Only a directory is watched.
        const ONLYDIR = 0x0100_0000;
        /// A symbolic link itself is watched.
        const DONT_FOLLOW = 0x0200_0000;
        /// Nothing of files without a name; they have none to tell here.
        const EXCL_UNLINK = 0x0400_0000;
        /// It must not be watched yet.
        const MASK_CREATE = 0x1000_0000;
        /// Adds to what is watched already.
        const MASK_ADD = 0x2000_0000;
        /// It happened to a directory.
        const ISDIR = 0x4000_0000;
        /// The watch ends with its first event.
        const ONESHOT = 0x8000_0000;
    }
}

/// Bytes of a `struct inotify_event` without its name, and what names are filled up to.
const EVENT: usize = 16;
/// Events that wait to be read at most, as on Linux.
const QUEUE_MAX: usize = 16_384;
/// Watches of one instance at most.
const WATCHES_MAX: usize = 65_536;

/// What a file is known by, after it is gone, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    fs_id: u64,
    ino: u64,
}

type Key = Subject;

struct Watcher {
    instance: Weak<Inotify>,
    number: i32,
    mask: Events,
    _keep: Arc<dyn Inode>,
}

static WATCHES: AtomicUsize = AtomicUsize::new(0);
static COOKIE: AtomicU32 = AtomicU32::new(1);

fn table() -> &'static Mutex<HashMap<Key, Vec<Watcher>>> {
    static TABLE: spin::Once<Mutex<HashMap<Key, Vec<Watcher>>>> = spin::Once::new();
    TABLE.call_once(|| Mutex::new(HashMap::new()))
}

impl From<&dyn Inode> for Subject {
    fn from(inode: &dyn Inode) -> Self {
        Subject { fs_id: inode.fs_id(), ino: inode.ino() }
    }
}

/// Whether anybody watches anything.
#[must_use]
pub fn is_used() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    files: HashMap<i32, Key>,
    last: i32,
}

/// `inotify_init(2)`: an instance.
#[derive(Default)]
pub struct Inotify {
    state: Mutex<State>,
    waiters: Waiters,
}

fn encode(number: i32, events: Events, cookie: u32, name: Option<&[u8]>) -> Vec<u8> {
    let len = name.map_or(0, |name| (name.len() + 1).next_multiple_of(EVENT));
    let mut out = Vec::with_capacity(EVENT + len);
    out.extend_from_slice(&number.to_ne_bytes());
    for word in [events.bits(), cookie, len as u32] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(name.unwrap_or_default());
    out.resize(EVENT + len, 0);
    out
}

impl Inotify {
    /// An instance that watches nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Watches `inode`, or changes what is watched; the watch's number.
    pub fn add(self: &Arc<Self>, inode: &Arc<dyn Inode>, mask: Events) -> Result<i32> {
        if !mask.intersects(Events::ALL) {
            return Err(Errno::EINVAL);
        }
        if mask.contains(Events::ONLYDIR) && inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let keep = mask & (Events::ALL | Events::ONESHOT);
        let key = Subject::from(&**inode);
        let mut table = table().lock();
        let watchers = table.entry(key).or_default();
        let mine = |w: &&mut Watcher| core::ptr::eq(w.instance.as_ptr(), Arc::as_ptr(self));
        if let Some(watcher) = watchers.iter_mut().find(mine) {
            if mask.contains(Events::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            watcher.mask = if mask.contains(Events::MASK_ADD) { watcher.mask | keep } else { keep };
            return Ok(watcher.number);
        }
        let mut state = self.state.lock();
        if state.files.len() >= WATCHES_MAX {
            return Err(Errno::ENOSPC);
        }
        state.last = state.last.checked_add(1).ok_or(Errno::ENOSPC)?;
        let number = state.last;
        state.files.insert(number, key);
        watchers.push(Watcher {
            instance: Arc::downgrade(self),
            number,
            mask: keep,
            _keep: Arc::clone(inode),
        });
        WATCHES.fetch_add(1, Ordering::SeqCst);
        Ok(number)
    }

    /// Ends a watch.
    pub fn remove(self: &Arc<Self>, number: i32) -> Result<()> {
        let key = self.state.lock().files.remove(&number).ok_or(Errno::EINVAL)?;
        self.forget(&[key]);
        self.push(encode(number, Events::IGNORED, 0, None));
        Ok(())
    }

    /// Takes its watches of these files out of the table.
    fn forget(&self, keys: &[Key]) {
        let mut gone = Vec::new();
        let mut table = table().lock();
        for key in keys {
            let Some(watchers) = table.get_mut(key) else { continue };
            gone.extend(watchers.extract_if(.., |w| core::ptr::eq(w.instance.as_ptr(), self)));
            if watchers.is_empty() {
                table.remove(key);
            }
        }
        drop(table);
        WATCHES.fetch_sub(gone.len(), Ordering::SeqCst);
    }

    fn push(&self, event: Vec<u8>) {
        {
            let mut state = self.state.lock();
            // What says the same as the last one tells nothing new.
            if state.queue.back() == Some(&event) {
                return;
            }
            match state.queue.len() {
                QUEUE_MAX.. => return,
                n if n == QUEUE_MAX - 1 => {
                    state.queue.push_back(encode(-1, Events::Q_OVERFLOW, 0, None));
                }
                _ => state.queue.push_back(event),
            }
        }
        self.waiters.wake();
    }

    fn take(&self, buf: &mut [u8]) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.queue.front()?.len() > buf.len() {
            return Some(Err(Errno::EINVAL));
        }
        let mut done = 0;
        while let Some(event) = state.queue.front()
            && let Some(room) = buf.get_mut(done..done + event.len())
        {
            room.copy_from_slice(event);
            done += event.len();
            state.queue.pop_front();
        }
        Some(Ok(done))
    }

    /// Bytes that a read would give (`FIONREAD`).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.state.lock().queue.iter().map(Vec::len).sum()
    }
}

impl Stream for Inotify {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if nonblock {
            return self.take(buf).unwrap_or(Err(Errno::EAGAIN));
        }
        wait_on(&[&self.waiters], None, || self.take(buf))?
    }
    fn ready(&self) -> Ready {
        Ready(if self.state.lock().queue.is_empty() { 0 } else { Ready::IN })
    }
    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let keys: Vec<Key> = self.state.get_mut().files.values().copied().collect();
        self.forget(&keys);
    }
}

/// A number that connects the two events of a move.
#[must_use]
pub fn cookie() -> u32 {
    COOKIE.fetch_add(1, Ordering::Relaxed)
}

/// Something happened to a file, or to the entry `name` in it.
pub fn notify(subject: impl Into<Subject>, events: Events, name: Option<&[u8]>, cookie: u32) {
    if !is_used() {
        return;
    }
    let mut told = Vec::new();
    {
        let table = table().lock();
        let Some(watchers) = table.get(&subject.into()) else { return };
        for watcher in watchers.iter().filter(|w| w.mask.intersects(events & Events::ALL)) {
            if let Some(instance) = watcher.instance.upgrade() {
                told.push((instance, watcher.number, watcher.mask));
            }
        }
    }
    for (instance, number, mask) in told {
        instance.push(encode(number, events, cookie, name));
        if mask.contains(Events::ONESHOT) || events.contains(Events::DELETE_SELF) {
            // It may have been removed meanwhile: no matter.
            let _ = instance.remove(number);
        }
    }
}

/// Something happened to the file at `place`: told to who watches it, and to who watches its directory.
pub fn notify_place(place: &Place, events: Events) {
    if !is_used() {
        return;
    }
    let directory = place.inode.file_type() == FileType::Directory;
    let events = if directory { events | Events::ISDIR } else { events };
    if let Some((parent, name)) = place.entry() {
        notify(&*parent.inode, events, Some(name), 0);
    }
    notify(&*place.inode, events, None, 0);
}

#[cfg(test)]
#[path = "inotify_tests.rs"]
mod tests;

//! Advisory locks: POSIX byte ranges (`fcntl`), open-file-description ranges, and whole-file `flock`.
//!
//! All three are ranges with an owner: a process for POSIX locks, an open file for the other two. POSIX and OFD
//! locks see each other; `flock` locks live in a world of their own, as on Linux.

use crate::errno::{Errno, Result};
use crate::wait::{Waiters, wait_on};
use alloc::vec::Vec;
use hashbrown::HashMap;
use platform::sync::Mutex;

/// Which locks see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `fcntl` locks, of processes and of open files.
    Range,
    /// `flock` locks.
    Whole,
}

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A process, by its id: POSIX locks.
    Process(u32),
    /// An open file, by its identity: OFD locks and `flock`.
    OpenFile(u64),
}

/// A file, by file system and number.
pub type FileKey = (u64, u64);

/// A held or wanted lock on bytes `start..end` (`end` = `u64::MAX`: to infinity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who.
    pub owner: Owner,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Exclusive (`F_WRLCK`, `LOCK_EX`), else shared.
    pub exclusive: bool,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn conflicts(&self, other: &Lock) -> bool {
        self.owner != other.owner && self.overlaps(other) && (self.exclusive || other.exclusive)
    }
}

/// All locks of the machine.
#[derive(Default)]
pub struct LockTable {
    files: Mutex<HashMap<(Family, FileKey), Vec<Lock>>>,
    waiters: Waiters,
}

impl LockTable {
    /// No locks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first lock that stands in the way of `want`.
    #[must_use]
    pub fn conflict(&self, family: Family, key: FileKey, want: &Lock) -> Option<Lock> {
        self.files.lock().get(&(family, key))?.iter().find(|held| held.conflicts(want)).copied()
    }

    /// Takes a lock, replacing what its owner held there. [`Errno::EAGAIN`] on conflict, or with `wait` sleeps
    /// ([`Errno::EINTR`] if a signal comes).
    pub fn lock(&self, family: Family, key: FileKey, want: Lock, wait: bool) -> Result<()> {
        if wait {
            wait_on(&[&self.waiters], None, || self.try_lock(family, key, want).then_some(()))
        } else if self.try_lock(family, key, want) {
            Ok(())
        } else {
            Err(Errno::EAGAIN)
        }
    }

    fn try_lock(&self, family: Family, key: FileKey, want: Lock) -> bool {
        let mut files = self.files.lock();
        let held = files.entry((family, key)).or_default();
        if held.iter().any(|lock| lock.conflicts(&want)) {
            return false;
        }
        carve(held, &want);
        held.push(want);
        merge(held);
        drop(files);
        // A writer that became a reader lets other readers in.
        self.waiters.wake();
        true
    }

    /// Gives up `owner`'s locks in `start..end`.
    pub fn unlock(&self, family: Family, key: FileKey, owner: Owner, start: u64, end: u64) {
        let mut files = self.files.lock();
        if let Some(held) = files.get_mut(&(family, key)) {
            carve(held, &Lock { owner, start, end, exclusive: false });
            if held.is_empty() {
                files.remove(&(family, key));
            }
        }
        drop(files);
        self.waiters.wake();
    }

    /// Gives up everything that `owner` holds on one file, in both families.
    pub fn release(&self, key: FileKey, owner: Owner) {
        if self.files.lock().is_empty() {
            return;
        }
        for family in [Family::Range, Family::Whole] {
            self.unlock(family, key, owner, 0, u64::MAX);
        }
    }
}

/// Removes `cut`'s range from its owner's locks, splitting where it lies inside one.
fn carve(held: &mut Vec<Lock>, cut: &Lock) {
    let mut rest = Vec::new();
    held.retain(|lock| {
        if lock.owner != cut.owner || !lock.overlaps(cut) {
            return true;
        }
        if lock.start < cut.start {
            rest.push(Lock { end: cut.start, ..*lock });
        }
        if lock.end > cut.end {
            rest.push(Lock { start: cut.end, ..*lock });
        }
        false
    });
    held.append(&mut rest);
}

/// Joins neighbours of one owner and kind, so that a program that locks byte by byte does not grow the list.
fn merge(held: &mut Vec<Lock>) {
    let Some(mut new) = held.pop() else { return };
    held.retain(|lock| {
        let joins = lock.owner == new.owner
            && lock.exclusive == new.exclusive
            && lock.start <= new.end
            && new.start <= lock.end;
        if joins {
            new.start = new.start.min(lock.start);
            new.end = new.end.max(lock.end);
        }
        !joins
    });
    held.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FileKey = (1, 2);
    const A: Owner = Owner::Process(1);
    const B: Owner = Owner::OpenFile(9);

    fn lock(owner: Owner, start: u64, end: u64, exclusive: bool) -> Lock {
        Lock { owner, start, end, exclusive }
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let t = LockTable::new();
        t.lock(Family::Range, KEY, lock(A, 0, 10, false), false).unwrap();
        t.lock(Family::Range, KEY, lock(B, 5, 15, false), false).unwrap();
        assert_eq!(t.lock(Family::Range, KEY, lock(B, 0, 1, true), false), Err(Errno::EAGAIN));
        assert_eq!(t.lock(Family::Range, KEY, lock(B, 10, 15, true), false), Ok(()));
        assert_eq!(t.conflict(Family::Range, KEY, &lock(A, 12, 13, false)), Some(lock(B, 10, 15, true)));
        // Another family does not see them.
        assert_eq!(t.lock(Family::Whole, KEY, lock(B, 0, u64::MAX, true), false), Ok(()));
    }

    #[test]
    fn unlocking_the_middle_splits() {
        let t = LockTable::new();
        t.lock(Family::Range, KEY, lock(A, 0, 100, true), false).unwrap();
        t.unlock(Family::Range, KEY, A, 40, 60);
        assert!(t.conflict(Family::Range, KEY, &lock(B, 39, 40, false)).is_some());
        assert!(t.conflict(Family::Range, KEY, &lock(B, 40, 60, true)).is_none());
        assert!(t.conflict(Family::Range, KEY, &lock(B, 60, 61, false)).is_some());
        t.lock(Family::Range, KEY, lock(A, 40, 60, true), false).unwrap();
        assert_eq!(t.files.lock().values().map(Vec::len).sum::<usize>(), 1);
        t.release(KEY, A);
        assert!(t.files.lock().is_empty());
    }

    #[test]
    fn a_waiting_writer_gets_its_turn() {
        let t = alloc::sync::Arc::new(LockTable::new());
        t.lock(Family::Whole, KEY, lock(A, 0, u64::MAX, true), false).unwrap();
        let other = t.clone();
        let thread =
            std::thread::spawn(move || other.lock(Family::Whole, KEY, lock(B, 0, u64::MAX, true), true));
        t.release(KEY, A);
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}

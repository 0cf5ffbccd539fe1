//! The adaptive replacement cache of logical blocks. Source: `arc.c` (after Megiddo and Modha).
//!
//! Blocks are keyed by where and when they were written, so an entry never goes stale: an overwritten block has
//! another key. Two lists hold blocks seen once (MRU) and more often (MFU); behind each a ghost list remembers what was
//! pushed out of it, without data. A hit on a ghost says which list should have been longer, and moves the target.
//!
//! # Invariants
//! - `size` (bytes of data in both lists) is at most `max` whenever the lock is free.
//! - One fill per key is under way at a time; others wait for it ([`Lookup::Wait`]).
//!
//! # Locks
//! One mutex around the lists; no I/O and no other lock is taken under it. A fill's own mutex is taken alone.

mod index;
mod list;
mod stats;
#[cfg(test)]
mod tests;

pub use stats::ArcStats;

use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use hashbrown::HashMap;
use index::Keys;
use list::{Lists, Place};
use platform::block::BlockError;
use platform::sync::{Condvar, Mutex};

/// What of a dataset's blocks the cache keeps (property `primarycache`, `zfs_cache_type_t`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PrimaryCache {
    /// Nothing.
    None,
    /// Metadata alone: indirect blocks, dnodes, directories.
    Metadata,
    /// Everything.
    #[default]
    All,
}

impl PrimaryCache {
    /// The property's value from its number; what is not known keeps everything.
    #[must_use]
    pub fn from_raw(raw: u64) -> Self {
        match raw {
            0 => PrimaryCache::None,
            1 => PrimaryCache::Metadata,
            _ => PrimaryCache::All,
        }
    }

    /// Whether a block is kept.
    #[must_use]
    pub fn keeps(self, is_metadata: bool) -> bool {
        self == PrimaryCache::All || self == PrimaryCache::Metadata && is_metadata
    }
}

/// Who reads a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Somebody waits for it.
    Demand,
    /// It is read ahead: its first use will not count as its second.
    Prefetch,
}

/// What names a block: its first address and when it was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    vdev: u32,
    offset: u64,
    birth: u64,
}

impl Key {
    /// The key of a block on a device.
    #[must_use]
    pub fn of(bp: &Blkptr) -> Self {
        let dva = bp.dva(0);
        Key { vdev: dva.vdev, offset: dva.offset, birth: bp.physical_birth() }
    }
}

/// A block that is being read.
pub struct Fill {
    outcome: Mutex<Option<Result<Bytes>>>,
    done: Condvar,
}

impl Fill {
    /// Sleeps until the block is there, or is known not to be readable.
    pub fn wait(&self) -> Result<Bytes> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(result) => return result.clone(),
                None => outcome = self.done.wait(outcome),
            }
        }
    }
}

/// The duty to read a block and to tell. Dropped without telling, it fails those who wait.
pub struct Claim {
    cache: Arc<Cache>,
    key: Key,
    fill: Arc<Fill>,
    reader: Reader,
    told: bool,
}

/// What the cache knows of a block.
pub enum Lookup {
    /// Here it is.
    Hit(Bytes),
    /// Somebody reads it already.
    Wait(Arc<Fill>),
    /// The caller shall read it.
    Mine(Claim),
}

struct State {
    lists: Lists,
    index: Keys,
    fills: HashMap<Key, Arc<Fill>>,
    /// Target size of the MRU list in bytes.
    target: usize,
    max: usize,
    stats: ArcStats,
}

/// The cache.
pub struct Cache {
    state: Mutex<State>,
}

impl Cache {
    /// An empty cache of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Cache> {
        let state = State {
            lists: Lists::default(),
            index: Keys::default(),
            fills: HashMap::new(),
            target: max / 2,
            max,
            stats: ArcStats::default(),
        };
        Arc::new(Cache { state: Mutex::new(state) })
    }

    /// Changes the limit and pushes out what is over it.
    pub fn set_max(&self, max: usize) {
        let freed = {
            let mut state = self.state.lock();
            state.max = max;
            state.target = state.target.min(max);
            state.make_room(0)
        };
        drop(freed);
    }

    /// Pushes out `bytes` of blocks, whatever the limit; how many bytes went. None if somebody works on the cache at this
    /// moment: it never waits, so that an allocator may call it in need.
    pub fn shrink(&self, bytes: usize) -> usize {
        let mut freed = Vec::new();
        let mut size = 0;
        {
            let Some(mut state) = self.state.try_lock() else { return 0 };
            while size < bytes {
                let Some(data) = state.evict() else { break };
                size += data.len();
                freed.push(data);
            }
        }
        drop(freed);
        size
    }

    /// The figures.
    #[must_use]
    pub fn stats(&self) -> ArcStats {
        let state = self.state.lock();
        let size = |place| state.lists.size(place) as u64;
        ArcStats {
            size: state.lists.data_size() as u64,
            max: state.max as u64,
            target: state.target as u64,
            mru_size: size(Place::Mru),
            mfu_size: size(Place::Mfu),
            mru_ghost_size: size(Place::MruGhost),
            mfu_ghost_size: size(Place::MfuGhost),
            ..state.stats
        }
    }

    /// Whether the block is here or on its way; does not count as a use.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        let state = self.state.lock();
        state.fills.contains_key(key) || state.index.get(key).is_some_and(|i| state.lists.has_data(i))
    }

    /// The block if it is cached; counts as a use.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        self.state.lock().hit(key)
    }

    /// The block, or the one who reads it, or the duty to read it.
    pub fn lookup(self: &Arc<Self>, key: Key, reader: Reader) -> Lookup {
        let mut state = self.state.lock();
        let found = match reader {
            Reader::Demand => state.hit(&key),
            Reader::Prefetch => state.peek(&key),
        };
        if let Some(data) = found {
            return Lookup::Hit(data);
        }
        if let Some(fill) = state.fills.get(&key) {
            let fill = Arc::clone(fill);
            if reader == Reader::Demand {
                state.stats.hits += 1;
                state.stats.waits += 1;
            }
            return Lookup::Wait(fill);
        }
        match reader {
            Reader::Demand => state.stats.misses += 1,
            Reader::Prefetch => state.stats.prefetches += 1,
        }
        let fill = Arc::new(Fill { outcome: Mutex::new(None), done: Condvar::new() });
        state.fills.insert(key, Arc::clone(&fill));
        Lookup::Mine(Claim { cache: Arc::clone(self), key, fill, reader, told: false })
    }

    /// Puts a block in that was just written. A read of the same place that is under way will not replace it.
    pub fn insert(&self, key: Key, data: Bytes) {
        let freed = {
            let mut state = self.state.lock();
            state.fills.remove(&key);
            state.insert(key, data, Reader::Demand)
        };
        drop(freed);
    }

    /// Forgets everything. Reads that are under way do not enter the cache.
    pub fn clear(&self) {
        let (lists, index, fills) = {
            let mut state = self.state.lock();
            (
                core::mem::take(&mut state.lists),
                core::mem::take(&mut state.index),
                core::mem::take(&mut state.fills),
            )
        };
        drop((lists, index, fills));
    }

    /// Forgets a block (its space is free again, or its content proved bad).
    pub fn remove(&self, key: &Key) {
        let mut state = self.state.lock();
        state.fills.remove(key);
        if let Some(index) = state.index.remove(key) {
            state.lists.remove(index);
        }
    }
}

impl State {
    fn hit(&mut self, key: &Key) -> Option<Bytes> {
        let index = self.index.get(key)?;
        let data = self.lists.data(index)?;
        let to = match self.lists.place(index) {
            // What was read ahead is used for the first time now.
            Place::Mru if self.lists.take_prefetched(index) => {
                self.stats.prefetch_hits += 1;
                Place::Mru
            }
            Place::Mru => {
                self.stats.mru_hits += 1;
                Place::Mfu
            }
            _ => {
                self.stats.mfu_hits += 1;
                Place::Mfu
            }
        };
        self.lists.shift(index, to);
        self.stats.hits += 1;
        Some(data)
    }

    /// The block, without counting that as a use.
    fn peek(&self, key: &Key) -> Option<Bytes> {
        self.index.get(key).and_then(|index| self.lists.data(index))
    }

    /// Makes `data` the newest block; answers what was pushed out, to be freed outside the lock.
    fn insert(&mut self, key: Key, data: Bytes, reader: Reader) -> Vec<Bytes> {
        let len = data.len();
        let old = self.index.remove(&key);
        let place = match old.map(|index| (index, self.lists.place(index))) {
            None => Place::Mru,
            Some((index, place)) => {
                self.adapt(place, len);
                self.lists.remove(index);
                Place::Mfu
            }
        };
        if len > self.max {
            return Vec::new();
        }
        let mut freed = self.make_room(len);
        let index = self.lists.push(key, place, data, reader == Reader::Prefetch);
        self.index.insert(key, index);
        freed.extend(self.trim_ghosts());
        freed
    }

    /// A ghost was asked for: its list was too short.
    fn adapt(&mut self, place: Place, len: usize) {
        let (recent, frequent) = (self.lists.size(Place::MruGhost), self.lists.size(Place::MfuGhost));
        match place {
            Place::MruGhost => {
                self.stats.mru_ghost_hits += 1;
                let step = len * (frequent / recent.max(1)).clamp(1, 10);
                self.target = (self.target + step).min(self.max);
            }
            Place::MfuGhost => {
                self.stats.mfu_ghost_hits += 1;
                let step = len * (recent / frequent.max(1)).clamp(1, 10);
                self.target = self.target.saturating_sub(step);
            }
            Place::Mru | Place::Mfu => {}
        }
    }

    fn make_room(&mut self, len: usize) -> Vec<Bytes> {
        let mut freed = Vec::new();
        while self.lists.data_size() + len > self.max {
            let Some(data) = self.evict() else { break };
            freed.push(data);
        }
        freed
    }

    /// Pushes out the oldest block of the list that is too long.
    fn evict(&mut self) -> Option<Bytes> {
        let recent = self.lists.size(Place::Mru);
        let from =
            if recent > self.target || self.lists.size(Place::Mfu) == 0 { Place::Mru } else { Place::Mfu };
        let from = if self.lists.size(from) == 0 { Place::Mfu } else { from };
        let (index, data) = self.lists.evict(from)?;
        self.lists.shift(index, if from == Place::Mru { Place::MruGhost } else { Place::MfuGhost });
        self.stats.evictions += 1;
        Some(data)
    }

    /// Ghosts remember as many bytes again as the cache holds.
    fn trim_ghosts(&mut self) -> Vec<Bytes> {
        for place in [Place::MruGhost, Place::MfuGhost] {
            while self.lists.size(place) > self.max {
                let Some(key) = self.lists.forget_oldest(place) else { break };
                self.index.remove(&key);
            }
        }
        Vec::new()
    }
}

impl Claim {
    /// Tells the outcome to all who wait; a good one enters the cache if `keep`.
    pub fn tell(mut self, outcome: &Result<Bytes>, keep: bool) {
        self.finish(outcome.clone(), keep);
    }

    fn finish(&mut self, outcome: Result<Bytes>, keep: bool) {
        self.told = true;
        let freed = {
            let mut state = self.cache.state.lock();
            // Absent or another one if the place was written in the meantime: then what was read is old.
            let current = state.fills.get(&self.key).is_some_and(|f| Arc::ptr_eq(f, &self.fill));
            if current {
                state.fills.remove(&self.key);
            }
            match &outcome {
                Ok(data) if current && keep => state.insert(self.key, data.clone(), self.reader),
                _ => Vec::new(),
            }
        };
        drop(freed);
        *self.fill.outcome.lock() = Some(outcome);
        self.fill.done.notify_all();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.told {
            self.finish(Err(Error::Io { cause: BlockError::Gone, at: None }), false);
        }
    }
}

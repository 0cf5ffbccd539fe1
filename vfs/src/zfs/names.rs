//! Names that were looked up: which file a directory's entry leads to, or that there is none.
//!
//! A path is walked by several lookups, each of which would search a directory's hash table and hold the object anew. All
//! changes of entries come through [`super::inode::ZfsInode`], which forgets the name before the change (so that nothing
//! holds a file that is removed) and after it; a lookup that began before that does not enter what it found: the
//! generation has moved.
//!
//! A name keeps its file's inode, and so its attributes, in memory. The number of names is bounded; those that were not used
//! since the hand of a clock passed last go first.
//!
//! Inodes are dropped with no lock held: that may remove a file's last hold.

use super::inode::ZfsInode;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use hashbrown::{Equivalent, HashMap};
use platform::sync::Mutex;

/// How many names a mounted dataset keeps unless it is told otherwise.
const LIMIT: usize = 4096;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    directory: u64,
    name: Arc<[u8]>,
}

/// A key that is only looked for. It must hash as [`Key`] does.
#[derive(Hash)]
struct Wanted<'a> {
    directory: u64,
    name: &'a [u8],
}

impl Equivalent<Key> for Wanted<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.directory == key.directory && *self.name == *key.name
    }
}

struct Entry {
    /// `None`: there is no such entry.
    inode: Option<Arc<ZfsInode>>,
    used: bool,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The order in which the clock's hand comes by. Keys of entries that are gone may remain.
    clock: VecDeque<Key>,
    generation: u64,
}

/// What was found out about a name.
pub(super) enum Found {
    /// It leads to this file.
    Inode(Arc<ZfsInode>),
    /// There is no such entry.
    Nothing,
    /// It must be looked for; what is found may be entered with this number.
    Unknown(u64),
}

/// The names of one mounted dataset.
pub(super) struct Names {
    state: Mutex<State>,
    limit: AtomicUsize,
}

impl Names {
    /// No names yet.
    pub(super) fn new() -> Self {
        Names { state: Mutex::new(State::default()), limit: AtomicUsize::new(LIMIT) }
    }

    /// Sets how many names are kept; 0: none.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        if limit == 0 {
            self.clear();
        }
    }

    /// What is known of a name.
    pub(super) fn get(&self, directory: u64, name: &[u8]) -> Found {
        let mut state = self.state.lock();
        let generation = state.generation;
        match state.entries.get_mut(&Wanted { directory, name }) {
            Some(entry) => {
                entry.used = true;
                entry.inode.as_ref().map_or(Found::Nothing, |inode| Found::Inode(Arc::clone(inode)))
            }
            None => Found::Unknown(generation),
        }
    }

    /// Enters what a lookup found that began when `generation` was the number.
    pub(super) fn insert(&self, directory: u64, name: &[u8], inode: Option<Arc<ZfsInode>>, generation: u64) {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            if state.generation != generation || limit == 0 {
                return;
            }
            let key = Key { directory, name: name.into() };
            state.clock.push_back(key.clone());
            gone.extend(state.entries.insert(key, Entry { inode, used: false }));
            state.trim(limit, &mut gone);
        }
        drop(gone);
    }

    /// Forgets a name: it was made, removed or given another file. The number with which what it leads to now may be
    /// entered.
    pub(super) fn forget(&self, directory: u64, name: &[u8]) -> u64 {
        let (gone, generation) = {
            let mut state = self.state.lock();
            state.generation += 1;
            (state.entries.remove(&Wanted { directory, name }), state.generation)
        };
        drop(gone);
        generation
    }

    /// Forgets all names: memory is short, or the dataset is let go.
    pub(super) fn clear(&self) {
        let gone = {
            let mut state = self.state.lock();
            state.generation += 1;
            state.clock = VecDeque::new();
            core::mem::take(&mut state.entries)
        };
        drop(gone);
    }
}

impl State {
    /// Moves the clock's hand until there are at most `limit` names.
    fn trim(&mut self, limit: usize, gone: &mut Vec<Entry>) {
        while self.entries.len() > limit {
            let Some(key) = self.clock.pop_front() else { return };
            match self.entries.get_mut(&key) {
                None => {}
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.clock.push_back(key);
                }
                Some(_) => gone.extend(self.entries.remove(&key)),
            }
        }
        // Names that come and go leave their keys behind.
        if self.clock.len() > 2 * limit.max(64) {
            let entries = &self.entries;
            let mut seen = hashbrown::HashSet::new();
            self.clock.retain(|key| entries.contains_key(key) && seen.insert(key.clone()));
        }
    }
}

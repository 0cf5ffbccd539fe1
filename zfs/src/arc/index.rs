//! Where a block stands in the lists, by its key.

use super::Key;
use super::list::Index;
use hashbrown::HashMap;

/// Tables: one that grew as one piece would need large runs of memory, where there may be none.
const TABLES: usize = 32;

/// The index.
#[derive(Default)]
pub(super) struct Keys {
    tables: [HashMap<Key, Index>; TABLES],
}

/// Blocks begin at multiples of 512, larger ones at multiples of more.
fn table_of(key: &Key) -> usize {
    let sector = key.offset >> 9;
    (sector ^ sector >> 5 ^ sector >> 10) as usize % TABLES
}

impl Keys {
    pub(super) fn get(&self, key: &Key) -> Option<Index> {
        self.tables[table_of(key)].get(key).copied()
    }

    pub(super) fn insert(&mut self, key: Key, index: Index) {
        self.tables[table_of(&key)].insert(key, index);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Index> {
        self.tables[table_of(key)].remove(key)
    }
}

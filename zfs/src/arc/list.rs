//! Four lists over one slab: doubly linked by index, so that every step of the cache is of constant cost.

use super::Key;
use alloc::vec::Vec;
use bytes::Bytes;

/// A place in the slab.
pub(super) type Index = usize;
const NONE: Index = usize::MAX;

/// Which list a block stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Mru,
    Mfu,
    MruGhost,
    MfuGhost,
}

struct Node {
    key: Key,
    place: Place,
    /// `None` of ghosts.
    data: Option<Bytes>,
    len: usize,
    newer: Index,
    older: Index,
}

#[derive(Clone, Copy)]
struct Ends {
    newest: Index,
    oldest: Index,
    bytes: usize,
}

/// The lists.
pub(super) struct Lists {
    nodes: Vec<Node>,
    free: Vec<Index>,
    ends: [Ends; 4],
}

impl Default for Lists {
    fn default() -> Self {
        let empty = Ends { newest: NONE, oldest: NONE, bytes: 0 };
        Lists { nodes: Vec::new(), free: Vec::new(), ends: [empty; 4] }
    }
}

impl Lists {
    /// Bytes of the blocks in a list; of ghosts, of those that they were.
    pub(super) fn size(&self, place: Place) -> usize {
        self.ends[place as usize].bytes
    }

    /// Bytes of data held.
    pub(super) fn data_size(&self) -> usize {
        self.size(Place::Mru) + self.size(Place::Mfu)
    }

    pub(super) fn place(&self, index: Index) -> Place {
        self.nodes[index].place
    }

    pub(super) fn data(&self, index: Index) -> Option<Bytes> {
        self.nodes[index].data.clone()
    }

    /// Adds a block as the newest of a list.
    pub(super) fn push(&mut self, key: Key, place: Place, data: Bytes) -> Index {
        let len = data.len();
        let node = Node { key, place, data: Some(data), len, newer: NONE, older: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.link(index);
        index
    }

    /// Makes a block the newest of a list.
    pub(super) fn shift(&mut self, index: Index, place: Place) {
        self.unlink(index);
        self.nodes[index].place = place;
        self.link(index);
    }

    /// Takes the data of the oldest block of a list; the block itself stays, to become a ghost.
    pub(super) fn evict(&mut self, place: Place) -> Option<(Index, Bytes)> {
        let index = self.ends[place as usize].oldest;
        if index == NONE {
            return None;
        }
        self.nodes[index].data.take().map(|data| (index, data))
    }

    /// Removes the oldest block of a list.
    pub(super) fn forget_oldest(&mut self, place: Place) -> Option<Key> {
        let index = self.ends[place as usize].oldest;
        if index == NONE {
            return None;
        }
        let key = self.nodes[index].key;
        self.remove(index);
        Some(key)
    }

    /// Removes a block.
    pub(super) fn remove(&mut self, index: Index) {
        self.unlink(index);
        self.nodes[index].data = None;
        self.free.push(index);
    }

    fn link(&mut self, index: Index) {
        let ends = &mut self.ends[self.nodes[index].place as usize];
        ends.bytes += self.nodes[index].len;
        self.nodes[index].newer = NONE;
        self.nodes[index].older = ends.newest;
        if ends.newest == NONE {
            ends.oldest = index;
        } else {
            self.nodes[ends.newest].newer = index;
        }
        ends.newest = index;
    }

    fn unlink(&mut self, index: Index) {
        let (newer, older) = (self.nodes[index].newer, self.nodes[index].older);
        let ends = &mut self.ends[self.nodes[index].place as usize];
        ends.bytes -= self.nodes[index].len;
        if newer == NONE {
            ends.newest = older;
        } else {
            self.nodes[newer].older = older;
        }
        if older == NONE {
            ends.oldest = newer;
        } else {
            self.nodes[older].newer = newer;
        }
    }
}

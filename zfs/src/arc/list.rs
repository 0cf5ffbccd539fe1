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
    /// Read ahead, and not used since.
    prefetched: bool,
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

/// Nodes in pieces of this many: a slab that grew as one piece would need large runs of memory, where there may be none.
const PIECE: usize = 128;

/// The lists.
pub(super) struct Lists {
    nodes: Vec<Vec<Node>>,
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
    fn node(&self, index: Index) -> &Node {
        &self.nodes[index / PIECE][index % PIECE]
    }

    fn node_mut(&mut self, index: Index) -> &mut Node {
        &mut self.nodes[index / PIECE][index % PIECE]
    }

    /// Bytes of the blocks in a list; of ghosts, of those that they were.
    pub(super) fn size(&self, place: Place) -> usize {
        self.ends[place as usize].bytes
    }

    /// Bytes of data held.
    pub(super) fn data_size(&self) -> usize {
        self.size(Place::Mru) + self.size(Place::Mfu)
    }

    pub(super) fn place(&self, index: Index) -> Place {
        self.node(index).place
    }

    pub(super) fn data(&self, index: Index) -> Option<Bytes> {
        self.node(index).data.clone()
    }

    pub(super) fn has_data(&self, index: Index) -> bool {
        self.node(index).data.is_some()
    }

    /// Whether a block was read ahead and is used for the first time.
    pub(super) fn take_prefetched(&mut self, index: Index) -> bool {
        core::mem::take(&mut self.node_mut(index).prefetched)
    }

    /// Adds a block as the newest of a list.
    pub(super) fn push(&mut self, key: Key, place: Place, data: Bytes, prefetched: bool) -> Index {
        let len = data.len();
        let node = Node { key, place, data: Some(data), prefetched, len, newer: NONE, older: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                *self.node_mut(index) = node;
                index
            }
            None => {
                if self.nodes.last().is_none_or(|piece| piece.len() == PIECE) {
                    self.nodes.push(Vec::with_capacity(PIECE));
                }
                let last = self.nodes.len() - 1;
                self.nodes[last].push(node);
                last * PIECE + self.nodes[last].len() - 1
            }
        };
        self.link(index);
        index
    }

    /// Makes a block the newest of a list.
    pub(super) fn shift(&mut self, index: Index, place: Place) {
        self.unlink(index);
        self.node_mut(index).place = place;
        self.link(index);
    }

    /// Takes the data of the oldest block of a list; the block itself stays, to become a ghost.
    pub(super) fn evict(&mut self, place: Place) -> Option<(Index, Bytes)> {
        let index = self.ends[place as usize].oldest;
        if index == NONE {
            return None;
        }
        self.node_mut(index).data.take().map(|data| (index, data))
    }

    /// Removes the oldest block of a list.
    pub(super) fn forget_oldest(&mut self, place: Place) -> Option<Key> {
        let index = self.ends[place as usize].oldest;
        if index == NONE {
            return None;
        }
        let key = self.node(index).key;
        self.remove(index);
        Some(key)
    }

    /// Removes a block.
    pub(super) fn remove(&mut self, index: Index) {
        self.unlink(index);
        self.node_mut(index).data = None;
        self.free.push(index);
    }

    fn link(&mut self, index: Index) {
        let (place, len) = (self.node(index).place as usize, self.node(index).len);
        let newest = self.ends[place].newest;
        let node = self.node_mut(index);
        (node.newer, node.older) = (NONE, newest);
        if newest != NONE {
            self.node_mut(newest).newer = index;
        }
        let ends = &mut self.ends[place];
        ends.bytes += len;
        ends.newest = index;
        if newest == NONE {
            ends.oldest = index;
        }
    }

    fn unlink(&mut self, index: Index) {
        let Node { newer, older, place, len, .. } = *self.node(index);
        if newer != NONE {
            self.node_mut(newer).older = older;
        }
        if older != NONE {
            self.node_mut(older).newer = newer;
        }
        let ends = &mut self.ends[place as usize];
        ends.bytes -= len;
        if newer == NONE {
            ends.newest = older;
        }
        if older == NONE {
            ends.oldest = newer;
        }
    }
}

//! Micro ZAPs: one block of 64-byte entries. Source: `zap_micro.c`.
//!
//! ```text
//! 0 type u64 (1<<63)+3 · 8 salt u64 · 16 normflags u64 · … 64 entries: 0 value u64 · 8 cd u32 · 14 name[50], zero-terminated
//! ```

use crate::ondisk::read_u64;
use crate::zap::Value;
use crate::zap::cursor::Position;
use crate::zap::key::{Query, Rules};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub(crate) const BLOCK_TYPE_MICRO: u64 = (1 << 63) + 3;
/// The largest micro ZAP, in bytes (`MZAP_MAX_BLKSZ`).
pub(crate) const MAX_SIZE: u32 = 128 << 10;
/// The largest that is read: as many entries as [`Index`] can number.
pub(crate) const LARGEST: usize = ENTRY_LEN << 16;
const ENTRY_LEN: usize = 64;
const NAME_AT: usize = 14;
/// Longest name with its terminating zero.
pub(crate) const NAME_LEN: usize = 50;

/// A micro ZAP's block.
pub(crate) struct Micro<'a>(pub(crate) &'a [u8]);

/// Where the entries of a micro ZAP are, so that nothing needs to be searched for.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) rules: Rules,
    /// By hash (its upper 32 bits) and collision differentiator.
    pub(crate) tree: BTreeMap<(u32, u32), u16>,
    /// Where the search for a free entry starts.
    next: u16,
    slots: u16,
}

impl<'a> Micro<'a> {
    pub(crate) fn rules(&self) -> Rules {
        Rules { salt: read_u64(self.0, 8), flags: 0, normalization: read_u64(self.0, 16) }
    }

    fn slots(&self) -> usize {
        (self.0.len() / ENTRY_LEN).saturating_sub(1)
    }

    fn raw(&self, i: usize) -> &'a [u8] {
        &self.0[(i + 1) * ENTRY_LEN..(i + 2) * ENTRY_LEN]
    }

    pub(crate) fn name(&self, i: usize) -> &'a [u8] {
        let name = &self.raw(i)[NAME_AT..];
        let end = name.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
        &name[..end]
    }

    pub(crate) fn value(&self, i: usize) -> u64 {
        read_u64(self.raw(i), 0)
    }

    fn cd(&self, i: usize) -> u32 {
        read_u64(self.raw(i), 8) as u32
    }

    /// The entries in use, in the order of the block.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots()).filter(|&i| self.raw(i)[NAME_AT] != 0)
    }

    pub(crate) fn index(&self) -> Index {
        let rules = self.rules();
        let mut tree = BTreeMap::new();
        for i in self.in_use() {
            let hash = hash_of(&rules, self.name(i));
            // A block that repeats (hash, cd) is damaged; the first entry stays to be found.
            tree.entry((hash, self.cd(i))).or_insert(i as u16);
        }
        Index { rules, tree, next: 0, slots: self.slots() as u16 }
    }

    pub(crate) fn entry(&self, i: usize) -> (Vec<u8>, u64, u32) {
        (self.name(i).to_vec(), self.value(i), self.cd(i))
    }
}

fn hash_of(rules: &Rules, name: &[u8]) -> u32 {
    (rules.hash_name(name) >> 32) as u32
}

impl Index {
    pub(crate) fn find(&self, micro: &Micro<'_>, query: &Query) -> Option<(u32, u16)> {
        let hash = (query.hash >> 32) as u32;
        self.tree
            .range((hash, 0)..=(hash, u32::MAX))
            .find(|&(_, &i)| query.matches(micro.name(usize::from(i))))
            .map(|(&(_, cd), &i)| (cd, i))
    }

    /// Up to `max` entries from a position on, in the order of hash and cd; the position behind them, unless there is nothing more.
    pub(crate) fn some_from(
        &self,
        (hash, cd): Position,
        max: usize,
    ) -> (Vec<(Position, u16)>, Option<Position>) {
        let mut entries = self
            .tree
            .range(((hash >> 32) as u32, cd)..)
            .map(|(&(hash, cd), &i)| ((u64::from(hash) << 32, cd), i));
        let some = entries.by_ref().take(max).collect();
        (some, entries.next().map(|(next, _)| next))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.tree.len() >= usize::from(self.slots)
    }

    /// The block has grown.
    pub(crate) fn resize(&mut self, size: u32) {
        self.slots = (size as usize / ENTRY_LEN).saturating_sub(1) as u16;
    }

    /// Writes a new entry into the block; there is room.
    pub(crate) fn add(&mut self, block: &mut [u8], query: &Query, value: u64) -> Option<()> {
        let hash = (query.hash >> 32) as u32;
        let mut cd = 0;
        for &(_, taken) in self.tree.range((hash, 0)..=(hash, u32::MAX)).map(|(k, _)| k) {
            if taken != cd {
                break;
            }
            cd += 1;
        }
        let free = |i: &u16| block[(usize::from(*i) + 1) * ENTRY_LEN + NAME_AT] == 0;
        let i = (self.next..self.slots).find(free).or_else(|| (0..self.next.min(self.slots)).find(free))?;
        let raw = &mut block[(usize::from(i) + 1) * ENTRY_LEN..(usize::from(i) + 2) * ENTRY_LEN];
        raw.fill(0);
        raw[..8].copy_from_slice(&value.to_le_bytes());
        raw[8..12].copy_from_slice(&cd.to_le_bytes());
        raw[NAME_AT..NAME_AT + query.name().len()].copy_from_slice(query.name());
        self.tree.insert((hash, cd), i);
        self.next = if i + 1 >= self.slots { 0 } else { i + 1 };
        Some(())
    }

    pub(crate) fn remove(&mut self, block: &mut [u8], hash: u64, cd: u32) {
        if let Some(i) = self.tree.remove(&((hash >> 32) as u32, cd)) {
            block[(usize::from(i) + 1) * ENTRY_LEN..(usize::from(i) + 2) * ENTRY_LEN].fill(0);
        }
    }
}

/// Changes the value of entry `i`.
pub(crate) fn set_value(block: &mut [u8], i: u16, value: u64) {
    let at = (usize::from(i) + 1) * ENTRY_LEN;
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// An empty micro ZAP.
pub(crate) fn init(block: &mut [u8], salt: u64, normalization: u64) {
    block.fill(0);
    block[..8].copy_from_slice(&BLOCK_TYPE_MICRO.to_le_bytes());
    block[8..16].copy_from_slice(&salt.to_le_bytes());
    block[16..24].copy_from_slice(&normalization.to_le_bytes());
}

/// Whether a micro ZAP can hold this entry.
pub(crate) fn fits(query: &Query, value: &Value) -> bool {
    query.int_size == 1 && query.stored.len() <= NAME_LEN && value.int_size == 8 && value.ints.len() == 1
}

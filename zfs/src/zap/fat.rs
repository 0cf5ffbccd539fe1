//! Fat ZAPs: a header, a pointer table, leaves. Source: `zap_fat.c`.
//!
//! ```text
//! 0 type u64 (1<<63)+1 · 8 magic · pointer table: 16 first block · 24 blocks · 32 shift · 40 next block · 48 blocks copied
//! 56 free block · 64 leaves · 72 entries · 80 salt · 88 normflags · 96 flags · … second half of the block: embedded pointer table
//! ```

use crate::dmu::{Dnode, Tx};
use crate::error::{Error, Result};
use crate::ondisk::read_u64;
use crate::zap::cursor::{Position, Seen};
use crate::zap::hash::hash_bits;
use crate::zap::key::{Query, Rules};
use crate::zap::leaf::{Broken, Leaf, Refused};
use crate::zap::{FLAG_UINT64_KEY, Value};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

pub(crate) const BLOCK_TYPE_HEADER: u64 = (1 << 63) + 1;
const MAGIC: u64 = 0x2_F52A_B2AB;
/// Base-2 logarithm of the block size of new fat ZAPs (`fzap_default_block_shift`).
pub(crate) const BLOCK_SHIFT: u32 = 14;

/// The header of a fat ZAP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    table_block: u64,
    table_blocks: u64,
    table_shift: u32,
    table_next: u64,
    table_copied: u64,
    free_block: u64,
    pub(crate) leaves: u64,
    pub(crate) entries: u64,
    pub(crate) rules: Rules,
    block_shift: u32,
}

/// What to do with an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Add,
    Update,
    /// Add with this collision differentiator (from a micro ZAP).
    WithCd(u32),
}

impl Header {
    /// Reads the header of an object of so many blocks.
    pub(crate) fn parse(block: &[u8], blocks: u64) -> core::result::Result<Self, Broken> {
        let word = |i: usize| read_u64(block, i * 8);
        if word(0) != BLOCK_TYPE_HEADER || word(1) != MAGIC {
            return Err("zap: wrong type or magic");
        }
        let header = Header {
            table_block: word(2),
            table_blocks: word(3),
            table_shift: word(4).min(64) as u32,
            table_next: word(5),
            table_copied: word(6),
            free_block: word(7),
            leaves: word(8),
            entries: word(9),
            rules: Rules { salt: word(10), normalization: word(11), flags: word(12) },
            block_shift: block.len().trailing_zeros(),
        };
        let embedded = header.block_shift.saturating_sub(4);
        let right = if header.table_blocks == 0 {
            header.table_shift == embedded
        } else {
            header.table_shift <= 48
                && header.table_blocks.checked_shl(header.block_shift - 3) == Some(1 << header.table_shift)
        };
        if !block.len().is_power_of_two() || block.len() < 512 || !right {
            return Err("zap: pointer table of another size than its shift says");
        }
        if !header.lies_within(blocks) {
            return Err("zap: header points beyond the object");
        }
        Ok(header)
    }

    /// What the header says of its object's blocks can be.
    fn lies_within(&self, blocks: u64) -> bool {
        // A table that another implementation is doubling has its place, but not yet all of its blocks.
        let doubled = self.table_blocks.saturating_mul(2);
        let ends_by = |first: u64, count, limit| first.checked_add(count).is_some_and(|end| end <= limit);
        let table = self.table_blocks == 0 || ends_by(self.table_block, self.table_blocks, blocks);
        let next = self.table_next == 0 || ends_by(self.table_next, doubled, self.free_block);
        let free =
            blocks.checked_add(doubled).is_some_and(|limit| self.free_block <= limit.min(i64::MAX as u64));
        table && next && free && self.leaves <= self.free_block
    }

    fn emit(&self, block: &mut [u8]) {
        let words = [
            BLOCK_TYPE_HEADER,
            MAGIC,
            self.table_block,
            self.table_blocks,
            u64::from(self.table_shift),
            self.table_next,
            self.table_copied,
            self.free_block,
            self.leaves,
            self.entries,
            self.rules.salt,
            self.rules.normalization,
            self.rules.flags,
        ];
        for (at, word) in block.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *at = word.to_le_bytes();
        }
    }

    pub(crate) fn name_int_size(&self) -> u8 {
        if self.rules.flags & FLAG_UINT64_KEY != 0 { 8 } else { 1 }
    }

    fn index(&self, hash: u64) -> u64 {
        hash.checked_shr(64 - self.table_shift).unwrap_or(0)
    }

    /// Block and byte offset of a pointer.
    fn pointer_at(&self, index: u64) -> (u64, usize) {
        if self.table_blocks == 0 {
            return (0, (1 << (self.block_shift - 1)) + index as usize * 8);
        }
        let per_block = self.block_shift - 3;
        (self.table_block + (index >> per_block), (index & ((1 << per_block) - 1)) as usize * 8)
    }

    fn block_size(&self) -> usize {
        1 << self.block_shift
    }
}

fn broken(zap: &Dnode, rule: Broken) -> Error {
    Error::corrupt(rule, zap.bookmark(0, 0))
}

/// The leaf block that a pointer leads to.
fn pointer(zap: &Dnode, header: &Header, index: u64) -> Result<u64> {
    let (block, at) = header.pointer_at(index);
    match zap.with_block(block, |b| read_u64(b, at))? {
        0 => Err(broken(zap, "zap: pointer to the header as a leaf")),
        leaf if leaf >= header.free_block => Err(broken(zap, "zap: pointer to a leaf beyond the object")),
        leaf => Ok(leaf),
    }
}

/// The leaf block for a hash.
fn leaf_of(zap: &Dnode, header: &Header, hash: u64) -> Result<u64> {
    pointer(zap, header, header.index(hash))
}

fn in_leaf<R>(
    zap: &Dnode,
    block: u64,
    f: impl FnOnce(Leaf<&[u8]>) -> core::result::Result<R, Broken>,
) -> Result<R> {
    zap.with_block(block, |b| Leaf::new(b).and_then(f))?.map_err(|rule| broken(zap, rule))
}

fn change_leaf<R>(
    zap: &Arc<Dnode>,
    tx: &Tx,
    block: u64,
    f: impl FnOnce(Leaf<&mut [u8]>) -> core::result::Result<R, Refused>,
) -> Result<core::result::Result<R, Refused>> {
    let done = zap.modify_block(tx, block, |b| Leaf::new(b).map_err(Refused::from).and_then(f))?;
    match done {
        Err(Refused::Broken(rule)) => Err(broken(zap, rule)),
        Err(Refused::TooBig) => Err(Error::TooBig),
        other => Ok(other),
    }
}

/// The stored name (only if `want_name`) and the value of a key.
pub(crate) fn lookup(
    zap: &Dnode,
    header: &Header,
    query: &Query,
    want_name: bool,
) -> Result<(Vec<u8>, Value)> {
    let block = leaf_of(zap, header, query.hash)?;
    let found = in_leaf(zap, block, |leaf| {
        let Some(entry) = leaf.lookup(query)? else { return Ok(None) };
        let name = if want_name { leaf.name(&entry, header.name_int_size())? } else { Vec::new() };
        Ok(Some((name, leaf.value(&entry)?)))
    })?;
    found.ok_or(Error::NotFound)
}

/// Adds or updates an entry.
pub(crate) fn put(
    zap: &Arc<Dnode>,
    tx: &Tx,
    header: &mut Header,
    query: &Query,
    how: Put,
    value: &Value,
) -> Result<()> {
    loop {
        let block = leaf_of(zap, header, query.hash)?;
        // 0: nothing counted, 1: a new entry; `None`: it exists.
        let done = change_leaf(zap, tx, block, |mut leaf| match (leaf.lookup(query)?, how) {
            (Some(entry), Put::Update) => leaf.update(&entry, value).map(|()| Some(0)),
            (Some(_), _) => Ok(None),
            (None, Put::WithCd(cd)) => leaf.create(query, Some(cd), value).map(|()| Some(1)),
            (None, _) => leaf.create(query, None, value).map(|()| Some(1)),
        })?;
        match done {
            Ok(None) => return Err(Error::Exists),
            Ok(Some(0)) => return Ok(()),
            Ok(Some(new)) => {
                header.entries = header.entries.saturating_add(new);
                return save(zap, tx, header);
            }
            Err(_) => expand(zap, tx, header, query.hash, block)?,
        }
    }
}

fn save(zap: &Arc<Dnode>, tx: &Tx, header: &Header) -> Result<()> {
    zap.modify_block(tx, 0, |b| header.emit(b))
}

/// Splits the full leaf that `hash` belongs to.
fn expand(zap: &Arc<Dnode>, tx: &Tx, header: &mut Header, hash: u64, block: u64) -> Result<()> {
    let prefix_len = in_leaf(zap, block, |leaf| Ok(leaf.prefix_len()))?;
    check_range(zap, header, hash, block, prefix_len)?;
    if header.table_shift == prefix_len {
        grow_table(zap, tx, header)?;
    }
    let new_block = header.free_block;
    let sorted = header.rules.normalization != 0;
    let upper = change_leaf(zap, tx, block, |mut leaf| leaf.split(sorted).map_err(Refused::from))?
        .map_err(|_| broken(zap, "zap leaf: cannot be split"))?;
    zap.write_block(tx, new_block, Bytes::from(upper))?;
    header.free_block += 1;
    header.leaves += 1;
    // The upper half of the pointers that led to the old leaf now leads to the new one.
    let diff = header.table_shift - (prefix_len + 1);
    let prefix = hash.checked_shr(64 - (prefix_len + 1)).unwrap_or(0) | 1;
    set_pointers(zap, tx, header, prefix << diff, 1 << diff, new_block)?;
    save(zap, tx, header)
}

/// The pointers that a leaf's prefix says are its own lead to it: a damaged prefix would have all others overwritten.
fn check_range(zap: &Dnode, header: &Header, hash: u64, block: u64, prefix_len: u32) -> Result<()> {
    let wrong = || broken(zap, "zap: a leaf's prefix is not that of its pointers");
    let diff = header.table_shift.checked_sub(prefix_len).ok_or_else(wrong)?;
    let first = hash.checked_shr(64 - prefix_len).unwrap_or(0) << diff;
    for index in [first, first + (1 << diff) - 1] {
        if pointer(zap, header, index)? != block {
            return Err(wrong());
        }
    }
    Ok(())
}

fn set_pointers(
    zap: &Arc<Dnode>,
    tx: &Tx,
    header: &Header,
    first: u64,
    count: u64,
    value: u64,
) -> Result<()> {
    let mut index = first;
    while index < first + count {
        let (block, at) = header.pointer_at(index);
        let here = ((header.block_size() - at) / 8) as u64;
        let n = here.min(first + count - index);
        zap.modify_block(tx, block, |b| {
            for word in b[at..at + n as usize * 8].as_chunks_mut::<8>().0 {
                *word = value.to_le_bytes();
            }
        })?;
        index += n;
    }
    Ok(())
}

/// Doubles the pointer table, at once.
fn grow_table(zap: &Arc<Dnode>, tx: &Tx, header: &mut Header) -> Result<()> {
    if header.table_shift >= hash_bits(header.rules.flags) - 2 {
        return Err(Error::NoSpace);
    }
    let size = header.block_size();
    let (old_first, old_blocks) = (header.table_block, header.table_blocks);
    let (new_first, new_blocks) = if old_blocks == 0 {
        (header.free_block, 1)
    } else if header.table_next != 0 {
        // Another implementation stopped in the middle of this: its copy is made anew in the same place.
        (header.table_next, old_blocks * 2)
    } else {
        (header.free_block, old_blocks * 2)
    };
    if old_blocks == 0 {
        let table = zap.with_block(0, |b| doubled(&b[size / 2..]))?;
        zap.write_block(tx, new_first, Bytes::from(table.map_err(|rule| broken(zap, rule))?))?;
    }
    for i in 0..old_blocks {
        let halves = zap.with_block(old_first + i, |b| [doubled(&b[..size / 2]), doubled(&b[size / 2..])])?;
        for (half, table) in halves.into_iter().enumerate() {
            let table = table.map_err(|rule| broken(zap, rule))?;
            zap.write_block(tx, new_first + 2 * i + half as u64, Bytes::from(table))?;
        }
    }
    if header.table_next == 0 {
        header.free_block += new_blocks;
    }
    header.table_block = new_first;
    header.table_blocks = new_blocks;
    header.table_shift += 1;
    (header.table_next, header.table_copied) = (0, 0);
    save(zap, tx, header)?;
    if old_blocks > 0 {
        zap.free_range(tx, old_first * size as u64, old_blocks * size as u64)?;
    }
    Ok(())
}

/// Each word of a pointer table, twice. None is 0: a table that claims more than was ever written would be doubled without end.
fn doubled(table: &[u8]) -> core::result::Result<Vec<u8>, Broken> {
    let mut out = Vec::with_capacity(table.len() * 2);
    for word in table.as_chunks::<8>().0 {
        if *word == [0; 8] {
            return Err("zap: pointer to the header as a leaf");
        }
        out.extend_from_slice(word);
        out.extend_from_slice(word);
    }
    Ok(out)
}

pub(crate) fn remove(zap: &Arc<Dnode>, tx: &Tx, header: &mut Header, query: &Query) -> Result<()> {
    let block = leaf_of(zap, header, query.hash)?;
    if !in_leaf(zap, block, |leaf| Ok(leaf.lookup(query)?.is_some()))? {
        return Err(Error::NotFound);
    }
    let removed = change_leaf(zap, tx, block, |mut leaf| match leaf.lookup(query)? {
        Some(entry) => Ok(leaf.remove(&entry)?),
        None => Ok(()),
    })?;
    removed.map_err(|_| broken(zap, "zap leaf: removing needs room"))?;
    header.entries = header.entries.saturating_sub(1);
    save(zap, tx, header)
}

/// Makes an empty fat ZAP; the object has no content, and blocks of `1 << block_shift` bytes.
pub(crate) fn init(zap: &Arc<Dnode>, tx: &Tx, rules: Rules) -> Result<Header> {
    let size = zap.block_size() as usize;
    let block_shift = size.trailing_zeros();
    let header = Header {
        table_block: 0,
        table_blocks: 0,
        table_shift: block_shift - 4,
        table_next: 0,
        table_copied: 0,
        free_block: 2,
        leaves: 1,
        entries: 0,
        rules,
        block_shift,
    };
    let mut block = vec![0; size];
    header.emit(&mut block);
    for word in block[size / 2..].as_chunks_mut::<8>().0 {
        *word = 1u64.to_le_bytes();
    }
    zap.write_block(tx, 0, Bytes::from(block))?;
    let mut leaf = vec![0; size];
    Leaf::init(&mut leaf, 0, 0, rules.normalization != 0);
    zap.write_block(tx, 1, Bytes::from(leaf))?;
    Ok(header)
}

/// The leaf that an entry of that hash is in, as it is now.
pub(crate) fn leaf_as_it_is(zap: &Dnode, header: &Header, hash: u64) -> Result<Bytes> {
    zap.read_block(leaf_of(zap, header, hash)?)
}

/// Gives the entries of such a leaf from a position on to `sink`, in order, until it answers false; where the next leaf begins, if
/// there is one and more is wanted.
pub(crate) fn visit_from(
    zap: &Dnode,
    leaf: &[u8],
    int_size: u8,
    from: Position,
    sink: &mut impl FnMut(Seen<'_>) -> bool,
) -> Result<Option<Position>> {
    let visit = |leaf: Leaf<&[u8]>| {
        let all = leaf.visit_from(from, int_size, sink)?;
        // A leaf that leads back would let iteration run in circles.
        let next = leaf.end_of_range().filter(|&next| all && next > from.0);
        Ok(next.map(|next| (next, 0)))
    };
    Leaf::new(leaf).and_then(visit).map_err(|rule| broken(zap, rule))
}

//! Reading and writing an object's data. Source: `dmu_read`, `dmu_write`, `dbuf_dirty`, `dnode_free_range`.
//!
//! The dnode's lock is never held across I/O: readers take a snapshot of the tree's root; writers that need the old
//! content of a block read it without the lock and look at [`State::seq`] afterwards.

use crate::dmu::dirty::{Buf, Source, State};
use crate::dmu::tree::Tree;
use crate::dmu::{Dnode, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;
use platform::sync::MutexGuard;

/// Largest read that is issued at once, in bytes.
const READ_CHUNK: u64 = 16 << 20;

impl Dnode {
    /// Reads from `offset`. Holes are zeros; short only past the last block (`(maxblkid + 1) * block_size`): the
    /// length of a *file* is known to its file system, not here.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let at = offset.checked_add(done as u64).ok_or(Error::TooBig)?;
            let len = (out.len() - done).min(READ_CHUNK as usize);
            let n = self.read_chunk(at, &mut out[done..done + len])?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn read_chunk(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        loop {
            let mut state = self.state.lock();
            if state.freed {
                return Err(Error::NotFound);
            }
            let block_size = u64::from(state.block_size);
            let end = end_of_object(&state);
            if offset >= end {
                return Ok(0);
            }
            let len = (out.len() as u64).min(end - offset) as usize;
            let out = &mut out[..len];
            // What is dirty is copied now, what is on disk is noted.
            let (mut on_disk, mut cloned) = (Vec::new(), Vec::new());
            for (blkid, from, to, in_block) in pieces(offset, len, block_size) {
                match state.source(blkid) {
                    Source::Dirty(buf) => {
                        let size = to - from;
                        out[from..to].copy_from_slice(&buf.as_slice()[in_block..in_block + size]);
                    }
                    Source::Zero => out[from..to].fill(0),
                    Source::Cloned(bp) => cloned.push(((blkid, from, to, in_block), bp)),
                    Source::Disk => on_disk.push((blkid, from, to, in_block)),
                }
            }
            // Whoever reads only what was just written needs nothing read ahead.
            let ahead =
                if on_disk.is_empty() { Vec::new() } else { read_ahead(&mut state, offset, len as u64) };
            let tree = self.tree(&state);
            drop(state);
            self.prefetch_ranges(&ahead, block_size);
            let read = self.read_pieces(&tree, &on_disk, out);
            match read.and_then(|()| self.read_cloned(&tree, &cloned, out)) {
                Ok(()) => return Ok(len),
                // Blocks of an old tree may have been reused while we read: only a tree that still stands is corrupt.
                Err(error) if self.tree(&self.state.lock()) == tree => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn read_pieces(&self, tree: &Tree, pieces: &[Piece], out: &mut [u8]) -> Result<()> {
        let zio = &self.core.zio;
        let mut place = |piece: &Piece, block: Option<Bytes>| place_piece(tree, piece, block, out);
        match pieces {
            [] => Ok(()),
            [piece] => {
                let bp = tree.lookup(zio, 0, piece.0)?;
                let block = if bp.is_hole() { None } else { Some(zio.read(&bp, tree.bookmark(0, piece.0))?) };
                place(piece, block)
            }
            many => {
                let ids: Vec<u64> = many.iter().map(|p| p.0).collect();
                let bps = tree.lookup_many(zio, &ids)?;
                let wants: Vec<_> = ids
                    .iter()
                    .zip(&bps)
                    .filter(|(_, bp)| !bp.is_hole())
                    .map(|(&id, bp)| (*bp, tree.bookmark(0, id)))
                    .collect();
                let mut blocks = zio.read_many(&wants).into_iter();
                for (piece, bp) in many.iter().zip(&bps) {
                    let block = if bp.is_hole() { None } else { blocks.next().transpose()? };
                    place(piece, block)?;
                }
                Ok(())
            }
        }
    }

    /// Pieces of blocks whose pointers are known.
    fn read_cloned(&self, tree: &Tree, pieces: &[(Piece, Blkptr)], out: &mut [u8]) -> Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        let wants: Vec<_> = pieces.iter().map(|(piece, bp)| (*bp, tree.bookmark(0, piece.0))).collect();
        for ((piece, _), block) in pieces.iter().zip(self.core.zio.read_many(&wants)) {
            place_piece(tree, piece, Some(block?), out)?;
        }
        Ok(())
    }

    /// The whole block, `block_size` bytes; past the end it is zeros. Shared with the cache, not copied.
    pub fn read_block(&self, blkid: u64) -> Result<Bytes> {
        self.read_block_until(blkid, u64::MAX)
    }

    /// The same as changes up to the txg `until` left it.
    fn read_block_until(&self, blkid: u64, until: u64) -> Result<Bytes> {
        loop {
            let (tree, size, cloned, ahead) = {
                let mut state = self.state.lock();
                if state.freed {
                    return Err(Error::NotFound);
                }
                let size = state.block_size as usize;
                let cloned = match state.source_until(blkid, until) {
                    Source::Dirty(buf) => return Ok(buf.share()),
                    Source::Zero => return Ok(zeros(size)),
                    Source::Cloned(bp) => Some(bp),
                    Source::Disk => None,
                };
                let ahead = read_ahead(&mut state, blkid.saturating_mul(size as u64), size as u64);
                (self.tree(&state), size, cloned, ahead)
            };
            self.prefetch_ranges(&ahead, size as u64);
            match self.read_disk_block(&tree, blkid, size, cloned) {
                Ok(block) => return Ok(block),
                Err(error) if self.tree(&self.state.lock()) == tree => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A block on disk: where the tree says, or elsewhere.
    fn read_disk_block(&self, tree: &Tree, blkid: u64, size: usize, at: Option<Blkptr>) -> Result<Bytes> {
        let bp = match at {
            Some(bp) => bp,
            None => tree.lookup(&self.core.zio, 0, blkid)?,
        };
        if bp.is_hole() {
            return Ok(zeros(size));
        }
        let at = tree.bookmark(0, blkid);
        let block = self.core.zio.read(&bp, at)?;
        if block.len() != size {
            return Err(Error::corrupt("data block of another size than its dnode says", at));
        }
        Ok(block)
    }

    /// Several whole blocks, ids ascending: issued together.
    pub(crate) fn read_blocks(&self, ids: &[u64]) -> Result<Vec<Bytes>> {
        let (tree, on_disk) = {
            let mut state = self.state.lock();
            let on_disk: Vec<u64> =
                ids.iter().copied().filter(|&id| matches!(state.source(id), Source::Disk)).collect();
            (self.tree(&state), on_disk)
        };
        // Into the cache, so that the reads below, which see every change, do not wait one by one.
        let bps = tree.lookup_many(&self.core.zio, &on_disk)?;
        let wants: Vec<_> = bps
            .into_iter()
            .zip(&on_disk)
            .map(|(bp, &id)| (bp, tree.bookmark(0, id)))
            .filter(|(bp, at)| !bp.is_hole() && self.core.zio.cached(bp, *at).is_none())
            .collect();
        let held = if wants.len() > 1 { self.core.zio.read_many(&wants) } else { Vec::new() };
        let blocks = ids.iter().map(|&id| self.read_block(id)).collect();
        drop(held);
        blocks
    }

    /// Runs `f` on a block without copying it.
    pub(crate) fn with_block<R>(&self, blkid: u64, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        {
            let mut state = self.state.lock();
            if let Source::Dirty(buf) = state.source(blkid) {
                return Ok(f(buf.as_slice()));
            }
        }
        Ok(f(&self.read_block(blkid)?))
    }

    fn prefetch_ranges(&self, ranges: &[Range<u64>], block_size: u64) {
        for range in ranges {
            self.prefetch(range.start * block_size, (range.end - range.start) * block_size);
        }
    }

    /// Starts reading a range into the cache.
    pub fn prefetch(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        let block_size = u64::from(state.block_size);
        let end = end_of_object(&state).min(offset.saturating_add(len));
        if offset >= end {
            return;
        }
        let ids: Vec<u64> = (offset / block_size..end.div_ceil(block_size))
            .filter(|&id| matches!(state.source(id), Source::Disk))
            .collect();
        let tree = self.tree(&state);
        drop(state);
        let Ok(bps) = tree.lookup_many(&self.core.zio, &ids) else { return };
        let wants: Vec<_> = ids
            .iter()
            .zip(bps)
            .filter(|(_, bp)| !bp.is_hole() && !bp.is_embedded())
            .map(|(&id, bp)| (bp, tree.bookmark(0, id)))
            .collect();
        if !wants.is_empty() {
            self.core.zio.prefetch(wants);
        }
    }

    /// Writes at `offset`, extending the object. Blocks that are not fully covered are read first.
    pub fn write(self: &Arc<Self>, tx: &Tx, offset: u64, data: &[u8]) -> Result<()> {
        offset.checked_add(data.len() as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Error::TooBig)?;
        let block_size = self.block_size();
        for (blkid, from, to, in_block) in pieces(offset, data.len(), u64::from(block_size)) {
            let piece = &data[from..to];
            if piece.len() == block_size as usize {
                self.put_block(tx, blkid, Buf::Owned(piece.to_vec()))?;
            } else {
                self.set_bytes(tx, blkid, |block| {
                    block[in_block..in_block + piece.len()].copy_from_slice(piece);
                })?;
            }
        }
        Ok(())
    }

    /// Replaces a whole block without copying; `data` is exactly the block size.
    pub fn write_block(self: &Arc<Self>, tx: &Tx, blkid: u64, data: Bytes) -> Result<()> {
        if data.len() != self.block_size() as usize {
            return Err(Error::Invalid("a whole block has the block size"));
        }
        self.put_block(tx, blkid, Buf::Shared(data))
    }

    fn put_block(self: &Arc<Self>, tx: &Tx, blkid: u64, buf: Buf) -> Result<()> {
        let mut state = self.state.lock();
        check_blkid(&state, blkid)?;
        self.insert_block(&mut state, tx, blkid, buf)
    }

    fn insert_block(self: &Arc<Self>, state: &mut State, tx: &Tx, blkid: u64, buf: Buf) -> Result<()> {
        let size = buf.as_slice().len() as u64;
        let maxblkid = state.maxblkid.max(blkid);
        let slot = self.slot(state, tx)?;
        slot.maxblkid = Some(maxblkid);
        slot.drop_clones(blkid..blkid + 1);
        let new = slot.blocks.insert(blkid, buf).is_none();
        for newer in state.newer_than(tx.txg()) {
            newer.maxblkid = newer.maxblkid.map(|max| max.max(blkid));
        }
        state.maxblkid = maxblkid;
        state.seq += 1;
        if new {
            self.core.txgs.add_dirty_block(tx.txg(), size);
        }
        Ok(())
    }

    /// A block's content as changes up to the txg `until` left it, with the lock under which it is that.
    fn content_until(&self, blkid: u64, until: u64) -> Result<(MutexGuard<'_, State>, Vec<u8>)> {
        let mut read: Option<(u64, Bytes)> = None;
        loop {
            let mut state = self.state.lock();
            check_blkid(&state, blkid)?;
            let size = state.block_size as usize;
            let dirty = match state.source_until(blkid, until) {
                Source::Dirty(buf) => Some(buf.as_slice().to_vec()),
                Source::Zero => Some(vec![0; size]),
                Source::Cloned(_) | Source::Disk => None,
            };
            let seq = state.seq;
            let on_disk = read.take().filter(|(at, _)| *at == seq).map(|(_, data)| data.to_vec());
            if let Some(content) = dirty.or(on_disk) {
                return Ok((state, content));
            }
            drop(state);
            read = Some((seq, self.read_block_until(blkid, until)?));
        }
    }

    /// Changes a block in place, in the slot of `tx`'s txg: its newest content is copied there first if need be. No newer txg may have
    /// changed the block: see [`Dnode::take_newer`].
    pub(crate) fn modify_block<R>(
        self: &Arc<Self>,
        tx: &Tx,
        blkid: u64,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R> {
        {
            let mut state = self.state.lock();
            check_blkid(&state, blkid)?;
            if let Some(buf) = self.slot(&mut state, tx)?.blocks.get_mut(&blkid) {
                let answer = f(buf.make_mut());
                state.seq += 1;
                return Ok(answer);
            }
        }
        let (mut state, mut content) = self.content_until(blkid, u64::MAX)?;
        let answer = f(&mut content);
        self.insert_block(&mut state, tx, blkid, Buf::Owned(content))?;
        Ok(answer)
    }

    /// Gives the slot of `tx`'s txg what newer txgs have changed of the content, while `tx` keeps its own from being synced: of a structure
    /// like a ZAP there is but one state, the newest, and nothing of it may be changed behind that.
    pub(crate) fn take_newer(self: &Arc<Self>, tx: &Tx) -> Result<()> {
        let mut state = self.state.lock();
        if state.newest <= tx.txg() {
            return Ok(());
        }
        self.slot(&mut state, tx)?;
        let taken = state.take_newer(tx.txg());
        drop(state);
        self.core.txgs.add_dirty_block(tx.txg(), taken);
        Ok(())
    }

    /// Sets some bytes of a block. Meanwhile others may set other bytes of it, and in a newer txg, while that of `tx` waits for
    /// `tx` to end: the copy that they made of the block gets these bytes, too, and the older txg gets none of theirs. (Nobody changes the
    /// same bytes: file systems lock ranges.)
    fn set_bytes(self: &Arc<Self>, tx: &Tx, blkid: u64, set: impl Fn(&mut [u8])) -> Result<()> {
        let txg = tx.txg();
        let mut state = self.state.lock();
        check_blkid(&state, blkid)?;
        if let Some(buf) = self.slot(&mut state, tx)?.blocks.get_mut(&blkid) {
            set(buf.make_mut());
            state.seq += 1;
        } else {
            drop(state);
            let (locked, mut content) = self.content_until(blkid, txg)?;
            state = locked;
            set(&mut content);
            self.insert_block(&mut state, tx, blkid, Buf::Owned(content))?;
        }
        for newer in state.newer_than(txg) {
            if let Some(buf) = newer.blocks.get_mut(&blkid) {
                set(buf.make_mut());
            }
        }
        Ok(())
    }

    /// Makes a hole of `len` bytes at `offset` (`u64::MAX`: to the end). Parts of blocks are zeroed.
    pub fn free_range(self: &Arc<Self>, tx: &Tx, offset: u64, len: u64) -> Result<()> {
        let (block_size, end) = {
            let state = self.state.lock();
            (u64::from(state.block_size), end_of_object(&state))
        };
        if len == 0 || offset >= end {
            return Ok(());
        }
        let stop = offset.saturating_add(len).min(end);
        let to_end = stop == end;
        let first = offset.div_ceil(block_size);
        let last = if to_end { end / block_size } else { stop / block_size };
        if !offset.is_multiple_of(block_size) {
            let head_end = stop.min(first * block_size);
            self.zero_in_block(tx, offset, head_end)?;
        }
        // A tail in the head's own block was zeroed with it.
        if !to_end && !stop.is_multiple_of(block_size) && last >= first {
            self.zero_in_block(tx, last * block_size, stop)?;
        }
        if first >= last {
            return Ok(());
        }
        let mut state = self.state.lock();
        let maxblkid = if to_end { first.saturating_sub(1) } else { state.maxblkid };
        let slot = self.slot(&mut state, tx)?;
        let mut behind = slot.blocks.split_off(&first);
        slot.blocks.append(&mut behind.split_off(&last));
        slot.drop_clones(first..last);
        slot.freed.insert(first, last);
        slot.maxblkid = Some(maxblkid);
        state.maxblkid = maxblkid;
        state.seq += 1;
        drop(state);
        drop(behind);
        Ok(())
    }

    /// Zeroes part of one block, unless it is a hole.
    fn zero_in_block(self: &Arc<Self>, tx: &Tx, from: u64, to: u64) -> Result<()> {
        let block_size = u64::from(self.block_size());
        let blkid = from / block_size;
        if self.is_hole(blkid)? {
            return Ok(());
        }
        let base = blkid * block_size;
        self.set_bytes(tx, blkid, |block| block[(from - base) as usize..(to - base) as usize].fill(0))
    }

    fn is_hole(&self, blkid: u64) -> Result<bool> {
        let tree = {
            let mut state = self.state.lock();
            match state.source(blkid) {
                Source::Dirty(_) | Source::Cloned(_) => return Ok(false),
                Source::Zero => return Ok(true),
                Source::Disk => self.tree(&state),
            }
        };
        Ok(tree.lookup(&self.core.zio, 0, blkid)?.is_hole())
    }

    /// The first offset from `from` on that is in a hole (`hole`) or in data, block-wise; `None` if there is none
    /// before the end `(maxblkid + 1) * block_size`.
    pub fn next_offset(&self, hole: bool, from: u64) -> Result<Option<u64>> {
        let (block_size, end, tree) = {
            let state = self.state.lock();
            if state.freed {
                return Err(Error::NotFound);
            }
            (u64::from(state.block_size), end_of_object(&state), self.tree(&state))
        };
        if from >= end {
            return Ok(None);
        }
        let found = self.next_block(&tree, hole, from / block_size, end / block_size)?;
        Ok(found.map(|blkid| from.max(blkid * block_size)))
    }

    /// The first block in `from..end` that is a hole or data.
    pub(crate) fn next_block(&self, tree: &Tree, hole: bool, from: u64, end: u64) -> Result<Option<u64>> {
        let zio = &self.core.zio;
        let mut blkid = from;
        while blkid < end {
            let (is_dirty, is_zero, jump) = {
                let mut state = self.state.lock();
                let next = if hole { state.next_freed(blkid) } else { state.next_dirty(blkid) };
                let jump = next.unwrap_or(u64::MAX);
                match state.source(blkid) {
                    Source::Dirty(_) | Source::Cloned(_) => (true, false, blkid + 1),
                    Source::Zero => (false, true, jump.min(state.end_of_zeros(blkid))),
                    Source::Disk => (false, false, jump),
                }
            };
            if is_dirty || is_zero {
                if hole == is_zero {
                    return Ok(Some(blkid));
                }
                blkid = jump.max(blkid + 1);
                continue;
            }
            // The block is as on disk: jump to where the answer can change, on disk or by a slot.
            let on_disk = tree.next(zio, hole, blkid)?.unwrap_or(u64::MAX);
            if on_disk == blkid {
                return Ok(Some(blkid));
            }
            blkid = on_disk.min(jump).max(blkid + 1);
        }
        Ok(None)
    }

    /// The block pointer of a data block as of the last sync.
    pub fn block_pointer(&self, level: u8, blkid: u64) -> Result<Blkptr> {
        let tree = self.tree(&self.state.lock());
        tree.lookup(&self.core.zio, level, blkid)
    }
}

fn end_of_object(state: &State) -> u64 {
    state.maxblkid.saturating_add(1).saturating_mul(u64::from(state.block_size))
}

pub(super) fn check_blkid(state: &State, blkid: u64) -> Result<()> {
    if blkid > 0 && !state.block_size.is_power_of_two() {
        return Err(Error::Invalid("an object of several blocks has a power of two as its block size"));
    }
    Ok(())
}

/// Notes a read of bytes of the disk; the blocks to be read ahead.
fn read_ahead(state: &mut State, offset: u64, len: u64) -> Vec<Range<u64>> {
    let (block_size, mut ahead) = (u64::from(state.block_size), Vec::new());
    if state.maxblkid == 0 {
        return ahead;
    }
    let blocks = offset / block_size..(offset + len).div_ceil(block_size);
    let end = state.maxblkid.saturating_add(1);
    let zfetch = state.zfetch.get_or_insert_default();
    zfetch.note(blocks, end, block_size, &mut |range| ahead.push(range));
    ahead
}

/// Copies a piece out of its block, which is a hole if there is none.
fn place_piece(tree: &Tree, piece: &Piece, block: Option<Bytes>, out: &mut [u8]) -> Result<()> {
    let &(blkid, from, to, in_block) = piece;
    match block {
        None => out[from..to].fill(0),
        Some(block) => {
            let part = block.get(in_block..in_block + (to - from));
            let rule = "data block of another size than its dnode says";
            out[from..to].copy_from_slice(part.ok_or(Error::corrupt(rule, tree.bookmark(0, blkid)))?);
        }
    }
    Ok(())
}

/// A part of a range of bytes: block id, from and to in the range, offset in the block.
type Piece = (u64, usize, usize, usize);

/// The parts of a range of bytes in blocks.
fn pieces(offset: u64, len: usize, block_size: u64) -> impl Iterator<Item = Piece> {
    let mut from = 0;
    core::iter::from_fn(move || {
        if from >= len {
            return None;
        }
        let at = offset + from as u64;
        let in_block = at % block_size;
        let to = len.min(from + (block_size - in_block) as usize);
        let piece = (at / block_size, from, to, in_block as usize);
        from = to;
        Some(piece)
    })
}

/// A block of zeros without allocating, where it is not too large.
fn zeros(size: usize) -> Bytes {
    static ZEROS: [u8; 128 << 10] = [0; 128 << 10];
    if size <= ZEROS.len() { Bytes::from_static(&ZEROS[..size]) } else { Bytes::from(vec![0; size]) }
}

impl Dnode {
    /// For the sync of an objset: the meta-dnode's blocks of the syncing txg.
    pub(crate) fn insert_synced_blocks(&self, txg: u64, blocks: Vec<(u64, Bytes)>) {
        use crate::dmu::dirty::Slot;
        use crate::dmu::tx::slot_of;
        let mut state = self.state.lock();
        let maxblkid = blocks.last().map_or(0, |b| b.0).max(state.maxblkid);
        state.maxblkid = maxblkid;
        state.newest = state.newest.max(txg);
        state.seq += 1;
        let slot = state.slots[slot_of(txg)].get_or_insert_default();
        **slot = Slot {
            txg,
            blocks: blocks.into_iter().map(|(id, block)| (id, Buf::Shared(block))).collect(),
            maxblkid: Some(maxblkid),
            ..Slot::default()
        };
    }
}

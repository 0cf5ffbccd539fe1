//! A space map object: a log of allocations and frees of one metaslab. Source: `module/zfs/space_map.c`.

use super::range_tree::RangeTree;
use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::space_map::{Encoder, Entry, HISTOGRAM_SIZE, SpaceMapHeader, decode};
use alloc::sync::Arc;
use alloc::vec;

/// Block size of the maps that we create, in bytes (`zfs_metaslab_sm_blksz_no_log`).
const BLOCK_SIZE: u32 = 16 << 10;
/// Shift of their indirect blocks (`space_map_ibs`).
const INDIRECT_SHIFT: u8 = 14;
/// How much of a log is read at once, in bytes: a multiple of every block size.
const CHUNK: u64 = 1 << 20;

/// A space map and its header as the newest append left it.
pub(crate) struct SpaceMap {
    dnode: Arc<Dnode>,
    pub(crate) header: SpaceMapHeader,
    place: Place,
}

/// What a space map describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Its vdev.
    pub(crate) vdev: u32,
    /// Power of two of the unit of entries.
    pub(crate) shift: u8,
    /// What offsets of entries are relative to, in bytes.
    pub(crate) start: u64,
}

impl SpaceMap {
    /// A new, empty map.
    pub(crate) fn create(mos: &Arc<Objset>, tx: &Tx, place: Place, histogram: bool) -> Result<Self> {
        let header = SpaceMapHeader::empty(0, histogram);
        let bonus = header.emit();
        let what = Allocate {
            bonus_type: ObjectType::SPACE_MAP_HEADER,
            bonus_len: bonus.len() as u16,
            indirect_shift: INDIRECT_SHIFT,
            ..Allocate::plain(ObjectType::SPACE_MAP, BLOCK_SIZE)
        };
        let dnode = mos.allocate(tx, &what)?;
        Ok(SpaceMap { dnode, header, place })
    }

    /// Opens a map.
    pub(crate) fn open(mos: &Arc<Objset>, object: u64, place: Place) -> Result<Self> {
        let dnode = mos.hold(object)?;
        let header = SpaceMapHeader::parse(&dnode.bonus())?;
        let info = dnode.info();
        let capacity = info.capacity();
        if header.length > capacity {
            return Err(Error::corrupt("space map: longer than its object", None));
        }
        Ok(SpaceMap { dnode, header, place })
    }

    /// Its object number.
    pub(crate) fn object(&self) -> u64 {
        self.dnode.object()
    }

    /// Block size of its object, in bytes.
    pub(crate) fn block_size(&self) -> u64 {
        u64::from(self.dnode.block_size())
    }

    /// Calls `visit` with `(free, offset, length, vdev)`, in bytes, for all entries.
    pub(crate) fn for_each(
        &self,
        mut visit: impl FnMut(bool, u64, u64, Option<u32>) -> Result<()>,
    ) -> Result<()> {
        let Place { start, shift, .. } = self.place;
        let shift = u32::from(shift);
        let mut at = 0;
        self.dnode.prefetch(0, self.header.length);
        while at < self.header.length {
            let mut chunk = vec![0; (self.header.length - at).min(CHUNK) as usize];
            if self.dnode.read(at, &mut chunk)? != chunk.len() {
                return Err(Error::corrupt("space map: longer than its object", None));
            }
            decode(&chunk, |entry| match entry {
                Entry::Debug { .. } => Ok(()),
                Entry::Range { free, offset, run, vdev } => {
                    let too_far = || Error::corrupt("space map: entry past the end of its vdev", None);
                    let bytes = offset.checked_shl(shift).filter(|o| o >> shift == offset);
                    let offset = bytes.and_then(|o| o.checked_add(start)).ok_or_else(too_far)?;
                    visit(free, offset, run << shift, vdev)
                }
            })?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// The allocated ranges of the `size` bytes from its start.
    pub(crate) fn load_allocated(&self, size: u64) -> Result<RangeTree> {
        let start = self.place.start;
        let mut allocated = RangeTree::new();
        self.for_each(|free, offset, len, _| {
            if offset < start || offset.checked_add(len).is_none_or(|end| end > start + size) {
                return Err(Error::corrupt("space map: entry outside its metaslab", None));
            }
            let done = if free { allocated.remove(offset, len) } else { allocated.add(offset, len) };
            let rule = if free { "space map: free of free space" } else { "space map: double allocation" };
            if done { Ok(()) } else { Err(Error::corrupt(rule, None)) }
        })?;
        Ok(allocated)
    }

    /// Empties the log.
    pub(crate) fn truncate(&mut self, tx: &Tx) -> Result<()> {
        self.dnode.free_range(tx, 0, u64::MAX)?;
        self.header.length = 0;
        self.header.allocated = 0;
        Ok(())
    }

    /// Appends ranges that were all allocated, or all freed. The header gets to disk by [`SpaceMap::write_header`].
    pub(crate) fn append(
        &mut self,
        tx: &Tx,
        pass: u32,
        ranges: &RangeTree,
        free: bool,
        wide: bool,
    ) -> Result<()> {
        if ranges.is_empty() { Ok(()) } else { self.write_log(tx, pass, ranges, free, wide) }
    }

    /// Appends the time without any range: the block that the next ranges go to becomes dirty, and the header.
    pub(crate) fn touch(&mut self, tx: &Tx, pass: u32) -> Result<()> {
        self.write_log(tx, pass, &RangeTree::new(), false, false)?;
        self.write_header(tx)
    }

    /// Appends the time, and behind it ranges.
    fn write_log(&mut self, tx: &Tx, pass: u32, ranges: &RangeTree, free: bool, wide: bool) -> Result<()> {
        let Place { vdev, shift, start: base } = self.place;
        let mut encoder = Encoder::new(self.header.length, self.block_size(), vdev, wide);
        encoder.debug(tx.txg(), pass, free);
        for (start, len) in ranges.iter() {
            encoder.range(free, (start - base) >> shift, len >> shift);
        }
        let log = encoder.finish();
        self.dnode.write(tx, self.header.length, &log)?;
        self.header.length += log.len() as u64;
        let bytes = ranges.space().cast_signed();
        self.header.allocated += if free { -bytes } else { bytes };
        Ok(())
    }

    /// Counts a free range into a histogram.
    pub(crate) fn count_free(histogram: &mut [u64; HISTOGRAM_SIZE], shift: u8, len: u64) {
        let bucket = (len >> shift).checked_ilog2().unwrap_or(0) as usize;
        if bucket < HISTOGRAM_SIZE - 1 {
            histogram[bucket] += 1;
        } else {
            histogram[HISTOGRAM_SIZE - 1] += len >> (HISTOGRAM_SIZE - 1 + usize::from(shift));
        }
    }

    /// Writes the header into the bonus buffer.
    pub(crate) fn write_header(&self, tx: &Tx) -> Result<()> {
        self.dnode.set_bonus(tx, ObjectType::SPACE_MAP_HEADER, &self.header.emit())
    }
}

//! One metaslab: a slice of a vdev with its own space map. Source: `metaslab_t` (`module/zfs/metaslab.c`).
//!
//! Where a range is, from allocation to reuse:
//! ```text
//! free ── allocate ──▶ allocating[txg % 4] ── sync ──▶ in the space map
//!   ▲                                                          │ free
//!   └── defer[txg % 2] ◀── sync done ── freed ◀── sync ── freeing
//! ```
//! While the space is pinned, what leaves `defer` waits in `held` until it no longer is.

use super::super::range_tree::RangeTree;
use super::super::space_map::{Place, SpaceMap};
use super::trim::Taken;
use super::{DEFER_TXGS, Rules};
use crate::dmu::tx::TXG_SIZE;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::space_map::HISTOGRAM_SIZE;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Free ranges that a first fit looks at before it takes the best fit.
const FIRST_FIT_TRIES: usize = 64;
/// Below that many bytes in the largest free range, and below [`BEST_FIT_PERCENT`] free, the best fit is taken.
const BEST_FIT_BYTES: u64 = 128 << 10;
const BEST_FIT_PERCENT: u64 = 4;
/// A log is rewritten when it is that many times longer than need be (`zfs_condense_pct`) …
const CONDENSE_FACTOR: u64 = 2;
/// … and has more blocks than that (`zfs_metaslab_condense_block_threshold`).
const CONDENSE_BLOCKS: u64 = 4;

/// A metaslab.
pub(crate) struct Metaslab {
    pub(super) start: u64,
    pub(super) size: u64,
    place: Place,
    pub(super) map: Option<SpaceMap>,
    /// What may be allocated; `None` until it is loaded.
    free: Option<RangeTree>,
    allocating: [RangeTree; TXG_SIZE],
    freeing: RangeTree,
    freed: RangeTree,
    defer: [RangeTree; DEFER_TXGS],
    /// Ready to be given out, but for a [`super::Pin`].
    held: RangeTree,
    /// Free, but devices are being told so: [`super::trim::Trimming`].
    trimming: RangeTree,
    /// Of what may be allocated, what became free since the last automatic trim.
    fresh: RangeTree,
    cursor: u64,
    /// What logs of space maps say was allocated and freed, and the map does not (feature `log_spacemap`).
    unflushed: Unflushed,
    /// Whether the syncing txg has written the map, and whether the one before had.
    written: bool,
    active: bool,
}

/// Changes that are in logs alone: disjoint from each other, and each the opposite of what the map says.
#[derive(Default)]
struct Unflushed {
    allocated: RangeTree,
    freed: RangeTree,
}

fn slot(txg: u64) -> usize {
    (txg % TXG_SIZE as u64) as usize
}

impl Metaslab {
    pub(super) fn new(place: Place, size: u64, map: Option<SpaceMap>) -> Self {
        Metaslab {
            start: place.start,
            size,
            place,
            map,
            free: None,
            allocating: Default::default(),
            freeing: RangeTree::new(),
            freed: RangeTree::new(),
            defer: Default::default(),
            held: RangeTree::new(),
            trimming: RangeTree::new(),
            fresh: RangeTree::new(),
            cursor: place.start,
            unflushed: Unflushed::default(),
            written: false,
            active: false,
        }
    }

    /// Bytes allocated as of the newest append.
    pub(super) fn synced_allocated(&self) -> u64 {
        let map = self.map.as_ref().map_or(0, |m| m.header.allocated.max(0).cast_unsigned());
        (map + self.unflushed.allocated.space()).saturating_sub(self.unflushed.freed.space())
    }

    /// What is allocated on disk, by the map and the logs.
    pub(super) fn allocated_on_disk(&self) -> Result<RangeTree> {
        let mut allocated = match &self.map {
            Some(map) => map.load_allocated(self.size)?,
            None => RangeTree::new(),
        };
        let Unflushed { allocated: more, freed } = &self.unflushed;
        let mut agree = true;
        freed.iter().for_each(|(start, len)| agree &= allocated.remove(start, len));
        more.iter().for_each(|(start, len)| agree &= allocated.add(start, len));
        if agree { Ok(allocated) } else { Err(Error::corrupt("space map: its logs contradict it", None)) }
    }

    /// One entry of a log.
    pub(super) fn apply_log(&mut self, free: bool, start: u64, len: u64) -> Result<()> {
        let Unflushed { allocated, freed } = &mut self.unflushed;
        let (undone, done) = if free { (allocated, freed) } else { (freed, allocated) };
        for (start, len) in undone.take_overlap(start, len) {
            if !done.add(start, len) {
                let rule =
                    if free { "log space maps: double free" } else { "log space maps: double allocation" };
                return Err(Error::corrupt(rule, None));
            }
        }
        Ok(())
    }

    /// Takes the logs' changes over into the map; whether the map is new (`metaslab_flush`).
    pub(super) fn flush(&mut self, mos: &Arc<Objset>, tx: &Tx, rules: &Rules) -> Result<bool> {
        if self.unflushed.allocated.is_empty() && self.unflushed.freed.is_empty() {
            return Ok(false);
        }
        let created = self.create_map(mos, tx, rules)?;
        let Unflushed { allocated, freed } = core::mem::take(&mut self.unflushed);
        let histogram = self.histogram(&freed);
        if let Some(map) = &mut self.map {
            map.append(tx, 1, &allocated, false, rules.two_words)?;
            map.append(tx, 1, &freed, true, rules.two_words)?;
            if map.header.histogram.is_some() {
                map.header.histogram = Some(histogram);
            }
            map.write_header(tx)?;
        }
        Ok(created)
    }

    fn create_map(&mut self, mos: &Arc<Objset>, tx: &Tx, rules: &Rules) -> Result<bool> {
        let created = self.map.is_none();
        if created {
            self.map = Some(SpaceMap::create(mos, tx, self.place, rules.histogram)?);
        }
        Ok(created)
    }

    /// Bytes that can perhaps be allocated: exact once it is loaded.
    pub(super) fn free_estimate(&self) -> u64 {
        match &self.free {
            Some(free) => free.space(),
            None => self.size.saturating_sub(self.synced_allocated() + self.deferred()),
        }
    }

    /// Bytes that wait for their txgs.
    pub(super) fn deferred(&self) -> u64 {
        self.waiting().map(RangeTree::space).sum()
    }

    /// What is free on disk and not given out yet.
    fn waiting(&self) -> impl Iterator<Item = &RangeTree> {
        self.defer.iter().chain([&self.freed, &self.held, &self.trimming])
    }

    /// Reads the space map, if that was not done.
    pub(super) fn load(&mut self) -> Result<&mut RangeTree> {
        if self.free.is_none() {
            let mut free = RangeTree::new();
            let _ = free.add(self.start, self.size);
            for (start, len) in self.allocated_on_disk()?.iter() {
                free.clear(start, len);
            }
            // In the map these are free already, yet they must not be given out.
            for tree in self.waiting() {
                for (start, len) in tree.iter() {
                    free.clear(start, len);
                }
            }
            for tree in &self.allocating {
                for (start, len) in tree.iter() {
                    free.clear(start, len);
                }
            }
            self.free = Some(free);
        }
        self.free.as_mut().ok_or(Error::corrupt("metaslab: not loaded", None))
    }

    /// Allocates `len` bytes for `txg`; the offset.
    pub(super) fn allocate(&mut self, txg: u64, len: u64) -> Result<Option<u64>> {
        if self.free_estimate() < len {
            return Ok(None);
        }
        let (cursor, size) = (self.cursor, self.size);
        let free = self.load()?;
        let largest = free.largest();
        if largest < len {
            return Ok(None);
        }
        let scarce = largest < BEST_FIT_BYTES || free.space() * 100 / size < BEST_FIT_PERCENT;
        let Some(start) = (if scarce { None } else { first_fit(free, cursor, len) })
            .or_else(|| free.best_fit(len).map(|(start, _)| start))
        else {
            return Ok(None);
        };
        let removed = free.remove(start, len);
        assert!(removed, "the range was just found free");
        self.cursor = start + len;
        self.fresh.clear(start, len);
        let added = self.allocating[slot(txg)].add(start, len);
        assert!(added, "what was free cannot be in the allocations of a txg");
        Ok(Some(start))
    }

    /// Takes back what was allocated in this txg.
    pub(super) fn unallocate(&mut self, txg: u64, start: u64, len: u64) {
        if self.allocating[slot(txg)].remove(start, len)
            && let Some(free) = &mut self.free
        {
            let added = free.add(start, len);
            assert!(added, "an allocated range cannot be free");
        }
    }

    /// Marks a range as allocated that the space map does not know of: a block of an intent log.
    /// False if it is not free.
    pub(super) fn claim(&mut self, txg: u64, start: u64, len: u64) -> Result<bool> {
        if !self.load()?.remove(start, len) {
            return Ok(false);
        }
        self.fresh.clear(start, len);
        let added = self.allocating[slot(txg)].add(start, len);
        assert!(added, "what was free cannot be in the allocations of a txg");
        Ok(true)
    }

    /// Frees a range as of the syncing txg.
    pub(super) fn free(&mut self, start: u64, len: u64) -> Result<()> {
        let free_already = self.waiting().chain(&self.free).any(|tree| tree.overlaps_any(start, len));
        if free_already || !self.freeing.add(start, len) {
            return Err(Error::corrupt("free of space that is free already", None));
        }
        Ok(())
    }

    /// Whether a txg that is not synced yet has allocated something.
    pub(super) fn is_allocating(&self) -> bool {
        self.allocating.iter().any(|tree| !tree.is_empty())
    }

    /// Whether the syncing txg has something to write.
    pub(super) fn is_dirty(&self, txg: u64) -> bool {
        !self.allocating[slot(txg)].is_empty() || !self.freeing.is_empty()
    }

    /// Whether the first pass writes the map although nothing was allocated or freed yet. Writing the MOS does both, most likely where
    /// it did a txg ago: a map that is written before has its blocks when it is appended to, and needs no pass more for them.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Appends what the syncing txg allocated and freed since the last pass to the space map; without anything, the time alone.
    pub(super) fn sync(&mut self, mos: &Arc<Objset>, tx: &Tx, pass: u32, rules: &Rules) -> Result<bool> {
        let created = self.create_map(mos, tx, rules)?;
        let slot = slot(tx.txg());
        if pass == 1 && self.should_condense() {
            self.condense(tx, pass, rules)?;
        }
        let allocated = self.allocating[slot].take_all();
        let freeing = self.freeing.take_all();
        for (start, len) in freeing.iter() {
            let added = self.freed.add(start, len);
            assert!(added, "a range is freed once: checked when it was freed");
        }
        self.written = true;
        if allocated.is_empty() && freeing.is_empty() {
            if let Some(map) = &mut self.map {
                map.touch(tx, pass)?;
            }
            return Ok(created);
        }
        let histogram = self.histogram(&freeing);
        if let Some(map) = &mut self.map {
            map.append(tx, pass, &allocated, false, rules.two_words)?;
            map.append(tx, pass, &freeing, true, rules.two_words)?;
            if map.header.histogram.is_some() {
                map.header.histogram = Some(histogram);
            }
            map.write_header(tx)?;
        }
        Ok(created)
    }

    /// The histogram of what is free on disk. Of a metaslab that is not loaded, the old one with `freeing` counted in.
    fn histogram(&self, freeing: &RangeTree) -> [u64; HISTOGRAM_SIZE] {
        let mut histogram = [0; HISTOGRAM_SIZE];
        let mut count = |tree: &RangeTree| {
            tree.iter().for_each(|(_, len)| SpaceMap::count_free(&mut histogram, self.place.shift, len));
        };
        if let Some(free) = &self.free {
            count(free);
            self.waiting().for_each(count);
        } else {
            count(freeing);
            let old = self.map.as_ref().and_then(|m| m.header.histogram).unwrap_or_default();
            histogram.iter_mut().zip(old).for_each(|(new, old)| *new += old);
        }
        histogram
    }

    fn should_condense(&self) -> bool {
        let (Some(map), Some(free)) = (&self.map, &self.free) else { return false };
        // One entry per allocated range, of one or two words, and a debug entry.
        let optimal = 8 * (2 * free.len() as u64 + 3);
        map.header.length > CONDENSE_FACTOR * optimal
            && map.header.length > CONDENSE_BLOCKS * map.block_size()
    }

    /// Replaces the log by one that says only what is allocated as of the previous txg.
    fn condense(&mut self, tx: &Tx, pass: u32, rules: &Rules) -> Result<()> {
        let Some(free) = &self.free else { return Ok(()) };
        let mut allocated = RangeTree::new();
        let _ = allocated.add(self.start, self.size);
        for tree in self.waiting().chain(&self.allocating).chain([free]) {
            for (start, len) in tree.iter() {
                allocated.clear(start, len);
            }
        }
        if let Some(map) = &mut self.map {
            map.truncate(tx)?;
            map.append(tx, pass, &allocated, false, rules.two_words)?;
        }
        Ok(())
    }

    /// A txg is on disk: what an older one freed can be given out, unless it is `pinned`. With `fresh` it is noted for the next
    /// automatic trim.
    pub(super) fn sync_done(&mut self, txg: u64, pinned: bool, fresh: bool) {
        self.active = core::mem::take(&mut self.written);
        let index = (txg % DEFER_TXGS as u64) as usize;
        let ready = core::mem::replace(&mut self.defer[index], self.freed.take_all());
        if pinned {
            for (start, len) in ready.iter() {
                self.held.add_missing(start, len);
            }
        } else {
            self.release(&ready);
            for (start, len) in ready.iter().filter(|_| fresh) {
                self.fresh.add_missing(start, len);
            }
        }
    }

    /// Gives out what was held for a pin.
    pub(super) fn release_held(&mut self) {
        let ready = self.held.take_all();
        self.release(&ready);
    }

    /// Gives out at once what synced txgs freed: the current uberblock does not need it.
    pub(super) fn release_deferred(&mut self) -> bool {
        let mut any = !self.held.is_empty();
        self.release_held();
        for index in 0..DEFER_TXGS {
            let ready = self.defer[index].take_all();
            any |= !ready.is_empty();
            self.release(&ready);
        }
        any
    }

    /// Takes free ranges out, from the address `from` on and `most` bytes of them; and where the next one begins.
    pub(super) fn begin_trim(&mut self, from: u64, most: u64) -> Result<Taken> {
        let (mut at, mut left, mut ranges) = (from, most, Vec::new());
        let free = self.load()?;
        while left > 0
            && let Some((begin, size)) = free.first_after(at)
        {
            let start = begin.max(at);
            let len = (begin + size - start).min(left);
            ranges.push((start, len));
            (at, left) = (start + len, left - len);
        }
        let next = free.first_after(at).map(|_| at);
        self.take_out(&ranges)?;
        Ok((ranges, next))
    }

    /// Takes out what became free since the last automatic trim.
    pub(super) fn begin_autotrim(&mut self) -> Result<Vec<(u64, u64)>> {
        let ranges: Vec<(u64, u64)> = self.fresh.take_all().iter().collect();
        self.take_out(&ranges)?;
        Ok(ranges)
    }

    fn take_out(&mut self, ranges: &[(u64, u64)]) -> Result<()> {
        for (start, len) in ranges {
            let free = self.load()?;
            let removed = free.remove(*start, *len);
            let added = self.trimming.add(*start, *len);
            assert!(removed && added, "what is trimmed is free");
            self.fresh.clear(*start, *len);
        }
        Ok(())
    }

    /// Puts back what was taken out.
    pub(super) fn end_trim(&mut self, ranges: &[(u64, u64)]) {
        for (start, len) in ranges {
            let removed = self.trimming.remove(*start, *len);
            assert!(removed, "what is trimmed is nobody else's");
            if let Some(free) = &mut self.free {
                free.add_missing(*start, *len);
            }
        }
    }

    /// Nobody trims automatically any more.
    pub(super) fn forget_fresh(&mut self) {
        self.fresh = RangeTree::new();
    }

    fn release(&mut self, ready: &RangeTree) {
        if let Some(free) = &mut self.free {
            for (start, len) in ready.iter() {
                free.add_missing(start, len);
            }
        }
    }
}

/// The first range of at least `len` bytes from `cursor` on, among a bounded number, wrapping around.
fn first_fit(free: &RangeTree, cursor: u64, len: u64) -> Option<u64> {
    let mut at = cursor;
    for _ in 0..FIRST_FIT_TRIES {
        match free.first_after(at) {
            Some((start, size)) => {
                let from = start.max(at);
                if start + size - from >= len {
                    return Some(from);
                }
                at = start + size;
            }
            None if at > 0 && cursor > 0 => at = 0,
            None => return None,
        }
    }
    None
}

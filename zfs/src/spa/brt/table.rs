//! The table of one top-level vdev. Source: `brt_vdev_*`, `brt_sync_entry` (`module/zfs/brt.c`).
//!
//! # Invariants
//! - The counts of ranges, and the total, are those of the entries with the changes of the syncing txg.
//! - What is changed is loaded first; it is written, or removed, by [`Table::sync`].

use super::super::directory;
use super::Entries;
use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::brt::{
    BLOCK_SIZE, COUNTS_PER_BLOCK, PHYS_SIZE, VdevPhys, counts, counts_block, emit_references, name_of,
    range_of,
};
use crate::ondisk::object_type::ObjectType;
use crate::zap::{self, Value};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// How the ZAP of entries is made.
const FLAGS: u64 = zap::FLAG_HASH64 | zap::FLAG_UINT64_KEY;

/// An entry that the syncing txg looked at.
struct Change {
    /// References besides the first, in the ZAP and now.
    stored: u64,
    now: u64,
}

struct Objects {
    /// The array of counts, with the head as its bonus.
    head: Arc<Dnode>,
    entries: Arc<Dnode>,
}

/// See the module.
pub(super) struct Table {
    vdev: u32,
    objects: Option<Objects>,
    total: u64,
    /// Bytes of data, as [`VdevPhys`] has them.
    pub(super) used: u64,
    pub(super) saved: u64,
    counts: Vec<u16>,
    dirty_blocks: BTreeSet<usize>,
    dirty: bool,
    changes: BTreeMap<u64, Change>,
}

/// The references that an entry's value tells.
pub(super) fn references(value: &Value, fixed: bool) -> Result<u64> {
    crate::ondisk::brt::references(value.int_size, &value.ints, fixed)
}

impl Table {
    /// An empty one, not in the MOS yet.
    pub(super) fn new(vdev: u32) -> Self {
        Table {
            vdev,
            objects: None,
            total: 0,
            used: 0,
            saved: 0,
            counts: Vec::new(),
            dirty_blocks: BTreeSet::new(),
            dirty: false,
            changes: BTreeMap::new(),
        }
    }

    /// The table that the MOS has of a vdev, which has so many ranges now.
    pub(super) fn open(mos: &Arc<Objset>, vdev: u32, ranges: u64) -> Result<Option<Self>> {
        let Some(object) = directory::lookup(mos, &name_of(vdev))? else { return Ok(None) };
        let head = mos.hold_typed(object, ObjectType::OTN_UINT64_METADATA)?;
        let phys = VdevPhys::parse(&head.bonus())?;
        if phys.ranges > ranges {
            return Err(Error::corrupt("block reference table: more ranges than its vdev has", None));
        }
        let mut array = vec![0; phys.ranges as usize * 2];
        head.read(0, &mut array)?;
        let mut counts = counts(&array);
        if counts.iter().map(|count| u64::from(*count)).sum::<u64>() != phys.total {
            return Err(Error::corrupt(
                "block reference table: its total is not the sum of its ranges",
                None,
            ));
        }
        counts.resize(ranges as usize, 0);
        let entries = mos.hold(phys.entries)?;
        if zap::count(&entries)? != phys.total {
            return Err(Error::corrupt(
                "block reference table: its total is not the number of its entries",
                None,
            ));
        }
        Ok(Some(Table {
            objects: Some(Objects { head, entries }),
            total: phys.total,
            used: phys.used,
            saved: phys.saved,
            counts,
            ..Table::new(vdev)
        }))
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn has_objects(&self) -> bool {
        self.objects.is_some()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The vdev has that many ranges now.
    pub(super) fn grow(&mut self, ranges: u64) {
        if ranges > self.counts.len() as u64 {
            self.counts.resize(ranges as usize, 0);
        }
    }

    /// Forgets what was only looked at.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
    }

    /// Whether a block can have an entry: there are some in its range.
    pub(super) fn may_have(&self, offset: u64) -> bool {
        self.counts.get(range_of(offset)).is_some_and(|count| *count > 0)
    }

    /// Looks an entry up.
    pub(super) fn load(&mut self, offset: u64, fixed: bool) -> Result<()> {
        if self.changes.contains_key(&offset) {
            return Ok(());
        }
        let stored = match &self.objects {
            Some(objects) if self.may_have(offset) => match zap::lookup(&objects.entries, &[offset][..]) {
                Ok(value) => references(&value, fixed)?,
                Err(Error::NotFound) => 0,
                Err(error) => return Err(error),
            },
            _ => 0,
        };
        self.changes.insert(offset, Change { stored, now: stored });
        Ok(())
    }

    fn change(&mut self, offset: u64, fixed: bool) -> Result<&mut Change> {
        self.load(offset, fixed)?;
        self.changes.get_mut(&offset).ok_or(Error::NotFound)
    }

    /// Adds `count` references to a block that occupies `dsize` bytes.
    pub(super) fn add(&mut self, offset: u64, count: u64, dsize: u64, fixed: bool) -> Result<()> {
        let too_many = || Error::corrupt("block reference table: more references than can be counted", None);
        let change = self.change(offset, fixed)?;
        let before = change.now;
        change.now = before.checked_add(count).ok_or_else(too_many)?;
        self.dirty = true;
        self.saved = self.saved.saturating_add(dsize.saturating_mul(count));
        if before == 0 {
            let range = range_of(offset);
            let beyond = Error::corrupt("block reference table: a block beyond its vdev", None);
            let entries = self.counts.get_mut(range).ok_or(beyond)?;
            *entries = entries.checked_add(1).ok_or_else(too_many)?;
            self.dirty_blocks.insert(range / COUNTS_PER_BLOCK);
            self.total += 1;
            self.used = self.used.saturating_add(dsize);
        }
        Ok(())
    }

    /// Takes a reference from a block; false if it has no entry.
    pub(super) fn subtract(&mut self, offset: u64, dsize: u64, fixed: bool) -> Result<bool> {
        let change = self.change(offset, fixed)?;
        if change.now == 0 {
            return Ok(false);
        }
        change.now -= 1;
        let last = change.now == 0;
        self.dirty = true;
        self.saved = self.saved.saturating_sub(dsize);
        if last {
            let range = range_of(offset);
            if let Some(entries) = self.counts.get_mut(range) {
                *entries = entries.saturating_sub(1);
            }
            self.dirty_blocks.insert(range / COUNTS_PER_BLOCK);
            self.total = self.total.saturating_sub(1);
            self.used = self.used.saturating_sub(dsize);
        }
        Ok(true)
    }

    /// Makes the objects in the MOS (`brt_vdev_create`).
    pub(super) fn create(&mut self, mos: &Arc<Objset>, tx: &Tx) -> Result<()> {
        let options = zap::CreateOptions { flags: FLAGS, ..zap::CreateOptions::default() };
        let entries = zap::create(mos, tx, ObjectType::OTN_ZAP_METADATA, &options)?;
        let what = Allocate {
            bonus_type: ObjectType::OTN_UINT64_METADATA,
            bonus_len: PHYS_SIZE as u16,
            ..Allocate::plain(ObjectType::OTN_UINT64_METADATA, BLOCK_SIZE)
        };
        let head = mos.allocate(tx, &what)?;
        directory::add(mos, tx, &name_of(self.vdev), head.object())?;
        self.objects = Some(Objects { head, entries });
        // All of the array is written once, so that its length is right.
        self.dirty_blocks.extend(0..self.counts.len().div_ceil(COUNTS_PER_BLOCK));
        Ok(())
    }

    /// Writes what changed; a table without entries is removed from the MOS.
    pub(super) fn sync(&mut self, mos: &Arc<Objset>, tx: &Tx, fixed: bool) -> Result<()> {
        let changes = core::mem::take(&mut self.changes);
        let dirty_blocks = core::mem::take(&mut self.dirty_blocks);
        self.dirty = false;
        let Some(Objects { head, entries }) = &self.objects else { return Ok(()) };
        for (offset, Change { stored, now }) in &changes {
            match (stored, now) {
                (stored, now) if stored == now => {}
                (_, 0) => zap::remove(entries, tx, &[*offset][..])?,
                (_, now) => {
                    let (int_size, ints) = emit_references(*now, fixed);
                    zap::update(entries, tx, &[*offset][..], &Value { int_size, ints })?;
                }
            }
        }
        if self.total == 0 {
            if zap::count(entries)? != 0 {
                return Err(Error::corrupt("block reference table: entries in ranges without any", None));
            }
            directory::remove(mos, tx, &name_of(self.vdev))?;
            mos.free(tx, entries.object())?;
            mos.free(tx, head.object())?;
            self.objects = None;
            return Ok(());
        }
        for block in dirty_blocks {
            let start = block * COUNTS_PER_BLOCK;
            let end = self.counts.len().min(start + COUNTS_PER_BLOCK);
            let part = self.counts.get(start..end).unwrap_or_default();
            head.write(tx, block as u64 * u64::from(BLOCK_SIZE), &counts_block(part))?;
        }
        let phys = VdevPhys {
            entries: entries.object(),
            ranges: self.counts.len() as u64,
            total: self.total,
            used: self.used,
            saved: self.saved,
        };
        head.set_bonus(tx, ObjectType::OTN_UINT64_METADATA, &phys.emit())
    }

    /// The ZAP of entries, and what the head says of them.
    pub(super) fn view(&self) -> Option<(Arc<Dnode>, Entries)> {
        let entries = Entries {
            vdev: self.vdev,
            references: BTreeMap::new(),
            used: self.used,
            saved: self.saved,
            counts: self.counts.clone(),
        };
        Some((Arc::clone(&self.objects.as_ref()?.entries), entries))
    }
}

//! Block references: a block that was cloned is freed as often as it is referred to, and its space is given back the last time.
//! Source: `module/zfs/brt.c`, `zio_brt_free` (`zio.c`).
//!
//! New references are *pending* in the slot of their txg until that is synced; then, before anything of the txg is freed, they are
//! entered in the tables of their vdevs ([`table::Table`]). A free that finds an entry takes a reference from it instead of giving
//! the space back. A deduplicated block has its references in the dedup table, if that knows it.
//!
//! # Invariants
//! - Tables are changed by the sync thread alone.
//! - A block with an entry of `n` is referred to `n + 1` times: by files, snapshots, what waits to be freed, and claimed records of
//!   intent logs.
//! - A pool without tables and pending references pays one atomic load for each free.

mod table;

use super::core::{Core, Spa};
use super::metaslab::VdevLayout;
use crate::dmu::{Dnode, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::brt::{FEATURE, FEATURE_ENDIAN, RANGE_SIZE};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use platform::sync::Mutex;
use table::Table;

/// Slots for per-txg state.
const SLOTS: usize = crate::dmu::tx::TXG_SIZE;

/// References that the txg adds, by vdev and offset of the first copy: the block, and how many.
type Pending = BTreeMap<(u32, u64), (Blkptr, u64)>;

/// What the pool knows of cloned blocks.
#[derive(Default)]
pub(super) struct Brt {
    /// There is a table: whoever frees a block must look.
    in_use: AtomicBool,
    /// Sums over the tables, in bytes.
    used: AtomicU64,
    saved: AtomicU64,
    pending: Mutex<[Pending; SLOTS]>,
    tables: Mutex<BTreeMap<u32, Table>>,
    /// Why the tables could not be read, in a pool that is only read.
    broken: Mutex<Option<Error>>,
}

impl Brt {
    /// Bytes of data that cloned blocks occupy (`brt_get_used`).
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes of data that they would occupy more without being shared (`brt_get_saved`).
    pub(super) fn saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// How much more data there is than space for it, in hundredths (`brt_get_ratio`).
    pub(super) fn ratio(&self) -> u64 {
        let (used, saved) = (self.used(), self.saved());
        let sum = (u128::from(used) + u128::from(saved)) * 100;
        sum.checked_div(u128::from(used)).map_or(100, |ratio| ratio.min(u128::from(u64::MAX)) as u64)
    }

    fn publish(&self, tables: &BTreeMap<u32, Table>) {
        let sum = |of: fn(&Table) -> u64| tables.values().map(of).fold(0, u64::saturating_add);
        self.used.store(sum(|t| t.used), Ordering::Relaxed);
        self.saved.store(sum(|t| t.saved), Ordering::Relaxed);
        self.in_use.store(!tables.is_empty(), Ordering::Release);
    }

    /// Whether the tables have changes that are not in the MOS.
    pub(super) fn is_dirty(&self) -> bool {
        self.in_use.load(Ordering::Acquire) && self.tables.lock().values().any(Table::is_dirty)
    }
}

/// Whether a block can have an entry: stored data.
pub(super) fn is_cloneable(bp: &Blkptr) -> bool {
    bp.is_stored() && bp.level() == 0 && !ObjectType(bp.object_type()).is_metadata()
}

/// One vdev's table, as it is read whole.
pub(super) struct Entries {
    pub(super) vdev: u32,
    /// References besides the first, by offset.
    pub(super) references: BTreeMap<u64, u64>,
    pub(super) used: u64,
    pub(super) saved: u64,
    /// How many entries each range is said to have.
    pub(super) counts: Vec<u16>,
}

/// How many ranges a vdev has: what its whole metaslabs cover.
fn ranges_of(layout: &VdevLayout) -> u64 {
    let shift = u32::from(layout.metaslab_shift);
    let whole = layout.asize.checked_shr(shift).and_then(|n| n.checked_shl(shift)).unwrap_or(0);
    whole.div_ceil(RANGE_SIZE)
}

impl Spa {
    /// Reads the tables' heads (`brt_load`). A pool that is only read can do without.
    pub(super) fn load_brt(&self) -> Result<()> {
        if !self.features.is_active(FEATURE) {
            return Ok(());
        }
        let mut tables = BTreeMap::new();
        for layout in self.space.layouts() {
            match Table::open(&self.mos, layout.id, ranges_of(&layout)) {
                Ok(None) => {}
                Ok(Some(table)) => _ = tables.insert(layout.id, table),
                Err(error) if self.read_only => *self.brt.broken.lock() = Some(error),
                Err(error) => return Err(error),
            }
        }
        self.brt.publish(&tables);
        *self.brt.tables.lock() = tables;
        Ok(())
    }

    /// Whether blocks may be cloned.
    pub(super) fn clones_blocks(&self) -> bool {
        !self.read_only && self.features.is_enabled(FEATURE)
    }

    /// Counts a new reference to each of these blocks in `tx`'s txg (`brt_pending_add`). Holes and embedded blocks need none.
    pub(super) fn refer(&self, tx: &Tx, bps: &[Blkptr]) {
        let mut pending = self.brt.pending.lock();
        let slot = &mut pending[(tx.txg() % SLOTS as u64) as usize];
        for bp in bps.iter().filter(|bp| bp.is_stored()) {
            let dva = bp.dva(0);
            slot.entry((dva.vdev, dva.offset)).or_insert((*bp, 0)).1 += 1;
        }
    }

    /// Enters the txg's new references (`brt_pending_apply`): before anything of the txg is freed.
    pub(super) fn apply_references(&self, tx: &Tx) -> Result<()> {
        let pending = core::mem::take(&mut self.brt.pending.lock()[(tx.txg() % SLOTS as u64) as usize]);
        if pending.is_empty() {
            return Ok(());
        }
        let mut by_vdev: BTreeMap<u32, Vec<(u64, Blkptr, u64)>> = BTreeMap::new();
        for ((vdev, offset), (bp, count)) in pending {
            if !bp.dedup() || !self.ddt_refer(tx, &bp, count)? {
                by_vdev.entry(vdev).or_default().push((offset, bp, count));
            }
        }
        let fixed = self.features.is_active(FEATURE_ENDIAN);
        let layouts = self.space.layouts();
        let mut tables = self.brt.tables.lock();
        for (vdev, blocks) in by_vdev {
            let layout = layouts.iter().find(|layout| layout.id == vdev);
            let layout = layout.ok_or(Error::corrupt("block reference table: no such vdev", None))?;
            let table = tables.entry(vdev).or_insert_with(|| Table::new(vdev));
            table.grow(ranges_of(layout));
            // What is there already is looked for before what is new makes its range one to look into.
            for (offset, ..) in &blocks {
                table.load(*offset, fixed)?;
            }
            for (offset, bp, count) in &blocks {
                table.add(*offset, *count, self.zio.dsize(bp), fixed)?;
            }
        }
        self.brt.publish(&tables);
        Ok(())
    }

    /// Takes a reference from a cloned block. False if there is no entry for it: then this was the last one. Syncing context.
    pub(super) fn brt_free(&self, bp: &Blkptr) -> Result<bool> {
        if !self.brt.in_use.load(Ordering::Acquire) || !is_cloneable(bp) {
            return Ok(false);
        }
        let dva = bp.dva(0);
        let mut tables = self.brt.tables.lock();
        let Some(table) = tables.get_mut(&dva.vdev).filter(|table| table.may_have(dva.offset)) else {
            return Ok(false);
        };
        let fixed = self.features.is_active(FEATURE_ENDIAN);
        table.subtract(dva.offset, self.zio.dsize(bp), fixed)
    }

    /// Writes the changed entries into the MOS (`brt_sync`).
    pub(super) fn sync_brt(&self, tx: &Tx) -> Result<()> {
        if !self.brt.in_use.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut tables = self.brt.tables.lock();
        for table in tables.values_mut() {
            if !table.is_dirty() {
                table.forget();
                continue;
            }
            if !table.has_objects() && table.total() > 0 {
                // The first table decides about the form of all.
                let fixed = match self.features.is_active(FEATURE) {
                    true => self.features.is_active(FEATURE_ENDIAN),
                    false => self.features.is_enabled(FEATURE_ENDIAN),
                };
                table.create(&self.mos, tx)?;
                self.change_feature(tx, FEATURE, 1)?;
                if fixed {
                    self.change_feature(tx, FEATURE_ENDIAN, 1)?;
                }
            }
            let had_objects = table.has_objects();
            let fixed = self.features.is_active(FEATURE_ENDIAN);
            table.sync(&self.mos, tx, fixed)?;
            if had_objects && !table.has_objects() {
                self.change_feature(tx, FEATURE, -1)?;
                if fixed {
                    self.change_feature(tx, FEATURE_ENDIAN, -1)?;
                }
            }
        }
        tables.retain(|_, table| table.has_objects() || table.is_dirty());
        self.brt.publish(&tables);
        Ok(())
    }

    /// All entries as the last txg left them.
    pub(super) fn brt_entries(&self) -> Result<Vec<Entries>> {
        if let Some(error) = self.brt.broken.lock().clone() {
            return Err(error);
        }
        let fixed = self.features.is_active(FEATURE_ENDIAN);
        let found: Vec<(Arc<Dnode>, Entries)> =
            self.brt.tables.lock().values().filter_map(Table::view).collect();
        let mut all = Vec::new();
        for (object, mut entries) in found {
            for entry in zap::iterate(&object, zap::COOKIE_START) {
                let entry = entry?;
                let [offset] = entry.key_words()[..] else {
                    return Err(Error::corrupt("block reference table: a key of more than one word", None));
                };
                let references = table::references(&entry.value, fixed)?;
                entries.references.insert(offset, references);
            }
            all.push(entries);
        }
        Ok(all)
    }
}

impl Core {
    /// Makes blocks of an object the same as those that `bps` lead to.
    pub(super) fn clone_blocks(&self, tx: &Tx, dnode: &Arc<Dnode>, first: u64, bps: &[Blkptr]) -> Result<()> {
        if !self.spa.clones_blocks() {
            return Err(Error::unsupported(alloc::format!(
                "cloning blocks: feature {FEATURE} is not enabled"
            )));
        }
        dnode.clone_blocks(tx, first, bps)?;
        self.spa.refer(tx, bps);
        Ok(())
    }
}

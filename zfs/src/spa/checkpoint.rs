//! The pool's checkpoint: the uberblock of one txg is kept in the MOS, and whatever it refers to stays allocated until it is
//! discarded. Source: `module/zfs/spa_checkpoint.c`.
//!
//! A block that the checkpoint knows is not given back when it is freed: its extent goes into the vdev's *checkpoint space map*, a
//! log of frees that count when the checkpoint is discarded. The metaslabs never hear of them before.
//!
//! # Invariants
//! - The feature is active as long as there is a checkpoint or one is being discarded; the entry in the object directory tells
//!   which of the two.
//! - The checkpoint's txg is known before anything of the next txg is freed.
//!
//! # Lock order
//! The checkpoint's lock comes before the allocator's and after that of the pool's state.

use super::config::Config;
use super::core::{Core, Spa};
use super::directory;
use super::metaslab::Rules;
use super::range_tree::RangeTree;
use super::space_map::{Place, SpaceMap};
use super::vdev_zaps::TOP_ZAP;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::{UBERBLOCK_SIZE, Uberblock};
use crate::zap::{self, Value};
use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;

/// The feature.
const FEATURE: &str = "com.delphix:zpool_checkpoint";
/// The uberblock's entry in the object directory (`DMU_POOL_ZPOOL_CHECKPOINT`).
const ENTRY: &str = "com.delphix:zpool_checkpoint";
/// The space map's entry in a top-level vdev's ZAP (`VDEV_TOP_ZAP_POOL_CHECKPOINT_SM`).
const MAP_ENTRY: &str = "com.delphix:pool_checkpoint_sm";
/// Words of the uberblock that the entry holds: those that every version with checkpoints knows.
const WORDS: usize = 26;

/// A pool's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// When the state was written that it keeps, in seconds since 1970.
    pub time: u64,
    /// Bytes that only it holds.
    pub space: u64,
    /// It is being discarded: one cannot return to it any more.
    pub discarding: bool,
}

/// What is known of the checkpoint in memory.
#[derive(Default)]
pub(super) struct Checkpoint {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The txg that it keeps; 0 if there is none.
    txg: u64,
    time: u64,
    discarding: bool,
    /// What the syncing txg has freed of it.
    freed: BTreeMap<u32, RangeTree>,
    maps: BTreeMap<u32, SpaceMap>,
}

impl Checkpoint {
    /// Whether the checkpoint refers to a block.
    pub(super) fn keeps(&self, bp: &Blkptr) -> bool {
        bp.physical_birth() <= self.inner.lock().txg
    }

    /// Takes over an extent that the pool has no more use for.
    pub(super) fn add(&self, dva: &Dva) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.freed.entry(dva.vdev).or_default().add(dva.offset, dva.asize) {
            Ok(())
        } else {
            Err(Error::corrupt("free of space that is free already", None))
        }
    }
}

/// The uberblock that the checkpoint keeps; `None` if there is no checkpoint.
pub(super) fn uberblock(mos: &Arc<Objset>) -> Result<Option<Uberblock>> {
    let Some(value) = directory::lookup_value(mos, ENTRY)? else { return Ok(None) };
    let mut bytes: Vec<u8> = value.ints.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(bytes.len().max(UBERBLOCK_SIZE), 0);
    Uberblock::parse(&bytes).map(Some)
}

/// The ZAP of a top-level vdev.
fn vdev_zap(mos: &Arc<Objset>, config: &Config, vdev: u32) -> Result<Option<Arc<crate::dmu::Dnode>>> {
    let top = config.tops().iter().find(|top| top.get_u64("id") == Some(u64::from(vdev)));
    let zap = top.and_then(|top: &NvList| top.get_u64(TOP_ZAP));
    zap.filter(|zap| *zap != 0).map(|zap| mos.hold(zap)).transpose()
}

impl Spa {
    /// Reads what the pool has of a checkpoint.
    pub(super) fn load_checkpoint(&self) -> Result<()> {
        if !self.features.is_active(FEATURE) {
            return Ok(());
        }
        let config = self.state.lock().config.clone();
        let kept = uberblock(&self.mos)?;
        let mut inner = self.checkpoint.inner.lock();
        inner.discarding = kept.is_none();
        if let Some(kept) = kept {
            (inner.txg, inner.time) = (kept.txg, kept.timestamp);
        }
        for layout in config.layouts()? {
            let Some(zap) = vdev_zap(&self.mos, &config, layout.id)? else { continue };
            match zap::lookup_u64(&zap, MAP_ENTRY) {
                Ok(object) => {
                    let place = Place { vdev: layout.id, shift: layout.ashift, start: 0 };
                    inner.maps.insert(layout.id, SpaceMap::open(&self.mos, object, place)?);
                }
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How the checkpoint stands; `None` if there is none.
    pub(super) fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        let inner = self.checkpoint.inner.lock();
        let space = |map: &SpaceMap| map.header.allocated.unsigned_abs();
        (inner.txg != 0 || inner.discarding).then(|| CheckpointStatus {
            time: inner.time,
            space: inner.maps.values().map(space).sum(),
            discarding: inner.discarding,
        })
    }

    /// Refuses what a checkpoint could not be returned to after.
    pub(super) fn check_no_checkpoint(&self) -> Result<()> {
        match self.checkpoint_status() {
            None => Ok(()),
            Some(_) => Err(Error::Invalid("the pool has a checkpoint: discard it first")),
        }
    }

    /// Keeps the state of the last txg. Syncing context, before this txg frees anything (`spa_checkpoint_sync`).
    fn set_checkpoint(&self, tx: &Tx) -> Result<()> {
        let kept = self.state.lock().uberblock.clone();
        let uberblock = Uberblock { checkpoint_txg: kept.txg, ..kept };
        let words: Vec<u64> =
            uberblock.emit().as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).take(WORDS).collect();
        directory::update_value(&self.mos, tx, ENTRY, &Value::words(&words))?;
        self.change_feature(tx, FEATURE, 1)?;
        {
            let mut inner = self.checkpoint.inner.lock();
            (inner.txg, inner.time) = (uberblock.txg, uberblock.timestamp);
        }
        let text = format!("checkpointed uberblock txg={}", uberblock.txg);
        self.log_internal_event(tx, "spa checkpoint", &text)
    }

    /// Writes what this txg has freed of the checkpoint.
    pub(super) fn sync_checkpoint(&self, tx: &Tx, pass: u32, rules: &Rules) -> Result<()> {
        let config = {
            let state = self.state.lock();
            state.config.clone()
        };
        let mut inner = self.checkpoint.inner.lock();
        let freed = core::mem::take(&mut inner.freed);
        for (vdev, ranges) in freed {
            let map = match inner.maps.entry(vdev) {
                Entry::Occupied(map) => map.into_mut(),
                Entry::Vacant(place) => place.insert(self.new_checkpoint_map(tx, &config, vdev, rules)?),
            };
            map.append(tx, pass, &ranges, true, rules.two_words)?;
            map.write_header(tx)?;
        }
        Ok(())
    }

    /// The space map of what a vdev has freed since the checkpoint was made.
    fn new_checkpoint_map(&self, tx: &Tx, config: &Config, vdev: u32, rules: &Rules) -> Result<SpaceMap> {
        let layout = self.space.layouts().into_iter().find(|l| l.id == vdev);
        let shift = layout.ok_or(Error::corrupt("block pointer: no such vdev", None))?.ashift;
        let zap = vdev_zap(&self.mos, config, vdev)?;
        let zap = zap.ok_or(Error::unsupported("a checkpoint of a pool whose vdevs have no ZAPs"))?;
        let map = SpaceMap::create(&self.mos, tx, Place { vdev, shift, start: 0 }, rules.histogram)?;
        if rules.histogram {
            self.change_feature(tx, "com.delphix:spacemap_histogram", 1)?;
        }
        zap::add_u64(&zap, tx, MAP_ENTRY, map.object())?;
        Ok(map)
    }

    /// Whether this txg has freed something of the checkpoint that is not written yet.
    pub(super) fn checkpoint_dirty(&self) -> bool {
        !self.checkpoint.inner.lock().freed.is_empty()
    }

    /// What only the checkpoint holds.
    pub(super) fn checkpoint_ranges(&self) -> Result<Vec<(u32, RangeTree)>> {
        let inner = self.checkpoint.inner.lock();
        inner.maps.iter().map(|(vdev, map)| Ok((*vdev, ranges(map)?))).collect()
    }

    /// Gives back what a discarded checkpoint held, one vdev at a time; true if there is more. Syncing context
    /// (`spa_checkpoint_discard_thread_sync`).
    pub(super) fn discard_some(&self, tx: &Tx) -> Result<bool> {
        let next = {
            let mut inner = self.checkpoint.inner.lock();
            if !inner.discarding {
                return Ok(false);
            }
            inner.maps.pop_first()
        };
        if let Some((vdev, map)) = next {
            let config = self.state.lock().config.clone();
            let layout = self.space.layouts().into_iter().find(|l| l.id == vdev);
            let shift = layout.ok_or(Error::corrupt("block pointer: no such vdev", None))?.metaslab_shift;
            for (mut start, mut len) in ranges(&map)?.iter() {
                while len > 0 {
                    // Ranges that met at the border of two metaslabs are one in the map.
                    let piece = len.min((1 << shift) - start % (1 << shift));
                    self.space.free(&Dva { vdev, offset: start, asize: piece, gang: false })?;
                    (start, len) = (start + piece, len - piece);
                }
            }
            let had_histogram = map.header.histogram.is_some();
            self.mos.free(tx, map.object())?;
            if let Some(zap) = vdev_zap(&self.mos, &config, vdev)? {
                zap::remove(&zap, tx, MAP_ENTRY)?;
            }
            if had_histogram {
                self.change_feature(tx, "com.delphix:spacemap_histogram", -1)?;
            }
        }
        if !self.checkpoint.inner.lock().maps.is_empty() {
            return Ok(true);
        }
        self.change_feature(tx, FEATURE, -1)?;
        self.checkpoint.inner.lock().discarding = false;
        let text = "finished discarding checkpointed state from the pool";
        self.log_internal_event(tx, "spa discard checkpoint", text)?;
        Ok(false)
    }
}

/// What a checkpoint's space map says was freed.
fn ranges(map: &SpaceMap) -> Result<RangeTree> {
    let mut all = RangeTree::new();
    map.for_each(|free, start, len, _| {
        if free && all.add(start, len) {
            return Ok(());
        }
        Err(Error::corrupt("checkpoint: its space map has more than frees", None))
    })?;
    Ok(all)
}

impl Core {
    /// Keeps the state of the pool as of the last txg.
    pub(super) fn make_checkpoint(&self) -> Result<()> {
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            if !spa.features.is_enabled(FEATURE) {
                return Err(Error::unsupported("checkpoints: feature zpool_checkpoint is not enabled"));
            }
            if spa.checkpoint_status().is_some() {
                return Err(Error::Exists);
            }
            spa.set_checkpoint(tx)
        })
    }

    /// Gives the checkpoint up. Its space is free some txgs later.
    pub(super) fn discard_checkpoint(&self) -> Result<()> {
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            if spa.checkpoint_status().is_none_or(|c| c.discarding) {
                return Err(Error::NotFound);
            }
            directory::remove(&spa.mos, tx, ENTRY)?;
            {
                let mut inner = spa.checkpoint.inner.lock();
                (inner.txg, inner.discarding) = (0, true);
            }
            spa.txgs.request_sync();
            let text = "started discarding checkpointed state from the pool";
            spa.log_internal_event(tx, "spa discard checkpoint", text)
        })
    }

    /// Gives the pool another guid (`spa_change_guid`).
    pub(super) fn reguid(&self) -> Result<u64> {
        self.spa.check_no_checkpoint()?;
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            let new = super::topology::new_guid(&*spa.env.random);
            let old = {
                let mut state = spa.state.lock();
                state.config_dirty = true;
                state.config.set_guid(new)
            };
            spa.log_internal_event(tx, "guid change", &format!("old={old} new={new}"))?;
            Ok(new)
        })
    }
}

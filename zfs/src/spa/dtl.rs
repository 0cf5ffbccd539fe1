//! Dirty time logs: which txgs each leaf missed, as space maps in the MOS whose ranges are txgs. Source: `vdev_dtl_load`,
//! `vdev_dtl_sync` (`vdev.c`).
//!
//! What a leaf missed is known in memory ([`Leaf::missing`]) before the txg that it missed is on disk; the passes of that txg write
//! it down until it no longer changes. A leaf that missed nothing has no map.
//!
//! # Invariants
//! - The uberblock of a txg is written only after the MOS says who missed that txg's blocks.
//! - The configuration's `DTL` of a leaf is the map that [`Dtls`] has for it.

use super::config::{self, Config};
use super::core::Spa;
use super::range_tree::RangeTree;
use super::space_map::{Place, SpaceMap};
use crate::dmu::{Objset, Tx};
use crate::error::Result;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::space_map::NO_VDEV;
use crate::vdev::{Leaf, TxgRanges, VdevTree};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;

/// The first txg of every pool (`TXG_INITIAL`): a new leaf lacks everything from here on.
pub(super) const TXG_INITIAL: u64 = 4;
/// The pair of a leaf's list that names its map (`ZPOOL_CONFIG_DTL`).
const DTL: &str = "DTL";
/// Ranges of the map are txgs, from 0 on.
const PLACE: Place = Place { vdev: NO_VDEV, shift: 0, start: 0 };

/// The maps of a pool's leaves by guid, and what they say.
#[derive(Default)]
pub(super) struct Dtls {
    maps: Mutex<BTreeMap<u64, (SpaceMap, TxgRanges)>>,
}

/// Calls `visit` for each leaf's list.
fn for_each_leaf(vdev: &NvList, visit: &mut dyn FnMut(&NvList) -> Result<()>) -> Result<()> {
    match vdev.get_nvlists("children") {
        Some(children) => children.iter().try_for_each(|child| for_each_leaf(child, visit)),
        None => visit(vdev),
    }
}

/// What a leaf's map says.
fn read(mos: &Arc<Objset>, object: u64) -> Result<(SpaceMap, TxgRanges)> {
    let map = SpaceMap::open(mos, object, PLACE)?;
    let mut txgs = TxgRanges::default();
    for (first, len) in map.load_allocated(u64::MAX)?.iter() {
        txgs.add(first, first.saturating_add(len.saturating_sub(1)));
    }
    Ok((map, txgs))
}

/// Tells leaves of a new tree what they missed, before anything is read from them. Errors that were counted before belong to reads of
/// what was never there, and are forgotten.
pub(super) fn load(mos: &Arc<Objset>, config: &Config, vdevs: &VdevTree) -> Result<()> {
    let leaves = vdevs.dtl_leaves();
    for_each_leaf(&config.root, &mut |list| {
        let guid = list.get_u64("guid");
        let Some(leaf) = leaves.iter().find(|leaf| Some(leaf.guid) == guid) else { return Ok(()) };
        if let Some(object) = list.get_u64(DTL).filter(|object| *object != 0) {
            leaf.set_missing(read(mos, object)?.1);
            leaf.clear_errors();
        }
        Ok(())
    })
}

impl Spa {
    /// Opens the maps, so that they can be written.
    pub(super) fn load_dtls(&self) -> Result<()> {
        let root = self.state.lock().config.root.clone();
        let mut maps = BTreeMap::new();
        for_each_leaf(&root, &mut |list| {
            if let Some(object) = list.get_u64(DTL).filter(|object| *object != 0) {
                maps.insert(list.u64("guid")?, read(&self.mos, object)?);
            }
            Ok(())
        })?;
        *self.dtls.maps.lock() = maps;
        Ok(())
    }

    /// Writes the maps of leaves that missed something since, and drops those of leaves that are whole or gone. Syncing context.
    pub(super) fn sync_dtls(&self, tx: &Tx, pass: u32) -> Result<()> {
        let vdevs = self.zio.vdevs();
        let leaves = vdevs.dtl_leaves();
        let mut maps = self.dtls.maps.lock();
        let done = |leaf: Option<&&Arc<Leaf>>| leaf.is_none_or(|leaf| leaf.missing().is_empty());
        let guids: Vec<u64> = maps.keys().copied().collect();
        for guid in guids.into_iter().filter(|guid| done(leaves.iter().find(|leaf| leaf.guid == *guid))) {
            if let Some((map, _)) = maps.remove(&guid) {
                let had_histogram = map.header.histogram.is_some();
                self.mos.free(tx, map.object())?;
                if had_histogram {
                    self.change_feature(tx, "com.delphix:spacemap_histogram", -1)?;
                }
                self.name_dtl(guid, None);
            }
        }
        let rules = self.rules();
        for leaf in leaves {
            let missing = leaf.missing();
            let written = maps.get(&leaf.guid).map(|(_, txgs)| txgs);
            if missing.is_empty() || written == Some(&missing) {
                continue;
            }
            if written.is_none() {
                let map = SpaceMap::create(&self.mos, tx, PLACE, rules.histogram)?;
                self.space_map_created(tx)?;
                self.name_dtl(leaf.guid, Some(map.object()));
                maps.insert(leaf.guid, (map, TxgRanges::default()));
            }
            let Some((map, txgs)) = maps.get_mut(&leaf.guid) else { continue };
            let mut ranges = RangeTree::new();
            for (first, last) in missing.ranges() {
                ranges.add_missing(*first, last.saturating_sub(*first).saturating_add(1));
            }
            map.truncate(tx)?;
            map.append(tx, pass, &ranges, false, rules.two_words)?;
            map.write_header(tx)?;
            *txgs = missing;
        }
        Ok(())
    }

    /// Enters the map of a leaf in the configuration, or takes it out.
    fn name_dtl(&self, guid: u64, object: Option<u64>) {
        let mut state = self.state.lock();
        state.config.edit_vdev(guid, &mut |list| match object {
            Some(object) if list.contains(DTL) => config::replace(list, DTL, object.into()),
            Some(object) => list.insert(DTL, object),
            None => {
                // What marks a leaf that was being resilvered goes with it.
                for name in [DTL, "resilver_txg", super::scan::RESILVER_DEFER] {
                    list.remove(name);
                }
            }
        });
        state.config_dirty = true;
    }
}

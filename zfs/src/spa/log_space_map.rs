//! Logs of space map changes that are not yet in the metaslabs' own maps (feature `log_spacemap`).
//! Source: `module/zfs/spa_log_spacemap.c`.
//!
//! The MOS lists one log per txg; an entry counts if its metaslab was last flushed at or before that txg. Import reads the
//! logs into the metaslabs. The first txg that writes anything flushes all of them and removes the logs: our own changes go to
//! the metaslabs' maps at once, so the feature is enabled from then on and not active, as in a pool that never logged.

use super::config::Config;
use super::core::Spa;
use super::directory;
use super::metaslab::Metaslabs;
use super::space_map::{Place, SpaceMap};
use super::vdev_zaps::TOP_ZAP;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::space_map::SpaceMapHeader;
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// The feature's guid name.
const FEATURE: &str = "com.delphix:log_spacemap";
/// The entry of the object directory (`DMU_POOL_LOG_SPACEMAP_ZAP`): a ZAP of txg → log.
const LIST: &str = "com.delphix:log_spacemap_zap";
/// The entry of a top-level vdev's ZAP (`VDEV_TOP_ZAP_MS_UNFLUSHED_PHYS_TXGS`): an array of txgs by metaslab.
const FLUSHED: &str = "com.delphix:ms_unflushed_phys_txgs";
/// More metaslabs of one vdev are never listed (`zfs_vdev_ms_count_limit`).
const METASLABS_MAX: u64 = 1 << 17;

/// Txgs in which the metaslabs of a vdev were flushed.
struct Flushed {
    /// The vdev's ZAP and the array.
    zap: u64,
    object: u64,
    shift: u64,
    txgs: Vec<u64>,
}

/// The logs of a pool, as import found them.
pub(super) struct Logs {
    /// The ZAP that lists them.
    list: u64,
    /// Log objects by txg.
    logs: BTreeMap<u64, u64>,
    flushed: BTreeMap<u32, Flushed>,
}

fn flushed(mos: &Arc<Objset>, config: &Config) -> Result<BTreeMap<u32, Flushed>> {
    let mut all = BTreeMap::new();
    for (layout, top) in config.layouts()?.iter().filter_map(|l| {
        let top = config.tops().iter().find(|t| t.get_u64("id") == Some(u64::from(l.id)));
        Some((l, top?))
    }) {
        let Some(zap) = top.get_u64(TOP_ZAP) else { continue };
        let object = match zap::lookup_u64(&mos.hold(zap)?, FLUSHED) {
            Ok(object) => object,
            Err(Error::NotFound) => continue,
            Err(error) => return Err(error),
        };
        let count = (layout.asize >> layout.metaslab_shift).min(METASLABS_MAX);
        let mut bytes = vec![0; count as usize * 8];
        mos.hold(object)?.read(0, &mut bytes)?;
        let txgs = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
        all.insert(layout.id, Flushed { zap, object, shift: u64::from(layout.metaslab_shift), txgs });
    }
    Ok(all)
}

impl Logs {
    /// Finds the logs of a pool; `None` if it has none.
    pub(super) fn find(mos: &Arc<Objset>, config: &Config) -> Result<Option<Self>> {
        let Some(list) = directory::lookup(mos, LIST)? else { return Ok(None) };
        let mut logs = BTreeMap::new();
        for entry in zap::entries(&mos.hold(list)?)? {
            let name = core::str::from_utf8(&entry.name).ok().and_then(|n| u64::from_str_radix(n, 16).ok());
            let txg = name.ok_or(Error::corrupt("log space maps: a name is no txg", None))?;
            logs.insert(txg, entry.value.first());
        }
        Ok(Some(Logs { list, logs, flushed: flushed(mos, config)? }))
    }

    /// Tells the metaslabs what the logs say (`spa_ld_log_sm_data`).
    pub(super) fn apply(&self, mos: &Arc<Objset>, space: &Metaslabs) -> Result<()> {
        for (txg, object) in &self.logs {
            // Entries of a log count sectors of 512 bytes, as it serves all vdevs.
            let log = SpaceMap::open(mos, *object, Place { vdev: 0, shift: 9, start: 0 })?;
            log.for_each(|free, start, len, vdev| {
                let vdev = vdev.ok_or(Error::corrupt("log space maps: entry without a vdev", None))?;
                let flushed = self.flushed.get(&vdev);
                let last = flushed.and_then(|f| f.txgs.get((start >> f.shift) as usize));
                if last.is_some_and(|last| txg < last) {
                    return Ok(());
                }
                space.apply_log(vdev, free, start, len)
            })?;
        }
        space.logs_applied();
        Ok(())
    }

    /// Removes the logs: all metaslabs were flushed. Syncing context.
    fn destroy(self, spa: &Spa, tx: &Tx) -> Result<()> {
        let mos = &spa.mos;
        for object in self.logs.values() {
            // A map with a histogram counts as a user of that feature.
            if SpaceMapHeader::parse(&mos.hold(*object)?.bonus())?.histogram.is_some() {
                spa.change_feature(tx, "com.delphix:spacemap_histogram", -1)?;
            }
            mos.free(tx, *object)?;
        }
        directory::remove(mos, tx, LIST)?;
        mos.free(tx, self.list)?;
        for Flushed { zap, object, .. } in self.flushed.values() {
            zap::remove(&mos.hold(*zap)?, tx, FLUSHED)?;
            mos.free(tx, *object)?;
        }
        spa.change_feature(tx, FEATURE, -1)
    }
}

impl Spa {
    /// Flushes what an earlier import logged and removes its logs, if it left any: before the first change of the space maps.
    pub(super) fn flush_logs(&self, tx: &Tx) -> Result<()> {
        let Some(logs) = self.state.lock().logs.take() else { return Ok(()) };
        self.space.flush(tx, &self.rules(), &mut || self.space_map_created(tx))?;
        logs.destroy(self, tx)
    }
}

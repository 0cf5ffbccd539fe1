//! Logs of space map changes that are not yet in the metaslabs' own maps (feature `log_spacemap`): read, never written.
//! Source: `module/zfs/spa_log_spacemap.c`.
//!
//! The MOS lists one log per txg; an entry counts if its metaslab was last flushed at or before that txg.

use super::config::Config;
use super::directory;
use super::range_tree::RangeTree;
use super::space_map::{Place, SpaceMap};
use crate::dmu::Objset;
use crate::error::{Error, Result};
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Txgs in which the metaslabs of a vdev were flushed.
struct Flushed {
    shift: u64,
    txgs: Vec<u64>,
}

fn flushed(mos: &Arc<Objset>, config: &Config) -> Result<BTreeMap<u32, Flushed>> {
    let mut all = BTreeMap::new();
    for (layout, top) in config.layouts()?.iter().filter_map(|l| {
        let top = config.tops().iter().find(|t| t.get_u64("id") == Some(u64::from(l.id)));
        Some((l, top?))
    }) {
        let Some(zap) = top.get_u64("com.delphix:vdev_zap_top") else { continue };
        let object = match zap::lookup_u64(&mos.hold(zap)?, "com.delphix:ms_unflushed_phys_txgs") {
            Ok(object) => object,
            Err(Error::NotFound) => continue,
            Err(error) => return Err(error),
        };
        let count = layout.asize >> layout.metaslab_shift;
        let mut bytes = vec![0; (count as usize).min(1 << 17) * 8];
        mos.hold(object)?.read(0, &mut bytes)?;
        let txgs = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
        all.insert(layout.id, Flushed { shift: u64::from(layout.metaslab_shift), txgs });
    }
    Ok(all)
}

/// Adds what the logs say to the allocated ranges of the vdevs.
pub(super) fn apply(mos: &Arc<Objset>, config: &Config, maps: &mut [(u32, RangeTree)]) -> Result<()> {
    let Some(list) = directory::lookup(mos, "com.delphix:log_spacemap_zap")? else { return Ok(()) };
    let flushed = flushed(mos, config)?;
    let mut logs = BTreeMap::new();
    for entry in zap::entries(&mos.hold(list)?)? {
        let name = core::str::from_utf8(&entry.name).ok().and_then(|n| u64::from_str_radix(n, 16).ok());
        let txg = name.ok_or(Error::corrupt("log space maps: a name is no txg", None))?;
        logs.insert(txg, entry.value.first());
    }
    for (txg, object) in logs {
        // Entries of a log count sectors of 512 bytes, as it serves all vdevs.
        SpaceMap::open(mos, object, Place { vdev: 0, shift: 9, start: 0 })?.for_each(
            |free, start, len, vdev| {
                let vdev = vdev.ok_or(Error::corrupt("log space maps: entry without a vdev", None))?;
                let Some(map) = maps.iter_mut().find(|(id, _)| *id == vdev).map(|(_, map)| map) else {
                    return Ok(());
                };
                let last = flushed.get(&vdev).and_then(|f| f.txgs.get((start >> f.shift) as usize));
                if last.is_some_and(|last| txg < *last) {
                    return Ok(());
                }
                let done = if free { map.remove(start, len) } else { map.add(start, len) };
                let rule = if free {
                    "log space maps: free of free space"
                } else {
                    "log space maps: double allocation"
                };
                if done { Ok(()) } else { Err(Error::corrupt(rule, None)) }
            },
        )?;
    }
    Ok(())
}

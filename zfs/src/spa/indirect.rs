//! Removed top-level vdevs: their mappings are read from the MOS at import. Source: `spa_remove_init` (`vdev_removal.c`),
//! `vdev_indirect_mapping.c`.
//!
//! The mapping of a vdev may lie on vdevs that were removed later, so they are read from the last removed to the first: each names the
//! one before it.

use super::config::Config;
use crate::dmu::Objset;
use crate::error::{Error, Result};
use crate::ondisk::indirect::{ENTRY_SIZE, MappingEntry, entry_count};
use crate::vdev::{Mapping, Segment, VdevTree};
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// The most entries of a mapping that we read: 24 bytes each.
const ENTRIES_MAX: u64 = 16 << 20;

/// Reads the mappings of all removed vdevs, and tells the I/O engine. `open` makes the tree anew.
pub(super) fn load(
    mos: &Arc<Objset>,
    zio: &Zio,
    config: &Config,
    open: &dyn Fn(&VdevTree) -> Result<VdevTree>,
) -> Result<()> {
    let mut left: Vec<(u64, u64, Option<u64>)> = Vec::new();
    for top in config.tops().iter().filter(|top| top.get_str("type") == Some("indirect")) {
        let object = top.u64("com.delphix:indirect_object")?;
        left.push((top.u64("id")?, object, top.get_u64("com.delphix:prev_indirect_vdev")));
    }
    while !left.is_empty() {
        // The last removed of the rest is the one that none of the rest names.
        let last = left.iter().position(|(id, ..)| left.iter().all(|(.., previous)| *previous != Some(*id)));
        let last = last.ok_or(Error::corrupt("removed vdevs: each was removed before another", None))?;
        let (id, object, _) = left.swap_remove(last);
        let mapping = read(mos, object)?;
        let mut tree = open(&zio.vdevs())?;
        tree.set_mapping(id as u32, mapping)?;
        zio.set_vdevs(tree);
    }
    Ok(())
}

fn read(mos: &Arc<Objset>, object: u64) -> Result<Mapping> {
    let dnode = mos.hold(object)?;
    let count = entry_count(&dnode.bonus())?;
    let info = dnode.info();
    let capacity = info.capacity();
    if count > ENTRIES_MAX || count * ENTRY_SIZE as u64 > capacity {
        return Err(Error::corrupt("removed vdev: mapping longer than its object", None));
    }
    let mut bytes = vec![0; count as usize * ENTRY_SIZE];
    dnode.read(0, &mut bytes)?;
    let entries = bytes.as_chunks::<ENTRY_SIZE>().0.iter().map(MappingEntry::parse);
    let segment = |entry: MappingEntry| Segment {
        offset: entry.source,
        len: entry.target.asize,
        vdev: entry.target.vdev,
        to: entry.target.offset,
    };
    Mapping::new(entries.map(segment).collect())
}

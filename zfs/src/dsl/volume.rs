//! Volumes as datasets: their size and the space that it may come to need. Source: `zvol_update_volsize` (`module/zfs/zvol.c`),
//! `zvol_volsize_to_reservation` (`lib/libzfs/libzfs_dataset.c`).

use super::dataset::Dataset;
use super::pool::DslPool;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::sync::Arc;

/// The object that holds the data (`ZVOL_OBJ`).
pub(crate) const DATA_OBJECT: u64 = 1;
/// The ZAP that holds the size (`ZVOL_ZAP_OBJ`).
pub(crate) const ZAP_OBJECT: u64 = 2;
/// Its entry.
pub(crate) const SIZE: &str = "size";
/// Block pointers in an indirect block of the largest size (`DNODES_PER_LEVEL`).
const POINTERS_PER_INDIRECT: u64 = 1 << (17 - 7);
/// The largest indirect block, in bytes (`1 << DN_MAX_INDBLKSHIFT`).
const INDIRECT_SIZE: u64 = 128 << 10;
/// What asize is measured by (`SPA_OLD_MAXBLOCKSIZE`).
const TYPICAL_BLOCK: u64 = 128 << 10;

/// Changes a volume's size; what lies past a smaller one is freed.
pub(crate) fn resize(os: &Arc<Objset>, tx: &Tx, size: u64) -> Result<()> {
    let zap = os.hold(ZAP_OBJECT)?;
    let old = zap::lookup_u64(&zap, SIZE)?;
    zap::update_u64(&zap, tx, SIZE, size)?;
    if size < old {
        os.hold_typed(DATA_OBJECT, ObjectType::ZVOL)?.free_range(tx, size, old - size)?;
    }
    Ok(())
}

/// What a volume of `size` bytes comes to use with all its metadata, if the data itself takes `data` bytes.
fn with_metadata(size: u64, data: u64, block_size: u64, copies: u64) -> u64 {
    let mut blocks = size / block_size.max(1);
    // One of each level of the meta-dnode.
    let mut metadata = 7;
    while blocks > 1 {
        blocks = blocks.div_ceil(POINTERS_PER_INDIRECT);
        metadata += blocks;
    }
    let metadata = metadata * (copies + 1).min(3) * INDIRECT_SIZE;
    data.saturating_mul(copies).saturating_add(metadata)
}

impl DslPool {
    /// The refreservation of a volume that is not sparse, in bytes: what it can come to use with all its metadata, and on RAID-Z with what
    /// small blocks take beyond the parity of large ones.
    #[must_use]
    pub fn volume_reservation(&self, size: u64, block_size: u64, copies: u64) -> u64 {
        let blocks = u128::from(size / block_size.max(1));
        let vdevs = self.mos().zio().vdevs();
        let tops = vdevs.tops();
        let inflated = tops.iter().flatten().filter_map(|top| {
            let typical = top.psize_to_asize(TYPICAL_BLOCK);
            let each = u128::from(top.psize_to_asize(block_size));
            // Without parity there is nothing to inflate.
            (typical > TYPICAL_BLOCK)
                .then(|| blocks * each / u128::from(typical >> 9) * u128::from(TYPICAL_BLOCK >> 9))
        });
        let data = inflated.max().unwrap_or(u128::from(size));
        with_metadata(size, u64::try_from(data).unwrap_or(u64::MAX), block_size, copies)
    }

    /// A volume's size and block size, in bytes.
    pub(crate) fn volume_geometry(&self, dataset: &Dataset) -> Result<(u64, u64)> {
        let os = dataset.objset()?;
        let size = zap::lookup_u64(&os.hold(ZAP_OBJECT)?, SIZE)?;
        Ok((size, u64::from(os.hold(DATA_OBJECT)?.block_size())))
    }

    /// Whether a volume may get this size.
    pub(crate) fn check_volume_size(&self, dataset: &Dataset, size: u64) -> Result<()> {
        let (_, block_size) = self.volume_geometry(dataset)?;
        if size == 0 || !size.is_multiple_of(block_size) {
            return Err(Error::Invalid("volsize: must be a multiple of volblocksize and not 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::with_metadata;

    #[test]
    fn reservations_are_those_of_openzfs() {
        assert_eq!(with_metadata(16 << 20, 16 << 20, 8192, 1), 19_398_656);
        assert_eq!(with_metadata(4 << 20, 4 << 20, 16384, 1), 6_291_456);
    }
}

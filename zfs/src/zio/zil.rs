//! Intent-log blocks: their checksum stands in the block, and the pointer before them holds the verifier.

use super::Zio;
use super::examine::{Examined, lost};
use crate::checksum::{Checksum, embedded};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::Geometry;
use crate::vdev::queue::{self, WriteExtent};
use alloc::vec::Vec;
use bytes::Bytes;

/// Whether the trailer of an intent-log block is in front (zilog2).
fn is_zilog2(bp: &Blkptr) -> Result<bool> {
    match Checksum::from_raw(bp.checksum_type())? {
        Checksum::Zilog2 => Ok(true),
        Checksum::Zilog => Ok(false),
        _ => Err(Error::corrupt("intent log: block with a foreign checksum function", None)),
    }
}

impl Zio {
    /// Writes an intent-log block. `bp` (checksum type zilog or zilog2) names its place, its size and, as the
    /// verifier, its checksum words; `data` holds the block with the log chain header where that type keeps it,
    /// the embedded checksum is put in here. Not durable before [`Zio::flush`].
    ///
    /// Of a zilog2 block `data` may hold the beginning alone, as far as it is in use: nobody looks at the rest (`zil_lwb_write_issue`).
    pub fn write_zil(&self, bp: &Blkptr, data: Bytes) -> Result<()> {
        let zilog2 = is_zilog2(bp)?;
        let (len, size) = (data.len() as u64, bp.psize());
        if len > size || len < size && !zilog2 {
            return Err(Error::Invalid("intent-log block of another size than its pointer"));
        }
        let (vdevs, mut block) = (self.vdevs(), Vec::from(data));
        // There the place of each column follows from the size of the whole (`zio_shrink`).
        let striped = |dva: Dva| vdevs.top(dva.vdev).is_ok_and(|top| top.geometry != Geometry::Plain);
        if len < size && bp.dvas().any(striped) {
            block.resize(size as usize, 0);
        }
        if !embedded::seal_zil(&mut block, zilog2, bp.checksum()) {
            return Err(Error::Invalid("intent-log block that claims to be longer than it is"));
        }
        let data = Bytes::from(block);
        let writes = bp.dvas().map(|dva| WriteExtent { dva, data: data.clone() }).collect();
        queue::write(&vdevs, bp.birth(), writes)
    }

    /// Reads an intent-log block; [`Error::Checksum`] is the normal end of a chain. The records of an encrypted one show no more
    /// than claiming needs, unless the key is loaded.
    pub fn read_zil(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        // The end of a chain is what no copy has: nobody is to blame, and nothing to mend.
        let examined = self.examine_zil(bp, at)?;
        let data = examined.data.ok_or_else(|| lost(examined.failure, at))?;
        match self.keys.of(at.objset).filter(|_| bp.is_encrypted()) {
            Some(key) => {
                let mut plain = Vec::from(data);
                key.open_log(bp, at, &mut plain)?;
                Ok(plain.into())
            }
            None => Ok(data),
        }
    }

    /// [`Zio::examine`] of an intent-log block, which the checksum inside it tells from others.
    pub(super) fn examine_zil(&self, bp: &Blkptr, at: Bookmark) -> Result<Examined> {
        super::read::admit(bp, at)?;
        let zilog2 = is_zilog2(bp)?;
        let good = |data: &[u8]| embedded::check_zil(&mut data.to_vec(), zilog2, bp.checksum(), bp.has_mac());
        Ok(self.examine(bp, bp.psize(), &good))
    }
}

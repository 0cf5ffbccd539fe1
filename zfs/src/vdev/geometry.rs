//! How much space a block takes on a top-level vdev. Source: `vdev_psize_to_asize`, `vdev_set_deflate_ratio` (`vdev.c`).

use super::draid::Layout;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;

/// The most parity columns (`VDEV_RAIDZ_MAXPARITY`).
const PARITY_MAX: u64 = 3;
/// The most children of a raidz vdev that the field of its parity allows.
const CHILDREN_MAX: u64 = 255;
/// The block by which space is deflated, in bytes (`SPA_OLD_MAXBLOCKSIZE`).
const DEFLATE_BLOCK: u64 = 128 << 10;

/// The shape of a top-level vdev, as far as sizes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// A disk or a mirror.
    Plain,
    /// Raidz.
    Raidz {
        /// Devices.
        children: u64,
        /// Parity columns.
        parity: u64,
    },
    /// Draid.
    Draid(Layout),
}

impl Geometry {
    /// The shape that a top-level vdev's list describes.
    pub(crate) fn parse(config: &NvList) -> Result<Self> {
        match config.str("type")? {
            "raidz" => {
                let children = config.get_nvlists("children").unwrap_or(&[]).len() as u64;
                let parity = config.get_u64("nparity").unwrap_or(1);
                if !(1..=PARITY_MAX).contains(&parity) || children <= parity || children > CHILDREN_MAX {
                    return Err(Error::corrupt("vdev tree: impossible raidz", None));
                }
                if config.contains("raidz_expanding") || config.contains("raidz_expand_txgs") {
                    return Err(Error::unsupported("expanded raidz"));
                }
                Ok(Geometry::Raidz { children, parity })
            }
            "draid" => Ok(Geometry::Draid(Layout::parse(config)?)),
            _ => Ok(Geometry::Plain),
        }
    }

    /// The allocated size of a block of `psize` bytes.
    #[must_use]
    pub fn psize_to_asize(&self, ashift: u8, psize: u64) -> u64 {
        match self {
            Geometry::Plain => psize.next_multiple_of(1 << ashift),
            Geometry::Raidz { children, parity } => {
                let data = psize.div_ceil(1 << ashift);
                let sectors = data + parity * data.div_ceil(children - parity);
                // What is left over is a multiple of what the smallest block takes: no free space is too small for any.
                sectors.next_multiple_of(parity + 1) << ashift
            }
            Geometry::Draid(layout) => layout.psize_to_asize(ashift, psize),
        }
    }

    /// Allocated bytes as the bytes of data that they stand for, by the measure of a block of 128 KiB: what quotas, `zfs list` and the
    /// accounting of datasets count.
    #[must_use]
    pub fn deflate(&self, ashift: u8, asize: u64) -> u64 {
        match self {
            Geometry::Plain => asize & !511,
            _ => {
                (asize >> 9).saturating_mul(DEFLATE_BLOCK / (self.psize_to_asize(ashift, DEFLATE_BLOCK) >> 9))
            }
        }
    }

    /// What every allocation is a multiple of, in bytes; allocations must begin at such a multiple too if it is draid.
    #[must_use]
    pub fn alignment(&self, ashift: u8) -> u64 {
        match self {
            Geometry::Draid(layout) => layout.width() << ashift,
            _ => 1 << ashift,
        }
    }

    /// What physical sizes are rounded up to, in bytes (`vdev_get_min_alloc`).
    #[must_use]
    pub fn min_alloc(&self, ashift: u8) -> u64 {
        match self {
            Geometry::Draid(layout) => layout.data << ashift,
            _ => 1 << ashift,
        }
    }

    /// How many children may be lost, of all.
    pub(crate) fn parity(&self) -> usize {
        match self {
            Geometry::Plain => 0,
            Geometry::Raidz { parity, .. } => *parity as usize,
            Geometry::Draid(layout) => layout.parity as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_openzfs_ones() {
        let raidz = Geometry::Raidz { children: 3, parity: 1 };
        assert_eq!(raidz.psize_to_asize(9, 512), 1024);
        assert_eq!(raidz.psize_to_asize(9, 1536), 3072);
        assert_eq!(raidz.psize_to_asize(12, 128 << 10), 192 << 10);
        assert_eq!(raidz.deflate(9, 192 << 10), 384 * 341);
        let wide = Geometry::Raidz { children: 6, parity: 3 };
        assert_eq!(wide.psize_to_asize(9, 512), 2048);
        let draid = Geometry::Draid(Layout::new(7, 2, 3, 1).unwrap());
        assert_eq!((draid.psize_to_asize(9, 512), draid.psize_to_asize(9, 2048)), (2560, 5120));
        assert_eq!(Geometry::Plain.deflate(12, 8192), 8192);
    }
}

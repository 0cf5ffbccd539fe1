//! Block volumes. Source: `module/zfs/zvol.c`.
//!
//! A volume is an objset with one object of data (1) and one ZAP that holds its size (2). Reading only, so far.

use crate::dmu::{Dnode, Objset};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetKind;
use crate::zap;
use alloc::sync::Arc;

/// The object that holds the data (`ZVOL_OBJ`).
const DATA_OBJECT: u64 = 1;
/// The ZAP that holds the size (`ZVOL_ZAP_OBJ`).
const ZAP_OBJECT: u64 = 2;

/// A volume, open for reading.
pub struct Zvol {
    data: Arc<Dnode>,
    size: u64,
}

impl Zvol {
    /// Opens the volume in `os`. [`Error::Invalid`] if it is none.
    pub fn open(os: Arc<Objset>) -> Result<Self> {
        if os.kind() != ObjsetKind::Zvol {
            return Err(Error::Invalid("not a volume"));
        }
        let data = os.hold_typed(DATA_OBJECT, ObjectType::ZVOL)?;
        let size = zap::lookup_u64(&os.hold(ZAP_OBJECT)?, "size")?;
        Ok(Zvol { data, size })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.data.block_size()
    }

    /// Reads from byte `offset`; fewer bytes than asked for only at its end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = self.size.saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..want];
        let got = self.data.read(offset, buf)?;
        buf[got..].fill(0);
        Ok(want)
    }

    /// The first byte at or after `from` that may hold data; `None` if there is none.
    pub fn next_data(&self, from: u64) -> Result<Option<u64>> {
        if from >= self.size {
            return Ok(None);
        }
        let found = self.data.next_offset(false, from)?;
        Ok(found.map(|at| at.max(from)).filter(|&at| at < self.size))
    }

    /// The first byte at or after `from` that is in a hole, at most the size.
    pub fn next_hole(&self, from: u64) -> Result<u64> {
        if from >= self.size {
            return Ok(self.size);
        }
        let found = self.data.next_offset(true, from)?;
        Ok(found.map_or(self.size, |at| at.max(from).min(self.size)))
    }
}

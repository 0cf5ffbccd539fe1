//! Block volumes. Source: `module/zfs/zvol.c`.
//!
//! A volume is an objset with one object of data (1) and one ZAP that holds its size (2). Reading only, so far.

use crate::dmu::Objset;
use crate::error::Result;
use alloc::sync::Arc;

/// A volume, open for reading.
pub struct Zvol {}

#[expect(unused_variables, reason = "interface first")]
impl Zvol {
    /// Opens the volume in `os`. [`crate::Error::Invalid`] if it is none.
    pub fn open(os: Arc<Objset>) -> Result<Self> {
        todo!()
    }
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// Its block size in bytes.
    pub fn block_size(&self) -> u32 {
        todo!()
    }
    /// Reads from byte `offset`; fewer bytes than asked for only at its end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
    /// The first byte at or after `from` that may hold data; `None` if there is none.
    pub fn next_data(&self, from: u64) -> Result<Option<u64>> {
        todo!()
    }
}

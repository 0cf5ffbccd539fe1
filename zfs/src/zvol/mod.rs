//! Block volumes. Source: `module/zfs/zvol.c`.
//!
//! A volume is an objset with one object of data (1) and one ZAP that holds its size (2). [`Zvol`] reads one,
//! [`OpenZvol`] writes it as well.

mod write;

pub use write::OpenZvol;

use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::dsl::volume::{DATA_OBJECT, SIZE, ZAP_OBJECT};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetKind;
use crate::zap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// Makes an empty objset a volume (`zvol_create_cb`). `size` is a multiple of `block_size`, in bytes.
pub fn init(os: &Arc<Objset>, tx: &Tx, size: u64, block_size: u32) -> Result<()> {
    os.claim(tx, DATA_OBJECT, &Allocate::plain(ObjectType::ZVOL, block_size))?;
    let zap = os.claim(tx, ZAP_OBJECT, &Allocate::plain(ObjectType::ZVOL_PROP, 512))?;
    zap::format(&zap, tx, &zap::CreateOptions::default())?;
    zap::update_u64(&zap, tx, SIZE, size)
}

fn size_of(os: &Arc<Objset>) -> Result<u64> {
    zap::lookup_u64(&os.hold(ZAP_OBJECT)?, SIZE)
}

/// A volume, open for reading.
pub struct Zvol {
    data: Arc<Dnode>,
    /// It may change while the volume is open for writing.
    size: AtomicU64,
}

impl Zvol {
    /// Opens the volume in `os`. [`Error::Invalid`] if it is none.
    pub fn open(os: Arc<Objset>) -> Result<Self> {
        if os.kind() != ObjsetKind::Zvol {
            return Err(Error::Invalid("not a volume"));
        }
        let data = os.hold_typed(DATA_OBJECT, ObjectType::ZVOL)?;
        let size = size_of(&os)?;
        Ok(Zvol { data, size: AtomicU64::new(size) })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Its block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.data.block_size()
    }

    /// Reads from byte `offset`; fewer bytes than asked for only at its end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = self.size().saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..want];
        let got = self.data.read(offset, buf)?;
        buf[got..].fill(0);
        Ok(want)
    }

    /// The first byte at or after `from` that may hold data; `None` if there is none.
    pub fn next_data(&self, from: u64) -> Result<Option<u64>> {
        let size = self.size();
        if from >= size {
            return Ok(None);
        }
        let found = self.data.next_offset(false, from)?;
        Ok(found.map(|at| at.max(from)).filter(|&at| at < size))
    }

    /// The first byte at or after `from` that is in a hole, at most the size.
    pub fn next_hole(&self, from: u64) -> Result<u64> {
        let size = self.size();
        if from >= size {
            return Ok(size);
        }
        let found = self.data.next_offset(true, from)?;
        Ok(found.map_or(size, |at| at.max(from).min(size)))
    }
}

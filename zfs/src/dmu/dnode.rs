//! Dnodes in memory: one object, its shape, and the changes that are not yet on disk. Source: `dnode.c`, `dbuf.c`.

use crate::dmu::{Objset, Tx};
use crate::error::Result;
use crate::ondisk::object_type::ObjectType;
use alloc::sync::Arc;
use bytes::Bytes;

/// The shape of an object as the newest change left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnodeInfo {
    /// The object's number.
    pub object: u64,
    /// What its blocks hold.
    pub object_type: ObjectType,
    /// What the bonus holds.
    pub bonus_type: ObjectType,
    /// Length of the bonus in bytes.
    pub bonus_len: usize,
    /// Data block size in bytes.
    pub block_size: u32,
    /// Size of an indirect block in bytes.
    pub indirect_size: u32,
    /// Levels of the block tree on disk, 1 if there are no indirect blocks.
    pub levels: u8,
    /// Block pointers in the dnode.
    pub nblkptr: u8,
    /// Largest block id that may hold data.
    pub maxblkid: u64,
    /// Space used on disk, in bytes, as of the last sync.
    pub used: u64,
    /// Slots of 512 bytes.
    pub slots: u8,
    /// `FLAG_*` of [`crate::ondisk::dnode`].
    pub flags: u8,
    /// Whether it has a spill block.
    pub has_spill: bool,
    /// Checksum override, 0 if inherited.
    pub checksum: u8,
    /// Compression override, 0 if inherited.
    pub compress: u8,
}

/// An object.
pub struct Dnode {}

impl Dnode {
    /// The object's number.
    #[must_use]
    pub fn object(&self) -> u64 {
        todo!()
    }

    /// The objset it belongs to.
    #[must_use]
    pub fn objset(&self) -> &Arc<Objset> {
        todo!()
    }

    /// Its shape.
    #[must_use]
    pub fn info(&self) -> DnodeInfo {
        todo!()
    }

    /// What its blocks hold.
    #[must_use]
    pub fn object_type(&self) -> ObjectType {
        todo!()
    }

    /// Data block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        todo!()
    }

    /// Space used on disk, in bytes, as of the last sync.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        todo!()
    }

    /// Whether the object was freed (a handle may outlive its object).
    #[must_use]
    pub fn is_freed(&self) -> bool {
        todo!()
    }

    /// Reads from `offset`. Holes are zeros; short only past the last block (`(maxblkid + 1) * block_size`): the
    /// length of a *file* is known to its file system, not here.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let _ = (offset, out);
        todo!()
    }

    /// The whole block, `block_size` bytes; past the end it is zeros. Shared with the cache, not copied.
    pub fn read_block(&self, blkid: u64) -> Result<Bytes> {
        let _ = blkid;
        todo!()
    }

    /// Starts reading a range into the cache.
    pub fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
        todo!()
    }

    /// Writes at `offset`, extending the object. Blocks that are not fully covered are read first.
    pub fn write(self: &Arc<Self>, tx: &Tx, offset: u64, data: &[u8]) -> Result<()> {
        let _ = (tx, offset, data);
        todo!()
    }

    /// Replaces a whole block without copying; `data` is exactly the block size.
    pub fn write_block(self: &Arc<Self>, tx: &Tx, blkid: u64, data: Bytes) -> Result<()> {
        let _ = (tx, blkid, data);
        todo!()
    }

    /// Makes a hole of `len` bytes at `offset` (`u64::MAX`: to the end). Parts of blocks are zeroed.
    pub fn free_range(self: &Arc<Self>, tx: &Tx, offset: u64, len: u64) -> Result<()> {
        let _ = (tx, offset, len);
        todo!()
    }

    /// The bonus.
    #[must_use]
    pub fn bonus(&self) -> Bytes {
        todo!()
    }

    /// Replaces the bonus. [`crate::Error::TooBig`] if it does not fit beside the block pointers and the spill pointer.
    pub fn set_bonus(self: &Arc<Self>, tx: &Tx, bonus_type: ObjectType, bonus: &[u8]) -> Result<()> {
        let _ = (tx, bonus_type, bonus);
        todo!()
    }

    /// Room for a bonus, in bytes, with or without a spill block pointer behind it.
    #[must_use]
    pub fn max_bonus(&self, with_spill: bool) -> usize {
        let _ = with_spill;
        todo!()
    }

    /// The spill block.
    pub fn spill(&self) -> Result<Option<Bytes>> {
        todo!()
    }

    /// Writes the spill block; it is padded with zeros to a multiple of 512 bytes (at most 128 KiB).
    pub fn set_spill(self: &Arc<Self>, tx: &Tx, data: &[u8]) -> Result<()> {
        let _ = (tx, data);
        todo!()
    }

    /// Removes the spill block.
    pub fn remove_spill(self: &Arc<Self>, tx: &Tx) -> Result<()> {
        let _ = tx;
        todo!()
    }

    /// Changes the data block size, in bytes: only while there is at most block 0.
    pub fn set_block_size(self: &Arc<Self>, tx: &Tx, block_size: u32) -> Result<()> {
        let _ = (tx, block_size);
        todo!()
    }

    /// Changes the object type (`dmu_object_set_…`, used when an object is reused).
    pub fn set_type(self: &Arc<Self>, tx: &Tx, object_type: ObjectType) -> Result<()> {
        let _ = (tx, object_type);
        todo!()
    }

    /// Overrides checksum and compression for this object's data, by their numbers on disk; 0 inherits.
    pub fn set_policy(self: &Arc<Self>, tx: &Tx, checksum: u8, compress: u8) -> Result<()> {
        let _ = (tx, checksum, compress);
        todo!()
    }

    /// The first offset from `from` on that is in a hole (`hole`) or in data, block-wise; `None` if there is none
    /// before the end `(maxblkid + 1) * block_size`.
    pub fn next_offset(&self, hole: bool, from: u64) -> Result<Option<u64>> {
        let _ = (hole, from);
        todo!()
    }
}

//! Block reads and writes: what stands between block pointers and devices.

use crate::arc::ArcStats;
use crate::checksum::Checksum;
use crate::compress::Compression;
use crate::error::Result;
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::VdevTree;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Data and metadata.
    Normal,
    /// Intent-log blocks.
    Log,
}

/// Who gives out space: `spa::metaslab`.
pub trait AllocateBlocks: Send + Sync {
    /// Allocates `copies` (1 to 3) extents of `asize` bytes in different places, for a block born in `txg`.
    /// [`crate::Error::NoSpace`] if there is no extent of that size: the caller then tries a gang block.
    fn allocate(&self, txg: u64, asize: u64, copies: usize, class: Class) -> Result<Vec<Dva>>;
    /// Takes back an extent that was allocated in this very `txg` and never referred to.
    fn unallocate(&self, txg: u64, dva: &Dva);
}

/// How a block is to be written.
#[derive(Debug, Clone, Copy)]
pub struct WritePolicy {
    /// `dmu_object_type_t` that goes into the block pointer.
    pub object_type: u8,
    /// Level of the block: 0 is data.
    pub level: u8,
    /// Checksum function.
    pub checksum: Checksum,
    /// Compression function; what does not save an eighth is stored as it is.
    pub compression: Compression,
    /// How many copies, 1 to 3.
    pub copies: u8,
    /// Fill count for the block pointer.
    pub fill: u64,
    /// What compresses to 112 bytes or less may go into the block pointer.
    pub may_embed: bool,
    /// What is all zeros becomes a hole, with the txg as its birth. (A caller that had no block there before
    /// stores [`Blkptr::HOLE`] instead.)
    pub may_hole: bool,
}

/// A block to write.
#[derive(Debug, Clone)]
pub struct Write {
    /// Logical data: its length is the logical size, a multiple of 512.
    pub data: Bytes,
    /// How.
    pub policy: WritePolicy,
    /// Where it belongs, for error messages.
    pub at: Bookmark,
    /// A block that was allocated in this same txg: overwritten in place if the new physical size equals its own,
    /// else the caller frees it.
    pub rewrite: Option<Blkptr>,
}

/// Outcome of looking at every copy of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Bytes read from devices.
    pub bytes: u64,
    /// Copies that are as they should be.
    pub good: u32,
    /// Copies that could not be read or fail their checksum.
    pub bad: u32,
}

/// The I/O half of a pool.
pub struct Zio {}

impl Zio {
    /// An I/O engine on `vdevs`. `salt` is the pool's checksum salt (all zeros until the MOS is read);
    /// `arc_max` bounds the cache, in bytes.
    #[must_use]
    pub fn new(vdevs: VdevTree, salt: [u8; 32], arc_max: usize) -> Arc<Zio> {
        let _ = (vdevs, salt, arc_max);
        todo!()
    }

    /// The vdev tree.
    #[must_use]
    pub fn vdevs(&self) -> &VdevTree {
        todo!()
    }

    /// Sets the salt of skein, edonr and blake3.
    pub fn set_salt(&self, salt: [u8; 32]) {
        let _ = salt;
        todo!()
    }

    /// Changes the limit of the cache, in bytes; gives memory back at once.
    pub fn set_arc_max(&self, bytes: usize) {
        let _ = bytes;
        todo!()
    }

    /// The cache's figures.
    #[must_use]
    pub fn stats(&self) -> ArcStats {
        todo!()
    }

    /// The logical bytes of a block: a hole is zeros, an embedded block its payload; else from the cache, or read,
    /// verified and decompressed. Another copy is tried if one is bad.
    pub fn read(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        let _ = (bp, at);
        todo!()
    }

    /// As [`Zio::read`], but the block does not enter the cache.
    pub fn read_uncached(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        let _ = (bp, at);
        todo!()
    }

    /// Many reads: all are issued, then waited for once.
    pub fn read_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Bytes>> {
        let _ = wants;
        todo!()
    }

    /// Starts reading blocks into the cache and does not wait. Errors are forgotten.
    pub fn prefetch(self: &Arc<Self>, wants: Vec<(Blkptr, Bookmark)>) {
        let _ = wants;
        todo!()
    }

    /// The block if it is in the cache (or needs no device: holes and embedded blocks).
    #[must_use]
    pub fn cached(&self, bp: &Blkptr) -> Option<Bytes> {
        let _ = bp;
        todo!()
    }

    /// Writes blocks: compression and checksums in parallel, allocation in the order of `writes`, then everything is
    /// issued and waited for once. The answers are in the order of `writes`. On an error nothing of the call stays
    /// allocated.
    pub fn write(&self, alloc: &dyn AllocateBlocks, txg: u64, writes: Vec<Write>) -> Result<Vec<Blkptr>> {
        let _ = (alloc, txg, writes);
        todo!()
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// Every extent that a block occupies, headers and members of gang blocks each by itself: what to free, claim or
    /// count. Reads gang headers.
    pub fn extents(&self, bp: &Blkptr, at: Bookmark) -> Result<Vec<Dva>> {
        let _ = (bp, at);
        todo!()
    }

    /// Reads and checks every copy of a block. `Err` if no copy is good.
    pub fn verify(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        let _ = (bp, at);
        todo!()
    }

    /// [`Zio::verify`] of many blocks at once; the answers in the order of `wants`.
    pub fn verify_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Verified>> {
        let _ = wants;
        todo!()
    }

    /// Writes an intent-log block. `bp` (checksum type zilog or zilog2) names its place, its size and, as the
    /// verifier, its checksum words; `data` holds the block with the log chain header where that type keeps it,
    /// the embedded checksum is put in here.
    pub fn write_zil(&self, bp: &Blkptr, data: Bytes) -> Result<()> {
        let _ = (bp, data);
        todo!()
    }

    /// Reads an intent-log block; [`crate::Error::Checksum`] is the normal end of a chain.
    pub fn read_zil(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        let _ = (bp, at);
        todo!()
    }
}

//! Files that share blocks: a range of one becomes the same as a range of another, and only pointers are copied.
//! Source: `zfs_clone_range`, `zfs_clone_range_replay` (`module/zfs/zfs_vnops.c`), `zfs_log_clone_range` (`zfs_log.c`).
//!
//! # Invariants
//! - Of both files whole blocks are locked, in the order of datasets and objects.
//! - What is cloned is on disk, so that the log may refer to it; whoever asks for what is not waits for its txg.
//! - The source is held, and its blocks are locked, until the transaction ends: whatever frees them is of that txg or a later one.

use super::file::MAX_OFFSET;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::protect;
use super::types::{Durability, FileKind};
use super::znode::Znode;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::{CLONE_BLOCKS_MAX, Record};
use crate::zil::Payload;
use alloc::sync::Arc;

/// How often a clone waits for a txg before it is given up.
const WAITS_MAX: usize = 8;
/// What a cloned block may dirty, in bytes: its pointer, and its entry in a table.
const RESERVE_BLOCK: u64 = 512;
/// What the indirect blocks above a range may dirty besides, in bytes.
const RESERVE_INDIRECT: u64 = 128 << 10;

/// A range of a file.
#[derive(Clone, Copy)]
struct Place<'a> {
    znode: &'a Arc<Znode>,
    offset: u64,
}

impl Filesystem {
    /// Makes `len` bytes of a file, from `offset` on, the same as those of a file of `source` from `source_offset` on, which may be
    /// this file system, another one or a snapshot of the same pool. How many bytes: fewer where the source ends, or after an error in the
    /// middle.
    ///
    /// # Errors
    /// [`Error::Unsupported`] (feature block_cloning is not enabled, or a dataset is encrypted), [`Error::CrossDataset`] (another pool, or a
    /// dataset that writes its blocks otherwise), [`Error::Invalid`] (not whole blocks, blocks of different sizes, or a range that overlaps
    /// with itself): then the data must be copied. And what [`Filesystem::write`] gives.
    pub fn clone_range(
        &self,
        (object, offset): (u64, u64),
        source: &Filesystem,
        (source_object, source_offset): (u64, u64),
        len: u64,
        durability: Durability,
    ) -> Result<u64> {
        self.may_clone_from(source)?;
        let target = self.regular_for_writing(object)?;
        let from = source.znode(source_object)?;
        match from.kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid("not a regular file")),
        }
        self.check_flags(&target, protect::CONTENT)?;
        let (to, from) = (Place { znode: &target, offset }, Place { znode: &from, offset: source_offset });
        // A transaction of an older txg must not free the source's blocks behind our back: it would do so before they are referred to.
        source.hold(source_object)?;
        let done = self.clone_locked(to, source, from, len).and_then(|done| {
            if done > 0 && source.tunables.update_atime() {
                source.touch_atime(from.znode)?;
            }
            Ok(done)
        });
        source.release(source_object);
        let done = done?;
        if done > 0 {
            self.settle(object, durability == Durability::Now)?;
        }
        Ok(done)
    }

    /// Whether blocks of `source` may be in files of this file system. [`Error::CrossDataset`], [`Error::Unsupported`]: they may not.
    pub fn may_clone_from(&self, source: &Filesystem) -> Result<()> {
        if !Arc::ptr_eq(&self.pool, &source.pool) {
            return Err(Error::CrossDataset);
        }
        if !self.pool.clones_blocks() {
            return Err(Error::unsupported("cloning blocks without feature com.fudosecurity:block_cloning"));
        }
        if self.os.root().uses_crypt() || source.os.root().uses_crypt() {
            return Err(Error::unsupported("cloning blocks of encrypted datasets"));
        }
        if self.os.id() == source.os.id() || source.dataset.is_snapshot() {
            return Ok(());
        }
        // Properties of the one would not hold for what comes from the other (`zfs_bclone_strict_properties`).
        let of = |fs: &Filesystem| {
            let s = fs.os.settings();
            (s.checksum, s.compression, s.copies, s.special_small)
        };
        if of(self) == of(source) { Ok(()) } else { Err(Error::CrossDataset) }
    }

    fn clone_locked(&self, to: Place<'_>, source: &Filesystem, from: Place<'_>, len: u64) -> Result<u64> {
        let same = self.os.id() == source.os.id() && to.znode.object() == from.znode.object();
        loop {
            let (size, block) = (from.znode.size(), from.znode.dnode.block_size());
            let Some(len) = size.checked_sub(from.offset).map(|left| left.min(len)).filter(|len| *len > 0)
            else {
                return Ok(0);
            };
            let grows = to.znode.dnode.block_size() != block;
            self.check_clone(to, from, len, block)?;
            if same && from.offset < to.offset + len && to.offset < from.offset + len {
                return Err(Error::Invalid("a range cannot be cloned into itself"));
            }
            let whole = |at: u64| at + len.next_multiple_of(u64::from(block));
            let lock_source = || from.znode.ranges.shared(from.offset, whole(from.offset));
            let lock_target = || match grows {
                true => to.znode.ranges.exclusive(0, u64::MAX),
                false => to.znode.ranges.exclusive(to.offset, whole(to.offset)),
            };
            let place = |fs: &Filesystem, place: Place<'_>| (fs.os.id(), place.znode.object(), place.offset);
            let _locks = if place(source, from) < place(self, to) {
                let source = lock_source();
                (source, lock_target())
            } else {
                let target = lock_target();
                (lock_source(), target)
            };
            // What was decided from may have changed while the locks were waited for.
            let now = (from.znode.size(), from.znode.dnode.block_size());
            if now != (size, block) || grows != (to.znode.dnode.block_size() != block) {
                continue;
            }
            self.check_clone(to, from, len, block)?;
            return self.clone_parts(to, from, len, block);
        }
    }

    /// The rules that both ranges must obey.
    fn check_clone(&self, to: Place<'_>, from: Place<'_>, len: u64, block_size: u32) -> Result<()> {
        let refuse = |why| Err(Error::Invalid(why));
        let block = u64::from(block_size);
        let (target_block, target_size) = (u64::from(to.znode.dnode.block_size()), to.znode.size());
        let end = to.offset.checked_add(len).filter(|&end| end <= MAX_OFFSET).ok_or(Error::TooBig)?;
        if block < target_block || block != target_block && target_size > target_block {
            return refuse("files of different block sizes cannot share blocks");
        }
        if to.offset != 0 && !block_size.is_power_of_two() {
            return refuse("a block of that size can only be the first");
        }
        if !from.offset.is_multiple_of(block) || !to.offset.is_multiple_of(block) {
            return refuse("a clone begins and ends where blocks do");
        }
        let ends = len >= from.znode.size().saturating_sub(from.offset)
            && len >= target_size.saturating_sub(to.offset);
        if !len.is_multiple_of(block) && !ends {
            return refuse("a clone begins and ends where blocks do");
        }
        // A small block would stay the file's block size for ever.
        if len <= block && block_size < self.tunables.record_size() && target_size <= block && end > block {
            return refuse("a file of several blocks should have larger ones");
        }
        Ok(())
    }

    /// Clones a range that is locked, in one transaction for each record of the log.
    fn clone_parts(&self, to: Place<'_>, from: Place<'_>, len: u64, block_size: u32) -> Result<u64> {
        let most = u64::from(block_size) * CLONE_BLOCKS_MAX as u64;
        let (mut done, mut waits) = (0, 0);
        while done < len {
            let part = (len - done).min(most);
            let to = Place { offset: to.offset + done, ..to };
            let from = Place { offset: from.offset + done, ..from };
            match self.clone_part(to, from, part, block_size) {
                Ok(true) => done += part,
                Ok(false) if waits < WAITS_MAX => {
                    waits += 1;
                    let txg = self.os.txgs().request_sync();
                    self.os.txgs().wait_synced(txg)?;
                }
                Ok(false) => return if done > 0 { Ok(done) } else { Err(Error::Busy) },
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// One part; false if the source is not on disk.
    fn clone_part(&self, to: Place<'_>, from: Place<'_>, len: u64, block_size: u32) -> Result<bool> {
        let block = u64::from(block_size);
        let ids = from.offset / block..(from.offset + len).div_ceil(block);
        let synced = self.os.txgs().synced_txg();
        // Before a txg is joined, which must not wait for reads.
        let Some(bps) = from.znode.dnode.settled_pointers(ids.clone(), synced)? else { return Ok(false) };
        self.check_quota(&to.znode.owner(), false)?;
        let bytes = bps.iter().map(|bp| self.os.zio().dsize(bp)).sum();
        // The pool has the space already; the dataset may not be allowed to have it.
        if self.dataset.check_space(bytes) == Err(Error::QuotaExceeded) {
            return Err(Error::QuotaExceeded);
        }
        let now = self.now();
        let tx = self.os.begin(RESERVE_METADATA + RESERVE_INDIRECT + bps.len() as u64 * RESERVE_BLOCK)?;
        // In this txg they are still there; whoever frees them from now on finds the new references.
        let Some(bps) = from.znode.dnode.settled_pointers(ids, synced)? else { return Ok(false) };
        let znode = to.znode;
        if znode.dnode.block_size() != block_size {
            znode.dnode.set_block_size(&tx, block_size)?;
        }
        self.pool.clone_blocks(&tx, &znode.dnode, to.offset / block, &bps)?;
        znode.update(&self.sa, &tx, |a| {
            a.set_word(Zpl::Size, a.word(Zpl::Size).max(to.offset + len));
            a.set_time(Zpl::Mtime, now);
            a.set_time(Zpl::Ctime, now);
        })?;
        if !znode.is_unlinked() {
            let record =
                Record::CloneRange { object: znode.object(), offset: to.offset, len, block_size: block, bps };
            self.note_content(&tx, znode, Payload::Record(record.emit()));
        }
        Ok(true)
    }

    /// Replays a clone: the claim of the log has kept the blocks.
    pub(super) fn apply_clone(
        &self,
        object: u64,
        offset: u64,
        len: u64,
        block_size: u64,
        bps: &[Blkptr],
    ) -> Result<()> {
        let wrong = Error::Invalid("a logged clone of other blocks than it says");
        let size = u32::try_from(block_size).ok().filter(|size| *size > 0).ok_or(wrong.clone())?;
        let end = offset.checked_add(len).filter(|&end| end <= MAX_OFFSET).ok_or(Error::TooBig)?;
        if !offset.is_multiple_of(block_size) || bps.len() as u64 != len.div_ceil(block_size) {
            return Err(wrong);
        }
        let znode = self.znode(object)?;
        let _range = znode.ranges.exclusive(0, u64::MAX);
        let tx = self.os.begin(RESERVE_METADATA)?;
        if znode.dnode.block_size() < size {
            znode.dnode.set_block_size(&tx, size)?;
        }
        self.pool.clone_blocks(&tx, &znode.dnode, offset / block_size, bps)?;
        let now = self.now();
        znode.update(&self.sa, &tx, |a| {
            a.set_word(Zpl::Size, a.word(Zpl::Size).max(end));
            a.set_time(Zpl::Mtime, now);
            a.set_time(Zpl::Ctime, now);
        })?;
        self.note_object(&tx, object, Payload::Barrier);
        Ok(())
    }
}

//! The content of regular files: reading, writing, truncating, holes.

use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::protect;
use super::sa::Format;
use super::types::{Durability, FileKind, Timespec};
use super::znode::Znode;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::Record;
use crate::ondisk::znode::ZNODE_PHYS_SIZE;
use crate::zil::Payload;
use alloc::vec::Vec;
use bytes::Bytes;

/// Largest file offset: what a signed 64-bit integer holds.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;
/// How much one transaction writes at most, in bytes.
const CHUNK: usize = 4 << 20;
/// `relatime`: an access time older than this many seconds is renewed even if the file did not change.
const ATIME_DAY: i64 = 24 * 60 * 60;
/// Access times are not renewed more often than that, in nanoseconds: the step of Linux's file times (`current_time`, 250 in a second).
const ATIME_STEP: i128 = 4_000_000;

/// The block size for a file that is to reach `end` (`zfs_write`, `zfs_extend`); `None` if it stays. Only a file
/// of one block can change it.
fn grown_block_size(block_size: u32, size: u64, end: u64, record_size: u32) -> Option<u32> {
    if end <= u64::from(block_size) || size > u64::from(block_size) {
        return None;
    }
    let limit = if block_size > record_size {
        // The record size was lowered since: go on to the next power of two at most.
        if block_size.is_power_of_two() {
            return None;
        }
        block_size.next_power_of_two()
    } else {
        record_size
    };
    let wanted = end.min(u64::from(limit)).next_multiple_of(512) as u32;
    (wanted > block_size).then_some(wanted)
}

impl Filesystem {
    /// Reads from byte `offset`; how many bytes, fewer than asked for only at the end of the file.
    pub fn read(&self, object: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let znode = self.znode(object)?;
        match znode.kind() {
            FileKind::Directory => return Err(Error::IsDirectory),
            FileKind::Regular => {}
            _ => return Err(Error::Invalid("not a regular file")),
        }
        let got = self.read_znode(&znode, offset, buf)?;
        if self.tunables.update_atime() && got > 0 {
            self.touch_atime(&znode)?;
        }
        Ok(got)
    }

    /// The block that byte `offset` lies in, shared with the cache: the offset of its first byte, and its bytes, which
    /// end with the file. `None` at or behind the end. Counts as a read, but leaves the access time alone.
    pub fn read_block(&self, object: u64, offset: u64) -> Result<Option<(u64, Bytes)>> {
        let znode = self.znode(object)?;
        if znode.kind() != FileKind::Regular {
            return Err(Error::Invalid("not a regular file"));
        }
        let _range = znode.ranges.shared(offset, offset.saturating_add(1));
        let size = znode.size();
        if offset >= size {
            return Ok(None);
        }
        // The block size cannot change while the range is held: that takes the whole file.
        let block_size = u64::from(znode.dnode.block_size());
        let start = offset - offset % block_size;
        let block = znode.dnode.read_block(offset / block_size)?;
        let len = (block.len() as u64).min(size - start);
        Ok(Some((start, block.slice(..len as usize))))
    }

    /// Reads under a shared range lock.
    pub(super) fn read_znode(&self, znode: &Znode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let end = offset.saturating_add(buf.len() as u64);
        let _range = znode.ranges.shared(offset, end);
        let left = znode.size().saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..want];
        let got = znode.dnode.read(offset, buf)?;
        // A file may be longer than its last block.
        buf[got..].fill(0);
        Ok(want)
    }

    pub(super) fn touch_atime(&self, znode: &Znode) -> Result<()> {
        let now = self.now();
        let stale = znode.with(|a| {
            let atime = a.time(Zpl::Atime);
            if !self.tunables.relatime() {
                let ns = |t: Timespec| i128::from(t.sec) * 1_000_000_000 + i128::from(t.nsec);
                return (ns(now) - ns(atime)).abs() >= ATIME_STEP;
            }
            atime <= a.time(Zpl::Mtime) || atime <= a.time(Zpl::Ctime) || atime.sec + ATIME_DAY <= now.sec
        });
        if !stale || self.read_only() {
            return Ok(());
        }
        // A full pool is no reason to fail a read.
        let Ok(tx) = self.os.begin(RESERVE_METADATA) else { return Ok(()) };
        znode.update(&self.sa, &tx, |a| a.set_time(Zpl::Atime, now))
    }

    /// A regular file that is to be changed.
    pub(super) fn regular_for_writing(&self, object: u64) -> Result<alloc::sync::Arc<Znode>> {
        self.check_writable()?;
        let znode = self.znode(object)?;
        match znode.kind() {
            FileKind::Regular => Ok(znode),
            FileKind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }

    /// Writes at byte `offset`. All or nothing, up to 4 MiB.
    pub fn write(&self, object: u64, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let znode = self.regular_for_writing(object)?;
        let appends = offset >= znode.size();
        self.check_flags(&znode, if appends { protect::APPEND } else { protect::CONTENT })?;
        self.write_znode(&znode, Place::At(offset), data, None)?;
        self.settle(object, durability == Durability::Now)
    }

    /// Writes at the end of the file, wherever that is by then; gives the offset of the first byte.
    pub fn append(&self, object: u64, data: &[u8], durability: Durability) -> Result<u64> {
        let znode = self.regular_for_writing(object)?;
        self.check_flags(&znode, protect::APPEND)?;
        let at = self.write_znode(&znode, Place::End, data, None)?;
        self.settle(object, durability == Durability::Now)?;
        Ok(at)
    }

    /// Writes under an exclusive range lock; gives the offset. `eof`: the file ends there at least afterwards, instead
    /// of at the end of the data (replay of whole blocks).
    pub(super) fn write_znode(
        &self,
        znode: &Znode,
        place: Place,
        data: &[u8],
        eof: Option<u64>,
    ) -> Result<u64> {
        loop {
            let size = znode.size();
            let offset = match place {
                Place::At(offset) => offset,
                Place::End => size,
            };
            let end = offset.checked_add(data.len() as u64).filter(|&end| end <= MAX_OFFSET);
            let end = end.ok_or(Error::TooBig)?;
            if data.is_empty() {
                return Ok(offset);
            }
            let block_size = znode.dnode.block_size();
            // Once: it may change at any time, and the lock depends on it.
            let record_size = self.tunables.record_size();
            let grows = grown_block_size(block_size, size, end, record_size).is_some();
            let appends = matches!(place, Place::End);
            let range = if grows {
                znode.ranges.exclusive(0, u64::MAX)
            } else {
                znode.ranges.exclusive(offset, if appends { u64::MAX } else { end })
            };
            // What was decided from may have changed while the lock was waited for.
            let moved = appends && znode.size() != offset;
            let still = grown_block_size(znode.dnode.block_size(), znode.size(), end, record_size);
            if moved || (still.is_some() && !grows) {
                drop(range);
                continue;
            }
            let mut at = offset;
            for chunk in data.chunks(CHUNK) {
                self.write_chunk(znode, (at, end, eof), chunk, record_size)?;
                at += chunk.len() as u64;
            }
            return Ok(offset);
        }
    }

    /// Writes a part at `at` of a write that ends at `end`; `eof` is the file's new end, if it is not that of the part.
    fn write_chunk(
        &self,
        znode: &Znode,
        (at, end, eof): (u64, u64, Option<u64>),
        chunk: &[u8],
        record_size: u32,
    ) -> Result<()> {
        self.check_quota(&znode.owner(), false)?;
        let now = self.now();
        let reserve = chunk.len() as u64 + 2 * u64::from(record_size) + RESERVE_METADATA;
        let tx = self.os.begin(reserve)?;
        if let Some(block_size) = grown_block_size(znode.dnode.block_size(), znode.size(), end, record_size) {
            znode.dnode.set_block_size(&tx, block_size)?;
        }
        znode.dnode.write(&tx, at, chunk)?;
        let size = eof.unwrap_or(at + chunk.len() as u64);
        znode.update(&self.sa, &tx, |a| {
            if size > a.word(Zpl::Size) {
                a.set_word(Zpl::Size, size);
            }
            a.set_time(Zpl::Mtime, now);
            a.set_time(Zpl::Ctime, now);
        })?;
        self.note_write(&tx, znode, at, chunk.len() as u64);
        Ok(())
    }

    /// Notes a write. Of an extended attribute's file it is noted among the changes of names: whoever waits for the
    /// file itself waits for that, too.
    fn note_write(&self, tx: &Tx, znode: &Znode, offset: u64, len: u64) {
        if znode.is_unlinked() && !self.is_replaying() {
            return;
        }
        let payload =
            Payload::Write { object: znode.object(), generation: znode.word(Zpl::Gen), offset, len };
        self.note_content(tx, znode, payload);
    }

    pub(super) fn note_content(&self, tx: &Tx, znode: &Znode, payload: Payload) {
        if znode.word(Zpl::Flags) & crate::ondisk::znode::flags::XATTR == 0 {
            self.note_object(tx, znode.object(), payload);
        } else if let Some(log) = &self.log {
            log.assign(tx, None, payload);
        }
    }

    /// Sets a regular file's length, in bytes.
    pub fn truncate(&self, object: u64, size: u64) -> Result<()> {
        let znode = self.regular_for_writing(object)?;
        if size > MAX_OFFSET {
            return Err(Error::TooBig);
        }
        self.check_flags(&znode, protect::CONTENT)?;
        self.truncate_znode(&znode, size)?;
        self.settle(object, false)
    }

    pub(super) fn truncate_znode(&self, znode: &Znode, size: u64) -> Result<()> {
        // The block size may have to grow, and the end moves: nobody else may be in there.
        let _range = znode.ranges.exclusive(0, u64::MAX);
        let old = znode.size();
        let now = self.now();
        let record_size = self.tunables.record_size();
        let tx = if size < old {
            self.os.begin_net_free(RESERVE_METADATA)?
        } else {
            self.os.begin(u64::from(record_size) + RESERVE_METADATA)?
        };
        if size > old {
            if let Some(block_size) = grown_block_size(znode.dnode.block_size(), old, size, record_size) {
                znode.dnode.set_block_size(&tx, block_size)?;
            }
        } else if size < old {
            znode.dnode.free_range(&tx, size, u64::MAX)?;
        }
        znode.update(&self.sa, &tx, |a| {
            a.set_word(Zpl::Size, size);
            a.set_time(Zpl::Mtime, now);
            a.set_time(Zpl::Ctime, now);
        })?;
        self.note_truncate(&tx, znode, size, 0);
        Ok(())
    }

    fn note_truncate(&self, tx: &Tx, znode: &Znode, offset: u64, len: u64) {
        if znode.is_unlinked() && !self.is_replaying() {
            return;
        }
        let record = Record::Truncate { object: znode.object(), offset, len };
        self.note_content(tx, znode, Payload::Record(record.emit()));
    }

    /// Makes `len` bytes from `offset` read as zeros and gives back their space. The length stays.
    pub fn punch_hole(&self, object: u64, offset: u64, len: u64) -> Result<()> {
        let znode = self.regular_for_writing(object)?;
        self.check_flags(&znode, protect::CONTENT)?;
        let end = offset.saturating_add(len);
        {
            let _range = znode.ranges.exclusive(offset, end);
            let len = end.min(znode.size()).saturating_sub(offset);
            if len == 0 {
                return Ok(());
            }
            let now = self.now();
            let tx = self.os.begin(2 * u64::from(self.tunables.record_size()) + RESERVE_METADATA)?;
            znode.dnode.free_range(&tx, offset, len)?;
            znode.update(&self.sa, &tx, |a| {
                a.set_time(Zpl::Mtime, now);
                a.set_time(Zpl::Ctime, now);
            })?;
            self.note_truncate(&tx, &znode, offset, len);
        }
        self.settle(object, false)
    }

    /// The first byte at or after `from` that may hold data (`SEEK_DATA`); `None` if there is none.
    pub fn next_data(&self, object: u64, from: u64) -> Result<Option<u64>> {
        let znode = self.znode(object)?;
        let size = znode.size();
        if from >= size {
            return Ok(None);
        }
        let found = znode.dnode.next_offset(false, from)?;
        Ok(found.map(|at| at.max(from)).filter(|&at| at < size))
    }

    /// The first byte at or after `from` that is in a hole (`SEEK_HOLE`), at most the length; `None` if `from` is at or
    /// past the end.
    pub fn next_hole(&self, object: u64, from: u64) -> Result<Option<u64>> {
        let znode = self.znode(object)?;
        let size = znode.size();
        if from >= size {
            return Ok(None);
        }
        let found = znode.dnode.next_offset(true, from)?;
        Ok(Some(found.unwrap_or(size).max(from).min(size)))
    }

    /// A symbolic link's target.
    pub fn readlink(&self, object: u64) -> Result<Vec<u8>> {
        let znode = self.znode(object)?;
        if znode.kind() != FileKind::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let size = usize::try_from(znode.size()).unwrap_or(usize::MAX);
        if size > 64 << 10 {
            return Err(Error::corrupt("symbolic link: target too long", None));
        }
        let inline = znode.with(|a| {
            // A znode_phys_t that is not alone in its bonus has the target behind it; a longer target is in the data.
            let fits = a.format() == Format::Sa || size + ZNODE_PHYS_SIZE <= znode.dnode.info().bonus_len;
            a.get(Zpl::Symlink).filter(|_| fits).map(|t| t[..size.min(t.len())].to_vec())
        });
        match inline {
            Some(target) => Ok(target),
            None => {
                let mut target = alloc::vec![0; size];
                let got = znode.dnode.read(0, &mut target)?;
                target.truncate(got);
                Ok(target)
            }
        }
    }
}

/// Where to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this byte.
    At(u64),
    /// At the end.
    End,
}

#[cfg(test)]
mod tests {
    use super::grown_block_size;

    #[test]
    fn block_size_grows_while_the_file_is_one_block() {
        let record = 128 << 10;
        assert_eq!(grown_block_size(512, 0, 100, record), None);
        assert_eq!(grown_block_size(512, 0, 3000, record), Some(3072));
        assert_eq!(grown_block_size(3072, 3000, 6000, record), Some(6144));
        assert_eq!(grown_block_size(512, 0, 1 << 30, record), Some(record));
        assert_eq!(grown_block_size(512, 513, 1 << 30, record), None);
        assert_eq!(grown_block_size(record, record.into(), 1 << 30, record), None);
        // The record size was 128 KiB, then 4 KiB.
        assert_eq!(grown_block_size(3072, 3000, 6000, 1024), Some(4096));
        assert_eq!(grown_block_size(4096, 3000, 6000, 1024), None);
    }
}

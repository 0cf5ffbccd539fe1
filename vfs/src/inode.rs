//! The two traits that a file system implements, and the one of things that are read as a stream.
//!
//! # Invariants
//! - One [`Inode`] object exists per file while anybody holds it, so that locks and mappings can key on
//!   ([`Inode::fs_id`], [`Inode::ino`]).
//! - No method holds a lock of its own across a call to another file system.
//! - Names are bytes without `/` and NUL, at most [`Inode::name_max`] long, never `.` or `..`: path walking checks this once.

use crate::errno::{Errno, Result};
use crate::types::{Allocate, DirEntry, FileType, NAME_MAX, New, RenameFlags, SetAttr, Stat, StatFs, Sync};
use crate::wait::Waiters;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::any::Any;

/// A mounted file system.
pub trait FileSystem: Send + core::marker::Sync {
    /// Its root directory.
    fn root(&self) -> Arc<dyn Inode>;
    /// The name of its type, as `/proc/mounts` shows it.
    fn type_name(&self) -> &'static str;
    /// What is mounted (a dataset, or the type's name).
    fn source(&self) -> String;
    /// Whether it cannot be written.
    fn read_only(&self) -> bool {
        false
    }
    /// Its size and what is free.
    fn statfs(&self) -> Result<StatFs>;
    /// Makes everything written so far durable.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// Makes everything durable and lets go of the devices. Nothing may use the file system afterwards.
    fn unmount(&self) -> Result<()> {
        self.sync()
    }
}

/// A file of any type. Default methods answer as a type that cannot do it.
pub trait Inode: Any + Send + core::marker::Sync {
    /// Its file system's number (`st_dev`).
    fn fs_id(&self) -> u64;
    /// Its number in the file system.
    fn ino(&self) -> u64;
    /// Its type, known without I/O.
    fn file_type(&self) -> FileType;
    /// The longest name that it may have in it, in bytes, if it is a directory.
    fn name_max(&self) -> usize {
        NAME_MAX
    }
    /// Its attributes.
    fn stat(&self) -> Result<Stat>;
    /// Changes attributes.
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let _ = change;
        Err(Errno::EPERM)
    }
    /// Its file system's size.
    fn statfs(&self) -> Result<StatFs>;

    /// The entry `name` of this directory.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let _ = name;
        Err(Errno::ENOTDIR)
    }
    /// Makes a new file of any type; [`Errno::EEXIST`] if the name is taken.
    fn create(&self, name: &[u8], new: &New) -> Result<Arc<dyn Inode>> {
        let _ = (name, new);
        Err(Errno::EPERM)
    }
    /// A file without a name in this directory (`O_TMPFILE`).
    fn create_unnamed(&self, new: &New) -> Result<Arc<dyn Inode>> {
        let _ = new;
        Err(Errno::EOPNOTSUPP)
    }
    /// Gives `target`, a file of the same file system, another name.
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, target);
        Err(Errno::EPERM)
    }
    /// Removes a name of anything but a directory.
    fn unlink(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EPERM)
    }
    /// Removes an empty directory.
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EPERM)
    }
    /// Moves the entry `name` into directory `to` of the same file system.
    fn rename(&self, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: RenameFlags) -> Result<()> {
        let _ = (name, to, to_name, flags);
        Err(Errno::EPERM)
    }
    /// Gives the entries behind `cookie` (0: from the start), without `.` and `..`, until `sink` answers false.
    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let _ = (cookie, sink);
        Err(Errno::ENOTDIR)
    }
    /// Where a symbolic link points.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Reads from `offset`; short only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let _ = (offset, buf);
        Err(Errno::EINVAL)
    }
    /// The cached block that `offset` lies in: the offset of its first byte, and its bytes, which end with the file.
    /// They are the cache's own and never change: what is written later does not show in them. `None` behind the end, and
    /// for files whose content is not kept in such blocks.
    fn read_shared(&self, offset: u64) -> Result<Option<(u64, Bytes)>> {
        let _ = offset;
        Ok(None)
    }
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8], sync: Sync) -> Result<()> {
        let _ = (offset, data, sync);
        Err(Errno::EINVAL)
    }
    /// Writes all of `data` at the end, as one step; the offset where it began.
    fn append(&self, data: &[u8], sync: Sync) -> Result<u64> {
        let _ = (data, sync);
        Err(Errno::EINVAL)
    }
    /// Whether blocks of `source`, another file or this one, could be this file's, too. [`Errno::EOPNOTSUPP`], [`Errno::EXDEV`]: its
    /// bytes must be copied.
    fn may_clone_from(&self, source: &dyn Inode) -> Result<()> {
        let _ = source;
        Err(Errno::EOPNOTSUPP)
    }
    /// Makes `len` bytes at `offset` the same as those of `source` from `from` on, without copying them; how many bytes: fewer where the
    /// source ends. As [`Inode::may_clone_from`], and [`Errno::EINVAL`]: these must be copied.
    fn clone_blocks(&self, offset: u64, source: &dyn Inode, from: u64, len: u64, sync: Sync) -> Result<u64> {
        let _ = (offset, source, from, len, sync);
        Err(Errno::EOPNOTSUPP)
    }
    /// `fallocate(2)`.
    fn allocate(&self, what: Allocate, offset: u64, len: u64) -> Result<()> {
        let _ = (what, offset, len);
        Err(Errno::EOPNOTSUPP)
    }
    /// The next data (or hole) at or behind `offset`; [`Errno::ENXIO`] behind the end.
    fn seek(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.stat()?.size;
        if offset >= size { Err(Errno::ENXIO) } else { Ok(if hole { size } else { offset }) }
    }
    /// Makes the file durable.
    fn fsync(&self) -> Result<()> {
        Ok(())
    }

    /// The value of an extended attribute, by its full name (`user.x`).
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets an extended attribute. `must`: `Some(true)` only replace, `Some(false)` only create.
    fn set_xattr(&self, name: &[u8], value: &[u8], must: Option<bool>) -> Result<()> {
        let _ = (name, value, must);
        Err(Errno::EOPNOTSUPP)
    }
    /// The names of all extended attributes.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    /// Removes an extended attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }

    /// Content that is made when the file is opened (`/proc`), if this is such a file.
    fn snapshot(&self) -> Option<Result<Vec<u8>>> {
        None
    }
}

/// Which of `poll(2)`'s conditions hold; Linux's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(pub u32);

impl Ready {
    /// Something can be read.
    pub const IN: u32 = 0x1;
    /// Something can be written.
    pub const OUT: u32 = 0x4;
    /// An error is pending.
    pub const ERR: u32 = 0x8;
    /// The other side is gone.
    pub const HUP: u32 = 0x10;
    /// Files: always ready.
    pub const FILE: Ready = Ready(Self::IN | Self::OUT | 0x40 | 0x100);
}

/// Something that is read and written without an offset: a pipe, a terminal, a device.
pub trait Stream: Any + Send + core::marker::Sync {
    /// Reads at least one byte unless at the end. With `nonblock` answers [`Errno::EAGAIN`] instead of waiting.
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let _ = (buf, nonblock);
        Err(Errno::EINVAL)
    }
    /// Writes at least one byte.
    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        let _ = (data, nonblock);
        Err(Errno::EINVAL)
    }
    /// What could be done without waiting.
    fn ready(&self) -> Ready {
        Ready::FILE
    }
    /// Who is woken when [`Stream::ready`] may have changed.
    fn waiters(&self) -> Option<&Waiters> {
        None
    }
    /// When [`Stream::ready`] will change by itself, on the scheduler's clock, if that is still to come.
    fn deadline(&self) -> Option<u64> {
        None
    }
    /// Whether [`Stream::deadline`] may ever name a time.
    fn is_timed(&self) -> bool {
        false
    }
    /// Streams whose changes may change this one.
    fn watched(&self) -> Vec<Arc<dyn Stream>> {
        Vec::new()
    }
    /// Whether this is a terminal (`TCGETS` answers).
    fn is_terminal(&self) -> bool {
        false
    }
}

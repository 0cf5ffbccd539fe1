//! A file of a dataset.

use super::names::Found;
use super::{Mounted, control};
use crate::errno::{Errno, Result};
use crate::inode::Inode;
use crate::types::{Allocate, DirEntry, FileType, New, RenameFlags, SetAttr, Stat, StatFs, Sync};
use ::zfs::zpl::{self, Attr, Durability, FileKind, XattrMode};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bytes::Bytes;
use core::any::Any;

/// Where a directory's reader goes on behind the last entry. Below the engine's own mark, as callers add to it.
const END: u64 = u64::MAX - 16;
/// A damaged size must not become a negative number of blocks.
const BLOCKS_MAX: u64 = 1 << 52;

/// A file of a dataset, held.
pub(super) struct ZfsInode {
    mounted: Arc<Mounted>,
    object: u64,
    kind: FileType,
}

fn kind_of(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::Fifo,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Directory => FileType::Directory,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular => FileType::Regular,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

fn kind_to(kind: FileType) -> FileKind {
    match kind {
        FileType::Fifo => FileKind::Fifo,
        FileType::CharDevice => FileKind::CharDevice,
        FileType::Directory => FileKind::Directory,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Regular => FileKind::Regular,
        FileType::Symlink => FileKind::Symlink,
        FileType::Socket => FileKind::Socket,
    }
}

fn durability(sync: Sync) -> Durability {
    if sync == Sync::Yes { Durability::Now } else { Durability::Later }
}

impl ZfsInode {
    /// The inode of `object`: the one that exists, or a new one that holds the object.
    pub(super) fn get(mounted: &Arc<Mounted>, object: u64) -> Result<Arc<ZfsInode>> {
        if let Some(inode) = mounted.inodes.lock().get(&object).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        mounted.fs.hold(object)?;
        // From here on the drop of `inode` lets go of the object.
        let mut inode = ZfsInode { mounted: Arc::clone(mounted), object, kind: FileType::Regular };
        inode.kind = kind_of(mounted.fs.getattr(object)?.kind());
        let inode = Arc::new(inode);
        let mut inodes = mounted.inodes.lock();
        match inodes.get(&object).and_then(Weak::upgrade) {
            // Another thread was faster; two would be two owners of locks.
            Some(other) => {
                drop(inodes);
                drop(inode);
                Ok(other)
            }
            None => {
                inodes.insert(object, Arc::downgrade(&inode));
                Ok(inode)
            }
        }
    }

    fn fs(&self) -> &zpl::Filesystem {
        &self.mounted.fs
    }

    /// Looks for an entry in the directory itself, and remembers what it found.
    fn look_for(&self, name: &[u8], generation: u64) -> Result<Arc<dyn Inode>> {
        // Where several spellings are one name, a change would have to forget all of them.
        let remember = |inode| {
            if self.fs().names_are_bytes() {
                self.mounted.names.insert(self.object, name, inode, generation);
            }
        };
        loop {
            let object = match self.fs().lookup(self.object, name) {
                Err(::zfs::Error::NotFound) => {
                    remember(None);
                    return Err(Errno::ENOENT);
                }
                found => found?,
            };
            match ZfsInode::get(&self.mounted, object) {
                // Removed between the two steps: look again, as it may have been replaced.
                Err(Errno::ENOENT) => {}
                found => {
                    let inode = found?;
                    remember(Some(Arc::clone(&inode)));
                    return Ok(inode);
                }
            }
        }
    }

    /// Makes a change of an entry; nothing that was known of its name before is known afterwards.
    fn changing<R>(&self, name: &[u8], change: impl FnOnce() -> R) -> R {
        self.mounted.names.forget(self.object, name);
        let result = change();
        self.mounted.names.forget(self.object, name);
        result
    }

    fn is_root(&self) -> bool {
        self.object == self.fs().root()
    }

    fn of<'a>(&self, other: &'a Arc<dyn Inode>) -> Result<&'a ZfsInode> {
        Some(Self::any(&**other)?).filter(|o| Arc::ptr_eq(&o.mounted, &self.mounted)).ok_or(Errno::EXDEV)
    }

    /// An inode of whatever ZFS file system.
    fn any(other: &dyn Inode) -> Result<&ZfsInode> {
        let any: &dyn Any = other;
        any.downcast_ref().ok_or(Errno::EXDEV)
    }

    /// The control directory is nobody's to make, replace or remove.
    fn check_name(&self, name: &[u8]) -> Result<()> {
        if self.is_root() && name == control::NAME { Err(Errno::EEXIST) } else { Ok(()) }
    }

    fn new_file(new: &New) -> zpl::New {
        zpl::New {
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            target: new.target.clone(),
            umask: Some(new.umask),
            ..zpl::New::new(kind_to(new.kind), new.mode)
        }
    }

    fn stat_of(&self, a: &Attr) -> Stat {
        Stat {
            dev: self.mounted.dev,
            ino: a.object,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            size: a.size,
            blksize: a.block_size,
            blocks: a.blocks.min(BLOCKS_MAX),
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            btime: a.crtime,
        }
    }
}

impl Drop for ZfsInode {
    fn drop(&mut self) {
        {
            let mut inodes = self.mounted.inodes.lock();
            if inodes.get(&self.object).is_some_and(|i| i.strong_count() == 0) {
                inodes.remove(&self.object);
            }
        }
        self.mounted.fs.release(self.object);
    }
}

impl Inode for ZfsInode {
    fn fs_id(&self) -> u64 {
        self.mounted.dev
    }
    fn ino(&self) -> u64 {
        self.object
    }
    fn file_type(&self) -> FileType {
        self.kind
    }
    fn stat(&self) -> Result<Stat> {
        Ok(self.stat_of(&self.fs().getattr(self.object)?))
    }
    fn statfs(&self) -> Result<StatFs> {
        self.mounted.statfs()
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            match self.kind {
                FileType::Regular => self.fs().truncate(self.object, size)?,
                FileType::Directory => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
        }
        let set = zpl::SetAttr {
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            atime: change.atime,
            mtime: change.mtime,
            ..zpl::SetAttr::default()
        };
        if set != zpl::SetAttr::default() {
            self.fs().setattr(self.object, &set)?;
        }
        Ok(())
    }

    fn name_max(&self) -> usize {
        self.fs().name_max()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if name == control::NAME && self.is_root() && !self.fs().dataset().is_snapshot() {
            return Ok(control::directory(&self.mounted));
        }
        match self.mounted.names.get(self.object, name) {
            Found::Inode(inode) => Ok(inode),
            Found::Nothing => Err(Errno::ENOENT),
            Found::Unknown(generation) => self.look_for(name, generation),
        }
    }

    fn create(&self, name: &[u8], new: &New) -> Result<Arc<dyn Inode>> {
        self.check_name(name)?;
        let object = self.fs().create(self.object, name, &Self::new_file(new));
        let generation = self.mounted.names.forget(self.object, name);
        let inode = ZfsInode::get(&self.mounted, object?)?;
        if self.fs().names_are_bytes() {
            self.mounted.names.insert(self.object, name, Some(Arc::clone(&inode)), generation);
        }
        Ok(inode)
    }

    fn create_unnamed(&self, new: &New) -> Result<Arc<dyn Inode>> {
        let object = self.fs().create_tmpfile(self.object, &Self::new_file(new))?;
        // The engine gives it held once; that hold becomes the inode's.
        let inode = Arc::new(ZfsInode { mounted: Arc::clone(&self.mounted), object, kind: new.kind });
        self.mounted.inodes.lock().insert(object, Arc::downgrade(&inode));
        Ok(inode)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.check_name(name)?;
        let target = self.of(target)?;
        if target.kind == FileType::Directory {
            return Err(Errno::EPERM);
        }
        Ok(self.changing(name, || self.fs().link(self.object, name, target.object))?)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        if self.is_root() && name == control::NAME {
            return Err(Errno::EISDIR);
        }
        Ok(self.changing(name, || self.fs().unlink(self.object, name))?)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        if self.is_root() && name == control::NAME {
            return Err(Errno::EPERM);
        }
        Ok(self.changing(name, || self.fs().rmdir(self.object, name))?)
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: RenameFlags) -> Result<()> {
        let to = self.of(to)?;
        self.check_name(name)?;
        to.check_name(to_name)?;
        let flags = zpl::RenameFlags::from_bits_truncate(flags.bits());
        let rename = || self.fs().rename(self.object, name, to.object, to_name, flags);
        Ok(self.changing(name, || to.changing(to_name, rename))?)
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        if cookie >= END {
            return Ok(());
        }
        Ok(self.fs().visit_entries(self.object, cookie, |entry| {
            let kind = match entry.kind {
                Some(kind) => kind_of(kind),
                // A very old directory does not say.
                None => kind_of(self.fs().getattr(entry.object)?.kind()),
            };
            let next = entry.cookie.min(END);
            Ok(sink(DirEntry { name: entry.name, ino: entry.object, kind, next }))
        })?)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        Ok(self.fs().readlink(self.object)?)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if self.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        Ok(self.fs().read(self.object, offset, buf)?)
    }

    fn read_shared(&self, offset: u64) -> Result<Option<(u64, Bytes)>> {
        Ok(self.fs().read_block(self.object, offset)?)
    }

    fn write_at(&self, offset: u64, data: &[u8], sync: Sync) -> Result<()> {
        Ok(self.fs().write(self.object, offset, data, durability(sync))?)
    }

    fn append(&self, data: &[u8], sync: Sync) -> Result<u64> {
        Ok(self.fs().append(self.object, data, durability(sync))?)
    }

    fn may_clone_from(&self, source: &dyn Inode) -> Result<()> {
        Ok(self.fs().may_clone_from(Self::any(source)?.fs())?)
    }

    fn clone_blocks(&self, offset: u64, source: &dyn Inode, from: u64, len: u64, sync: Sync) -> Result<u64> {
        let source = Self::any(source)?;
        let (to, from) = ((self.object, offset), (source.object, from));
        Ok(self.fs().clone_range(to, source.fs(), from, len, durability(sync))?)
    }

    fn allocate(&self, what: Allocate, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let keep_size = match what {
            Allocate::PunchHole => {
                self.fs().punch_hole(self.object, offset, len)?;
                true
            }
            Allocate::Zero { keep_size } => {
                self.fs().punch_hole(self.object, offset, len)?;
                keep_size
            }
            // Copy-on-write cannot promise space; OpenZFS, too, only checks that there is some.
            Allocate::Reserve { keep_size } => {
                let s = self.mounted.statfs()?;
                if len > s.free.saturating_mul(s.block_size) {
                    return Err(Errno::ENOSPC);
                }
                keep_size
            }
        };
        if !keep_size && end > self.fs().getattr(self.object)?.size {
            self.fs().truncate(self.object, end)?;
        }
        Ok(())
    }

    fn seek(&self, offset: u64, hole: bool) -> Result<u64> {
        let found = if hole {
            self.fs().next_hole(self.object, offset)?
        } else {
            self.fs().next_data(self.object, offset)?
        };
        found.ok_or(Errno::ENXIO)
    }

    fn fsync(&self) -> Result<()> {
        Ok(self.fs().fsync(self.object)?)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.fs().get_xattr(self.object, name).map_err(no_data)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], must: Option<bool>) -> Result<()> {
        let mode = match must {
            None => XattrMode::Any,
            Some(false) => XattrMode::Create,
            Some(true) => XattrMode::Replace,
        };
        self.fs().set_xattr(self.object, name, value, mode).map_err(no_data)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.fs().list_xattr(self.object)?)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.fs().remove_xattr(self.object, name).map_err(no_data)
    }
}

/// What is missing here is an attribute, not a file.
fn no_data(error: ::zfs::Error) -> Errno {
    if error == ::zfs::Error::NotFound { Errno::ENODATA } else { Errno::from(error) }
}

//! `.zfs` and `.zfs/snapshot`: snapshots as directories. `mkdir` takes one, `rename` gives it another name,
//! `rmdir` destroys it.

use super::Mounted;
use crate::errno::{Errno, Result};
use crate::inode::Inode;
use crate::types::{DirEntry, FileType, New, RenameFlags, Stat, StatFs};
use alloc::string::String;
use alloc::sync::Arc;

/// The name of the control directory in the root of every dataset. It is not listed there.
pub(super) const NAME: &[u8] = b".zfs";
/// `ZFSCTL_INO_ROOT`.
const INO_CONTROL: u64 = 0x0000_ffff_ffff_ffff;
/// `ZFSCTL_INO_SNAPDIR`.
const INO_SNAPSHOTS: u64 = 0x0000_ffff_ffff_fffd;

/// The control directory of a dataset.
pub(super) fn directory(mounted: &Arc<Mounted>) -> Arc<dyn Inode> {
    Arc::new(Control { mounted: Arc::clone(mounted), snapshots: false })
}

struct Control {
    mounted: Arc<Mounted>,
    /// `.zfs/snapshot`, else `.zfs`.
    snapshots: bool,
}

fn text(name: &[u8]) -> Result<&str> {
    core::str::from_utf8(name).map_err(|_| Errno::EINVAL)
}

impl Inode for Control {
    fn fs_id(&self) -> u64 {
        self.mounted.dev
    }
    fn ino(&self) -> u64 {
        if self.snapshots { INO_SNAPSHOTS } else { INO_CONTROL }
    }
    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn stat(&self) -> Result<Stat> {
        let root = self.mounted.fs.getattr(self.mounted.fs.root())?;
        let children = if self.snapshots { self.mounted.fs.snapshot_names()?.len() as u64 } else { 1 };
        Ok(Stat {
            dev: self.mounted.dev,
            ino: self.ino(),
            mode: FileType::Directory.mode_bits() | if self.snapshots { 0o777 } else { 0o555 },
            nlink: children + 2,
            size: children + 2,
            blksize: 512,
            atime: root.crtime,
            mtime: root.crtime,
            ctime: root.crtime,
            btime: root.crtime,
            ..Stat::default()
        })
    }

    fn statfs(&self) -> Result<StatFs> {
        self.mounted.statfs()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if !self.snapshots {
            return if name == b"snapshot" {
                Ok(Arc::new(Control { mounted: Arc::clone(&self.mounted), snapshots: true }))
            } else {
                Err(Errno::ENOENT)
            };
        }
        let name = text(name).map_err(|_| Errno::ENOENT)?;
        self.mounted.snapshot(name).map_err(|e| if e == Errno::EINVAL { Errno::ENOENT } else { e })?.root()
    }

    fn create(&self, name: &[u8], new: &New) -> Result<Arc<dyn Inode>> {
        if !self.snapshots || new.kind != FileType::Directory {
            return Err(Errno::EPERM);
        }
        // A snapshot contains what programs wrote before it, also through mappings.
        crate::mapped::Mapped::write_back_all()?;
        self.mounted.fs.create_snapshot(text(name)?)?;
        self.lookup(name)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        if !self.snapshots {
            return Err(Errno::EPERM);
        }
        let name = text(name)?;
        self.mounted.forget_snapshot(name)?;
        Ok(self.mounted.fs.destroy_snapshot(name)?)
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: RenameFlags) -> Result<()> {
        if !self.snapshots {
            return Err(Errno::EPERM);
        }
        if (to.fs_id(), to.ino()) != (self.fs_id(), self.ino()) {
            return Err(Errno::EXDEV);
        }
        if flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (text(name)?, text(to_name)?);
        self.mounted.forget_snapshot(from)?;
        Ok(self.mounted.fs.rename_snapshot(from, to)?)
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let names: alloc::vec::Vec<String> =
            if self.snapshots { self.mounted.fs.snapshot_names()? } else { alloc::vec!["snapshot".into()] };
        for (i, name) in names.into_iter().enumerate().skip(usize::try_from(cookie).unwrap_or(usize::MAX)) {
            // Entering a snapshot mounts it; listing them must not.
            let ino = if self.snapshots { INO_SNAPSHOTS - 1 - i as u64 } else { INO_SNAPSHOTS };
            let entry =
                DirEntry { name: name.as_bytes(), ino, kind: FileType::Directory, next: i as u64 + 1 };
            if !sink(entry) {
                break;
            }
        }
        Ok(())
    }

    fn set_attr(&self, change: &crate::types::SetAttr) -> Result<()> {
        // Tools that copy times onto a directory they made must not fail on a snapshot.
        let times_only = change.mode.is_none() && change.size.is_none() && change.uid.is_none();
        if times_only { Ok(()) } else { Err(Errno::EPERM) }
    }
}

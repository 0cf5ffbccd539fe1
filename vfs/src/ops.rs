//! What programs do with paths: open, create, link, rename, remove.
//!
//! Rights are not checked: the one application owns the machine. User and group ids are kept and shown.

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::inode::{Inode, Stream};
use crate::inotify::{self, Events, Subject, cookie, notify, notify_place};
use crate::path::{Last, Place, Tree};
use crate::pipe::Pipe;
use crate::types::{FileType, New, OpenFlags, RenameFlags};
use alloc::borrow::Cow;
use alloc::sync::{Arc, Weak};
use hashbrown::HashMap;
use platform::sync::Mutex;

/// `S_ISGID`.
const SET_GROUP_ID: u32 = 0o2000;

/// Finds what is behind a device file.
pub trait Devices: Send + Sync {
    /// The stream of device `rdev`; [`Errno::ENXIO`] if there is none.
    fn open(&self, kind: FileType, rdev: u64, flags: OpenFlags) -> Result<Arc<dyn Stream>>;
}

/// The files of the machine: the tree, its devices and its named pipes.
pub struct Vfs {
    /// The tree.
    pub tree: Tree,
    devices: Arc<dyn Devices>,
    fifos: Mutex<HashMap<(u64, u64), Weak<Pipe>>>,
}

/// In a directory with the set-group-ID bit a new file gets the directory's group, a new directory that bit as well
/// (`inode_init_owner` of Linux).
fn in_directory<'a>(dir: &Arc<dyn Inode>, new: &'a New) -> Result<Cow<'a, New>> {
    let directory = dir.stat()?;
    if directory.mode & SET_GROUP_ID == 0 {
        return Ok(Cow::Borrowed(new));
    }
    let mode = if new.kind == FileType::Directory { new.mode | SET_GROUP_ID } else { new.mode };
    Ok(Cow::Owned(New { gid: directory.gid, mode, ..new.clone() }))
}

impl Vfs {
    /// Files in `tree`, whose device files lead to `devices`.
    #[must_use]
    pub fn new(tree: Tree, devices: Arc<dyn Devices>) -> Self {
        Vfs { tree, devices, fifos: Mutex::new(HashMap::new()) }
    }

    /// `openat`: `new` holds the mode and owner of a file that gets created.
    pub fn open(&self, base: &Arc<Place>, path: &[u8], flags: OpenFlags, new: &New) -> Result<Arc<File>> {
        let follow =
            !flags.contains(OpenFlags::NOFOLLOW) && !flags.contains(OpenFlags::CREAT | OpenFlags::EXCL);
        if flags.contains(OpenFlags::TMPFILE_BIT | OpenFlags::DIRECTORY) {
            let dir = self.tree.resolve(base, path, follow)?;
            if !flags.writable() {
                return Err(Errno::EINVAL);
            }
            let inode = dir.inode.create_unnamed(in_directory(&dir.inode, new)?.as_ref())?;
            return File::new(Place::detached(inode, b"(unnamed)"), flags, None);
        }
        let (place, created) = if flags.contains(OpenFlags::CREAT) {
            self.find_or_create(base, path, flags, follow, new)?
        } else {
            (self.tree.resolve(base, path, follow)?, false)
        };
        self.open_place(place, flags, created)
    }

    fn find_or_create(
        &self,
        base: &Arc<Place>,
        path: &[u8],
        flags: OpenFlags,
        follow: bool,
        new: &New,
    ) -> Result<(Arc<Place>, bool)> {
        let mut last = match self.tree.resolve_last(base, path) {
            Err(Errno::EEXIST) => return Err(Errno::EISDIR),
            last => last?,
        };
        for _ in 0..40 {
            match self.tree.finish(&last, follow) {
                Ok(_) if flags.contains(OpenFlags::EXCL) => return Err(Errno::EEXIST),
                Ok(place) => return Ok((place, false)),
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
            if last.slash {
                return Err(Errno::EISDIR);
            }
            match last.dir.inode.create(&last.name, in_directory(&last.dir.inode, new)?.as_ref()) {
                Ok(_) => {
                    notify(&*last.dir.inode, Events::CREATE, Some(&last.name), 0);
                    return Ok((self.tree.finish(&last, false)?, true));
                }
                // A dangling link: create what it points to. Or another thread was faster: look again.
                Err(Errno::EEXIST) => {
                    if let Ok(next) = self.tree.through_link(&last) {
                        last = next;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::ELOOP)
    }

    /// Opens what was found.
    pub fn open_place(&self, place: Arc<Place>, flags: OpenFlags, created: bool) -> Result<Arc<File>> {
        let kind = place.inode.file_type();
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            return File::new(place, flags, None);
        }
        let stream: Option<Arc<dyn Stream>> = match kind {
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Directory if flags.writable() || flags.contains(OpenFlags::CREAT) => {
                return Err(Errno::EISDIR);
            }
            FileType::Socket => return Err(Errno::ENXIO),
            FileType::CharDevice | FileType::BlockDevice => {
                Some(self.devices.open(kind, place.inode.stat()?.rdev, flags)?)
            }
            FileType::Fifo => Some(self.open_fifo(&place.inode, flags)?),
            FileType::Regular if flags.contains(OpenFlags::TRUNC) && flags.writable() && !created => {
                crate::file::truncate(&place.inode, 0)?;
                None
            }
            FileType::Regular | FileType::Directory => None,
        };
        notify_place(&place, Events::OPEN);
        File::new(place, flags, stream)
    }

    fn open_fifo(&self, inode: &Arc<dyn Inode>, flags: OpenFlags) -> Result<Arc<dyn Stream>> {
        let pipe = {
            let mut fifos = self.fifos.lock();
            fifos.retain(|_, pipe| pipe.strong_count() > 0);
            let key = (inode.fs_id(), inode.ino());
            fifos.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let pipe = Arc::new(Pipe::default());
                fifos.insert(key, Arc::downgrade(&pipe));
                pipe
            })
        };
        let (reads, writes) = (flags.readable(), flags.writable());
        let nonblock = flags.contains(OpenFlags::NONBLOCK);
        if writes && !reads && nonblock && !pipe.has_reader() {
            return Err(Errno::ENXIO);
        }
        if reads != writes && !nonblock {
            return Ok(pipe.open_and_wait(reads)?);
        }
        Ok(pipe.open(reads, writes))
    }

    fn new_name(&self, base: &Arc<Place>, path: &[u8], directory: bool) -> Result<Last> {
        let last = self.tree.resolve_last(base, path)?;
        if last.slash && !directory {
            return Err(Errno::ENOENT);
        }
        Ok(last)
    }

    /// `mkdirat`, `mknodat`, `symlinkat`.
    pub fn create(&self, base: &Arc<Place>, path: &[u8], new: &New) -> Result<()> {
        let last = self.new_name(base, path, new.kind == FileType::Directory)?;
        last.dir.inode.create(&last.name, in_directory(&last.dir.inode, new)?.as_ref())?;
        notify(&*last.dir.inode, Events::CREATE | is_directory(new.kind), Some(&last.name), 0);
        Ok(())
    }

    /// `linkat`: gives the file at `place` another name.
    pub fn link(&self, place: &Place, base: &Arc<Place>, path: &[u8]) -> Result<()> {
        let last = self.new_name(base, path, false)?;
        if last.dir.inode.fs_id() != place.inode.fs_id() {
            return Err(Errno::EXDEV);
        }
        last.dir.inode.link(&last.name, &place.inode)?;
        notify(&*place.inode, Events::ATTRIB, None, 0);
        notify(&*last.dir.inode, Events::CREATE, Some(&last.name), 0);
        Ok(())
    }

    /// `unlinkat`, with `directory` as `AT_REMOVEDIR`.
    pub fn remove(&self, base: &Arc<Place>, path: &[u8], directory: bool) -> Result<()> {
        let last = match self.tree.resolve_last(base, path) {
            Err(Errno::EEXIST) if directory => return Err(Errno::EBUSY),
            Err(Errno::EEXIST) => return Err(Errno::EISDIR),
            last => last?,
        };
        let watched = inotify::is_used();
        let mut found = None;
        if directory || last.slash || watched {
            let place = self.tree.finish(&last, false)?;
            if last.slash && place.inode.file_type() != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            if self.covered(&last, &place) {
                return Err(Errno::EBUSY);
            }
            found = Some(place);
        }
        let subject = found.as_ref().map(|place| Subject::from(&*place.inode));
        if directory {
            // Let go of before it is removed: what is in use is not (a snapshot by its directory).
            found = None;
            last.dir.inode.rmdir(&last.name)?
        } else {
            last.dir.inode.unlink(&last.name)?
        }
        if let (true, Some(subject)) = (watched, subject) {
            let is_directory = if directory { Events::ISDIR } else { Events::empty() };
            notify(&*last.dir.inode, Events::DELETE | is_directory, Some(&last.name), 0);
            let gone = found.is_none_or(|place| place.inode.stat().is_ok_and(|stat| stat.nlink == 0));
            let event = if gone { Events::DELETE_SELF } else { Events::ATTRIB };
            notify(subject, event | is_directory, None, 0);
        }
        Ok(())
    }

    /// Whether a file system is mounted over the last name.
    fn covered(&self, last: &Last, found: &Place) -> bool {
        found.inode.file_type() == FileType::Directory
            && self.tree.mounts().iter().any(|m| Arc::ptr_eq(&m.fs.root(), &found.inode))
            && last.dir.inode.fs_id() != found.inode.fs_id()
    }

    /// `renameat2`.
    pub fn rename(
        &self,
        from: (&Arc<Place>, &[u8]),
        to: (&Arc<Place>, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        let busy = |error| if error == Errno::EEXIST { Errno::EBUSY } else { error };
        let source = self.tree.resolve_last(from.0, from.1).map_err(busy)?;
        let target = self.tree.resolve_last(to.0, to.1).map_err(busy)?;
        let alone = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
        if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(alone) {
            return Err(Errno::EINVAL);
        }
        let moved = self.tree.finish(&source, false)?;
        if (source.slash || target.slash) && moved.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.covered(&source, &moved) {
            return Err(Errno::EBUSY);
        }
        if source.dir.inode.fs_id() != target.dir.inode.fs_id() {
            return Err(Errno::EXDEV);
        }
        source.dir.inode.rename(&source.name, &target.dir.inode, &target.name, flags)?;
        let (is_directory, cookie) = (is_directory(moved.inode.file_type()), cookie());
        notify(&*source.dir.inode, Events::MOVED_FROM | is_directory, Some(&source.name), cookie);
        notify(&*target.dir.inode, Events::MOVED_TO | is_directory, Some(&target.name), cookie);
        notify(&*moved.inode, Events::MOVE_SELF | is_directory, None, 0);
        Ok(())
    }
}

fn is_directory(kind: FileType) -> Events {
    if kind == FileType::Directory { Events::ISDIR } else { Events::empty() }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;

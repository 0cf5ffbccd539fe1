//! Directories: looking up, listing, creating, linking, removing names.

use super::create::Birth;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::protect;
use super::types::{DirEntry, FileKind, New};
use super::unlinked::Hold;
use super::znode::Znode;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::{Create, Record, kind};
use crate::ondisk::znode::{Dirent, FileOwner, flags};
use crate::zap::{self, Match, NORMALIZE_TO_UPPER};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest name, in bytes …
pub(super) const MAX_NAME: usize = 255;
/// … and with the property `longname`.
const MAX_LONG_NAME: usize = 1023;

/// How a directory changes when names come and go.
pub(super) struct DirChange {
    pub(super) entries: i64,
    pub(super) subdirs: i64,
}

impl Filesystem {
    /// Whether two names are the same entry only if their bytes are.
    pub fn names_are_bytes(&self) -> bool {
        self.normalization == 0
            || self.match_names == Match::CaseKept && self.normalization == NORMALIZE_TO_UPPER
    }

    /// Whether a new name obeys the rules.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<()> {
        // What is replayed was allowed when it was done.
        let long = name.len() <= MAX_LONG_NAME && (self.tunables.long_names() || self.is_replaying());
        if name.len() > MAX_NAME && !long {
            return Err(Error::NameTooLong);
        }
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&b| b == 0 || b == b'/') {
            return Err(Error::Invalid("file name"));
        }
        self.check_encoding(name)
    }

    fn check_encoding(&self, name: &[u8]) -> Result<()> {
        if self.utf8_only && core::str::from_utf8(name).is_err() { Err(Error::NotUtf8) } else { Ok(()) }
    }

    /// The longest name that there may be, in bytes: where there are long ones already, new ones may be forbidden (`longname`).
    #[must_use]
    pub fn name_max(&self) -> usize {
        let long = self.tunables.long_names() || self.dataset.has_long_names() || self.os.has_long_names();
        if long { MAX_LONG_NAME } else { MAX_NAME }
    }

    /// The entry of that name: the name as it is stored, and what it leads to.
    pub(super) fn find(&self, dir: &Znode, name: &[u8]) -> Result<(Vec<u8>, Dirent)> {
        if name.len() > MAX_NAME && name.len() > self.name_max() && !self.is_replaying() {
            return Err(Error::NameTooLong);
        }
        self.check_encoding(name)?;
        let (stored, raw) = if self.normalization == 0 {
            (name.to_vec(), zap::lookup_u64(&dir.dnode, name)?)
        } else {
            zap::lookup_name(&dir.dnode, name, self.match_names)?
        };
        Ok((stored, Dirent::from_raw(raw)))
    }

    /// The directory that an object was last linked into; of an extended attribute's directory the file that it belongs to. The root's is itself.
    pub fn parent_of(&self, object: u64) -> Result<u64> {
        Ok(self.znode(object)?.word(Zpl::Parent))
    }

    /// The object that `name` leads to in directory `dir`. `.` and `..` work; `..` of the root is the root.
    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64> {
        let dir = self.directory(dir)?;
        match name {
            b"" | b"." => return Ok(dir.object()),
            b".." => return Ok(dir.word(Zpl::Parent)),
            _ => {}
        }
        let _entries = dir.entries.read();
        Ok(self.find(&dir, name)?.1.object)
    }

    /// The directory that holds a directory; the root's is itself.
    pub fn parent(&self, dir: u64) -> Result<u64> {
        Ok(self.directory(dir)?.word(Zpl::Parent))
    }

    /// Gives the entries of a directory after `cookie` (0: from the start), without `.` and `..`, to `sink` until it answers false.
    /// The names are locked meanwhile: `sink` must not change any.
    pub fn visit_entries(
        &self,
        dir: u64,
        cookie: u64,
        mut sink: impl FnMut(DirEntry<&[u8]>) -> Result<bool>,
    ) -> Result<()> {
        let dir = self.directory(dir)?;
        let _entries = dir.entries.read();
        if cookie == zap::COOKIE_END {
            return Ok(());
        }
        zap::visit(&dir.dnode, cookie, |name, value, cookie| {
            let dirent = Dirent::from_raw(value);
            let kind = FileKind::from_dirent_type(dirent.kind);
            sink(DirEntry { name, object: dirent.object, kind, cookie })
        })
    }

    /// Up to `max` entries of a directory after `cookie` (0: from the start), without `.` and `..`; empty at the end.
    pub fn readdir(&self, dir: u64, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        let mut found = Vec::new();
        if max > 0 {
            self.visit_entries(dir, cookie, |DirEntry { name, object, kind, cookie }| {
                found.push(DirEntry { name: name.to_vec(), object, kind, cookie });
                Ok(found.len() < max)
            })?;
        }
        Ok(found)
    }

    /// A directory to be changed: it must still have a name.
    pub(super) fn changeable(&self, dir: u64) -> Result<Arc<Znode>> {
        self.check_writable()?;
        self.directory(dir)
    }

    pub(super) fn still_there(dir: &Znode) -> Result<()> {
        if dir.is_unlinked() { Err(Error::NotFound) } else { Ok(()) }
    }

    /// Adds an entry.
    pub(super) fn add_entry(&self, tx: &Tx, dir: &Znode, name: &[u8], to: &Znode) -> Result<()> {
        let dirent = Dirent { kind: to.kind().dirent_type(), object: to.object() };
        if name.len() > MAX_NAME {
            self.os.note_long_name();
        }
        zap::add_u64(&dir.dnode, tx, name, dirent.to_raw())
    }

    /// Counts entries that came or went.
    pub(super) fn change_dir(&self, tx: &Tx, dir: &Znode, change: &DirChange) -> Result<()> {
        let now = self.now();
        dir.update(&self.sa, tx, |a| {
            a.set_word(Zpl::Size, a.word(Zpl::Size).saturating_add_signed(change.entries));
            a.set_word(Zpl::Links, a.word(Zpl::Links).saturating_add_signed(change.subdirs));
            a.set_time(Zpl::Mtime, now);
            a.set_time(Zpl::Ctime, now);
        })
    }

    /// Creates `name` in `dir`; gives its object number. [`Error::Exists`] if it is there.
    pub fn create(&self, dir: u64, name: &[u8], new: &New) -> Result<u64> {
        let (new, inherited) = self.inherit_acls(dir, new)?;
        let object = self.create_as(dir, name, &new, &Birth::default())?;
        self.give_acls(object, &inherited)?;
        self.settle(object, false)?;
        Ok(object)
    }

    pub(super) fn create_as(&self, dir: u64, name: &[u8], new: &New, birth: &Birth) -> Result<u64> {
        self.check_name(name)?;
        self.check_new(new)?;
        let dir = self.changeable(dir)?;
        let _entries = dir.entries.write();
        Self::still_there(&dir)?;
        match self.find(&dir, name) {
            Err(Error::NotFound) => {}
            Ok(_) => return Err(Error::Exists),
            Err(e) => return Err(e),
        }
        self.check_flags(&dir, protect::NEW_ENTRIES)?;
        let project = birth.project.or(dir.inherited_project());
        let owner = FileOwner { uid: new.uid.into(), gid: new.gid.into(), project: project.unwrap_or(0) };
        self.check_quota(&owner, true)?;
        let tx = self.os.begin(RESERVE_METADATA + new.target.len() as u64)?;
        let xattr = dir.word(Zpl::Flags) & flags::XATTR != 0;
        let znode = self.make_file(&tx, dir.object(), new, &Birth { xattr, project, ..birth.clone() })?;
        self.add_entry(&tx, &dir, name, &znode)?;
        let subdirs = i64::from(new.kind == FileKind::Directory);
        self.change_dir(&tx, &dir, &DirChange { entries: 1, subdirs })?;
        self.note_create(&tx, &dir, &znode, name, &new.target);
        Ok(znode.object())
    }

    pub(super) fn note_create(&self, tx: &Tx, dir: &Znode, znode: &Znode, name: &[u8], target: &[u8]) {
        let tx_kind = match znode.kind() {
            FileKind::Directory if name.is_empty() => kind::MKXATTR,
            FileKind::Directory => kind::MKDIR,
            FileKind::Symlink => kind::SYMLINK,
            _ => kind::CREATE,
        };
        self.note(tx, &Record::Create(tx_kind, Self::create_record(dir, znode, name, target)));
    }

    /// What the log says of a new file.
    pub(super) fn create_record(dir: &Znode, znode: &Znode, name: &[u8], target: &[u8]) -> Create {
        znode.with(|a| {
            let crtime = a.time(Zpl::Crtime);
            Create {
                dir: dir.object(),
                object: znode.object(),
                slots: znode.dnode.info().slots,
                mode: a.word(Zpl::Mode),
                uid: a.word(Zpl::Uid),
                gid: a.word(Zpl::Gid),
                generation: a.word(Zpl::Gen),
                crtime: [crtime.sec as u64, u64::from(crtime.nsec)],
                rdev: a.word(Zpl::Rdev),
                name: name.to_vec(),
                target: target.to_vec(),
                ..Create::default()
            }
        })
    }

    /// A file with no name yet (`O_TMPFILE`); it goes with its last [`Filesystem::release`] unless it is linked. It is
    /// held once already.
    pub fn create_tmpfile(&self, dir: u64, new: &New) -> Result<u64> {
        let (new, inherited) = self.inherit_acls(dir, new)?;
        let dir = self.changeable(dir)?;
        if new.kind != FileKind::Regular {
            return Err(Error::Invalid("a file without a name must be a regular one"));
        }
        let project = dir.inherited_project();
        let owner = FileOwner { uid: new.uid.into(), gid: new.gid.into(), project: project.unwrap_or(0) };
        self.check_quota(&owner, true)?;
        let tx = self.os.begin(RESERVE_METADATA)?;
        let birth = Birth { nameless: true, project, ..Birth::default() };
        let znode = self.make_file(&tx, dir.object(), &new, &birth)?;
        self.enqueue(&tx, znode.object())?;
        let object = znode.object();
        self.holds.lock().insert(object, Hold::first(znode));
        drop(tx);
        self.give_acls(object, &inherited)?;
        Ok(object)
    }

    /// One more name for a file that is no directory.
    pub fn link(&self, dir: u64, name: &[u8], object: u64) -> Result<()> {
        self.check_name(name)?;
        let dir = self.changeable(dir)?;
        let znode = self.znode(object)?;
        if znode.is_dir() {
            return Err(Error::IsDirectory);
        }
        self.check_flags(&dir, protect::NEW_ENTRIES)?;
        self.check_flags(&znode, protect::ATTRIBUTES)?;
        let project = dir.inherited_project();
        if project.is_some_and(|project| project != znode.owner().project) && !self.is_replaying() {
            return Err(Error::CrossDataset);
        }
        let nameless = {
            let _entries = dir.entries.write();
            Self::still_there(&dir)?;
            match self.find(&dir, name) {
                Err(Error::NotFound) => {}
                Ok(_) => return Err(Error::Exists),
                Err(e) => return Err(e),
            }
            let tx = self.os.begin(RESERVE_METADATA)?;
            // Under the lock of holds, so that a file without names does not vanish meanwhile.
            let holds = self.holds.lock();
            let links = znode.word(Zpl::Links);
            if znode.is_freed() || (links == 0 && !holds.contains_key(&object)) {
                return Err(Error::NotFound);
            }
            if links >= u64::from(u32::MAX) {
                return Err(Error::TooManyLinks);
            }
            if links == 0 {
                self.dequeue(&tx, object)?;
            }
            let now = self.now();
            znode.update(&self.sa, &tx, |a| {
                a.set_word(Zpl::Links, links + 1);
                a.set_word(Zpl::Parent, dir.object());
                a.set_time(Zpl::Ctime, now);
            })?;
            drop(holds);
            self.add_entry(&tx, &dir, name, &znode)?;
            self.change_dir(&tx, &dir, &DirChange { entries: 1, subdirs: 0 })?;
            self.note(&tx, &Record::Link { dir: dir.object(), object, name: name.to_vec() });
            links == 0
        };
        if nameless && !self.is_replaying() {
            // What was written to it before it had a name is not in the log.
            return self.pool.sync();
        }
        self.settle(object, false)
    }

    /// Removes the name of a file that is no directory.
    pub fn unlink(&self, dir: u64, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, false)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: u64, name: &[u8]) -> Result<()> {
        match name {
            b"." => Err(Error::Invalid("cannot remove `.`")),
            b".." => Err(Error::NotEmpty),
            _ => self.remove_name(dir, name, true),
        }
    }

    fn remove_name(&self, dir: u64, name: &[u8], is_dir: bool) -> Result<()> {
        let dir = self.changeable(dir)?;
        let object = {
            let _entries = dir.entries.write();
            Self::still_there(&dir)?;
            let (stored, dirent) = self.find(&dir, name)?;
            let znode = self.znode(dirent.object)?;
            match (is_dir, znode.is_dir()) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                _ => {}
            }
            self.check_flags(&dir, protect::ENTRIES)?;
            self.check_flags(&znode, protect::NAMES)?;
            // A directory's own lock, so that nobody puts something into it meanwhile. Parents come before children.
            let _inside = is_dir.then(|| znode.entries.write());
            if is_dir && zap::count(&znode.dnode)? != 0 {
                return Err(Error::NotEmpty);
            }
            let tx = self.os.begin_net_free(RESERVE_METADATA)?;
            zap::remove(&dir.dnode, &tx, stored.as_slice())?;
            self.change_dir(&tx, &dir, &DirChange { entries: -1, subdirs: -i64::from(is_dir) })?;
            let gone = self.drop_link(&tx, &znode)?;
            if let Some(log) = self.log.as_ref().filter(|_| gone && !is_dir) {
                log.forget(znode.object());
            }
            self.note(&tx, &Record::Remove { dir: dir.object(), name: stored, is_dir });
            znode.object()
        };
        self.settle(object, false)
    }

    /// A file has one name less; if it was the last one, it is removed now or when nobody holds it any more.
    /// Whether it was the last one.
    pub(super) fn drop_link(&self, tx: &Tx, znode: &Arc<Znode>) -> Result<bool> {
        let now = self.now();
        let is_dir = znode.is_dir();
        let mut left = 0;
        // Locked until it is decided who removes the file: to a thread that lets go of it meanwhile it must not look like its own to remove.
        let holds = self.holds.lock();
        znode.update(&self.sa, tx, |a| {
            left = if is_dir { 0 } else { a.word(Zpl::Links).saturating_sub(1) };
            a.set_word(Zpl::Links, left);
            a.set_time(Zpl::Ctime, now);
        })?;
        if left == 0 {
            self.unlinked(tx, znode, holds)?;
        }
        Ok(left == 0)
    }
}

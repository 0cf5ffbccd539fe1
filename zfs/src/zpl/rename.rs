//! Renames.

use super::create::Birth;
use super::dir::DirChange;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::protect;
use super::types::{FileKind, New, RenameFlags};
use super::znode::Znode;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::{Create, Record};
use crate::ondisk::znode::{Dirent, flags};
use crate::zap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Nothing is given but what is new.
const NEW: Birth = Birth {
    generation: 0,
    object: None,
    slots: 0,
    normalization: 0,
    xattr: false,
    nameless: false,
    project: None,
    flags: (0, 0),
    acl: None,
};

/// A name on one side of a rename.
struct Side<'a> {
    dir: &'a Arc<Znode>,
    name: Vec<u8>,
    file: Arc<Znode>,
}

impl Filesystem {
    /// Moves a name, replacing the target as POSIX says.
    pub fn rename(
        &self,
        from_dir: u64,
        from: &[u8],
        to_dir: u64,
        to: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let whiteout = New::new(FileKind::CharDevice, 0);
        let whiteout = flags.contains(RenameFlags::WHITEOUT).then_some((&whiteout, &NEW));
        self.rename_as((from_dir, from), (to_dir, to), flags, whiteout)
    }

    /// [`Filesystem::rename`] with the whiteout that is left behind.
    pub(super) fn rename_as(
        &self,
        (from_dir, from): (u64, &[u8]),
        (to_dir, to): (u64, &[u8]),
        flags: RenameFlags,
        whiteout: Option<(&New, &Birth)>,
    ) -> Result<()> {
        if [from, to].iter().any(|n| matches!(*n, b"." | b"..")) {
            return Err(Error::Busy);
        }
        self.check_name(to)?;
        let from_dir = self.changeable(from_dir)?;
        let to_dir = self.changeable(to_dir)?;
        let object = {
            let _renames = self.rename.lock();
            let same_dir = from_dir.object() == to_dir.object();
            // A parent's lock comes before its child's: else by number.
            let from_first = self.is_within(&to_dir, from_dir.object())?
                || (from_dir.object() < to_dir.object()) && !self.is_within(&from_dir, to_dir.object())?;
            let (first, second) = if from_first { (&from_dir, &to_dir) } else { (&to_dir, &from_dir) };
            let _first = first.entries.write();
            let _second = (!same_dir).then(|| second.entries.write());
            Self::still_there(&from_dir)?;
            Self::still_there(&to_dir)?;
            self.rename_locked((&from_dir, from), (&to_dir, to), flags, whiteout)?
        };
        self.settle(object, false)
    }

    /// Whether directory `inner` is `outer` or lies below it.
    fn is_within(&self, inner: &Arc<Znode>, outer: u64) -> Result<bool> {
        let mut at = inner.object();
        // Deeper than this no path leads; a loop on disk must not hold us.
        for _ in 0..65_536 {
            if at == outer {
                return Ok(true);
            }
            if at == self.root {
                return Ok(false);
            }
            let parent = self.directory(at)?.word(Zpl::Parent);
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
        Err(Error::corrupt("directories form a loop", None))
    }

    fn rename_locked(
        &self,
        (from_dir, from): (&Arc<Znode>, &[u8]),
        (to_dir, to): (&Arc<Znode>, &[u8]),
        flags: RenameFlags,
        whiteout: Option<(&New, &Birth)>,
    ) -> Result<u64> {
        let (from_name, dirent) = self.find(from_dir, from)?;
        let source = Side { dir: from_dir, name: from_name, file: self.znode(dirent.object)? };
        let target = match self.find(to_dir, to) {
            Ok((name, dirent)) => Some(Side { dir: to_dir, name, file: self.znode(dirent.object)? }),
            Err(Error::NotFound) => None,
            Err(e) => return Err(e),
        };
        let object = source.file.object();
        self.check_flags(from_dir, protect::ENTRIES)?;
        self.check_flags(to_dir, protect::NEW_ENTRIES)?;
        self.check_flags(&source.file, protect::NAMES)?;
        if let Some(target) = &target {
            self.check_flags(to_dir, protect::ENTRIES)?;
            self.check_flags(&target.file, protect::NAMES)?;
        }
        // Files stay in their project (`zfs_rename`). In its own directory a file may have another: those made by OpenZFS 2.1
        // that are neither regular files nor directories have none.
        let project = to_dir.inherited_project().filter(|_| from_dir.object() != to_dir.object());
        if project.is_some_and(|project| project != source.file.owner().project) && !self.is_replaying() {
            return Err(Error::CrossDataset);
        }
        if source.file.is_dir() && self.is_within(to_dir, object)? {
            return Err(Error::Invalid("a directory cannot be moved into itself"));
        }
        if flags.contains(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT) {
            return Err(Error::Invalid("an exchange leaves no place for a whiteout"));
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            let target = target.ok_or(Error::NotFound)?;
            if target.file.is_dir() && self.is_within(from_dir, target.file.object())? {
                return Err(Error::Invalid("a directory cannot be moved into itself"));
            }
            self.exchange(&source, &target)?;
            return Ok(object);
        }
        if let Some(target) = &target {
            if flags.contains(RenameFlags::NOREPLACE) {
                return Err(Error::Exists);
            }
            if target.file.object() == object {
                // Two names of one file stay as they are; another spelling of the same name is taken over.
                let respelled = source.name == target.name && source.name != to;
                if !respelled || flags.contains(RenameFlags::WHITEOUT) {
                    return Ok(object);
                }
            } else {
                match (source.file.is_dir(), target.file.is_dir()) {
                    (true, false) => return Err(Error::NotDirectory),
                    (false, true) => return Err(Error::IsDirectory),
                    _ => {}
                }
            }
        }
        let replaced = target.filter(|t| t.file.object() != object);
        self.replace(&source, (to_dir, to), replaced, whiteout)?;
        Ok(object)
    }

    fn replace(
        &self,
        source: &Side<'_>,
        (to_dir, to): (&Arc<Znode>, &[u8]),
        replaced: Option<Side<'_>>,
        whiteout: Option<(&New, &Birth)>,
    ) -> Result<()> {
        let is_dir = source.file.is_dir();
        // The replaced directory's own lock, so that nobody puts something into it meanwhile.
        let _inside = replaced.as_ref().filter(|t| t.file.is_dir()).map(|t| t.file.entries.write());
        if let Some(target) = replaced.as_ref().filter(|t| t.file.is_dir())
            && zap::count(&target.file.dnode)? != 0
        {
            return Err(Error::NotEmpty);
        }
        let tx = self.os.begin(2 * RESERVE_METADATA)?;
        let mut entries = 1;
        let mut subdirs = i64::from(is_dir);
        if let Some(target) = &replaced {
            zap::remove(&to_dir.dnode, &tx, target.name.as_slice())?;
            entries -= 1;
            subdirs -= i64::from(target.file.is_dir());
            let object = target.file.object();
            if self.drop_link(&tx, &target.file)?
                && let Some(log) = &self.log
            {
                log.forget(object);
            }
        }
        zap::remove(&source.dir.dnode, &tx, source.name.as_slice())?;
        self.add_entry(&tx, to_dir, to, &source.file)?;
        if source.dir.object() == to_dir.object() {
            let change = DirChange { entries: entries - 1, subdirs: subdirs - i64::from(is_dir) };
            self.change_dir(&tx, to_dir, &change)?;
        } else {
            self.change_dir(&tx, source.dir, &DirChange { entries: -1, subdirs: -i64::from(is_dir) })?;
            self.change_dir(&tx, to_dir, &DirChange { entries, subdirs })?;
        }
        self.moved(&tx, &source.file, to_dir)?;
        let whiteout = match whiteout {
            Some((new, birth)) => {
                let made = self.make_file(&tx, source.dir.object(), new, birth)?;
                self.add_entry(&tx, source.dir, &source.name, &made)?;
                self.change_dir(&tx, source.dir, &DirChange { entries: 1, subdirs: 0 })?;
                Some(Self::create_record(source.dir, &made, b"", b""))
            }
            None => None,
        };
        self.note_rename(&tx, source, (to_dir, to), false, whiteout);
        Ok(())
    }

    fn exchange(&self, a: &Side<'_>, b: &Side<'_>) -> Result<()> {
        let tx = self.os.begin(2 * RESERVE_METADATA)?;
        for (at, file) in [(a, &b.file), (b, &a.file)] {
            let dirent = Dirent { kind: file.kind().dirent_type(), object: file.object() };
            zap::update_u64(&at.dir.dnode, &tx, at.name.as_slice(), dirent.to_raw())?;
            self.moved(&tx, file, at.dir)?;
        }
        let subdirs = i64::from(b.file.is_dir()) - i64::from(a.file.is_dir());
        if a.dir.object() == b.dir.object() {
            self.change_dir(&tx, a.dir, &DirChange { entries: 0, subdirs: 0 })?;
        } else {
            self.change_dir(&tx, a.dir, &DirChange { entries: 0, subdirs })?;
            self.change_dir(&tx, b.dir, &DirChange { entries: 0, subdirs: -subdirs })?;
        }
        self.note_rename(&tx, a, (b.dir, &b.name), true, None);
        Ok(())
    }

    /// A file is in another directory now.
    fn moved(&self, tx: &Tx, file: &Znode, dir: &Znode) -> Result<()> {
        let now = self.now();
        // Within one project: what is made below a directory that comes here belongs to it.
        let inherits = dir.inherited_project().is_some() && file.kind().bears_projinherit();
        file.update(&self.sa, tx, |a| {
            a.set_word(Zpl::Parent, dir.object());
            a.set_time(Zpl::Ctime, now);
            if inherits {
                a.set_word(Zpl::Flags, a.word(Zpl::Flags) | flags::PROJINHERIT);
            }
        })
    }

    fn note_rename(
        &self,
        tx: &Tx,
        source: &Side<'_>,
        (to_dir, to): (&Znode, &[u8]),
        exchange: bool,
        whiteout: Option<Create>,
    ) {
        let Some(log) = &self.log else { return };
        // Whoever replaces a file by a rename expects the new content behind the new name, synced or not.
        log.order(source.file.object());
        self.note(
            tx,
            &Record::Rename {
                from_dir: source.dir.object(),
                from: source.name.clone(),
                to_dir: to_dir.object(),
                to: to.to_vec(),
                exchange,
                whiteout,
            },
        );
    }
}

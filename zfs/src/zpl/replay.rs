//! Replay of the intent log at mount. Source: `module/zfs/zfs_replay.c`.
//!
//! # Invariants
//! - Every record is applied in one transaction, together with the note that it was: a crash in the middle goes on with the
//!   next record.

use super::create::Birth;
use super::file::Place;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::types::{FileKind, MODE_KIND, New, RenameFlags, SetAttr, Times, Timespec};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::{Create, Record, SetAttr as LogSetAttr, kind, mask, out_of_order};
use crate::ondisk::znode::flags;
use crate::zil::Payload;

fn time(words: [u64; 2]) -> Timespec {
    Timespec { sec: words[0] as i64, nsec: (words[1] % 1_000_000_000) as u32 }
}

impl Filesystem {
    /// Does what a record says, in one transaction.
    pub(super) fn apply(&self, record: &Record) -> Result<()> {
        if out_of_order(record.kind()) {
            // Such records may come after the removal of their object.
            let object = match record {
                Record::Write { object, .. }
                | Record::Write2 { object, .. }
                | Record::Truncate { object, .. }
                | Record::SetSaXattr { object, .. }
                | Record::Acl { object, .. } => Some(*object),
                Record::SetAttr(set) => Some(set.object),
                _ => None,
            };
            if let Some(object) = object
                && matches!(self.znode(object), Err(Error::NotFound))
            {
                return Ok(());
            }
        }
        match record {
            Record::Create(tx_kind, create) => self.apply_create(*tx_kind, create),
            Record::Remove { dir, name, is_dir: false } => self.unlink(*dir, name),
            Record::Remove { dir, name, is_dir: true } => self.rmdir(*dir, name),
            Record::Link { dir, object, name } => self.link(*dir, name, *object),
            Record::Rename { from_dir, from, to_dir, to, exchange, whiteout } => {
                let flags = match (exchange, whiteout) {
                    (true, _) => RenameFlags::EXCHANGE,
                    (_, Some(_)) => RenameFlags::WHITEOUT,
                    _ => RenameFlags::empty(),
                };
                let whiteout = whiteout.as_ref().map(|create| self.made_by(kind::CREATE, create));
                let whiteout = whiteout.as_ref().map(|(new, birth)| (new, birth));
                self.rename_as((*from_dir, from), (*to_dir, to), flags, whiteout)
            }
            Record::Write { object, offset, len, bp, data } => {
                self.apply_write(*object, *offset, *len, bp, data)
            }
            Record::Write2 { object, offset, len } => self.apply_write2(*object, offset.saturating_add(*len)),
            Record::Truncate { object, offset, len: 0 } => self.truncate(*object, *offset),
            Record::Truncate { object, offset, len } => self.punch_hole(*object, *offset, *len),
            Record::SetAttr(set) => self.apply_setattr(set),
            Record::SetSaXattr { object, name, value } => {
                let znode = self.znode(*object)?;
                self.set_sa_xattr(&znode, name, value.as_deref()).map(|_| ())
            }
            Record::Acl { object, count, aces, .. } => self.apply_acl(*object, *count, aces),
            Record::Other(kind::ACL_V0) => {
                Err(Error::unsupported("replay of TX_ACL_V0 (file systems below version 3)"))
            }
            Record::Other(kind::CLONE_RANGE) => {
                Err(Error::unsupported("replay of TX_CLONE_RANGE (feature com.fudosecurity:block_cloning)"))
            }
            Record::Other(other) => {
                Err(Error::unsupported(alloc::format!("replay of log record type {other}")))
            }
        }
    }

    fn apply_create(&self, tx_kind: u64, create: &Create) -> Result<()> {
        let (new, birth) = self.made_by(tx_kind, create);
        if tx_kind == kind::MKXATTR {
            let znode = self.znode(create.dir)?;
            return self.make_xattr_dir(&znode, &birth).map(|_| ());
        }
        self.create_as(create.dir, &create.name, &new, &birth).map(|_| ())
    }

    /// The file that a record tells of.
    fn made_by(&self, tx_kind: u64, create: &Create) -> (New, Birth) {
        let mode = create.mode as u32;
        let file_kind = match tx_kind {
            kind::MKDIR | kind::MKXATTR => FileKind::Directory,
            kind::SYMLINK => FileKind::Symlink,
            _ => FileKind::from_mode(mode).unwrap_or(FileKind::Regular),
        };
        let birth = Birth {
            generation: create.generation,
            object: Some(create.object),
            slots: create.slots,
            ..Birth::default()
        };
        let crtime = time(create.crtime);
        let now = self.now();
        // Devices are logged as they are stored.
        let (major, minor) = (create.rdev >> 20 & 0xfff, create.rdev & 0xf_ffff);
        let new = New {
            kind: file_kind,
            mode: mode & !MODE_KIND,
            uid: create.uid as u32,
            gid: create.gid as u32,
            rdev: (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff,
            target: create.target.clone(),
            times: Some(Times {
                atime: crtime,
                mtime: crtime,
                ctime: if crtime.sec == 0 { now } else { crtime },
                crtime,
            }),
        };
        (new, birth)
    }

    fn apply_write(&self, object: u64, offset: u64, len: u64, bp: &Blkptr, data: &[u8]) -> Result<()> {
        let znode = self.znode(object)?;
        if bp.is_hole() {
            return self.write_znode(&znode, Place::At(offset), data, None).map(|_| ());
        }
        // A whole block was written in place; only so much of it counts as the file's length, yet a later record may
        // uncover more.
        let at = Bookmark { objset: self.os.id(), object, level: 0, blkid: 0 };
        let block = self.os.zio().read_uncached(bp, at)?;
        let size = block.len() as u64;
        let start = if len < size { offset - offset % size.max(1) } else { offset };
        let end = offset.saturating_add(len);
        let eof = znode.size().max(end);
        self.write_znode(&znode, Place::At(start), &block, Some(eof)).map(|_| ())
    }

    fn apply_write2(&self, object: u64, end: u64) -> Result<()> {
        let znode = self.znode(object)?;
        let tx = self.os.begin(RESERVE_METADATA)?;
        if end > znode.size() {
            znode.update(&self.sa, &tx, |a| a.set_word(Zpl::Size, end))?;
        }
        self.note_object(&tx, object, Payload::Barrier);
        Ok(())
    }

    fn apply_setattr(&self, record: &LogSetAttr) -> Result<()> {
        let on = |bit: u64| record.mask & bit != 0;
        let optional = record.optional.unwrap_or_default();
        let flags = match optional.flags_mask {
            0 => None,
            _ => Some(self.znode(record.object)?.word(Zpl::Flags) & flags::SETTABLE),
        };
        let set = SetAttr {
            mode: on(mask::MODE).then_some(record.mode as u32),
            uid: on(mask::UID).then_some(record.uid as u32),
            gid: on(mask::GID).then_some(record.gid as u32),
            size: on(mask::SIZE).then_some(record.size),
            atime: on(mask::ATIME).then_some(time(record.atime)),
            mtime: on(mask::MTIME).then_some(time(record.mtime)),
            crtime: optional.crtime.map(time),
            flags: flags.map(|old| old & !optional.flags_mask | optional.flags),
            project: optional.project,
            ..SetAttr::default()
        };
        self.setattr(record.object, &set).map(|_| ())
    }

    fn apply_acl(&self, object: u64, count: u64, aces: &[u8]) -> Result<()> {
        let znode = self.znode(object)?;
        let now = self.now();
        let tx = self.os.begin(RESERVE_METADATA + aces.len() as u64)?;
        znode.update(&self.sa, &tx, |a| {
            a.set_word(Zpl::DaclCount, count);
            a.set(Zpl::DaclAces, aces);
            a.set_word(Zpl::Flags, a.word(Zpl::Flags) & !flags::ACL_TRIVIAL);
            a.set_time(Zpl::Ctime, now);
        })?;
        self.note_object(&tx, object, Payload::Barrier);
        Ok(())
    }
}

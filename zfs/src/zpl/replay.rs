//! Replay of the intent log at mount. Source: `module/zfs/zfs_replay.c`.
//!
//! # Invariants
//! - Every record is applied in one transaction, together with the note that it was: a crash in the middle goes on with the
//!   next record.

use super::attr::set_acl;
use super::create::Birth;
use super::file::Place;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::types::{FileKind, MODE_KIND, New, RenameFlags, SetAttr, Times, Timespec};
use crate::error::{Error, Result};
use crate::ondisk::acl::LoggedAcl;
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
                | Record::CloneRange { object, .. }
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
                let whiteout =
                    whiteout.as_ref().map(|create| self.made_by(kind::CREATE, create)).transpose()?;
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
            Record::Acl { object, acl } => self.apply_acl(*object, acl),
            Record::Other(kind::ACL_V0) => {
                Err(Error::unsupported("replay of TX_ACL_V0 (file systems below version 3)"))
            }
            Record::CloneRange { object, offset, len, block_size, bps } => {
                self.apply_clone(*object, *offset, *len, *block_size, bps)
            }
            Record::Other(other) => {
                Err(Error::unsupported(alloc::format!("replay of log record type {other}")))
            }
        }
    }

    fn apply_create(&self, tx_kind: u64, create: &Create) -> Result<()> {
        let (new, birth) = self.made_by(tx_kind, create)?;
        if tx_kind == kind::MKXATTR {
            let znode = self.znode(create.dir)?;
            return self.make_xattr_dir(&znode, &birth).map(|_| ());
        }
        self.create_as(create.dir, &create.name, &new, &birth).map(|_| ())
    }

    /// The file that a record tells of.
    fn made_by(&self, tx_kind: u64, create: &Create) -> Result<(New, Birth)> {
        if (create.uid | create.gid) >> 32 != 0 {
            return Err(Error::unsupported("replay of files whose owner has a domain"));
        }
        let optional = create.optional.unwrap_or_default();
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
            project: optional.project,
            flags: (optional.flags_mask, optional.flags),
            acl: create.acl.as_ref().map(LoggedAcl::for_file).transpose()?,
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
            umask: None,
            times: Some(Times {
                atime: crtime,
                mtime: crtime,
                ctime: if crtime.sec == 0 { now } else { crtime },
                crtime: optional.crtime.map_or(crtime, time),
            }),
        };
        Ok((new, birth))
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

    fn apply_acl(&self, object: u64, logged: &LoggedAcl) -> Result<()> {
        let znode = self.znode(object)?;
        let acl = logged.for_file()?;
        let owner = znode.owner();
        let mode = logged.mode(znode.word(Zpl::Mode) as u32, owner.uid, owner.gid)?;
        let now = self.now();
        let tx = self.os.begin(RESERVE_METADATA + acl.aces.len() as u64)?;
        znode.update(&self.sa, &tx, |a| {
            a.set_word(Zpl::Mode, u64::from(mode));
            set_acl(a, &acl);
            a.set_time(Zpl::Ctime, now);
        })?;
        self.note_object(&tx, object, Payload::Barrier);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MountOptions;
    use super::*;
    use crate::dsl::InitFs;
    use crate::ondisk::zil_optional::Optional;
    use crate::spa::{CreateOptions, ImportOptions, Pool};
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;
    use platform::Env;
    use platform::block::BlockDevice;
    use platform::clock::FixedClock;
    use platform::mem::MemDisk;
    use platform::random::Seeded;

    fn env() -> Env {
        Env { clock: Arc::new(FixedClock(Timespec { sec: 5000, nsec: 0 })), random: Arc::new(Seeded::new(1)) }
    }

    fn mount(pool: &Arc<Pool>) -> Arc<Filesystem> {
        Filesystem::mount(pool, pool.dsl().root().unwrap(), MountOptions::default()).unwrap()
    }

    /// Records are written to a log that nothing but the log itself goes with, and replayed after the power went.
    fn replayed(records: impl FnOnce(u64) -> Vec<Record>, judge: impl FnOnce(&Filesystem)) {
        let disk = Arc::new(MemDisk::new(64 << 20));
        let devices = || vec![Arc::<MemDisk>::clone(&disk) as Arc<dyn BlockDevice>];
        let init: InitFs = Box::new(|os, tx| super::super::init(os, tx, &[], Timespec { sec: 1, nsec: 0 }));
        let options = CreateOptions { txg_timeout_ns: None, ..CreateOptions::new("t", init) };
        let pool = Pool::create(devices(), env(), options).unwrap();
        let fs = mount(&pool);
        // The first commit of a file system syncs.
        fs.create(fs.root(), b"first", &New::new(FileKind::Regular, 0o644)).unwrap();
        fs.sync().unwrap();
        for record in records(fs.root()) {
            let tx = fs.os.begin(0).unwrap();
            fs.note(&tx, &record);
        }
        fs.sync().unwrap();
        let image = disk.contents();
        drop((fs, pool));
        let disk: Arc<dyn BlockDevice> = Arc::new(MemDisk::from_vec(image));
        let pool = Pool::import(vec![disk], env(), ImportOptions { force: true, ..ImportOptions::default() })
            .unwrap();
        judge(&mount(&pool));
    }

    fn acl(entries: &[(u32, u32, u16)]) -> LoggedAcl {
        let entry = |(who, mask, flags): &(u32, u32, u16)| {
            [&who.to_le_bytes()[..], &mask.to_le_bytes(), &flags.to_le_bytes(), &[0, 0]].concat()
        };
        let aces: Vec<u8> = entries.iter().flat_map(entry).collect();
        LoggedAcl { count: entries.len() as u64, aces, flags: 2 }
    }

    #[test]
    fn files_are_made_with_their_attributes_and_acls() {
        let create = |dir: u64, object: u64, name: &[u8], mode: u64| Create {
            dir,
            object,
            slots: 1,
            mode,
            uid: 1000,
            gid: 100,
            generation: 9,
            crtime: [77, 5],
            name: name.to_vec(),
            ..Create::default()
        };
        let optional = Optional {
            flags_mask: flags::IMMUTABLE | flags::PROJINHERIT | flags::ARCHIVE,
            flags: flags::IMMUTABLE | flags::PROJINHERIT,
            crtime: Some([42, 1]),
            project: Some(12),
        };
        let list = acl(&[(1000, 0x3, 0), (0, 0x1, 0x1000), (0, 0x1, 0x4000)]);
        let records = |root: u64| {
            let attr = Create { optional: Some(optional), ..create(root, 200, b"attr", 0o100_640) };
            let acl = Some(list.clone());
            let both = Create { optional: Some(optional), acl, ..create(root, 201, b"both", 0o40_754) };
            let plain = create(root, 202, b"later", 0o100_600);
            let later = Record::Acl { object: 202, acl: list.clone() };
            let made = [(kind::CREATE, attr), (kind::MKDIR, both), (kind::CREATE, plain)];
            made.into_iter().map(|(kind, create)| Record::Create(kind, create)).chain([later]).collect()
        };
        replayed(records, |fs| {
            let found = fs.getattr(fs.lookup(fs.root(), b"attr").unwrap()).unwrap();
            assert_eq!((found.object, found.mode, found.uid, found.project), (200, 0o100_640, 1000, 12));
            assert_eq!((found.crtime.sec, found.mtime.sec), (42, 77));
            let of_interest = flags::IMMUTABLE | flags::PROJINHERIT | flags::ARCHIVE | flags::PROJID;
            assert_eq!(found.flags & of_interest, of_interest & !flags::ARCHIVE);
            let dir = fs.znode(201).unwrap();
            let wanted = list.for_file().unwrap();
            assert!(dir.is_dir() && dir.with(|a| a.get(Zpl::DaclAces) == Some(&wanted.aces[..])));
            assert_eq!((dir.word(Zpl::DaclCount), dir.word(Zpl::Flags) & flags::ACL_TRIVIAL), (3, 0));
            assert_ne!(dir.word(Zpl::Flags) & flags::ACL_PROTECTED, 0);
            // The owner by number is given writing, all are given reading.
            let later = fs.getattr(202).unwrap();
            assert_eq!((later.mode, later.flags & flags::ACL_TRIVIAL), (0o100_644, 0));
        });
    }
}

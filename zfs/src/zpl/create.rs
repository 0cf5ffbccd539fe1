//! Making files: a new file system's first objects, and the object of every new file.

use super::attr::{mode_flags, rdev_to_disk, set_acl};
use super::filesystem::{Filesystem, MASTER_NODE, ZPL_VERSION_SA};
use super::sa::{Attrs, SaTable};
use super::types::{FileKind, MODE_KIND, New, Times, Timespec};
use super::znode::Znode;
use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::acl::FileAcl;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::sa::Zpl;
use crate::ondisk::znode::{flags, trivial_acl};
use crate::zap;
use alloc::sync::Arc;

/// Longest symbolic link, in bytes.
const MAX_TARGET: usize = 4096;

/// Makes an empty objset a file system: master node, attribute registry, delete queue and a root directory with mode
/// 0755 (`zfs_create_fs`). `properties`: those that are fixed at creation (`normalization`, `utf8only`,
/// `casesensitivity`), by name and number; others are ignored. `now` is the time of the root directory.
pub fn init(os: &Arc<Objset>, tx: &Tx, properties: &[(&str, u64)], now: Timespec) -> Result<()> {
    let master = os.claim(tx, MASTER_NODE, &Allocate::plain(ObjectType::MASTER_NODE, 512))?;
    zap::format(&master, tx, &zap::CreateOptions::default())?;
    let property = |name: &str| properties.iter().find(|(n, _)| *n == name).map_or(0, |(_, value)| *value);
    for name in ["normalization", "utf8only", "casesensitivity"] {
        zap::update_u64(&master, tx, name, property(name))?;
    }
    zap::update_u64(&master, tx, "VERSION", ZPL_VERSION_SA)?;
    let sa = zap::create(os, tx, ObjectType::SA_MASTER_NODE, &zap::CreateOptions::default())?;
    zap::add_u64(&master, tx, "SA_ATTRS", sa.object())?;
    let queue = zap::create(os, tx, ObjectType::UNLINKED_SET, &zap::CreateOptions::default())?;
    zap::add_u64(&master, tx, "DELETE_QUEUE", queue.object())?;
    let fold = if property("casesensitivity") == 0 { 0 } else { zap::NORMALIZE_TO_UPPER };
    let normalization = property("normalization") | fold;
    let table = SaTable::load(os, sa.object())?;
    let times = Times { atime: now, mtime: now, ctime: now, crtime: now };
    let new = New { times: Some(times), ..New::new(FileKind::Directory, 0o755) };
    let birth = Birth { generation: tx.txg(), normalization, ..Birth::default() };
    let root = make(os, &table, tx, None, &new, times, &birth)?;
    zap::add_u64(&master, tx, "ROOT", root.object())
}

/// What a new object gets that is not an attribute its maker chooses.
#[derive(Debug, Clone, Default)]
pub(super) struct Birth {
    /// Its generation.
    pub(super) generation: u64,
    /// Its object number, if that is given (replay).
    pub(super) object: Option<u64>,
    /// Dnode slots; 0 means 1.
    pub(super) slots: u8,
    /// Of a directory: how it folds names.
    pub(super) normalization: u64,
    /// It belongs to extended attributes.
    pub(super) xattr: bool,
    /// It has no name yet.
    pub(super) nameless: bool,
    /// The project that it inherits.
    pub(super) project: Option<u64>,
    /// Which of its flags are given, and those of them that are set (replay).
    pub(super) flags: (u64, u64),
    /// Its ACL, if that is given (replay).
    pub(super) acl: Option<FileAcl>,
}

fn allocate(os: &Arc<Objset>, tx: &Tx, kind: FileKind, birth: &Birth) -> Result<Arc<Dnode>> {
    let is_dir = kind == FileKind::Directory;
    let what = Allocate {
        object_type: if is_dir { ObjectType::DIRECTORY_CONTENTS } else { ObjectType::PLAIN_FILE_CONTENTS },
        block_size: 512,
        bonus_type: ObjectType::SA,
        bonus_len: 8,
        slots: birth.slots.max(1),
        indirect_shift: 0,
    };
    let dnode = match birth.object {
        Some(object) => os.claim(tx, object, &what)?,
        None => os.allocate(tx, &what)?,
    };
    if is_dir {
        let o = zap::CreateOptions { normalization: birth.normalization, ..zap::CreateOptions::default() };
        zap::format(&dnode, tx, &o)?;
    }
    Ok(dnode)
}

/// Makes a file's object with its attributes, in the order of OpenZFS (`zfs_mknode`). Its parent is itself if there is
/// none.
pub(super) fn make(
    os: &Arc<Objset>,
    table: &SaTable,
    tx: &Tx,
    parent: Option<u64>,
    new: &New,
    times: Times,
    birth: &Birth,
) -> Result<Arc<Znode>> {
    let dnode = allocate(os, tx, new.kind, birth)?;
    let is_dir = new.kind == FileKind::Directory;
    let mode = new.kind.mode_bits() | new.mode & !MODE_KIND;
    let mut bits = mode_flags(flags::AV_MODIFIED, mode);
    if is_dir {
        bits |= flags::ACL_AUTO_INHERIT;
    }
    if parent.is_some() {
        bits |= flags::ARCHIVE;
    }
    if birth.xattr {
        bits |= flags::XATTR;
    }
    if birth.project.is_some() {
        bits |= flags::PROJID | if new.kind.bears_projinherit() { flags::PROJINHERIT } else { 0 };
    }
    bits = bits & !birth.flags.0 | birth.flags.1;
    let size = match new.kind {
        FileKind::Directory => 2,
        FileKind::Symlink => new.target.len() as u64,
        _ => 0,
    };
    let links = if is_dir { 2 } else { u64::from(!birth.nameless) };
    let mut attrs = Attrs::new();
    attrs.set_word(Zpl::Mode, u64::from(mode));
    attrs.set_word(Zpl::Size, size);
    attrs.set_word(Zpl::Gen, birth.generation);
    attrs.set_word(Zpl::Uid, u64::from(new.uid));
    attrs.set_word(Zpl::Gid, u64::from(new.gid));
    attrs.set_word(Zpl::Parent, parent.unwrap_or(dnode.object()));
    attrs.set_word(Zpl::Flags, bits);
    attrs.set_time(Zpl::Atime, times.atime);
    attrs.set_time(Zpl::Mtime, times.mtime);
    attrs.set_time(Zpl::Ctime, times.ctime);
    attrs.set_time(Zpl::Crtime, times.crtime);
    attrs.set_word(Zpl::Links, links);
    if matches!(new.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        attrs.set_word(Zpl::Rdev, rdev_to_disk(new.rdev));
    }
    let (count, aces) = trivial_acl(mode, is_dir);
    attrs.set_word(Zpl::DaclCount, count);
    attrs.set(Zpl::DaclAces, &aces);
    if let Some(acl) = &birth.acl {
        set_acl(&mut attrs, acl);
    }
    if let Some(project) = birth.project {
        attrs.set_project(project);
    }
    if new.kind == FileKind::Symlink {
        attrs.set(Zpl::Symlink, &new.target);
    }
    attrs.store(table, &dnode, tx)?;
    Ok(Znode::new(dnode, attrs))
}

impl Filesystem {
    /// Checks what a caller wants made.
    pub(super) fn check_new(&self, new: &New) -> Result<()> {
        match new.kind {
            FileKind::Symlink if new.target.is_empty() => Err(Error::Invalid("empty symbolic link")),
            FileKind::Symlink if new.target.len() > MAX_TARGET => Err(Error::NameTooLong),
            _ => Ok(()),
        }
    }

    /// Makes a file in this file system and puts it into the cache.
    pub(super) fn make_file(&self, tx: &Tx, parent: u64, new: &New, birth: &Birth) -> Result<Arc<Znode>> {
        let now = self.now();
        let times = new.times.unwrap_or(Times { atime: now, mtime: now, ctime: now, crtime: now });
        let birth = Birth {
            generation: if birth.generation == 0 { tx.txg() } else { birth.generation },
            slots: if birth.slots == 0 { self.dnode_slots } else { birth.slots },
            normalization: self.normalization,
            ..birth.clone()
        };
        let znode = make(&self.os, &self.sa, tx, Some(parent), new, times, &birth)?;
        self.znodes.insert(&znode);
        Ok(znode)
    }
}

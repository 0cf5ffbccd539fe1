//! Extended attributes: among the system attributes, or as files of a hidden directory.
//! Source: `module/os/linux/zfs/zpl_xattr.c`, `module/zfs/zfs_sa.c`.
//!
//! Small ones go into the attribute `ZPL_DXATTR`, a packed name-value list, if the property `xattr` is `sa`; others
//! become files of the directory that `ZPL_XATTR` names. Reading looks into both.

use super::create::Birth;
use super::dir::{DirChange, MAX_NAME};
use super::file::Place;
use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::posix_acl::is_acl;
use super::protect;
use super::sa::Format;
use super::types::{FileKind, New, XattrMode};
use super::znode::Znode;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::{NvList, Value};
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::Record;
use crate::zap;
use crate::zil::Payload;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Largest value among the system attributes, in bytes (`DXATTR_MAX_ENTRY_SIZE`).
const MAX_SA_VALUE: usize = 32 << 10;
/// Largest list among the system attributes, in bytes: a value's length has 16 bits there.
const MAX_SA_LIST: usize = 64 << 10;
/// Largest value in bytes (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 << 10;

/// The list among the system attributes; empty if there is none.
fn sa_list(znode: &Znode) -> Result<NvList> {
    match znode.with(|a| a.get(Zpl::Dxattr).map(<[u8]>::to_vec)) {
        Some(packed) if !packed.is_empty() => NvList::unpack(&packed),
        _ => Ok(NvList::new()),
    }
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::ByteArray(bytes) | Value::Uint8Array(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

impl Filesystem {
    /// The hidden directory of extended attributes, if there is one.
    fn xattr_dir(&self, znode: &Znode) -> Result<Option<Arc<Znode>>> {
        match znode.word(Zpl::Xattr) {
            0 => Ok(None),
            object => Ok(Some(self.directory(object)?)),
        }
    }

    fn xattr_file(&self, znode: &Znode, name: &[u8]) -> Result<Option<Arc<Znode>>> {
        let Some(dir) = self.xattr_dir(znode)? else { return Ok(None) };
        match self.find(&dir, name) {
            Ok((_, dirent)) => Ok(Some(self.znode(dirent.object)?)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// An extended attribute's value, by its full name (`user.x`). [`Error::NotFound`] if there is none.
    pub fn get_xattr(&self, object: u64, name: &[u8]) -> Result<Vec<u8>> {
        let znode = self.znode(object)?;
        let _xattrs = znode.xattrs.read();
        self.get_xattr_locked(&znode, name)
    }

    pub(super) fn get_xattr_locked(&self, znode: &Znode, name: &[u8]) -> Result<Vec<u8>> {
        if let Ok(name) = core::str::from_utf8(name)
            && let Some(value) = sa_list(znode)?.get(name).and_then(bytes_of)
        {
            return Ok(value);
        }
        let file = self.xattr_file(znode, name)?.ok_or(Error::NotFound)?;
        let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
        if size > 16 << 20 {
            return Err(Error::TooBig);
        }
        let mut value = alloc::vec![0; size];
        let got = self.read_znode(&file, 0, &mut value)?;
        value.truncate(got);
        Ok(value)
    }

    /// The full names of all extended attributes, sorted.
    pub fn list_xattr(&self, object: u64) -> Result<Vec<Vec<u8>>> {
        let znode = self.znode(object)?;
        let _xattrs = znode.xattrs.read();
        let mut names: BTreeSet<Vec<u8>> =
            sa_list(&znode)?.iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
        if let Some(dir) = self.xattr_dir(&znode)? {
            names.extend(zap::entries(&dir.dnode)?.into_iter().map(|entry| entry.name));
        }
        Ok(names.into_iter().collect())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, object: u64, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_writable()?;
        if value.len() > MAX_VALUE {
            return Err(Error::TooBig);
        }
        self.check_name(name)?;
        // Whatever `longname` says.
        if name.len() > MAX_NAME {
            return Err(Error::NameTooLong);
        }
        let znode = self.znode(object)?;
        self.check_flags(&znode, protect::ATTRIBUTES)?;
        // Where the property `acltype` does not use them, they are attributes like others.
        if is_acl(name) && self.tunables.posix_acls() {
            self.set_posix_acl(&znode, name, Some(value))?;
            return self.settle(object, false);
        }
        {
            let _xattrs = znode.xattrs.write();
            let exists = match self.get_xattr_locked(&znode, name) {
                Ok(_) => true,
                Err(Error::NotFound) => false,
                Err(e) => return Err(e),
            };
            match mode {
                XattrMode::Create if exists => return Err(Error::Exists),
                XattrMode::Replace if !exists => return Err(Error::NotFound),
                _ => {}
            }
            self.put_xattr_locked(&znode, name, Some(value))?;
        }
        self.settle(object, false)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, object: u64, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let znode = self.znode(object)?;
        self.check_flags(&znode, protect::ATTRIBUTES)?;
        {
            let _xattrs = znode.xattrs.write();
            if !self.put_xattr_locked(&znode, name, None)? {
                return Err(Error::NotFound);
            }
        }
        self.settle(object, false)
    }

    /// Sets or removes one, where it belongs; whether there is one, or was. The znode's lock on them is held.
    pub(super) fn put_xattr_locked(
        &self,
        znode: &Arc<Znode>,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool> {
        let Some(value) = value else {
            let was_sa = self.set_sa_xattr(znode, name, None)?;
            return Ok(self.remove_xattr_file(znode, name)? || was_sa);
        };
        if self.set_sa_xattr(znode, name, Some(value))? {
            self.remove_xattr_file(znode, name)?;
        } else {
            self.set_xattr_file(znode, name, value)?;
            self.set_sa_xattr(znode, name, None)?;
        }
        Ok(true)
    }

    /// Sets or removes one among the system attributes. `false`: it does not belong there, or was not there.
    pub(super) fn set_sa_xattr(&self, znode: &Znode, name: &[u8], value: Option<&[u8]>) -> Result<bool> {
        let Ok(name) = core::str::from_utf8(name) else { return Ok(false) };
        if znode.with(|a| a.format()) != Format::Sa {
            return Ok(false);
        }
        let mut list = sa_list(znode)?;
        let existed = list.remove(name).is_some();
        match value {
            None if existed => {}
            None => return Ok(false),
            Some(value)
                if value.len() > MAX_SA_VALUE || !(self.tunables.sa_xattrs() || self.is_replaying()) =>
            {
                return Ok(false);
            }
            Some(value) => list.insert(name, Value::ByteArray(value.to_vec())),
        }
        let packed = list.pack_xdr();
        let mut trial = znode.with(super::sa::Attrs::clone);
        trial.set(Zpl::Dxattr, &packed);
        if value.is_some() && (packed.len() >= MAX_SA_LIST || !trial.fits()) {
            return Ok(false);
        }
        let now = self.now();
        let tx = self.os.begin(packed.len() as u64 + RESERVE_METADATA)?;
        znode.update(&self.sa, &tx, |a| {
            if list.is_empty() {
                a.remove(Zpl::Dxattr);
            } else {
                a.set(Zpl::Dxattr, &packed);
            }
            a.set_time(Zpl::Ctime, now);
        })?;
        if !znode.is_unlinked() {
            self.note_object(&tx, znode.object(), self.sa_xattr_payload(&tx, znode, name, value));
        }
        Ok(true)
    }

    /// What the log says of such a change. Records of it need a feature that says so before there is one on disk: until then, and without
    /// it, whoever wants it durable waits for the txg. An empty value has no record, as that would say that it was removed.
    fn sa_xattr_payload(&self, tx: &Tx, znode: &Znode, name: &str, value: Option<&[u8]>) -> Payload {
        let from = self.sa_log_from.load(Ordering::Relaxed);
        if from == 0 && self.dataset.logs_sa_xattrs() {
            // Active at last, in a txg before this one.
            self.sa_log_from.store(tx.txg(), Ordering::Relaxed);
        }
        if from == 0 || self.pool.txgs().synced_txg() < from || value.is_some_and(<[u8]>::is_empty) {
            return Payload::Barrier;
        }
        let (object, name) = (znode.object(), name.as_bytes().to_vec());
        Payload::Record(Record::SetSaXattr { object, name, value: value.map(<[u8]>::to_vec) }.emit())
    }

    /// The hidden directory, made if need be (`zfs_make_xattrdir`).
    pub(super) fn make_xattr_dir(&self, znode: &Arc<Znode>, birth: &Birth) -> Result<Arc<Znode>> {
        if let Some(dir) = self.xattr_dir(znode)? {
            return Ok(dir);
        }
        let tx = self.os.begin(RESERVE_METADATA)?;
        let (uid, gid) = znode.with(|a| (a.word(Zpl::Uid) as u32, a.word(Zpl::Gid) as u32));
        let new = New { uid, gid, ..New::new(FileKind::Directory, 0o1777) };
        let dir = self.make_file(&tx, znode.object(), &new, &Birth { xattr: true, ..birth.clone() })?;
        znode.update(&self.sa, &tx, |a| a.set_word(Zpl::Xattr, dir.object()))?;
        if !znode.is_unlinked() {
            self.note_create(&tx, znode, &dir, b"", b"");
        }
        Ok(dir)
    }

    fn set_xattr_file(&self, znode: &Arc<Znode>, name: &[u8], value: &[u8]) -> Result<()> {
        let dir = self.make_xattr_dir(znode, &Birth::default())?;
        let file = match self.xattr_file(znode, name)? {
            Some(file) => {
                self.truncate_znode(&file, 0)?;
                file
            }
            None => {
                let new = New::new(FileKind::Regular, 0o644);
                let object = self.create_as(dir.object(), name, &new, &Birth::default())?;
                self.znode(object)?
            }
        };
        self.write_znode(&file, Place::At(0), value, None)?;
        let now = self.now();
        let tx = self.os.begin(RESERVE_METADATA)?;
        znode.update(&self.sa, &tx, |a| a.set_time(Zpl::Ctime, now))
    }

    /// Removes the file of one; whether there was one.
    fn remove_xattr_file(&self, znode: &Znode, name: &[u8]) -> Result<bool> {
        let Some(dir) = self.xattr_dir(znode)? else { return Ok(false) };
        let _entries = dir.entries.write();
        let (stored, file) = match self.find(&dir, name) {
            Ok((stored, dirent)) => (stored, self.znode(dirent.object)?),
            Err(Error::NotFound) => return Ok(false),
            Err(e) => return Err(e),
        };
        let tx = self.os.begin_net_free(RESERVE_METADATA)?;
        zap::remove(&dir.dnode, &tx, stored.as_slice())?;
        self.change_dir(&tx, &dir, &DirChange { entries: -1, subdirs: 0 })?;
        self.drop_link(&tx, &file)?;
        if !znode.is_unlinked() {
            self.note(&tx, &Record::Remove { dir: dir.object(), name: stored, is_dir: false });
        }
        Ok(true)
    }
}

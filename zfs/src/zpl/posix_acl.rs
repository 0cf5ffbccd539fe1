//! POSIX access control lists (property `acltype=posix`): extended attributes in Linux's form. Source: `zpl_init_acl`, `zpl_chmod_acl`,
//! `zpl_set_acl` (`module/os/linux/zfs/zpl_xattr.c`); acl(5).
//!
//! ```text
//! version 2 u32 · entries: tag u16, permissions u16, id u32
//! ```
//!
//! # Invariants
//! - A list that says no more than the mode is not kept; one that is kept and the mode say the same of the owner, the others, and of the
//!   group class as a whole, which is the mask.

use super::filesystem::Filesystem;
use super::types::{FileKind, New, SetAttr};
use super::znode::Znode;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Who may do what with the file.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Of a directory: what its new files get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";
/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
const ENTRY_SIZE: usize = 8;
/// Tags (`ACL_USER_OBJ`, …).
const USER_OBJ: u16 = 0x1;
const USER: u16 = 0x2;
const GROUP_OBJ: u16 = 0x4;
const GROUP: u16 = 0x8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whether an extended attribute is such a list.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list whose entries are in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PosixAcl(Vec<Entry>);

impl PosixAcl {
    /// Reads one; `None` if it has no entries. [`Error::Invalid`] if it breaks a rule of acl(5).
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        const BAD: Error = Error::Invalid("a POSIX ACL that breaks the rules");
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
        let (entries, rest) = rest.as_chunks::<ENTRY_SIZE>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Err(BAD);
        }
        let entry = |e: &[u8; ENTRY_SIZE]| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            perm: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        };
        let acl = PosixAcl(entries.iter().map(entry).collect());
        let count = |tag| acl.0.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let sound = acl.0.is_sorted_by_key(|e| e.tag)
            && acl.0.iter().all(|e| known.contains(&e.tag) && e.perm <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1);
        match (acl.0.is_empty(), sound) {
            (true, _) => Ok(None),
            (false, true) => Ok(Some(acl)),
            (false, false) => Err(BAD),
        }
    }

    fn emit(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for Entry { tag, perm, id } in &self.0 {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn entry(&mut self, tag: u16) -> Option<&mut Entry> {
        self.0.iter_mut().find(|e| e.tag == tag)
    }

    /// The entry that the group bits of a mode stand for.
    fn group_class(&mut self) -> Option<&mut Entry> {
        let tag = if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ };
        self.entry(tag)
    }

    /// The entries that a mode stands for, with their place in it.
    fn for_each_class(&mut self, f: &mut dyn FnMut(&mut Entry, u32)) {
        self.entry(USER_OBJ).into_iter().for_each(|e| f(e, 6));
        self.group_class().into_iter().for_each(|e| f(e, 3));
        self.entry(OTHER).into_iter().for_each(|e| f(e, 0));
    }

    /// The permissions that it says.
    fn mode(&mut self) -> u32 {
        let mut mode = 0;
        self.for_each_class(&mut |entry, shift| mode |= u32::from(entry.perm) << shift);
        mode
    }

    /// Says these permissions from now on.
    fn chmod(&mut self, mode: u32) {
        self.for_each_class(&mut |entry, shift| entry.perm = (mode >> shift & 7) as u16);
    }

    /// Becomes the list of a new file that is asked for with these permissions; those that it gets.
    fn create(&mut self, mode: u32) -> u32 {
        let mut given = 0;
        self.for_each_class(&mut |entry, shift| {
            entry.perm &= (mode >> shift & 7) as u16;
            given |= u32::from(entry.perm) << shift;
        });
        given
    }

    /// Whether it says more than a mode.
    fn is_extended(&self) -> bool {
        self.0.iter().any(|e| matches!(e.tag, USER | GROUP | MASK))
    }
}

/// What a new file inherits.
#[derive(Default)]
pub(super) struct Inherited {
    access: Option<PosixAcl>,
    default: Option<PosixAcl>,
}

impl Filesystem {
    fn posix_acl(&self, znode: &Znode, name: &[u8]) -> Result<Option<PosixAcl>> {
        let _xattrs = znode.xattrs.read();
        match self.get_xattr_locked(znode, name) {
            Ok(value) => PosixAcl::parse(&value),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put_posix_acl(&self, znode: &Arc<Znode>, name: &[u8], acl: Option<&PosixAcl>) -> Result<()> {
        let _xattrs = znode.xattrs.write();
        self.put_xattr_locked(znode, name, acl.map(PosixAcl::emit).as_deref()).map(|_| ())
    }

    /// The file as it is to be made in a directory, and the lists that it gets.
    pub(super) fn inherit_acls(&self, dir: u64, new: &New) -> Result<(New, Inherited)> {
        let mut new = new.clone();
        let Some(umask) = new.umask else { return Ok((new, Inherited::default())) };
        let acl = match self.tunables.posix_acls() && new.kind != FileKind::Symlink {
            true => self.posix_acl(&*self.directory(dir)?, DEFAULT)?,
            false => None,
        };
        let Some(mut access) = acl else {
            if new.kind != FileKind::Symlink {
                new.mode &= !umask;
            }
            return Ok((new, Inherited::default()));
        };
        let default = (new.kind == FileKind::Directory).then(|| access.clone());
        new.mode = new.mode & !0o777 | access.create(new.mode);
        Ok((new, Inherited { access: Some(access).filter(PosixAcl::is_extended), default }))
    }

    /// Gives a new file what it inherited.
    pub(super) fn give_acls(&self, object: u64, inherited: &Inherited) -> Result<()> {
        for (name, acl) in [(ACCESS, &inherited.access), (DEFAULT, &inherited.default)] {
            if acl.is_some() {
                self.put_posix_acl(&self.znode(object)?, name, acl.as_ref())?;
            }
        }
        Ok(())
    }

    /// Sets a list, or removes it if `value` is none, or says nothing that the mode does not. The mode follows.
    pub(super) fn set_posix_acl(&self, znode: &Arc<Znode>, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut acl = value.map(PosixAcl::parse).transpose()?.flatten();
        match (znode.kind(), name == DEFAULT) {
            (FileKind::Symlink, _) => return Err(Error::unsupported("POSIX ACLs of symbolic links")),
            (FileKind::Directory, true) | (_, false) => {}
            (_, true) if acl.is_none() => return Ok(()),
            (_, true) => return Err(Error::Invalid("only directories have default ACLs")),
        }
        if name == ACCESS
            && let Some(list) = &mut acl
        {
            let mode = znode.word(Zpl::Mode) as u32 & 0o7000 | list.mode();
            self.change_attributes(znode, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
            acl = acl.filter(PosixAcl::is_extended);
        }
        self.put_posix_acl(znode, name, acl.as_ref())
    }

    /// After the mode was changed: the list follows.
    pub(super) fn chmod_acl(&self, znode: &Arc<Znode>, mode: u32) -> Result<()> {
        if !self.tunables.posix_acls() || znode.kind() == FileKind::Symlink || self.is_replaying() {
            return Ok(());
        }
        let Some(mut acl) = self.posix_acl(znode, ACCESS)? else { return Ok(()) };
        acl.chmod(mode);
        self.put_posix_acl(znode, ACCESS, Some(&acl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        PosixAcl(entries.iter().map(|(tag, perm, id)| Entry { tag: *tag, perm: *perm, id: *id }).collect())
            .emit()
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn lists_obey_their_rules() {
        let plain = acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 4, NOBODY)]);
        let mut parsed = PosixAcl::parse(&plain).unwrap().unwrap();
        assert_eq!((parsed.mode(), parsed.is_extended(), parsed.emit()), (0o754, false, plain.clone()));
        assert_eq!(PosixAcl::parse(&VERSION.to_le_bytes()), Ok(None));
        for bad in [
            acl(&[(USER_OBJ, 7, NOBODY), (OTHER, 4, NOBODY)]),
            acl(&[(USER_OBJ, 7, NOBODY), (USER, 7, 5), (GROUP_OBJ, 5, NOBODY), (OTHER, 4, NOBODY)]),
            acl(&[(GROUP_OBJ, 5, NOBODY), (USER_OBJ, 7, NOBODY), (OTHER, 4, NOBODY)]),
            acl(&[(USER_OBJ, 8, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 4, NOBODY)]),
            plain[..plain.len() - 1].to_vec(),
            [&[3, 0, 0, 0], &plain[4..]].concat(),
            Vec::new(),
        ] {
            assert!(matches!(PosixAcl::parse(&bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_mask_is_the_group_class() {
        let named = acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 7, NOBODY),
            (OTHER, 5, NOBODY),
        ]);
        let mut list = PosixAcl::parse(&named).unwrap().unwrap();
        assert!(list.is_extended() && list.mode() == 0o775);
        let mut new = list.clone();
        assert_eq!((new.create(0o664), new.mode()), (0o664, 0o664));
        assert_eq!(new.entry(GROUP_OBJ).unwrap().perm, 5);
        list.chmod(0o640);
        assert_eq!(
            (list.mode(), list.entry(MASK).unwrap().perm, list.entry(GROUP_OBJ).unwrap().perm),
            (0o640, 4, 5)
        );
    }
}

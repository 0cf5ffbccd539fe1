//! Files before system attributes, flags, directory entries, trivial ACLs. Source: `include/sys/zfs_znode.h`, `zfs_acl.h`.
//!
//! Up to ZPL version 4 the bonus is a `znode_phys_t` of 264 bytes; a short symbolic link's target follows it.

use super::object_type::ObjectType;
use super::sa::{Header, Zpl};
use crate::error::{Error, Result};
use alloc::vec::Vec;

/// Size of `znode_phys_t`, in bytes (`ZFS_OLD_ZNODE_PHYS_SIZE`).
pub const ZNODE_PHYS_SIZE: usize = 264;

/// Bits of `zp_flags`.
#[expect(missing_docs, reason = "the names are those of OpenZFS without ZFS_")]
pub mod flags {
    pub const XATTR: u64 = 0x1;
    pub const INHERIT_ACE: u64 = 0x2;
    pub const ACL_TRIVIAL: u64 = 0x4;
    pub const ACL_PROTECTED: u64 = 0x10;
    pub const ACL_DEFAULTED: u64 = 0x20;
    pub const ACL_AUTO_INHERIT: u64 = 0x40;
    pub const NO_EXECS_DENIED: u64 = 0x100;
    pub const READONLY: u64 = 0x1_0000_0000;
    pub const HIDDEN: u64 = 0x2_0000_0000;
    pub const SYSTEM: u64 = 0x4_0000_0000;
    pub const ARCHIVE: u64 = 0x8_0000_0000;
    pub const IMMUTABLE: u64 = 0x10_0000_0000;
    pub const NOUNLINK: u64 = 0x20_0000_0000;
    pub const APPENDONLY: u64 = 0x40_0000_0000;
    pub const NODUMP: u64 = 0x80_0000_0000;
    pub const AV_MODIFIED: u64 = 0x400_0000_0000;
    pub const PROJINHERIT: u64 = 0x4000_0000_0000;
    pub const PROJID: u64 = 0x8000_0000_0000;
    /// What [`crate::zpl::SetAttr::flags`] may change.
    pub const SETTABLE: u64 =
        READONLY | HIDDEN | SYSTEM | ARCHIVE | IMMUTABLE | NOUNLINK | APPENDONLY | NODUMP | PROJINHERIT;
}

/// Where the attributes stand in a `znode_phys_t`: offset and length in bytes.
pub const ZNODE_PHYS: [(Zpl, usize, usize); 16] = [
    (Zpl::Atime, 0, 16),
    (Zpl::Mtime, 16, 16),
    (Zpl::Ctime, 32, 16),
    (Zpl::Crtime, 48, 16),
    (Zpl::Gen, 64, 8),
    (Zpl::Mode, 72, 8),
    (Zpl::Size, 80, 8),
    (Zpl::Parent, 88, 8),
    (Zpl::Links, 96, 8),
    (Zpl::Xattr, 104, 8),
    (Zpl::Rdev, 112, 8),
    (Zpl::Flags, 120, 8),
    (Zpl::Uid, 128, 8),
    (Zpl::Gid, 136, 8),
    (Zpl::Pad, 144, 32),
    (Zpl::ZnodeAcl, 176, 88),
];

/// Takes a `znode_phys_t` apart; what follows it is a symbolic link's target, if it is one.
pub fn parse_znode_phys(bonus: &[u8]) -> Result<Vec<(Zpl, &[u8])>> {
    if bonus.len() < ZNODE_PHYS_SIZE {
        return Err(Error::corrupt("znode: bonus too short", None));
    }
    let mut values: Vec<_> = ZNODE_PHYS.iter().map(|&(attr, at, len)| (attr, &bonus[at..at + len])).collect();
    if bonus.len() > ZNODE_PHYS_SIZE {
        values.push((Zpl::Symlink, &bonus[ZNODE_PHYS_SIZE..]));
    }
    Ok(values)
}

/// Who owns a file, for accounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner {
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Project id, 0 if the file has none.
    pub project: u64,
}

/// Where system attributes of a file stand behind their header, in every layout (`SA_UID_OFFSET`, …).
const SA_UID: usize = 24;
const SA_GID: usize = 32;
const SA_FLAGS: usize = 48;
const SA_PROJECT: usize = 128;

/// Who owns the file with these attributes; `None` if the object is not a file (`zpl_get_file_info`).
#[must_use]
pub fn owner_of(bonus_type: ObjectType, attributes: &[u8]) -> Option<FileOwner> {
    let word = |at: usize| attributes.get(at..)?.first_chunk::<8>().map(|w| u64::from_le_bytes(*w));
    if bonus_type == ObjectType::ZNODE {
        let place = |attr: Zpl| ZNODE_PHYS.iter().find(|(a, ..)| *a == attr).map(|(_, at, _)| *at);
        return Some(FileOwner { uid: word(place(Zpl::Uid)?)?, gid: word(place(Zpl::Gid)?)?, project: 0 });
    }
    if bonus_type != ObjectType::SA {
        return None;
    }
    let nobody = FileOwner { uid: 0, gid: 0, project: 0 };
    let Ok(header) = Header::parse(attributes) else {
        // New, and its attributes are not filled in yet.
        return attributes.iter().take(8).all(|b| *b == 0).then_some(nobody);
    };
    let at = |offset: usize| word(header.size + offset);
    let project = if at(SA_FLAGS)? & flags::PROJID != 0 { at(SA_PROJECT)? } else { 0 };
    Some(FileOwner { uid: at(SA_UID)?, gid: at(SA_GID)?, project })
}

/// A directory entry's value: the kind in the top 4 bits, the object number in the low 48.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    /// `DT_*`; 0 in file systems of ZPL version 1.
    pub kind: u8,
    /// Object number.
    pub object: u64,
}

impl Dirent {
    /// Reads it.
    #[must_use]
    pub fn from_raw(raw: u64) -> Self {
        Dirent { kind: (raw >> 60) as u8, object: raw & ((1 << 48) - 1) }
    }

    /// The value as it stands in the directory.
    #[must_use]
    pub fn to_raw(self) -> u64 {
        u64::from(self.kind) << 60 | self.object
    }
}

/// The ACL that says what the mode says, as FUID-version entries of 8 bytes each, and their number
/// (`acl_trivial_create`).
#[must_use]
pub fn trivial_acl(mode: u32, is_dir: bool) -> (u64, Vec<u8>) {
    const READ: u32 = 0x1;
    const EXECUTE: u32 = 0x20;
    const OWNER_ALWAYS: u32 = 0x1e_0198;
    const ALWAYS: u32 = 0x12_0088;
    const OWNER: u16 = 0x1000;
    const GROUP: u16 = 0x2040;
    const EVERYONE: u16 = 0x4000;
    // Write and append, and in a directory delete.
    let write = if is_dir { 0x46 } else { 0x6 };
    let perms = |bits: u32| {
        let mut mask = 0;
        for (bit, what) in [(4, READ), (2, write), (1, EXECUTE)] {
            if bits & bit != 0 {
                mask |= what;
            }
        }
        mask
    };
    let (user, group, other) = (mode >> 6 & 7, mode >> 3 & 7, mode & 7);
    let mut entries: Vec<(u16, u16, u32)> = Vec::new();
    // A class that has less than a class after it needs that denied; and then the owner must be allowed before.
    let allow_owner = perms(user & !group & other);
    let deny_owner = perms(!user & (group | other));
    let deny_group = perms(!group & other);
    if allow_owner != 0 {
        entries.push((0, OWNER, allow_owner));
    }
    if deny_owner != 0 {
        entries.push((1, OWNER, deny_owner));
    }
    if deny_group != 0 {
        entries.push((1, GROUP, deny_group));
    }
    entries.push((0, OWNER, OWNER_ALWAYS | perms(user)));
    entries.push((0, GROUP, ALWAYS | perms(group)));
    entries.push((0, EVERYONE, ALWAYS | perms(other)));
    let mut bytes = Vec::with_capacity(entries.len() * 8);
    for (kind, flags, mask) in &entries {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&mask.to_le_bytes());
    }
    (entries.len() as u64, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trivial_acl_of_common_modes() {
        let (count, bytes) = trivial_acl(0o644, false);
        assert_eq!((count, bytes.len()), (3, 24));
        // owner@ read, write, append and the attribute rights.
        assert_eq!(&bytes[..8], &[0, 0, 0, 0x10, 0x9f, 0x01, 0x1e, 0]);
        assert_eq!(&bytes[8..16], &[0, 0, 0x40, 0x20, 0x89, 0, 0x12, 0]);
        assert_eq!(trivial_acl(0o077, false).0, 4);
        assert_eq!(trivial_acl(0o705, true).0, 5);
    }

    #[test]
    fn dirents_come_back() {
        let entry = Dirent { kind: 8, object: 0x1234 };
        assert_eq!(Dirent::from_raw(entry.to_raw()), entry);
    }
}

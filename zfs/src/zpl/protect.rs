//! Files that must not be changed: immutable, append-only and read-only ones (`chattr +i`, `+a`). Permissions are the caller's, who knows the
//! user; these flags hold for everybody. Source: `zfs_write`, `zfs_zaccess_common` (`module/zfs/zfs_vnops.c`, `zfs_acl.c`), `may_delete` of
//! Linux.

use super::filesystem::Filesystem;
use super::znode::Znode;
use crate::error::{Error, Result};
use crate::ondisk::sa::Zpl;
use crate::ondisk::znode::flags;

/// Content cannot be overwritten or cut.
pub(super) const CONTENT: u64 = flags::IMMUTABLE | flags::READONLY | flags::APPENDONLY;
/// Nothing can be added to the content.
pub(super) const APPEND: u64 = flags::IMMUTABLE | flags::READONLY;
/// Attributes, extended attributes and the number of names stay.
pub(super) const ATTRIBUTES: u64 = flags::IMMUTABLE | flags::APPENDONLY;
/// Names of the file cannot go.
pub(super) const NAMES: u64 = flags::IMMUTABLE | flags::APPENDONLY | flags::NOUNLINK;
/// Names in the directory cannot go.
pub(super) const ENTRIES: u64 = flags::IMMUTABLE | flags::APPENDONLY;
/// The directory gets no names.
pub(super) const NEW_ENTRIES: u64 = flags::IMMUTABLE;

impl Filesystem {
    /// Refuses what one of `forbidding` stands against. What is replayed was allowed once.
    pub(super) fn check_flags(&self, znode: &Znode, forbidding: u64) -> Result<()> {
        if znode.word(Zpl::Flags) & forbidding != 0 && !self.is_replaying() {
            return Err(Error::NotPermitted);
        }
        Ok(())
    }
}

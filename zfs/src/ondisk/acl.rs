//! NFSv4 access control lists: as the intent log has them, as files hold them, and the mode that they amount to. Source: `ace_t`
//! (`include/os/linux/spl/sys/acl.h`), `zfs_ace_hdr_t`, `zfs_ace_t` (`include/sys/zfs_acl.h`), `zfs_mode_compute` (`zfs_acl.c`).
//!
//! ```text
//! in the log:  who u32 · access mask u32 · flags u16 · type u16
//! in a file:   type u16 · flags u16 · access mask u32, and of a named user or group: · id u64
//! ```

use super::znode::flags;
use crate::error::{Error, Result};
use alloc::vec::Vec;

/// Size of an entry in the log, in bytes.
const LOG_ENTRY: usize = 12;
/// Whom an entry is about (`ACE_TYPE_FLAGS`); none of them: a user, by number.
const OWNER: u16 = 0x1000;
const GROUP: u16 = 0x2000;
const EVERYONE: u16 = 0x4000;
const IDENTIFIER_GROUP: u16 = 0x40;
const WHO: u16 = OWNER | GROUP | EVERYONE | IDENTIFIER_GROUP;
/// `ACE_FILE_INHERIT_ACE`, `ACE_DIRECTORY_INHERIT_ACE`, `ACE_NO_PROPAGATE_INHERIT_ACE`, `ACE_INHERIT_ONLY_ACE`.
const INHERIT: u16 = 0xf;
const INHERIT_ONLY: u16 = 0x8;
/// Entry types: `ALLOW`, `DENY`, and up to which one they have this form.
const ALLOW: u16 = 0;
const DENY: u16 = 1;
const PLAIN_MAX: u16 = 4;
/// `ACE_READ_DATA`, `ACE_WRITE_DATA`, `ACE_EXECUTE` and what they are in a mode.
const RIGHTS: [(u32, u32); 3] = [(0x1, 4), (0x2, 2), (0x20, 1)];
/// Rights that a denial makes more than a mode can say: those to the ACL, the owner and the attributes.
const DENIED_NEVER: u32 = 0x2_0000 | 0x80 | 0x8;
/// What of a mode an ACL says nothing about.
const NOT_ACL: u32 = !0o777;
/// Flags of a list in the log (`ACL_AUTO_INHERIT`, …) and the file's flag for each.
const LIST_FLAGS: [(u64, u64); 3] =
    [(1, flags::ACL_AUTO_INHERIT), (2, flags::ACL_PROTECTED), (4, flags::ACL_DEFAULTED)];

/// An ACL as a log record has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggedAcl {
    /// Number of entries.
    pub count: u64,
    /// The entries.
    pub aces: Vec<u8>,
    /// Flags of the list.
    pub flags: u64,
}

/// An ACL as a file has it, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileAcl {
    /// Number of entries.
    pub count: u64,
    /// The entries (`ZPL_DACL_ACES`).
    pub aces: Vec<u8>,
    /// Its flags among the file's ([`flags`]).
    pub flags: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    who: u64,
    mask: u32,
    flags: u16,
    kind: u16,
}

impl LoggedAcl {
    /// The ACL for a file. [`Error::Corrupt`] if there are fewer entries than it says, [`Error::Unsupported`] for entries about objects.
    pub fn for_file(&self) -> Result<FileAcl> {
        let entries = self.entries()?;
        let mut acl = FileAcl { count: self.count, ..FileAcl::default() };
        for entry in &entries {
            acl.aces.extend_from_slice(&entry.kind.to_le_bytes());
            acl.aces.extend_from_slice(&entry.flags.to_le_bytes());
            acl.aces.extend_from_slice(&entry.mask.to_le_bytes());
            if !entry.is_of_mode() {
                acl.aces.extend_from_slice(&entry.who.to_le_bytes());
            }
        }
        acl.flags = LIST_FLAGS.iter().filter(|(bit, _)| self.flags & bit != 0).fold(0, |all, (_, f)| all | f);
        if entries.iter().all(Entry::is_trivial) {
            acl.flags |= flags::ACL_TRIVIAL;
        }
        if entries.iter().any(|e| e.flags & INHERIT != 0) {
            acl.flags |= flags::INHERIT_ACE;
        }
        if !entries.iter().any(|e| e.kind == DENY && e.mask & 0x20 != 0) {
            acl.flags |= flags::NO_EXECS_DENIED;
        }
        Ok(acl)
    }

    /// The mode that it amounts to, for a file of this owner and group whose mode was `old`: of each right, the first entry that speaks of
    /// it counts.
    pub fn mode(&self, old: u32, uid: u64, gid: u64) -> Result<u32> {
        let (mut mode, mut seen) = (old & NOT_ACL, 0u32);
        for entry in self.entries()?.iter().filter(|e| e.flags & INHERIT_ONLY == 0) {
            let shifts: &[u32] = match entry.flags & WHO {
                OWNER => &[6],
                0 if entry.who == uid => &[6],
                who if who == GROUP | IDENTIFIER_GROUP => &[3],
                IDENTIFIER_GROUP if entry.who == gid => &[3],
                EVERYONE => &[6, 3, 0],
                _ => &[],
            };
            for (right, bit) in RIGHTS.iter().filter(|(right, _)| entry.mask & right != 0) {
                let _ = right;
                for shift in shifts.iter().filter(|_| entry.kind <= DENY) {
                    let bit = bit << shift;
                    if seen & bit == 0 && entry.kind == ALLOW {
                        mode |= bit;
                    }
                    seen |= bit;
                }
            }
        }
        Ok(mode)
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let short = Error::corrupt("log record: fewer ACL entries than it says", None);
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let len = count.checked_mul(LOG_ENTRY).ok_or(short.clone())?;
        let bytes = self.aces.get(..len).ok_or(short)?;
        let entry = |e: &[u8; LOG_ENTRY]| {
            let word = |at: usize| u32::from_le_bytes([e[at], e[at + 1], e[at + 2], e[at + 3]]);
            let half = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
            Entry { who: word(0).into(), mask: word(4), flags: half(8), kind: half(10) }
        };
        let entries: Vec<Entry> = bytes.as_chunks::<LOG_ENTRY>().0.iter().map(entry).collect();
        if entries.iter().any(|e| e.kind > PLAIN_MAX) {
            return Err(Error::unsupported("replay of ACL entries about objects"));
        }
        Ok(entries)
    }
}

impl Entry {
    /// Whether it is about one of the three that a mode knows.
    fn is_of_mode(&self) -> bool {
        let who = self.flags & WHO;
        who == OWNER || who == GROUP | IDENTIFIER_GROUP || who == EVERYONE
    }

    /// Whether a mode can say it (`ace_trivial_common`).
    fn is_trivial(&self) -> bool {
        self.is_of_mode()
            && self.flags & INHERIT == 0
            && self.kind <= DENY
            && !(self.kind == DENY && self.mask & DENIED_NEVER != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::znode::trivial_acl;

    fn logged(entries: &[(u32, u32, u16, u16)]) -> LoggedAcl {
        let mut aces = Vec::new();
        for (who, mask, flags, kind) in entries {
            aces.extend_from_slice(&who.to_le_bytes());
            aces.extend_from_slice(&mask.to_le_bytes());
            aces.extend_from_slice(&flags.to_le_bytes());
            aces.extend_from_slice(&kind.to_le_bytes());
        }
        LoggedAcl { count: entries.len() as u64, aces, flags: 0 }
    }

    /// The list that says what a mode says is the same in either form.
    #[test]
    fn a_trivial_list_is_a_mode() {
        for mode in 0..=0o777 {
            let (count, aces) = trivial_acl(mode, false);
            let entries: Vec<_> = aces
                .as_chunks::<8>()
                .0
                .iter()
                .map(|e| {
                    let mask = u32::from_le_bytes([e[4], e[5], e[6], e[7]]);
                    (0, mask, u16::from_le_bytes([e[2], e[3]]), u16::from_le_bytes([e[0], e[1]]))
                })
                .collect();
            let logged = logged(&entries);
            let acl = logged.for_file().unwrap();
            assert_eq!((acl.count, &acl.aces), (count, &aces));
            assert!(acl.flags & flags::ACL_TRIVIAL != 0);
            assert_eq!(logged.mode(0o104_000, 7, 8).unwrap(), 0o104_000 | mode, "{mode:o}");
        }
    }

    #[test]
    fn named_users_are_no_mode() {
        let acl = logged(&[(1000, 0x3, 0, ALLOW), (0, 0x1, OWNER, ALLOW), (0, 0x1, EVERYONE | 0x3, ALLOW)]);
        let file = acl.for_file().unwrap();
        assert_eq!((file.count, file.aces.len()), (3, 16 + 8 + 8));
        assert_eq!(&file.aces[8..16], &1000u64.to_le_bytes());
        assert_eq!(file.flags & flags::ACL_TRIVIAL, 0);
        assert_eq!(file.flags & flags::INHERIT_ACE, flags::INHERIT_ACE);
        assert_eq!(acl.mode(0o100_000, 1, 1).unwrap(), 0o100_444);
        // To its owner, what is said of the owner by number counts.
        assert_eq!(acl.mode(0o100_000, 1000, 1).unwrap(), 0o100_644);
        assert!(LoggedAcl { count: 4, ..acl.clone() }.for_file().is_err());
        assert!(LoggedAcl { count: u64::MAX, ..acl }.mode(0, 0, 0).is_err());
        assert!(matches!(logged(&[(0, 1, OWNER, 5)]).for_file(), Err(Error::Unsupported { .. })));
    }
}

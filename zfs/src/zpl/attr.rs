//! `stat` and its opposite.

use super::filesystem::{Filesystem, RESERVE_METADATA};
use super::protect;
use super::sa::{Attrs, Format};
use super::types::{Attr, FileKind, MODE_KIND, SetAttr, Timespec};
use super::znode::Znode;
use crate::dmu::Accounted;
use crate::error::{Error, Result};
use crate::ondisk::acl::FileAcl;
use crate::ondisk::sa::Zpl;
use crate::ondisk::zil::{Record, SetAttr as LogSetAttr, mask};
use crate::ondisk::zil_optional::Optional;
use crate::ondisk::znode::{FileOwner, flags, trivial_acl};
use crate::zil::Payload;
use alloc::vec::Vec;

/// A device number as files store it (12 bits of major, 20 bits of minor) in the encoding of `makedev`.
fn rdev_from_disk(raw: u64) -> u64 {
    let (major, minor) = (raw >> 20 & 0xfff, raw & 0xf_ffff);
    (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
}

/// The opposite.
pub(super) fn rdev_to_disk(rdev: u64) -> u64 {
    let major = rdev >> 32 & 0xffff_f000 | rdev >> 8 & 0xfff;
    let minor = rdev >> 12 & 0xffff_ff00 | rdev & 0xff;
    (major & 0xfff) << 20 | minor & 0xf_ffff
}

/// Sets the permissions, and the ACL that says the same.
pub(super) fn set_mode(attrs: &mut Attrs, mode: u32) {
    let old = attrs.word(Zpl::Mode) as u32;
    let mode = old & MODE_KIND | mode & !MODE_KIND;
    attrs.set_word(Zpl::Mode, u64::from(mode));
    if attrs.format() == Format::Sa {
        let is_dir = FileKind::from_mode(mode) == Some(FileKind::Directory);
        let (count, aces) = trivial_acl(mode, is_dir);
        attrs.set_word(Zpl::DaclCount, count);
        attrs.set(Zpl::DaclAces, &aces);
    }
    attrs.set_word(Zpl::Flags, mode_flags(attrs.word(Zpl::Flags), mode));
}

/// Sets an ACL that says more than the mode.
pub(super) fn set_acl(attrs: &mut Attrs, acl: &FileAcl) {
    let of_lists = flags::ACL_TRIVIAL
        | flags::INHERIT_ACE
        | flags::NO_EXECS_DENIED
        | flags::ACL_AUTO_INHERIT
        | flags::ACL_PROTECTED
        | flags::ACL_DEFAULTED;
    attrs.set_word(Zpl::DaclCount, acl.count);
    attrs.set(Zpl::DaclAces, &acl.aces);
    attrs.set_word(Zpl::Flags, attrs.word(Zpl::Flags) & !of_lists | acl.flags);
}

/// The flags that follow from the permissions.
pub(super) fn mode_flags(old: u64, mode: u32) -> u64 {
    let everybody_executes = mode & 0o111 == 0o111;
    let base = old & !flags::NO_EXECS_DENIED | flags::ACL_TRIVIAL;
    if everybody_executes { base | flags::NO_EXECS_DENIED } else { base }
}

fn words(time: Timespec) -> [u64; 2] {
    [time.sec as u64, u64::from(time.nsec)]
}

impl Filesystem {
    /// A file's attributes.
    pub fn getattr(&self, object: u64) -> Result<Attr> {
        let znode = self.znode(object)?;
        Ok(self.attr_of(&znode))
    }

    pub(super) fn attr_of(&self, znode: &Znode) -> Attr {
        let (used, block_size, slots) = znode.dnode.usage();
        let mut attr = znode.with(|a| Attr {
            object: znode.object(),
            generation: a.word(Zpl::Gen),
            mode: a.word(Zpl::Mode) as u32,
            uid: a.word(Zpl::Uid) as u32,
            gid: a.word(Zpl::Gid) as u32,
            size: a.word(Zpl::Size),
            nlink: a.word(Zpl::Links),
            rdev: rdev_from_disk(a.word(Zpl::Rdev)),
            atime: a.time(Zpl::Atime),
            mtime: a.time(Zpl::Mtime),
            ctime: a.time(Zpl::Ctime),
            crtime: a.time(Zpl::Crtime),
            // A damaged dnode may claim anything.
            blocks: used.saturating_add(256) / 512 + u64::from(slots),
            block_size,
            flags: a.word(Zpl::Flags),
            project: a.word(Zpl::Projid),
        });
        if !matches!(attr.kind(), FileKind::CharDevice | FileKind::BlockDevice) {
            attr.rdev = 0;
        }
        attr
    }

    /// Changes attributes; gives the new ones. A size goes through [`Filesystem::truncate`].
    pub fn setattr(&self, object: u64, set: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let znode = self.znode(object)?;
        // What stands against a change can itself be changed.
        if set.flags.is_none() && *set != SetAttr::default() {
            self.check_flags(&znode, protect::ATTRIBUTES)?;
        }
        if let Some(size) = set.size {
            self.truncate(object, size)?;
        }
        if (SetAttr { size: None, ..set.clone() }) != SetAttr::default() {
            self.change_attributes(&znode, set)?;
            if let Some(mode) = set.mode {
                self.chmod_acl(&znode, mode)?;
            }
            self.settle(object, false)?;
        }
        Ok(self.attr_of(&znode))
    }

    pub(super) fn change_attributes(&self, znode: &Znode, set: &SetAttr) -> Result<()> {
        if set.flags.is_some_and(|f| f & !flags::SETTABLE != 0) {
            return Err(Error::Invalid("flags that cannot be set"));
        }
        if set.project.is_some() && self.os.accounting(Accounted::Project).is_none() {
            return Err(Error::unsupported("projects: feature project_quota is not in use here"));
        }
        let old = znode.owner();
        let new = FileOwner {
            uid: set.uid.map_or(old.uid, u64::from),
            gid: set.gid.map_or(old.gid, u64::from),
            project: set.project.unwrap_or(old.project),
        };
        // Who gives a file away needs no room of his own.
        let changed = [
            (Accounted::User, new.uid != old.uid),
            (Accounted::Group, new.gid != old.gid),
            (Accounted::Project, new.project != old.project),
        ];
        let gains: Vec<Accounted> =
            changed.into_iter().filter(|(_, gains)| *gains).map(|(who, _)| who).collect();
        if !gains.is_empty() {
            self.check_quota_of(&new, true, &gains)?;
        }
        let now = self.now();
        let tx = self.os.begin(RESERVE_METADATA)?;
        znode.update(&self.sa, &tx, |a| {
            if let Some(mode) = set.mode {
                set_mode(a, mode);
            }
            if let Some(flags) = set.flags {
                a.set_word(Zpl::Flags, a.word(Zpl::Flags) & !flags::SETTABLE | flags);
            }
            if let Some(project) = set.project {
                a.set_project(project);
                a.set_word(Zpl::Flags, a.word(Zpl::Flags) | flags::PROJID);
            }
            for (attr, id) in [(Zpl::Uid, set.uid), (Zpl::Gid, set.gid)] {
                if let Some(id) = id {
                    a.set_word(attr, u64::from(id));
                }
            }
            for (attr, time) in [(Zpl::Atime, set.atime), (Zpl::Mtime, set.mtime), (Zpl::Crtime, set.crtime)]
            {
                if let Some(time) = time {
                    a.set_time(attr, time);
                }
            }
            a.set_time(Zpl::Ctime, set.ctime.unwrap_or(now));
        })?;
        if znode.is_unlinked() {
            return Ok(());
        }
        // No record tells of this.
        let payload = if set.ctime.is_some() {
            Payload::Barrier
        } else {
            Payload::Record(Record::SetAttr(log_record(znode, set)).emit())
        };
        match &self.log {
            // What is made in a directory depends on these.
            Some(log) if set.flags.is_some() || set.project.is_some() => {
                log.order(znode.object());
                log.assign(&tx, None, payload);
            }
            _ => self.note_object(&tx, znode.object(), payload),
        }
        Ok(())
    }
}

fn log_record(znode: &Znode, set: &SetAttr) -> LogSetAttr {
    let mut record = LogSetAttr { object: znode.object(), ..LogSetAttr::default() };
    let mut put = |bit: u64, present: bool| {
        if present {
            record.mask |= bit;
        }
    };
    put(mask::MODE, set.mode.is_some());
    put(mask::UID, set.uid.is_some());
    put(mask::GID, set.gid.is_some());
    put(mask::ATIME, set.atime.is_some());
    put(mask::MTIME, set.mtime.is_some());
    let optional = Optional {
        flags_mask: if set.flags.is_some() { flags::SETTABLE } else { 0 },
        flags: set.flags.unwrap_or(0),
        crtime: set.crtime.map(words),
        project: set.project,
    };
    if optional != Optional::default() {
        put(mask::XVATTR, true);
        record.optional = Some(optional);
    }
    znode.with(|a| {
        record.mode = a.word(Zpl::Mode);
        record.uid = a.word(Zpl::Uid);
        record.gid = a.word(Zpl::Gid);
        record.size = a.word(Zpl::Size);
        record.atime = words(a.time(Zpl::Atime));
        record.mtime = words(a.time(Zpl::Mtime));
    });
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(1u64, 3u64), (8, 17), (259, 1_000_000), (4095, 0xf_ffff)] {
            let rdev = (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff;
            assert_eq!(rdev_to_disk(rdev), major << 20 | minor);
            assert_eq!(rdev_from_disk(major << 20 | minor), rdev);
        }
    }
}

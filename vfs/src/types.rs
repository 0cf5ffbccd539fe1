//! The values that cross the border between files and their users: types, attributes, flags.
//!
//! Numbers are Linux's (x86-64) wherever a program sees them, so nothing is translated twice.

use alloc::vec::Vec;
use bitflags::bitflags;
pub use platform::clock::Timespec;

/// Longest name of one directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path that a program may pass, in bytes, with its terminating zero.
pub const PATH_MAX: usize = 4096;
/// The permission and set-id bits of a mode.
pub const PERMISSIONS: u32 = 0o7777;

/// What a file is; the values are those of `S_IFMT >> 12`, which are also those of `d_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// The type in a Unix mode, if it names one.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode >> 12 & 0xf {
            1 => FileType::Fifo,
            2 => FileType::CharDevice,
            4 => FileType::Directory,
            6 => FileType::BlockDevice,
            8 => FileType::Regular,
            10 => FileType::Symlink,
            12 => FileType::Socket,
            _ => return None,
        })
    }

    /// Its bits in a Unix mode (`S_IFREG` …).
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// A file's attributes (`struct stat`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// The file system.
    pub dev: u64,
    /// The file in it.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Names of this file.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Which device, for device files, in Linux's encoding (see [`makedev`]).
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred unit of I/O, in bytes.
    pub blksize: u32,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

/// A file system's size (`struct statfs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Magic number of the type.
    pub magic: u64,
    /// Unit of the block counts, in bytes.
    pub block_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// All files, used and possible.
    pub files: u64,
    /// Files that could still be made.
    pub files_free: u64,
    /// Identity of the file system.
    pub fsid: u64,
    /// Longest name in bytes.
    pub name_max: u64,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Timespec>,
    /// New modification time.
    pub mtime: Option<Timespec>,
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its type.
    pub kind: FileType,
    /// Its permission bits.
    pub mode: u32,
    /// Which of them it does not get, unless the directory's default ACL has a say instead (`umask`).
    pub umask: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Which device, for device files.
    pub rdev: u64,
    /// Where it points, for symbolic links.
    pub target: Vec<u8>,
}

impl New {
    /// A file of `kind` that belongs to root.
    #[must_use]
    #[expect(clippy::self_named_constructors, reason = "the type is called New after what it describes")]
    pub const fn new(kind: FileType, mode: u32) -> Self {
        New { kind, mode, umask: 0, uid: 0, gid: 0, rdev: 0, target: Vec::new() }
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The file's number.
    pub ino: u64,
    /// The file's type.
    pub kind: FileType,
    /// Where to go on reading behind this entry.
    pub next: u64,
}

bitflags! {
    /// The flags of `open(2)`, x86-64 values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// Only for writing.
        const WRONLY = 0o1;
        /// For reading and writing.
        const RDWR = 0o2;
        /// Create the file if it does not exist.
        const CREAT = 0o100;
        /// Fail if it exists.
        const EXCL = 0o200;
        /// Not to become the controlling terminal.
        const NOCTTY = 0o400;
        /// Cut to length 0.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Do not wait.
        const NONBLOCK = 0o4000;
        /// Writes return when the data is durable.
        const DSYNC = 0o10000;
        /// Bypass the cache: accepted, without effect.
        const DIRECT = 0o40000;
        /// Big files: always on.
        const LARGEFILE = 0o100_000;
        /// Must be a directory.
        const DIRECTORY = 0o200_000;
        /// Do not follow a symbolic link at the end.
        const NOFOLLOW = 0o400_000;
        /// Do not note the time of access.
        const NOATIME = 0o1_000_000;
        /// Close on `execve`.
        const CLOEXEC = 0o2_000_000;
        /// Writes return when data and attributes are durable (with [`OpenFlags::DSYNC`]).
        const SYNC_BIT = 0o4_000_000;
        /// Only a place, not the content.
        const PATH = 0o10_000_000;
        /// An unnamed file in the given directory (with [`OpenFlags::DIRECTORY`]).
        const TMPFILE_BIT = 0o20_000_000;
        const _ = !0;
    }
}

impl OpenFlags {
    /// Whether reading is allowed.
    #[must_use]
    pub const fn readable(self) -> bool {
        self.bits() & 3 == 0 || self.bits() & 3 == 2
    }

    /// Whether writing is allowed.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.bits() & 3 == 1 || self.bits() & 3 == 2
    }

    /// The flags that `F_SETFL` can change.
    #[must_use]
    pub const fn changeable() -> Self {
        Self::APPEND.union(Self::NONBLOCK).union(Self::DIRECT).union(Self::NOATIME)
    }
}

bitflags! {
    /// The flags of `renameat2(2)`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// Fail if the target exists.
        const NOREPLACE = 1;
        /// Swap the two.
        const EXCHANGE = 2;
        /// Leave a whiteout in the source's place.
        const WHITEOUT = 4;
    }
}

/// How durable a write must be when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// As soon as the next transaction group.
    No,
    /// Now (`O_DSYNC`, `O_SYNC`).
    Yes,
}

/// What `fallocate(2)` shall do to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reserve space, growing the file to hold the range unless `keep_size`.
    Reserve {
        /// Leave the length as it is.
        keep_size: bool,
    },
    /// Make a hole.
    PunchHole,
    /// Make it read as zeros, growing the file unless `keep_size`.
    Zero {
        /// Leave the length as it is.
        keep_size: bool,
    },
}

/// Linux's encoding of a device number in `st_rdev`.
#[must_use]
pub const fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// Major and minor of a device number.
#[must_use]
pub const fn splitdev(dev: u64) -> (u32, u32) {
    let major = dev >> 8 & 0xfff | dev >> 32 & !0xfff;
    let minor = dev & 0xff | dev >> 12 & !0xff;
    (major as u32, minor as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(1, 3), (5, 1), (259, 70000), (0xfff, 0xff)] {
            assert_eq!(splitdev(makedev(major, minor)), (major, minor));
        }
        assert_eq!(makedev(1, 3), 0x103);
    }

    #[test]
    fn access_modes() {
        assert!(OpenFlags::empty().readable() && !OpenFlags::empty().writable());
        assert!(OpenFlags::RDWR.readable() && OpenFlags::RDWR.writable());
        assert!(!OpenFlags::WRONLY.readable() && OpenFlags::WRONLY.writable());
    }
}

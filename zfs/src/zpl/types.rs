//! The values that files and callers exchange: attributes, entries, options. Nothing here touches a disk.

use alloc::vec::Vec;
use bitflags::bitflags;
pub use platform::clock::Timespec;

/// What a file is (`IFTODT` of its mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A directory.
    Directory,
    /// A block device.
    BlockDevice,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A socket.
    Socket,
}

/// The bits of a mode that hold the file's kind (`S_IFMT`).
pub const MODE_KIND: u32 = 0o170_000;

impl FileKind {
    /// Whether such a file bears the flag `ZFS_PROJINHERIT` (P of `lsattr`); its project it has in any case.
    #[must_use]
    pub(super) fn bears_projinherit(self) -> bool {
        matches!(self, FileKind::Regular | FileKind::Directory)
    }

    /// The kind as it stands in a mode (`S_IFREG`, …).
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        u32::from(self.dirent_type()) << 12
    }

    /// The kind as it stands in a directory entry (`DT_REG`, …).
    #[must_use]
    pub fn dirent_type(self) -> u8 {
        match self {
            FileKind::Fifo => 1,
            FileKind::CharDevice => 2,
            FileKind::Directory => 4,
            FileKind::BlockDevice => 6,
            FileKind::Regular => 8,
            FileKind::Symlink => 10,
            FileKind::Socket => 12,
        }
    }

    /// The kind for a directory entry's type; `None` for a number that means nothing.
    #[must_use]
    pub fn from_dirent_type(ty: u8) -> Option<Self> {
        Some(match ty {
            1 => FileKind::Fifo,
            2 => FileKind::CharDevice,
            4 => FileKind::Directory,
            6 => FileKind::BlockDevice,
            8 => FileKind::Regular,
            10 => FileKind::Symlink,
            12 => FileKind::Socket,
            _ => return None,
        })
    }

    /// The kind of a file with this mode; `None` if its kind bits mean nothing.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Self::from_dirent_type((mode >> 12 & 0xf) as u8)
    }
}

/// A file's attributes, as `stat` wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Object number: the inode number.
    pub object: u64,
    /// The txg of its creation: tells apart two files that had the same object number.
    pub generation: u64,
    /// Kind and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; of a directory its number of entries (with `.` and `..`).
    pub size: u64,
    /// Number of links.
    pub nlink: u64,
    /// Device number of a device file, in Linux's 64-bit encoding (`makedev`).
    pub rdev: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Creation.
    pub crtime: Timespec,
    /// Space in use, in units of 512 bytes.
    pub blocks: u64,
    /// Block size in bytes: the unit of efficient I/O.
    pub block_size: u32,
    /// `zp_flags`: immutable, append-only, … ([`crate::ondisk::znode::Flags`]).
    pub flags: u64,
    /// Project id.
    pub project: u64,
}

impl Attr {
    /// What the file is; a mode with meaningless kind bits counts as a regular file.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Regular)
    }
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permissions (the kind bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes: truncates or extends a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Timespec>,
    /// Last change of content.
    pub mtime: Option<Timespec>,
    /// Last change of attributes; without it, the time of the call.
    pub ctime: Option<Timespec>,
    /// Creation.
    pub crtime: Option<Timespec>,
    /// The settable `zp_flags`.
    pub flags: Option<u64>,
    /// Project id.
    pub project: Option<u64>,
}

/// Times for a new file, where the clock's are not wanted (reproducible images).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Creation.
    pub crtime: Timespec,
}

/// A file to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// What it is.
    pub kind: FileKind,
    /// Permissions (the kind bits are ignored).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device, its number in Linux's 64-bit encoding; else 0.
    pub rdev: u64,
    /// Target of a symbolic link; else empty.
    pub target: Vec<u8>,
    /// Its times; `None`: now.
    pub times: Option<Times>,
    /// What is taken off the permissions, unless the directory's default ACL has a say instead (`umask`); `None`: they are as given, and
    /// no ACL is inherited.
    pub umask: Option<u32>,
}

impl New {
    /// A file of `kind` with these permissions and owner 0:0, at the time of the call.
    #[must_use]
    #[expect(clippy::self_named_constructors, reason = "the type is called New after what it describes")]
    pub fn new(kind: FileKind, mode: u32) -> Self {
        New { kind, mode, uid: 0, gid: 0, rdev: 0, target: Vec::new(), times: None, umask: None }
    }
}

/// An entry of a directory, with a name of its own or one that is borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry<Name = Vec<u8>> {
    /// Its name: any bytes but `/` and NUL.
    pub name: Name,
    /// Object number.
    pub object: u64,
    /// What it is, where the directory knows (very old pools do not).
    pub kind: Option<FileKind>,
    /// Where to go on after this entry: an argument for [`super::Filesystem::readdir`]. It stays valid while the
    /// directory changes.
    pub cookie: u64,
}

/// When a write must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Some time (or after the next [`super::Filesystem::fsync`]).
    #[default]
    Later,
    /// Before the call returns (`O_SYNC`, `O_DSYNC`).
    Now,
}

bitflags! {
    /// Flags of a rename.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RenameFlags: u32 {
        /// Fail if the target exists.
        const NOREPLACE = 1;
        /// Swap source and target, which must exist.
        const EXCHANGE = 2;
        /// Leave a whiteout in the source's place: a character device with number 0, which hides the name in a union of file systems.
        const WHITEOUT = 4;
    }
}

/// How [`super::Filesystem::set_xattr`] treats an attribute that exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Either way.
    #[default]
    Any,
    /// Must not exist (`XATTR_CREATE`).
    Create,
    /// Must exist (`XATTR_REPLACE`).
    Replace,
}

/// A file system's figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatFs {
    /// Unit of `blocks` and its like, in bytes (512, as OpenZFS reports `f_frsize`).
    pub fragment_size: u32,
    /// Largest record size, in bytes.
    pub block_size: u32,
    /// Size in fragments: used and free together.
    pub blocks: u64,
    /// Free fragments.
    pub blocks_free: u64,
    /// Fragments that an ordinary user may still use.
    pub blocks_available: u64,
    /// Objects that could exist.
    pub files: u64,
    /// Objects that could still be made.
    pub files_free: u64,
    /// The file system's id.
    pub fsid: u64,
    /// Longest name, in bytes.
    pub name_max: u32,
}

/// How to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Change nothing, not even the intent log. Implied by a snapshot, a read-only pool and the property `readonly`.
    pub read_only: bool,
    /// Never update access times, whatever the property `atime` says.
    pub no_atime: bool,
}

//! What verification and the pool's logs say.

use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::nvlist::NvList;
use alloc::string::String;
use alloc::vec::Vec;

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Allocated bytes looked at.
    pub done: u64,
    /// Allocated bytes in all.
    pub total: u64,
}

/// A file with blocks that no copy can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The dataset's name, `<metadata>` for the MOS, or `<0x1f>` if it is gone.
    pub dataset: String,
    /// The dataset's object number.
    pub objset: u64,
    /// The object in it.
    pub object: u64,
    /// Path inside the dataset from its root on, `/etc/passwd`, where it can be found.
    pub path: Option<Vec<u8>>,
    /// The damaged blocks.
    pub blocks: Vec<Bookmark>,
}

/// Outcome of [`super::Pool::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks looked at, without holes and embedded ones.
    pub blocks: u64,
    /// Bytes read from devices.
    pub bytes: u64,
    /// Allocated bytes that blocks refer to.
    pub referenced: u64,
    /// Allocated bytes by the space maps.
    pub allocated: u64,
    /// Bad copies, of which another copy was good.
    pub bad_copies: u64,
    /// Blocks that are lost, by file.
    pub damaged: Vec<DamagedFile>,
    /// Allocated in the space maps and referred to by nothing: bytes.
    pub leaked: u64,
    /// Referred to, but free in the space maps: bytes.
    pub unallocated: u64,
    /// Referred to more than once: bytes.
    pub doubly_allocated: u64,
    /// Other rules found broken, in words.
    pub problems: Vec<String>,
}

impl VerifyReport {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
            && self.problems.is_empty()
            && (self.bad_copies, self.leaked, self.unallocated, self.doubly_allocated) == (0, 0, 0, 0)
    }
}

/// One record of the pool's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRecord {
    /// When, in seconds since 1970.
    pub time: u64,
    /// A command line, if it is one.
    pub command: Option<String>,
    /// An internal event with its text, if it is one: `txg:4 create pool version 5000; …`.
    pub internal: Option<String>,
    /// The host that did it.
    pub host: Option<String>,
    /// Everything that the record holds.
    pub raw: NvList,
}

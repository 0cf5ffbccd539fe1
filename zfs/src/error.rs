//! What can go wrong, by the rule that was broken and the place where.
//!
//! Errno does not exist at this level: `vfs` translates at its door. Bytes from a disk, a wire or a user end in one
//! of these; a broken invariant of our own panics.

use crate::ondisk::bookmark::Bookmark;
use alloc::string::String;
use core::fmt;
use platform::block::BlockError;

/// The engine's result.
pub type Result<T> = core::result::Result<T, Error>;

/// Why the engine could not do as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A device failed and no other copy of the data could be read.
    Io {
        /// What the device said.
        cause: BlockError,
        /// What was being read or written, where that is known.
        at: Option<Bookmark>,
    },
    /// All copies of a block fail their checksum.
    Checksum {
        /// The block.
        at: Bookmark,
    },
    /// The bytes are what was written, yet they break a rule of the format.
    Corrupt {
        /// The broken rule, in words: a constant, so that tests can expect one exactly.
        rule: &'static str,
        /// Where, if it is inside the pool's tree.
        at: Option<Bookmark>,
    },
    /// A feature, version or property that this engine does not implement, by its name on disk.
    Unsupported {
        /// `org.zfs:feature`, `pool version 12`, …
        what: String,
    },
    /// The pool can be opened, but only for reading (an active feature that only writers must know).
    ReadOnlyFeature {
        /// The feature's guid name.
        feature: String,
    },
    /// The pool has no room.
    NoSpace,
    /// A quota (of a dataset or a user) is used up.
    QuotaExceeded,
    /// The pool, dataset or snapshot cannot be written.
    ReadOnly,
    /// No such file, object, dataset, property or entry.
    NotFound,
    /// A file, dataset or entry of that name exists.
    Exists,
    /// A path component or operand is not a directory.
    NotDirectory,
    /// The operand is a directory.
    IsDirectory,
    /// The directory or dataset has children.
    NotEmpty,
    /// A name is longer than the format allows.
    NameTooLong,
    /// The file is immutable or append-only.
    NotPermitted,
    /// A name is no UTF-8 where it has to be (`utf8only`).
    NotUtf8,
    /// An argument makes no sense, in words.
    Invalid(&'static str),
    /// The file or object would grow past what the format can hold.
    TooBig,
    /// Too many links to one file.
    TooManyLinks,
    /// The dataset or pool is in use in a way that forbids the operation.
    Busy,
    /// Source and target lie in different datasets.
    CrossDataset,
    /// No pool was found on the given devices.
    NoPool,
    /// A vdev that the pool cannot do without is missing or unusable; its guid and path as the labels know them.
    MissingDevice {
        /// The vdev's guid.
        guid: u64,
        /// Its path when last imported, if the labels say so.
        path: Option<String>,
    },
    /// The pool was last used by another machine and was not exported.
    InUse {
        /// That machine's host name.
        host: String,
    },
    /// The data is encrypted and no key is loaded.
    KeyNotLoaded,
    /// The key that was given is not the one that the data is encrypted with.
    WrongKey,
    /// A block of an encrypted dataset is not what was written with its key: its MAC does not fit.
    Authentication {
        /// The block.
        at: Bookmark,
    },
}

impl Error {
    /// A broken rule at a place.
    #[must_use]
    pub fn corrupt(rule: &'static str, at: impl Into<Option<Bookmark>>) -> Self {
        Error::Corrupt { rule, at: at.into() }
    }

    /// Something that is not implemented, by name.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into() }
    }
}

impl From<BlockError> for Error {
    fn from(cause: BlockError) -> Self {
        match cause {
            BlockError::ReadOnly => Error::ReadOnly,
            BlockError::NoSpace => Error::NoSpace,
            cause => Error::Io { cause, at: None },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn at(f: &mut fmt::Formatter<'_>, at: Option<&Bookmark>) -> fmt::Result {
            at.map_or(Ok(()), |b| write!(f, " at {b}"))
        }
        match self {
            Error::Io { cause, at: place } => write!(f, "{cause}").and_then(|()| at(f, place.as_ref())),
            Error::Checksum { at } => write!(f, "checksum mismatch at {at}"),
            Error::Corrupt { rule, at: place } => {
                write!(f, "corrupt: {rule}").and_then(|()| at(f, place.as_ref()))
            }
            Error::Unsupported { what } => write!(f, "not supported: {what}"),
            Error::ReadOnlyFeature { feature } => {
                write!(f, "the pool can only be opened read-only: feature {feature} is active")
            }
            Error::NoSpace => f.write_str("no space left in the pool"),
            Error::QuotaExceeded => f.write_str("quota exceeded"),
            Error::ReadOnly => f.write_str("read-only"),
            Error::NotFound => f.write_str("not found"),
            Error::Exists => f.write_str("already exists"),
            Error::NotDirectory => f.write_str("not a directory"),
            Error::IsDirectory => f.write_str("is a directory"),
            Error::NotEmpty => f.write_str("not empty"),
            Error::NameTooLong => f.write_str("name too long"),
            Error::NotPermitted => f.write_str("the file is immutable or append-only"),
            Error::NotUtf8 => f.write_str("the name is not UTF-8"),
            Error::Invalid(what) => write!(f, "invalid: {what}"),
            Error::TooBig => f.write_str("too big"),
            Error::TooManyLinks => f.write_str("too many links"),
            Error::Busy => f.write_str("busy"),
            Error::CrossDataset => f.write_str("in different datasets"),
            Error::NoPool => f.write_str("no pool found: no valid ZFS label"),
            Error::MissingDevice { guid, path } => {
                write!(f, "missing device with guid {guid}")?;
                path.as_ref().map_or(Ok(()), |p| write!(f, " (last seen as {p})"))
            }
            Error::InUse { host } => {
                write!(
                    f,
                    "the pool was last used by host {host} and not exported; force the import if that host is off"
                )
            }
            Error::KeyNotLoaded => f.write_str("encrypted and no key is loaded"),
            Error::WrongKey => f.write_str("incorrect key"),
            Error::Authentication { at } => write!(f, "authentication failed: the MAC does not fit at {at}"),
        }
    }
}

impl core::error::Error for Error {}

//! The intent log on disk: its header in the objset, the chain's blocks, and the records in them.
//! Source: `include/sys/zil.h`.
//!
//! A log is a chain of blocks. Each names the next one, allocated before it was itself written; the chain ends where a
//! block fails its checksum. Checksum words 0 and 1 are the chain's random guid, word 2 the objset, word 3 counts.
//!
//! # Invariants
//! - Records are multiples of 8 bytes and never cross a block's end.

use crate::error::{Error, Result};
use crate::ondisk::acl::LoggedAcl;
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::zil_optional::Optional;
use alloc::vec::Vec;

/// Size of the header in the objset, in bytes.
pub const HEADER_SIZE: usize = 192;
/// Size of `zil_chain_t`, in bytes: at the start of a block with checksum zilog2, at the end of one with zilog.
pub const CHAIN_SIZE: usize = 184;
/// Smallest and unit size of a log block, in bytes (`ZIL_MIN_BLKSZ`).
pub const MIN_BLOCK_SIZE: u64 = 4096;
/// Largest log block that we write, in bytes (`SPA_OLD_MAXBLOCKSIZE`).
pub const MAX_BLOCK_SIZE: u64 = 128 << 10;
/// Index of the sequence number among a log block's checksum words (`ZIL_ZC_SEQ`).
pub const CHECKSUM_SEQ: usize = 3;
/// Size of a record's common start, in bytes (`lr_t`).
pub const RECORD_HEADER_SIZE: usize = 32;
/// Size of a write record without data, in bytes (`lr_write_t`).
pub const WRITE_RECORD_SIZE: usize = RECORD_HEADER_SIZE + 32 + BLKPTR_SIZE;

/// Size of a clone record without its pointers, in bytes (`lr_clone_range_t`).
pub const CLONE_RECORD_SIZE: usize = RECORD_HEADER_SIZE + 40;
/// How many blocks one record can clone: it must fit into a block of the log.
pub const CLONE_BLOCKS_MAX: usize = (MAX_BLOCK_SIZE as usize - CHAIN_SIZE - CLONE_RECORD_SIZE) / BLKPTR_SIZE;

/// The chain holds records that have to be replayed (`ZIL_REPLAY_NEEDED`).
pub const REPLAY_NEEDED: u64 = 1;
/// [`Header::claim_lr_seq`] counts (`ZIL_CLAIM_LR_SEQ_VALID`).
pub const CLAIM_LR_SEQ_VALID: u64 = 2;

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

fn bp_at(bytes: &[u8], offset: usize) -> Option<Blkptr> {
    let raw = bytes.get(offset..offset.checked_add(BLKPTR_SIZE)?)?;
    Some(Blkptr::from_bytes(raw.try_into().ok()?))
}

/// The log's header in its objset (`zil_header_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The txg in which an import claimed the chain; 0 if none did.
    pub claim_txg: u64,
    /// Highest sequence number that was replayed.
    pub replay_seq: u64,
    /// First block of the chain.
    pub log: Blkptr,
    /// Highest block sequence number that was claimed.
    pub claim_blk_seq: u64,
    /// [`REPLAY_NEEDED`], [`CLAIM_LR_SEQ_VALID`].
    pub flags: u64,
    /// Highest record sequence number that was claimed.
    pub claim_lr_seq: u64,
}

impl Header {
    /// Reads one. Total: any bytes are a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let word = |offset| u64_at(bytes, offset).unwrap_or(0);
        Header {
            claim_txg: word(0),
            replay_seq: word(8),
            log: bp_at(bytes, 16).unwrap_or_default(),
            claim_blk_seq: word(144),
            flags: word(152),
            claim_lr_seq: word(160),
        }
    }

    /// The bytes as they stand on disk.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut put =
            |offset: usize, word: u64| bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        put(0, self.claim_txg);
        put(8, self.replay_seq);
        put(144, self.claim_blk_seq);
        put(152, self.flags);
        put(160, self.claim_lr_seq);
        bytes[16..16 + BLKPTR_SIZE].copy_from_slice(&self.log.to_bytes());
        bytes
    }
}

/// What every log block says of itself (`zil_chain_t`, without its checksum).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The next block.
    pub next: Blkptr,
    /// Bytes in use: with zilog2 counted from the block's start, with zilog without the chain at its end.
    pub used: u64,
}

impl Chain {
    /// Reads it from a block; `slim` for checksum zilog2.
    pub fn parse(block: &[u8], slim: bool) -> Result<Self> {
        let short = Error::corrupt("log block: shorter than its chain header", None);
        let start = if slim { Some(0) } else { block.len().checked_sub(CHAIN_SIZE) };
        let chain = start.and_then(|s| block.get(s..s + CHAIN_SIZE)).ok_or(short)?;
        Ok(Chain { next: bp_at(chain, 8).unwrap_or_default(), used: u64_at(chain, 136).unwrap_or(0) })
    }

    /// Puts it at the start of a zilog2 block, whose checksum part is left for the writer of the block.
    pub fn emit(&self, block: &mut [u8]) {
        block[..CHAIN_SIZE].fill(0);
        block[8..8 + BLKPTR_SIZE].copy_from_slice(&self.next.to_bytes());
        block[136..144].copy_from_slice(&self.used.to_le_bytes());
    }

    /// The part of the block that holds records.
    pub fn records<'a>(&self, block: &'a [u8], slim: bool) -> Result<&'a [u8]> {
        let used = usize::try_from(self.used).unwrap_or(usize::MAX);
        let (start, end, limit) = if slim {
            (CHAIN_SIZE, used, block.len())
        } else {
            (0, used, block.len().saturating_sub(CHAIN_SIZE))
        };
        if end > limit || start > end {
            return Err(Error::corrupt("log block: more bytes in use than it has", None));
        }
        Ok(&block[start..end])
    }
}

/// A record's common start (`lr_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its kind: `TX_*`, with the case-insensitivity bit taken off.
    pub kind: u64,
    /// Names are to be compared without regard to case.
    pub ignore_case: bool,
    /// Length in bytes, this header included.
    pub len: usize,
    /// The txg whose sync makes it obsolete.
    pub txg: u64,
    /// Its sequence number.
    pub seq: u64,
}

impl RecordHeader {
    /// Reads the header of the record at the start of `records`, whose length it checks.
    pub fn parse(records: &[u8]) -> Result<Self> {
        let bad = Error::corrupt("log record: length out of range", None);
        let (Some(kind), Some(len), Some(txg), Some(seq)) =
            (u64_at(records, 0), u64_at(records, 8), u64_at(records, 16), u64_at(records, 24))
        else {
            return Err(bad);
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len < RECORD_HEADER_SIZE || len > records.len() || !len.is_multiple_of(8) {
            return Err(bad);
        }
        Ok(RecordHeader {
            kind: kind & !CASE_INSENSITIVE,
            ignore_case: kind & CASE_INSENSITIVE != 0,
            len,
            txg,
            seq,
        })
    }
}

/// The records of a block, one after another; ends at the first malformed one with an error.
pub fn records(mut rest: &[u8]) -> impl Iterator<Item = Result<(RecordHeader, &[u8])>> {
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match RecordHeader::parse(rest) {
            Ok(header) => {
                let (record, tail) = rest.split_at(header.len);
                rest = tail;
                Some(Ok((header, record)))
            }
            Err(e) => {
                rest = &[];
                Some(Err(e))
            }
        }
    })
}

/// Sets the txg and sequence number of an emitted record.
pub fn stamp(record: &mut [u8], txg: u64, seq: u64) {
    record[16..24].copy_from_slice(&txg.to_le_bytes());
    record[24..32].copy_from_slice(&seq.to_le_bytes());
}

const CASE_INSENSITIVE: u64 = 1 << 63;

/// Record kinds (`TX_*`).
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of OpenZFS without TX_")]
    pub const CREATE: u64 = 1;
    pub const MKDIR: u64 = 2;
    pub const MKXATTR: u64 = 3;
    pub const SYMLINK: u64 = 4;
    pub const REMOVE: u64 = 5;
    pub const RMDIR: u64 = 6;
    pub const LINK: u64 = 7;
    pub const RENAME: u64 = 8;
    pub const WRITE: u64 = 9;
    pub const TRUNCATE: u64 = 10;
    pub const SETATTR: u64 = 11;
    pub const ACL_V0: u64 = 12;
    pub const ACL: u64 = 13;
    pub const CREATE_ACL: u64 = 14;
    pub const CREATE_ATTR: u64 = 15;
    pub const CREATE_ACL_ATTR: u64 = 16;
    pub const MKDIR_ACL: u64 = 17;
    pub const MKDIR_ATTR: u64 = 18;
    pub const MKDIR_ACL_ATTR: u64 = 19;
    pub const WRITE2: u64 = 20;
    pub const SETSAXATTR: u64 = 21;
    pub const RENAME_EXCHANGE: u64 = 22;
    pub const RENAME_WHITEOUT: u64 = 23;
    pub const CLONE_RANGE: u64 = 24;
}

/// Whether records of this kind may follow the removal of their object (`TX_OOO`): they start with its number.
#[must_use]
pub fn out_of_order(kind: u64) -> bool {
    use kind::*;
    matches!(kind, WRITE | TRUNCATE | SETATTR | ACL_V0 | ACL | WRITE2 | SETSAXATTR | CLONE_RANGE)
}

/// Bits of [`SetAttr::mask`], as Linux writes them.
pub mod mask {
    #![expect(missing_docs, reason = "the names say it")]
    pub const MODE: u64 = 1;
    pub const UID: u64 = 2;
    pub const GID: u64 = 4;
    pub const SIZE: u64 = 8;
    pub const ATIME: u64 = 0x10;
    pub const MTIME: u64 = 0x20;
    /// Optional attributes follow the record.
    pub const XVATTR: u64 = 1 << 31;
}

/// The making of a file (`lr_create_t`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Create {
    /// The directory's object.
    pub dir: u64,
    /// The new file's object.
    pub object: u64,
    /// Slots of its dnode.
    pub slots: u8,
    /// Its mode, kind bits included.
    pub mode: u64,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Generation.
    pub generation: u64,
    /// Creation time: seconds and nanoseconds.
    pub crtime: [u64; 2],
    /// Device number.
    pub rdev: u64,
    /// Its name; empty for an xattr directory.
    pub name: Vec<u8>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// More attributes, if any were given.
    pub optional: Option<Optional>,
    /// Its ACL, if one was given.
    pub acl: Option<LoggedAcl>,
}

/// A change of attributes (`lr_setattr_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// The file.
    pub object: u64,
    /// What changes: bits of [`mask`].
    pub mask: u64,
    /// Mode.
    pub mode: u64,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Length.
    pub size: u64,
    /// Access time.
    pub atime: [u64; 2],
    /// Modification time.
    pub mtime: [u64; 2],
    /// More of them, if the mask says so.
    pub optional: Option<Optional>,
}

/// What happened, as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A file was made; the first field is the record's kind without ACL and attributes.
    Create(u64, Create),
    /// A name was removed.
    Remove {
        /// The directory.
        dir: u64,
        /// The name.
        name: Vec<u8>,
        /// It was a directory's.
        is_dir: bool,
    },
    /// A file got one more name.
    Link {
        /// The directory.
        dir: u64,
        /// The file.
        object: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// A name moved.
    Rename {
        /// From this directory.
        from_dir: u64,
        /// The old name.
        from: Vec<u8>,
        /// To this directory.
        to_dir: u64,
        /// The new name.
        to: Vec<u8>,
        /// The two were swapped.
        exchange: bool,
        /// What was left in the old place.
        whiteout: Option<Create>,
    },
    /// Data was written.
    Write {
        /// The file.
        object: u64,
        /// At this byte.
        offset: u64,
        /// So many bytes.
        len: u64,
        /// Where the data is if it is not here; a hole otherwise.
        bp: Blkptr,
        /// The data; empty if `bp` has it.
        data: Vec<u8>,
    },
    /// A file was extended by a write whose data is on disk already.
    Write2 {
        /// The file.
        object: u64,
        /// At this byte.
        offset: u64,
        /// So many bytes.
        len: u64,
    },
    /// Data was freed: to the end of the file, whose length becomes `offset`, if `len` is 0.
    Truncate {
        /// The file.
        object: u64,
        /// From this byte.
        offset: u64,
        /// So many bytes.
        len: u64,
    },
    /// Attributes were changed.
    SetAttr(SetAttr),
    /// An extended attribute among the system attributes was set.
    SetSaXattr {
        /// The file.
        object: u64,
        /// The attribute's name.
        name: Vec<u8>,
        /// Its value; `None`: it was removed.
        value: Option<Vec<u8>>,
    },
    /// An ACL was set (`lr_acl_t`).
    Acl {
        /// The file.
        object: u64,
        /// The list.
        acl: LoggedAcl,
    },
    /// Blocks of a file became the same as others (`lr_clone_range_t`).
    CloneRange {
        /// The file.
        object: u64,
        /// From this byte, a multiple of the block size.
        offset: u64,
        /// So many bytes: all of the blocks, but for the last at the end of the file.
        len: u64,
        /// The block size of both files.
        block_size: u64,
        /// Where the blocks are.
        bps: Vec<Blkptr>,
    },
    /// A kind that this engine does not know or replay.
    Other(u64),
}

/// A name, ended by a zero byte; and what follows it.
fn name_at(bytes: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let end =
        bytes.iter().position(|&b| b == 0).ok_or(Error::corrupt("log record: name without end", None))?;
    Ok((bytes[..end].to_vec(), &bytes[end + 1..]))
}

fn after(bytes: &[u8], len: usize) -> Result<&[u8]> {
    bytes.get(len..).ok_or(Error::corrupt("log record: shorter than its fields", None))
}

const ACL_FIXED: usize = 40;

fn parse_create(tx: u64, body: &[u8]) -> Result<Record> {
    use kind::*;
    let mut create = parse_create_fixed(body)?;
    let mut rest = after(body, 72)?;
    let folded = match tx {
        CREATE | CREATE_ATTR | CREATE_ACL | CREATE_ACL_ATTR => CREATE,
        MKDIR | MKDIR_ATTR | MKDIR_ACL | MKDIR_ACL_ATTR => MKDIR,
        other => other,
    };
    let mut list = matches!(tx, CREATE_ACL | CREATE_ACL_ATTR | MKDIR_ACL | MKDIR_ACL_ATTR).then(|| {
        let word = |i: usize| u64_at(rest, 8 * i).unwrap_or(0);
        let acl = LoggedAcl { count: word(0), aces: Vec::new(), flags: word(4) };
        (acl, word(1), word(2), word(3))
    });
    if list.is_some() {
        rest = after(rest, ACL_FIXED)?;
    }
    if matches!(tx, CREATE_ATTR | MKDIR_ATTR | CREATE_ACL_ATTR | MKDIR_ACL_ATTR) {
        let (optional, len) = Optional::parse(rest)?;
        create.optional = Some(optional);
        rest = after(rest, len)?;
    }
    // Each domain of an owner, a group or an entry is told once.
    let (user, group) = (create.uid >> 32, create.gid >> 32);
    let mut domains = u64::from(user != 0) + u64::from(group != 0 && group != user);
    if let Some((acl, of_list, fuids, bytes)) = &mut list {
        let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
        acl.aces =
            rest.get(..bytes).ok_or(Error::corrupt("log record: shorter than its fields", None))?.to_vec();
        let skip = bytes
            .checked_next_multiple_of(8)
            .and_then(|a| a.checked_add(usize::try_from(*fuids).ok()?.checked_mul(8)?));
        rest = after(rest, skip.unwrap_or(usize::MAX))?;
        domains = *of_list;
    }
    create.acl = list.map(|(acl, ..)| acl);
    for _ in 0..domains.min(64) {
        rest = name_at(rest)?.1;
    }
    if tx != MKXATTR {
        (create.name, rest) = name_at(rest)?;
    }
    if tx == SYMLINK {
        create.target = name_at(rest)?.0;
    }
    Ok(Record::Create(folded, create))
}

/// The fixed part, from `lr_doid` on: 9 words.
fn parse_create_fixed(body: &[u8]) -> Result<Create> {
    let word =
        |i: usize| u64_at(body, 8 * i).ok_or(Error::corrupt("log record: shorter than its fields", None));
    let foid = word(1)?;
    let slots = (foid >> 56) + 1;
    if slots > SLOTS_MAX {
        return Err(Error::corrupt("log record: a dnode larger than there are", None));
    }
    Ok(Create {
        dir: word(0)?,
        object: foid & OBJECT_MASK,
        slots: slots as u8,
        mode: word(2)?,
        uid: word(3)?,
        gid: word(4)?,
        generation: word(5)?,
        crtime: [word(6)?, word(7)?],
        rdev: word(8)?,
        ..Create::default()
    })
}

/// Object numbers have 48 bits (`DN_MAX_OBJECT_SHIFT`).
const OBJECT_MASK: u64 = (1 << 48) - 1;
/// The most slots of one dnode (`DNODE_MAX_SLOTS`).
const SLOTS_MAX: u64 = 32;

impl Record {
    /// Reads a record of `header.kind`; `record` is all of it, header included.
    pub fn parse(header: &RecordHeader, record: &[u8]) -> Result<Record> {
        use kind::*;
        let body = after(record, RECORD_HEADER_SIZE)?;
        let word =
            |i: usize| u64_at(body, 8 * i).ok_or(Error::corrupt("log record: shorter than its fields", None));
        Ok(match header.kind {
            CREATE | MKDIR | MKXATTR | SYMLINK | CREATE_ATTR | MKDIR_ATTR | CREATE_ACL | CREATE_ACL_ATTR
            | MKDIR_ACL | MKDIR_ACL_ATTR => parse_create(header.kind, body)?,
            REMOVE | RMDIR => Record::Remove {
                dir: word(0)?,
                name: name_at(after(body, 8)?)?.0,
                is_dir: header.kind == RMDIR,
            },
            LINK => Record::Link { dir: word(0)?, object: word(1)?, name: name_at(after(body, 16)?)?.0 },
            RENAME | RENAME_EXCHANGE | RENAME_WHITEOUT => parse_rename(header.kind, body)?,
            WRITE => parse_write(body)?,
            WRITE2 => Record::Write2 { object: word(0)?, offset: word(1)?, len: word(2)? },
            TRUNCATE => Record::Truncate { object: word(0)?, offset: word(1)?, len: word(2)? },
            SETATTR => Record::SetAttr(SetAttr {
                object: word(0)?,
                mask: word(1)?,
                mode: word(2)?,
                uid: word(3)?,
                gid: word(4)?,
                size: word(5)?,
                atime: [word(6)?, word(7)?],
                mtime: [word(8)?, word(9)?],
                optional: match word(1)? & mask::XVATTR {
                    0 => None,
                    _ => Some(Optional::parse(after(body, 80)?)?.0),
                },
            }),
            SETSAXATTR => {
                let size = usize::try_from(word(1)?).unwrap_or(usize::MAX);
                let (name, rest) = name_at(after(body, 16)?)?;
                let value =
                    rest.get(..size).ok_or(Error::corrupt("log record: shorter than its fields", None))?;
                Record::SetSaXattr { object: word(0)?, name, value: (size > 0).then(|| value.to_vec()) }
            }
            ACL => {
                let len = usize::try_from(word(4)?).unwrap_or(usize::MAX);
                let aces = after(body, 48)?.get(..len);
                let aces = aces.ok_or(Error::corrupt("log record: shorter than its fields", None))?;
                let acl = LoggedAcl { count: word(1)?, aces: aces.to_vec(), flags: word(5)? };
                Record::Acl { object: word(0)?, acl }
            }
            CLONE_RANGE => Record::CloneRange {
                object: word(0)?,
                offset: word(1)?,
                len: word(2)?,
                block_size: word(3)?,
                bps: clone_pointers(record)?,
            },
            other => Record::Other(other),
        })
    }

    /// The record's kind.
    #[must_use]
    pub fn kind(&self) -> u64 {
        match self {
            Record::Create(kind, create) => match (*kind, create.acl.is_some(), create.optional.is_some()) {
                (kind::CREATE, true, true) => kind::CREATE_ACL_ATTR,
                (kind::CREATE, true, false) => kind::CREATE_ACL,
                (kind::CREATE, false, true) => kind::CREATE_ATTR,
                (kind::MKDIR, true, true) => kind::MKDIR_ACL_ATTR,
                (kind::MKDIR, true, false) => kind::MKDIR_ACL,
                (kind::MKDIR, false, true) => kind::MKDIR_ATTR,
                (plain, ..) => plain,
            },
            Record::Remove { is_dir, .. } => {
                if *is_dir {
                    kind::RMDIR
                } else {
                    kind::REMOVE
                }
            }
            Record::Link { .. } => kind::LINK,
            Record::Rename { whiteout: Some(_), .. } => kind::RENAME_WHITEOUT,
            Record::Rename { exchange: true, .. } => kind::RENAME_EXCHANGE,
            Record::Rename { .. } => kind::RENAME,
            Record::Write { .. } => kind::WRITE,
            Record::Write2 { .. } => kind::WRITE2,
            Record::Truncate { .. } => kind::TRUNCATE,
            Record::SetAttr(_) => kind::SETATTR,
            Record::SetSaXattr { .. } => kind::SETSAXATTR,
            Record::Acl { .. } => kind::ACL,
            Record::CloneRange { .. } => kind::CLONE_RANGE,
            Record::Other(kind) => *kind,
        }
    }

    /// The record as it stands in a log block; txg and sequence number are 0 until [`stamp`].
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Emitter::new(self.kind());
        match self {
            Record::Create(_, c) => {
                out.create(c);
                if let Some(acl) = &c.acl {
                    out.words(&[acl.count, 0, 0, acl.aces.len() as u64, acl.flags]);
                }
                if let Some(optional) = &c.optional {
                    out.bytes(&optional.emit());
                }
                if let Some(acl) = &c.acl {
                    out.bytes(&acl.aces);
                    out.bytes(&[0; 8][..acl.aces.len().next_multiple_of(8) - acl.aces.len()]);
                }
                if self.kind() != kind::MKXATTR {
                    out.name(&c.name);
                } else {
                    out.name(b"");
                }
                if self.kind() == kind::SYMLINK {
                    out.name(&c.target);
                }
            }
            Record::Remove { dir, name, .. } => {
                out.words(&[*dir]);
                out.name(name);
            }
            Record::Link { dir, object, name } => {
                out.words(&[*dir, *object]);
                out.name(name);
            }
            Record::Rename { from_dir, from, to_dir, to, whiteout, .. } => {
                out.words(&[*from_dir, *to_dir]);
                if let Some(w) = whiteout {
                    out.words(&[
                        foid(w),
                        w.mode,
                        w.uid,
                        w.gid,
                        w.generation,
                        w.crtime[0],
                        w.crtime[1],
                        w.rdev,
                    ]);
                }
                out.name(from);
                out.name(to);
            }
            Record::Write { object, offset, len, bp, data } => {
                out.words(&[*object, *offset, *len, 0]);
                out.bytes(&bp.to_bytes());
                out.bytes(data);
            }
            Record::Write2 { object, offset, len } => {
                out.words(&[*object, *offset, *len, 0]);
                out.bytes(&Blkptr::HOLE.to_bytes());
            }
            Record::Truncate { object, offset, len } => out.words(&[*object, *offset, *len]),
            Record::SetAttr(s) => {
                out.words(&[s.object, s.mask, s.mode, s.uid, s.gid, s.size]);
                out.words(&[s.atime[0], s.atime[1], s.mtime[0], s.mtime[1]]);
                if let Some(optional) = s.optional.filter(|_| s.mask & mask::XVATTR != 0) {
                    out.bytes(&optional.emit());
                }
            }
            Record::SetSaXattr { object, name, value } => {
                let value = value.as_deref().unwrap_or(&[]);
                out.words(&[*object, value.len() as u64]);
                out.name(name);
                out.bytes(value);
            }
            Record::Acl { object, acl } => {
                out.words(&[*object, acl.count, 0, 0, acl.aces.len() as u64, acl.flags]);
                out.bytes(&acl.aces);
            }
            Record::CloneRange { object, offset, len, block_size, bps } => {
                out.words(&[*object, *offset, *len, *block_size, bps.len() as u64]);
                bps.iter().for_each(|bp| out.bytes(&bp.to_bytes()));
            }
            Record::Other(_) => {}
        }
        out.finish()
    }
}

/// The blocks that a clone record refers to: of an encrypted log, too, whose other fields cannot be read without its key.
pub fn clone_pointers(record: &[u8]) -> Result<Vec<Blkptr>> {
    let short = || Error::corrupt("log record: shorter than its fields", None);
    let count = u64_at(record, CLONE_RECORD_SIZE - 8).ok_or_else(short)?;
    let pointers = after(record, CLONE_RECORD_SIZE)?.as_chunks::<BLKPTR_SIZE>().0;
    let pointers = usize::try_from(count).ok().and_then(|count| pointers.get(..count)).ok_or_else(short)?;
    Ok(pointers.iter().map(Blkptr::from_bytes).collect())
}

fn parse_rename(tx: u64, body: &[u8]) -> Result<Record> {
    let word =
        |i: usize| u64_at(body, 8 * i).ok_or(Error::corrupt("log record: shorter than its fields", None));
    let mut rest = after(body, 16)?;
    let mut whiteout = None;
    if tx == kind::RENAME_WHITEOUT {
        // Its fields are those of a create without the directory.
        whiteout = Some(Create { dir: word(0)?, ..parse_create_fixed(after(body, 8)?)? });
        rest = after(body, 80)?;
    }
    let (from, rest) = name_at(rest)?;
    let (to, _) = name_at(rest)?;
    let exchange = tx == kind::RENAME_EXCHANGE;
    Ok(Record::Rename { from_dir: word(0)?, from, to_dir: word(1)?, to, exchange, whiteout })
}

fn parse_write(body: &[u8]) -> Result<Record> {
    let short = || Error::corrupt("log record: shorter than its fields", None);
    let word = |i: usize| u64_at(body, 8 * i).ok_or_else(short);
    let (object, offset, len) = (word(0)?, word(1)?, word(2)?);
    let bp = bp_at(body, 32).ok_or_else(short)?;
    let rest = after(body, 32 + BLKPTR_SIZE)?;
    if rest.is_empty() {
        return Ok(Record::Write { object, offset, len, bp, data: Vec::new() });
    }
    let data = rest.get(..usize::try_from(len).unwrap_or(usize::MAX)).ok_or_else(short)?;
    Ok(Record::Write { object, offset, len, bp: Blkptr::HOLE, data: data.to_vec() })
}

fn foid(c: &Create) -> u64 {
    c.object & OBJECT_MASK | u64::from(c.slots.max(1) - 1) << 56
}

struct Emitter(Vec<u8>);

impl Emitter {
    fn new(kind: u64) -> Self {
        let mut out = Emitter(Vec::with_capacity(256));
        out.words(&[kind, 0, 0, 0]);
        out
    }
    fn words(&mut self, words: &[u64]) {
        self.0.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn name(&mut self, name: &[u8]) {
        self.bytes(name);
        self.0.push(0);
    }
    fn create(&mut self, c: &Create) {
        self.words(&[c.dir, foid(c), c.mode, c.uid, c.gid, c.generation, c.crtime[0], c.crtime[1], c.rdev]);
    }
    fn finish(mut self) -> Vec<u8> {
        let len = self.0.len().next_multiple_of(8);
        self.0.resize(len, 0);
        self.0[8..16].copy_from_slice(&(len as u64).to_le_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(record: &Record) {
        let mut bytes = record.emit();
        stamp(&mut bytes, 7, 9);
        let header = RecordHeader::parse(&bytes).unwrap();
        assert_eq!((header.len, header.txg, header.seq, header.kind), (bytes.len(), 7, 9, record.kind()));
        assert_eq!(&Record::parse(&header, &bytes).unwrap(), record);
        // Cut anywhere, it must be refused or understood, never panic.
        for cut in 0..bytes.len() {
            let _ = Record::parse(&header, &bytes[..cut]);
            let _ = RecordHeader::parse(&bytes[..cut]);
        }
    }

    /// Found by the fuzzer: 255 in the field overflowed.
    #[test]
    fn a_dnode_of_too_many_slots_is_refused() {
        let create = Create { slots: 1, mode: 0o100_644, name: b"f".to_vec(), ..Create::default() };
        let mut bytes = Record::Create(kind::CREATE, create).emit();
        stamp(&mut bytes, 7, 9);
        let header = RecordHeader::parse(&bytes).unwrap();
        assert!(Record::parse(&header, &bytes).is_ok());
        // The most significant byte of the second word behind the header.
        let at = RECORD_HEADER_SIZE + 8 + 7;
        for slots in [32, 255] {
            bytes[at] = slots;
            let too_large = Error::corrupt("log record: a dnode larger than there are", None);
            assert_eq!(Record::parse(&header, &bytes), Err(too_large));
        }
    }

    #[test]
    fn every_record_comes_back() {
        let create = Create {
            dir: 34,
            object: 99,
            slots: 2,
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            generation: 5,
            crtime: [6, 7],
            rdev: 8,
            name: b"name".to_vec(),
            ..Create::default()
        };
        let optional = Optional { flags_mask: 0x10_0000_0000, project: Some(3), ..Optional::default() };
        let acl = LoggedAcl { count: 3, aces: alloc::vec![1; 36], flags: 2 };
        for kind in [kind::CREATE, kind::MKDIR] {
            let with = |optional, acl| Record::Create(kind, Create { optional, acl, ..create.clone() });
            round_trip(&with(Some(optional), None));
            round_trip(&with(None, Some(acl.clone())));
            round_trip(&with(Some(optional), Some(acl.clone())));
        }
        round_trip(&Record::Create(kind::CREATE, create.clone()));
        round_trip(&Record::Create(kind::MKDIR, create.clone()));
        round_trip(&Record::Create(kind::SYMLINK, Create { target: b"to/there".to_vec(), ..create.clone() }));
        round_trip(&Record::Create(kind::MKXATTR, Create { name: Vec::new(), ..create.clone() }));
        round_trip(&Record::Remove { dir: 3, name: b"x".to_vec(), is_dir: false });
        round_trip(&Record::Remove { dir: 3, name: b"x".to_vec(), is_dir: true });
        round_trip(&Record::Link { dir: 3, object: 4, name: b"hard".to_vec() });
        let rename = |exchange, whiteout| Record::Rename {
            from_dir: 1,
            from: b"a".to_vec(),
            to_dir: 2,
            to: b"bcdefghij".to_vec(),
            exchange,
            whiteout,
        };
        round_trip(&rename(false, None));
        round_trip(&rename(true, None));
        round_trip(&rename(false, Some(Create { name: Vec::new(), dir: 1, ..create })));
        let data = alloc::vec![3; 100];
        round_trip(&Record::Write { object: 1, offset: 2, len: 100, bp: Blkptr::HOLE, data });
        let mut bp = Blkptr::HOLE;
        bp.set_birth(4);
        round_trip(&Record::Write { object: 1, offset: 2, len: 100, bp, data: Vec::new() });
        round_trip(&Record::Write2 { object: 1, offset: 2, len: 3 });
        round_trip(&Record::Truncate { object: 1, offset: 2, len: 3 });
        round_trip(&Record::SetAttr(SetAttr {
            object: 1,
            mask: mask::MODE,
            mode: 2,
            mtime: [8, 9],
            ..SetAttr::default()
        }));
        round_trip(&Record::SetAttr(SetAttr {
            object: 1,
            mask: mask::XVATTR,
            optional: Some(Optional { project: Some(3), ..Optional::default() }),
            ..SetAttr::default()
        }));
        round_trip(&Record::SetSaXattr { object: 1, name: b"user.a".to_vec(), value: Some(b"v".to_vec()) });
        round_trip(&Record::SetSaXattr { object: 1, name: b"user.a".to_vec(), value: None });
        round_trip(&Record::Acl { object: 1, acl });
        let clone = |bps| Record::CloneRange { object: 1, offset: 4096, len: 5000, block_size: 4096, bps };
        round_trip(&clone(alloc::vec![bp, Blkptr::HOLE]));
        round_trip(&clone(Vec::new()));
        assert_eq!(clone(alloc::vec![bp; 1022]).emit().len(), 130_888);
        assert_eq!(CLONE_BLOCKS_MAX, 1022);
    }

    #[test]
    fn header_and_chain_come_back() {
        let mut log = Blkptr::HOLE;
        log.set_birth(3);
        let header = Header {
            claim_txg: 1,
            replay_seq: 2,
            log,
            claim_blk_seq: 4,
            flags: REPLAY_NEEDED,
            claim_lr_seq: 6,
        };
        assert_eq!(Header::from_bytes(&header.to_bytes()), header);
        let mut block = alloc::vec![0xff; 4096];
        let chain = Chain { next: log, used: 300 };
        chain.emit(&mut block);
        assert_eq!(Chain::parse(&block, true).unwrap(), chain);
        assert_eq!(chain.records(&block, true).unwrap().len(), 300 - CHAIN_SIZE);
        assert!(Chain { next: log, used: 4097 }.records(&block, true).is_err());
        assert!(Chain::parse(&block[..100], false).is_err());
    }
}

//! Objsets: the root block of a dataset or of the MOS. Source: `objset_phys_t` (`include/sys/dmu_objset.h`).
//!
//! ```text
//!    0 meta-dnode (512) · 512 ZIL header (192) · 704 type u64 · 712 flags u64 · 720 portable MAC (32) · 752 local MAC (32)
//! 1024 user accounting dnode (512) · 1536 group accounting dnode · 2048 project accounting dnode · … 4096
//! ```

use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_SIZE, DnodePhys};
use alloc::vec::Vec;
use bytes::Bytes;

/// Size of the ZIL header, in bytes (`sizeof (zil_header_t)`).
pub const ZIL_HEADER_SIZE: usize = 192;
/// The root block as it is written today, in bytes (`OBJSET_PHYS_SIZE_V3`).
pub const OBJSET_SIZE: usize = 4096;
const OBJSET_SIZE_V1: usize = 1024;
const ZIL_HEADER_AT: usize = DNODE_SIZE;
const TYPE_AT: usize = ZIL_HEADER_AT + ZIL_HEADER_SIZE;
const FLAGS_AT: usize = TYPE_AT + 8;

/// The space of users and groups is accounted for completely (`OBJSET_FLAG_USERACCOUNTING_COMPLETE`).
pub const FLAG_USERACCOUNTING_COMPLETE: u64 = 1 << 0;
/// Their objects are, too (`OBJSET_FLAG_USEROBJACCOUNTING_COMPLETE`).
pub const FLAG_USEROBJACCOUNTING_COMPLETE: u64 = 1 << 1;
/// Projects are, too (`OBJSET_FLAG_PROJECTQUOTA_COMPLETE`).
pub const FLAG_PROJECTQUOTA_COMPLETE: u64 = 1 << 2;
/// All of these.
pub const FLAGS_ACCOUNTING_COMPLETE: u64 =
    FLAG_USERACCOUNTING_COMPLETE | FLAG_USEROBJACCOUNTING_COMPLETE | FLAG_PROJECTQUOTA_COMPLETE;
/// Where the dnodes of the accounts by user, by group and by project stand.
const ACCOUNTING_AT: [usize; 3] = [1024, 1024 + DNODE_SIZE, 1024 + 2 * DNODE_SIZE];

/// What an objset is (`dmu_objset_type_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjsetKind {
    /// The pool's meta objset.
    Meta,
    /// A file system.
    Zfs,
    /// A block volume.
    Zvol,
}

impl ObjsetKind {
    /// The number on disk.
    #[must_use]
    pub fn to_raw(self) -> u64 {
        match self {
            ObjsetKind::Meta => 1,
            ObjsetKind::Zfs => 2,
            ObjsetKind::Zvol => 3,
        }
    }

    /// The kind of that number.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(ObjsetKind::Meta),
            2 => Some(ObjsetKind::Zfs),
            3 => Some(ObjsetKind::Zvol),
            _ => None,
        }
    }
}

/// A root block that obeys the rules of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjsetPhys {
    /// The object whose data is the array of dnodes.
    pub meta_dnode: DnodePhys,
    /// Head of the intent log.
    pub zil_header: [u8; ZIL_HEADER_SIZE],
    /// What it is.
    pub kind: ObjsetKind,
    /// `OBJSET_FLAG_*`.
    pub flags: u64,
    /// The block as read, for what is not named above; as long as the block was.
    pub raw: Bytes,
}

impl ObjsetPhys {
    /// An empty objset around its meta-dnode.
    #[must_use]
    pub fn new(kind: ObjsetKind, meta_dnode: DnodePhys) -> Self {
        ObjsetPhys {
            meta_dnode,
            zil_header: [0; ZIL_HEADER_SIZE],
            kind,
            flags: 0,
            raw: Bytes::from_static(&[0; OBJSET_SIZE]),
        }
    }

    /// Reads a root block.
    pub fn parse(block: &Bytes, at: Option<Bookmark>) -> Result<Self> {
        if block.len() < OBJSET_SIZE_V1 {
            return Err(Error::corrupt("objset: root block too small", at));
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&block[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let kind = ObjsetKind::from_raw(word(TYPE_AT)).ok_or(Error::corrupt("objset: unknown type", at))?;
        let meta_dnode = DnodePhys::parse(&block.slice(..DNODE_SIZE), 0, at)?;
        if meta_dnode.is_free() {
            return Err(Error::corrupt("objset: no meta-dnode", at));
        }
        if meta_dnode.block_size() as usize != crate::ondisk::dnode::DNODE_BLOCK_SIZE {
            return Err(Error::corrupt("objset: meta-dnode's block size is not 16 KiB", at));
        }
        let mut zil_header = [0; ZIL_HEADER_SIZE];
        zil_header.copy_from_slice(&block[ZIL_HEADER_AT..TYPE_AT]);
        Ok(ObjsetPhys { meta_dnode, zil_header, kind, flags: word(FLAGS_AT), raw: block.clone() })
    }

    /// The dnodes of the accounts by user, by group and by project: none in old blocks, without the last in less old ones.
    pub fn accounting_dnodes(&self) -> Result<Vec<DnodePhys>> {
        let there = ACCOUNTING_AT.iter().filter(|at| **at + DNODE_SIZE <= self.raw.len());
        there.map(|at| DnodePhys::parse(&self.raw.slice(*at..at + DNODE_SIZE), 0, None)).collect()
    }

    /// Puts the dnode of account `index` (0 users, 1 groups, 2 projects) into the block, which must have room for it.
    pub fn set_accounting_dnode(&mut self, index: usize, dnode: &DnodePhys) {
        let mut raw = self.raw.to_vec();
        dnode.emit(&mut raw[ACCOUNTING_AT[index]..][..DNODE_SIZE]);
        self.raw = Bytes::from(raw);
    }

    /// The root block's bytes, as long as `raw`.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = self.raw.to_vec();
        self.meta_dnode.emit(&mut out[..DNODE_SIZE]);
        out[ZIL_HEADER_AT..TYPE_AT].copy_from_slice(&self.zil_header);
        out[TYPE_AT..FLAGS_AT].copy_from_slice(&self.kind.to_raw().to_le_bytes());
        out[FLAGS_AT..FLAGS_AT + 8].copy_from_slice(&self.flags.to_le_bytes());
        out
    }
}

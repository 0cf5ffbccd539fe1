//! The bonus buffers of the dataset and snapshot layer: `dsl_dir_phys_t` (`include/sys/dsl_dir.h`),
//! `dsl_dataset_phys_t` (`dsl_dataset.h`), `dsl_deadlist_phys_t` (`dsl_deadlist.h`), `bpobj_phys_t` (`bpobj.h`),
//! `bptree_phys_t` (`module/zfs/bptree.c`).
//!
//! All are arrays of little-endian 64-bit words; a data set also holds one block pointer. Unknown trailing words are
//! kept as they were.

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};

/// Size of [`DirPhys`] in bytes.
pub const DIR_PHYS_SIZE: usize = 256;
/// Size of [`DatasetPhys`] in bytes.
pub const DATASET_PHYS_SIZE: usize = 320;
/// Size of [`DeadlistPhys`] in bytes.
pub const DEADLIST_PHYS_SIZE: usize = 320;
/// Size of a bpobj's bonus before it knew compressed sizes (`BPOBJ_SIZE_V0`).
pub const BPOBJ_SIZE_V0: usize = 16;
/// Size of a bpobj's bonus before it knew sub-objects (`BPOBJ_SIZE_V1`).
pub const BPOBJ_SIZE_V1: usize = 32;
/// Size of a bpobj's bonus before livelists (`BPOBJ_SIZE_V2`).
pub const BPOBJ_SIZE_V2: usize = 48;
/// Size of a bpobj's bonus with the count of freed entries.
pub const BPOBJ_SIZE_V3: usize = 56;

/// `dd_used_breakdown` is kept (`DD_FLAG_USED_BREAKDOWN`).
pub const DD_FLAG_USED_BREAKDOWN: u64 = 1;

/// The dataset is half received or half destroyed (`DS_FLAG_INCONSISTENT`).
pub const DS_FLAG_INCONSISTENT: u64 = 1;
/// The dataset must not be promoted (`DS_FLAG_NOPROMOTE`).
pub const DS_FLAG_NOPROMOTE: u64 = 2;
/// `unique_bytes` can be trusted (`DS_FLAG_UNIQUE_ACCURATE`).
pub const DS_FLAG_UNIQUE_ACCURATE: u64 = 4;
/// The snapshot goes away with its last hold or clone (`DS_FLAG_DEFER_DESTROY`).
pub const DS_FLAG_DEFER_DESTROY: u64 = 8;
/// Snapshot names are case-insensitive (`DS_FLAG_CI_DATASET`).
pub const DS_FLAG_CI_DATASET: u64 = 1 << 16;

/// Index of a kind of space in [`DirPhys::used_breakdown`] (`dd_used_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// What the head dataset refers to (`DD_USED_HEAD`).
    Head = 0,
    /// What only snapshots refer to (`DD_USED_SNAP`).
    Snap = 1,
    /// Descendants (`DD_USED_CHILD`).
    Child = 2,
    /// What descendants have reserved and do not use (`DD_USED_CHILD_RSRV`).
    ChildReservation = 3,
    /// What the refreservation adds (`DD_USED_REFRSRV`).
    RefReservation = 4,
}

/// Number of kinds of space (`DD_USED_NUM`).
pub const USED_KINDS: usize = 5;

fn word(bytes: &[u8], index: usize) -> u64 {
    bytes.as_chunks::<8>().0.get(index).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn put(bytes: &mut [u8], index: usize, value: u64) {
    if let Some(chunk) = bytes.as_chunks_mut::<8>().0.get_mut(index) {
        *chunk = value.to_le_bytes();
    }
}

/// A node of the tree of names: a file system or volume with its snapshots (`dsl_dir_phys_t`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirPhys {
    /// Not used by anybody.
    pub creation_time: u64,
    /// The dataset at the head of this directory's snapshots; 0 for `$MOS` and `$FREE`.
    pub head_dataset_obj: u64,
    /// The parent directory; 0 for the root.
    pub parent_obj: u64,
    /// The snapshot that this was cloned from; 0 if none.
    pub origin_obj: u64,
    /// ZAP: name → directory.
    pub child_dir_zapobj: u64,
    /// Bytes used by this directory and all below it.
    pub used_bytes: u64,
    /// Physical bytes after compression.
    pub compressed_bytes: u64,
    /// Logical bytes.
    pub uncompressed_bytes: u64,
    /// Quota in bytes; 0 is none.
    pub quota: u64,
    /// Reservation in bytes.
    pub reserved: u64,
    /// ZAP of properties.
    pub props_zapobj: u64,
    /// ZAP of delegated permissions.
    pub deleg_zapobj: u64,
    /// `DD_FLAG_*`.
    pub flags: u64,
    /// Bytes by [`Used`].
    pub used_breakdown: [u64; USED_KINDS],
    /// ZAP: all datasets cloned from snapshots here.
    pub clones: u64,
    /// Reserved.
    pub pad: [u64; 13],
}

impl DirPhys {
    /// Reads; needs at least 256 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < DIR_PHYS_SIZE {
            return Err(Error::corrupt("dsl_dir: bonus shorter than 256 bytes", None));
        }
        let w = |i| word(bytes, i);
        Ok(DirPhys {
            creation_time: w(0),
            head_dataset_obj: w(1),
            parent_obj: w(2),
            origin_obj: w(3),
            child_dir_zapobj: w(4),
            used_bytes: w(5),
            compressed_bytes: w(6),
            uncompressed_bytes: w(7),
            quota: w(8),
            reserved: w(9),
            props_zapobj: w(10),
            deleg_zapobj: w(11),
            flags: w(12),
            used_breakdown: core::array::from_fn(|i| w(13 + i)),
            clones: w(18),
            pad: core::array::from_fn(|i| w(19 + i)),
        })
    }

    /// The bytes as they stand on disk.
    #[must_use]
    pub fn emit(&self) -> [u8; DIR_PHYS_SIZE] {
        let mut bytes = [0; DIR_PHYS_SIZE];
        let head = [
            self.creation_time,
            self.head_dataset_obj,
            self.parent_obj,
            self.origin_obj,
            self.child_dir_zapobj,
            self.used_bytes,
            self.compressed_bytes,
            self.uncompressed_bytes,
            self.quota,
            self.reserved,
            self.props_zapobj,
            self.deleg_zapobj,
            self.flags,
        ];
        let words = head.iter().chain(&self.used_breakdown).chain([&self.clones]).chain(&self.pad);
        for (i, value) in words.enumerate() {
            put(&mut bytes, i, *value);
        }
        bytes
    }
}

/// A dataset: the head of a directory or one of its snapshots (`dsl_dataset_phys_t`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatasetPhys {
    /// The directory it belongs to.
    pub dir_obj: u64,
    /// The snapshot before it; of a clone's first, the origin.
    pub prev_snap_obj: u64,
    /// When that was taken: blocks born later are not in it.
    pub prev_snap_txg: u64,
    /// Of a snapshot, the next one or the head; 0 for a head.
    pub next_snap_obj: u64,
    /// Of a head, ZAP: snapshot name → dataset; 0 for snapshots.
    pub snapnames_zapobj: u64,
    /// Of a snapshot, 1 + its clones; 0 for a head.
    pub num_children: u64,
    /// Seconds since 1970.
    pub creation_time: u64,
    /// When it was made; a snapshot holds blocks born up to and including it.
    pub creation_txg: u64,
    /// Blocks of the previous snapshot that this does not refer to any more.
    pub deadlist_obj: u64,
    /// Bytes on disk that it refers to.
    pub referenced_bytes: u64,
    /// The same after compression, without parity and padding.
    pub compressed_bytes: u64,
    /// The same, logical.
    pub uncompressed_bytes: u64,
    /// Bytes that nothing else refers to.
    pub unique_bytes: u64,
    /// A 56-bit id for `statfs`.
    pub fsid_guid: u64,
    /// The 64-bit id that never changes.
    pub guid: u64,
    /// `DS_FLAG_*`.
    pub flags: u64,
    /// The objset.
    pub bp: Blkptr,
    /// Of a snapshot, ZAP of the datasets cloned from it.
    pub next_clones_obj: u64,
    /// Of a snapshot, ZAP of properties.
    pub props_obj: u64,
    /// Of a snapshot, ZAP of holds.
    pub userrefs_obj: u64,
    /// Reserved.
    pub pad: [u64; 5],
}

impl DatasetPhys {
    /// Reads; needs at least 320 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < DATASET_PHYS_SIZE {
            return Err(Error::corrupt("dsl_dataset: bonus shorter than 320 bytes", None));
        }
        let w = |i| word(bytes, i);
        let mut bp = [0; BLKPTR_SIZE];
        bp.copy_from_slice(&bytes[128..256]);
        Ok(DatasetPhys {
            dir_obj: w(0),
            prev_snap_obj: w(1),
            prev_snap_txg: w(2),
            next_snap_obj: w(3),
            snapnames_zapobj: w(4),
            num_children: w(5),
            creation_time: w(6),
            creation_txg: w(7),
            deadlist_obj: w(8),
            referenced_bytes: w(9),
            compressed_bytes: w(10),
            uncompressed_bytes: w(11),
            unique_bytes: w(12),
            fsid_guid: w(13),
            guid: w(14),
            flags: w(15),
            bp: Blkptr::parse(&bp, None)?,
            next_clones_obj: w(32),
            props_obj: w(33),
            userrefs_obj: w(34),
            pad: core::array::from_fn(|i| w(35 + i)),
        })
    }

    /// The bytes as they stand on disk.
    #[must_use]
    pub fn emit(&self) -> [u8; DATASET_PHYS_SIZE] {
        let mut bytes = [0; DATASET_PHYS_SIZE];
        let head = [
            self.dir_obj,
            self.prev_snap_obj,
            self.prev_snap_txg,
            self.next_snap_obj,
            self.snapnames_zapobj,
            self.num_children,
            self.creation_time,
            self.creation_txg,
            self.deadlist_obj,
            self.referenced_bytes,
            self.compressed_bytes,
            self.uncompressed_bytes,
            self.unique_bytes,
            self.fsid_guid,
            self.guid,
            self.flags,
        ];
        for (i, value) in head.iter().enumerate() {
            put(&mut bytes, i, *value);
        }
        bytes[128..256].copy_from_slice(&self.bp.to_bytes());
        let tail = [self.next_clones_obj, self.props_obj, self.userrefs_obj];
        for (i, value) in tail.iter().chain(&self.pad).enumerate() {
            put(&mut bytes, 32 + i, *value);
        }
        bytes
    }

    /// Whether it is a snapshot (`dsl_dataset_is_snapshot`).
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.num_children != 0
    }
}

/// Space on a list of blocks: allocated, compressed and logical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Allocated bytes.
    pub used: u64,
    /// Bytes after compression.
    pub compressed: u64,
    /// Logical bytes.
    pub uncompressed: u64,
}

impl core::ops::AddAssign for Space {
    fn add_assign(&mut self, other: Space) {
        self.used = self.used.wrapping_add(other.used);
        self.compressed = self.compressed.wrapping_add(other.compressed);
        self.uncompressed = self.uncompressed.wrapping_add(other.uncompressed);
    }
}

impl core::ops::SubAssign for Space {
    fn sub_assign(&mut self, other: Space) {
        self.used = self.used.wrapping_sub(other.used);
        self.compressed = self.compressed.wrapping_sub(other.compressed);
        self.uncompressed = self.uncompressed.wrapping_sub(other.uncompressed);
    }
}

/// What a deadlist holds in all (`dsl_deadlist_phys_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeadlistPhys {
    /// Sum over all entries.
    pub space: Space,
}

impl DeadlistPhys {
    /// Reads; needs at least 24 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 24 {
            return Err(Error::corrupt("deadlist: bonus too short", None));
        }
        let (used, compressed, uncompressed) = (word(bytes, 0), word(bytes, 1), word(bytes, 2));
        Ok(DeadlistPhys { space: Space { used, compressed, uncompressed } })
    }

    /// The bytes as they stand on disk.
    #[must_use]
    pub fn emit(&self) -> [u8; DEADLIST_PHYS_SIZE] {
        let mut bytes = [0; DEADLIST_PHYS_SIZE];
        put(&mut bytes, 0, self.space.used);
        put(&mut bytes, 1, self.space.compressed);
        put(&mut bytes, 2, self.space.uncompressed);
        bytes
    }
}

/// The header of a list of block pointers (`bpobj_phys_t`). Its length tells its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BpobjPhys {
    /// Entries in the object itself.
    pub num_blkptrs: u64,
    /// Allocated bytes of all entries, with those of sub-objects; without the freed entries of a livelist.
    pub bytes: u64,
    /// Compressed bytes.
    pub comp: u64,
    /// Logical bytes.
    pub uncomp: u64,
    /// An object that lists sub-bpobjs as 64-bit numbers; 0 if there are none.
    pub subobjs: u64,
    /// How many.
    pub num_subobjs: u64,
    /// Entries that are frees (livelists only).
    pub num_freed: u64,
    /// Length of the bonus in bytes: one of the `BPOBJ_SIZE_*`.
    pub size: usize,
}

impl BpobjPhys {
    /// Reads a bonus of any version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let size = match bytes.len() {
            len if len >= BPOBJ_SIZE_V3 => BPOBJ_SIZE_V3,
            len if len >= BPOBJ_SIZE_V2 => BPOBJ_SIZE_V2,
            len if len >= BPOBJ_SIZE_V1 => BPOBJ_SIZE_V1,
            len if len >= BPOBJ_SIZE_V0 => BPOBJ_SIZE_V0,
            _ => return Err(Error::corrupt("bpobj: bonus too short", None)),
        };
        let w = |i| if i * 8 < size { word(bytes, i) } else { 0 };
        Ok(BpobjPhys {
            num_blkptrs: w(0),
            bytes: w(1),
            comp: w(2),
            uncomp: w(3),
            subobjs: w(4),
            num_subobjs: w(5),
            num_freed: w(6),
            size,
        })
    }

    /// The bytes as they stand on disk; as long as [`BpobjPhys::size`] says.
    #[must_use]
    pub fn emit(&self) -> alloc::vec::Vec<u8> {
        let words = [
            self.num_blkptrs,
            self.bytes,
            self.comp,
            self.uncomp,
            self.subobjs,
            self.num_subobjs,
            self.num_freed,
        ];
        words.iter().flat_map(|w| w.to_le_bytes()).take(self.size).collect()
    }

    /// The space as one value.
    #[must_use]
    pub fn space(&self) -> Space {
        Space { used: self.bytes, compressed: self.comp, uncompressed: self.uncomp }
    }
}

/// The header of a list of destroyed trees (`bptree_phys_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BptreePhys {
    /// The first entry.
    pub begin: u64,
    /// Behind the last entry.
    pub end: u64,
    /// What the trees still hold.
    pub space: Space,
}

impl BptreePhys {
    /// Reads a bonus.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 40 || word(bytes, 0) > word(bytes, 1) {
            return Err(Error::corrupt("bptree: bad header", None));
        }
        let space = Space { used: word(bytes, 2), compressed: word(bytes, 3), uncompressed: word(bytes, 4) };
        Ok(BptreePhys { begin: word(bytes, 0), end: word(bytes, 1), space })
    }

    /// The bonus.
    #[must_use]
    pub fn emit(&self) -> [u8; 40] {
        let Space { used, compressed, uncompressed } = self.space;
        let mut out = [0; 40];
        for (place, w) in
            out.as_chunks_mut::<8>().0.iter_mut().zip([self.begin, self.end, used, compressed, uncompressed])
        {
            *place = w.to_le_bytes();
        }
        out
    }
}

/// Size of an entry of a list of destroyed trees, in bytes.
pub const BPTREE_ENTRY_SIZE: usize = 168;
/// Objset number in bookmarks of destroyed objsets (`ZB_DESTROYED_OBJSET`).
const DESTROYED_OBJSET: u64 = u64::MAX;

/// A destroyed tree (`bptree_entry_phys_t`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BptreeEntry {
    /// The objset's root.
    pub root: Blkptr,
    /// Blocks born at or before that txg belong to snapshots.
    pub min_txg: u64,
    /// Object and block id at level 0 where freeing goes on; `None` from the start.
    pub resume: Option<(u64, u64)>,
}

impl BptreeEntry {
    /// Reads an entry.
    pub fn parse(bytes: &[u8; BPTREE_ENTRY_SIZE]) -> Result<Self> {
        let root = bytes.first_chunk().ok_or(Error::corrupt("bptree: short entry", None))?;
        let at: [u64; 4] = core::array::from_fn(|i| word(bytes, 17 + i));
        if at[2] != 0 {
            return Err(Error::corrupt("bptree: entry goes on at an indirect block", None));
        }
        let resume = (at != [0; 4]).then_some((at[1], at[3]));
        Ok(BptreeEntry { root: Blkptr::parse(root, None)?, min_txg: word(bytes, 16), resume })
    }

    /// The entry's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; BPTREE_ENTRY_SIZE] {
        let mut out = [0; BPTREE_ENTRY_SIZE];
        out[..128].copy_from_slice(&self.root.to_bytes());
        let at = self.resume.map_or([0; 4], |(object, blkid)| [DESTROYED_OBJSET, object, 0, blkid]);
        for (place, w) in
            out[128..].as_chunks_mut::<8>().0.iter_mut().zip([self.min_txg].into_iter().chain(at))
        {
            *place = w.to_le_bytes();
        }
        out
    }
}

/// The bookmark counts what was freed before the next snapshot (`ZBM_FLAG_HAS_FBN`).
pub const BOOKMARK_FLAG_FREED_BEFORE_NEXT: u64 = 1;
/// The bookmark's snapshot still exists (`ZBM_FLAG_SNAPSHOT_EXISTS`).
pub const BOOKMARK_FLAG_SNAPSHOT_EXISTS: u64 = 2;
/// Words of a bookmark that knows only which snapshot it was made of (`BOOKMARK_PHYS_SIZE_V1`).
pub const BOOKMARK_WORDS_V1: usize = 3;
/// Words of a bookmark in full (`BOOKMARK_PHYS_SIZE_V2`).
pub const BOOKMARK_WORDS_V2: usize = 12;

/// What is left of a snapshot for incremental sends (`zfs_bookmark_phys_t`, `include/sys/dsl_bookmark.h`): the value of an entry of the
/// ZAP of bookmarks, 3 or 12 words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BookmarkPhys {
    /// The snapshot's guid.
    pub guid: u64,
    /// The snapshot's creation txg.
    pub creation_txg: u64,
    /// The snapshot's creation time, in seconds since 1970.
    pub creation_time: u64,
    /// The redaction list; 0 if there is none.
    pub redaction_obj: u64,
    /// `BOOKMARK_FLAG_*`.
    pub flags: u64,
    /// What the snapshot referred to.
    pub referenced: Space,
    /// What of that has died before the next snapshot, or until now if there is none.
    pub freed: Space,
    /// Of an encrypted dataset, the id of the snapshot's set of IVs.
    pub ivset_guid: u64,
}

impl BookmarkPhys {
    /// Reads a value of either length; words that are not there are 0.
    #[must_use]
    pub fn parse(words: &[u64]) -> Self {
        let w = |i: usize| words.get(i).copied().unwrap_or(0);
        let space = |i| Space { used: w(i), compressed: w(i + 1), uncompressed: w(i + 2) };
        BookmarkPhys {
            guid: w(0),
            creation_txg: w(1),
            creation_time: w(2),
            redaction_obj: w(3),
            flags: w(4),
            referenced: space(5),
            freed: space(8),
            ivset_guid: w(11),
        }
    }

    /// The words as they stand on disk: only the first three if the others are 0.
    #[must_use]
    pub fn emit(&self) -> alloc::vec::Vec<u64> {
        let (r, f) = (self.referenced, self.freed);
        let mut words = alloc::vec![self.guid, self.creation_txg, self.creation_time];
        let more = [self.redaction_obj, self.flags, r.used, r.compressed, r.uncompressed];
        let more = more.into_iter().chain([f.used, f.compressed, f.uncompressed, self.ivset_guid]);
        if more.clone().any(|word| word != 0) {
            words.extend(more);
        }
        words
    }

    /// Whether it counts what was freed before the next snapshot.
    #[must_use]
    pub fn counts_freed(&self) -> bool {
        self.flags & BOOKMARK_FLAG_FREED_BEFORE_NEXT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn counting(len: usize) -> Vec<u8> {
        (0..len).map(|i| i as u8).collect()
    }

    #[test]
    fn a_dir_comes_back() {
        let bytes = counting(DIR_PHYS_SIZE);
        assert_eq!(DirPhys::parse(&bytes).unwrap().emit().as_slice(), bytes);
        let short = Error::corrupt("dsl_dir: bonus shorter than 256 bytes", None);
        assert_eq!(DirPhys::parse(&bytes[..255]), Err(short));
    }

    #[test]
    fn a_dataset_comes_back() {
        let mut bytes = counting(DATASET_PHYS_SIZE);
        bytes[128..256].fill(0);
        assert_eq!(DatasetPhys::parse(&bytes).unwrap().emit().as_slice(), bytes);
        let short = Error::corrupt("dsl_dataset: bonus shorter than 320 bytes", None);
        assert_eq!(DatasetPhys::parse(&bytes[..319]), Err(short));
    }

    #[test]
    fn a_bookmark_is_as_long_as_it_must_be() {
        let words: Vec<u64> = (1..=BOOKMARK_WORDS_V2 as u64).collect();
        assert_eq!(BookmarkPhys::parse(&words).emit(), words);
        let short = BookmarkPhys::parse(&words[..BOOKMARK_WORDS_V1]);
        assert_eq!((short.emit(), short.counts_freed()), (words[..BOOKMARK_WORDS_V1].to_vec(), false));
    }

    #[test]
    fn destroyed_trees_come_back() {
        let mut root = Blkptr::embed(&[7; 30], 512, 15, 11, 0);
        root.set_birth(9);
        for resume in [None, Some((0, 3)), Some((77, u64::MAX))] {
            let entry = BptreeEntry { root, min_txg: 5, resume };
            assert_eq!(BptreeEntry::parse(&entry.emit()), Ok(entry));
        }
        let space = Space { used: 1, compressed: 2, uncompressed: 3 };
        let list = BptreePhys { begin: 4, end: 5, space };
        assert_eq!(BptreePhys::parse(&list.emit()), Ok(list));
        let bad = Error::corrupt("bptree: bad header", None);
        assert_eq!(BptreePhys::parse(&BptreePhys { begin: 6, ..list }.emit()), Err(bad));
    }

    #[test]
    fn a_bpobj_keeps_its_version() {
        let bytes = counting(BPOBJ_SIZE_V3);
        for size in [BPOBJ_SIZE_V0, BPOBJ_SIZE_V1, BPOBJ_SIZE_V2, BPOBJ_SIZE_V3] {
            let phys = BpobjPhys::parse(&bytes[..size]).unwrap();
            assert_eq!((phys.size, phys.emit()), (size, bytes[..size].to_vec()));
        }
        assert!(BpobjPhys::parse(&bytes[..15]).is_err());
    }
}

//! Block pointers and DVAs. Source: `blkptr_t`, `dva_t` (`include/sys/spa.h`).
//!
//! ```text
//!      64      56      48      40      32      24      16      8       0
//!  0  |  pad  |     vdev1             | grid  |          asize1       |
//!  1  |G|                        offset1                              |
//!  …  (DVA 2 and 3 likewise in words 2 to 5)
//!  6  |BDX|lvl| type  | cksum |E| comp|      psize    |     lsize     |
//!  7  padding, 8 padding, 9 physical birth txg, 10 (logical) birth txg, 11 fill count, 12-15 checksum
//! ```
//! An embedded block pointer (E) keeps up to 112 bytes of payload in words 0-5, 7-9 and 11-15; its sizes are in bytes
//! (lsize 25 bits, psize 7 bits) and the checksum field holds the embedded type.

use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use alloc::vec::Vec;

/// Size of a block pointer on disk, in bytes (`1 << SPA_BLKPTRSHIFT`).
pub const BLKPTR_SIZE: usize = 128;
/// Number of DVAs in a block pointer (`SPA_DVAS_PER_BP`).
pub const DVAS_PER_BP: usize = 3;
/// The unit of on-disk sizes and offsets, in bytes (`1 << SPA_MINBLOCKSHIFT`).
pub const MIN_BLOCK_SIZE: u64 = 512;
/// The largest logical block, in bytes (`SPA_MAXBLOCKSIZE`).
pub const MAX_BLOCK_SIZE: u64 = 16 << 20;
/// The largest payload of an embedded block pointer, in bytes (`BPE_PAYLOAD_SIZE`).
pub const EMBEDDED_PAYLOAD_SIZE: usize = 112;
/// Where vdev offsets start: after the first two labels and the boot area, in bytes (`VDEV_LABEL_START_SIZE`).
pub const LABEL_START_SIZE: u64 = 4 << 20;

/// A bit field of a 64-bit word.
#[derive(Clone, Copy)]
struct Field {
    word: usize,
    low: u32,
    len: u32,
}

impl Field {
    const fn new(word: usize, low: u32, len: u32) -> Self {
        Field { word, low, len }
    }
    const fn mask(self) -> u64 {
        if self.len == 64 { u64::MAX } else { (1 << self.len) - 1 }
    }
    fn get(self, words: &[u64; 16]) -> u64 {
        (words[self.word] >> self.low) & self.mask()
    }
    fn set(self, words: &mut [u64; 16], value: u64) {
        assert!(value <= self.mask(), "value {value:#x} does not fit its bit field");
        words[self.word] = words[self.word] & !(self.mask() << self.low) | value << self.low;
    }
}

const PROP: usize = 6;
const LSIZE: Field = Field::new(PROP, 0, 16);
const PSIZE: Field = Field::new(PROP, 16, 16);
const COMPRESS: Field = Field::new(PROP, 32, 7);
const EMBEDDED: Field = Field::new(PROP, 39, 1);
const CHECKSUM: Field = Field::new(PROP, 40, 8);
const TYPE: Field = Field::new(PROP, 48, 8);
const LEVEL: Field = Field::new(PROP, 56, 5);
const CRYPT: Field = Field::new(PROP, 61, 1);
const DEDUP: Field = Field::new(PROP, 62, 1);
const BYTEORDER: Field = Field::new(PROP, 63, 1);
const EMBEDDED_LSIZE: Field = Field::new(PROP, 0, 25);
const EMBEDDED_PSIZE: Field = Field::new(PROP, 25, 7);
const PHYS_BIRTH: usize = 9;
const BIRTH: usize = 10;
const FILL: usize = 11;
const CHECKSUM_WORDS: usize = 12;
const EMBEDDED_WORDS: [usize; 14] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14, 15];

/// Embedded payload is plain (perhaps compressed) data (`BP_EMBEDDED_TYPE_DATA`).
pub const EMBEDDED_TYPE_DATA: u64 = 0;

/// A data virtual address: a vdev, and where on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dva {
    /// Index of the top-level vdev.
    pub vdev: u32,
    /// Offset in bytes from the vdev's allocatable start ([`LABEL_START_SIZE`] after the device's), multiple of 512.
    pub offset: u64,
    /// Allocated size in bytes with parity and gang header, multiple of 512.
    pub asize: u64,
    /// The address is of a gang block: a header of further block pointers.
    pub gang: bool,
}

impl Dva {
    /// No address at all.
    pub const NONE: Dva = Dva { vdev: 0, offset: 0, asize: 0, gang: false };

    /// The address that two words on disk are (`dva_t`).
    #[must_use]
    pub fn from_words(w0: u64, w1: u64) -> Self {
        Dva {
            vdev: (w0 >> 32 & 0xff_ffff) as u32,
            asize: (w0 & 0xff_ffff) * MIN_BLOCK_SIZE,
            offset: (w1 & (u64::MAX >> 1)).wrapping_mul(MIN_BLOCK_SIZE),
            gang: w1 >> 63 != 0,
        }
    }

    /// Whether this slot holds an address (`DVA_IS_VALID`).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.asize != 0
    }
}

/// A block pointer. Any 128 bytes are one; [`Blkptr::parse`] says whether they obey the rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Blkptr {
    words: [u64; 16],
}

impl Blkptr {
    /// A hole that was never born: all zeros.
    pub const HOLE: Blkptr = Blkptr { words: [0; 16] };

    /// The raw value; see [`Blkptr::verify`] for the rules.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; BLKPTR_SIZE]) -> Self {
        let mut words = [0; 16];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        Blkptr { words }
    }

    /// The bytes as they stand on disk.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BLKPTR_SIZE] {
        let mut bytes = [0; BLKPTR_SIZE];
        for (word, chunk) in self.words.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// The block pointer at index `i` of an array of them (an indirect block); `None` past its end.
    #[must_use]
    pub fn nth(block: &[u8], i: usize) -> Option<Self> {
        block.as_chunks::<BLKPTR_SIZE>().0.get(i).map(Self::from_bytes)
    }

    /// The block pointers of an array of them (an indirect block) that are no holes, with their indices. Of holes, which are most of many
    /// blocks, it reads no more than says so.
    pub fn present(block: &[u8]) -> impl Iterator<Item = (usize, Self)> + '_ {
        let zero = |bytes: &[u8; BLKPTR_SIZE], word: usize| bytes[word * 8..][..8] == [0; 8];
        let empty = move |bytes: &[u8; BLKPTR_SIZE]| zero(bytes, 0) && zero(bytes, 1) && zero(bytes, PROP);
        let all = block.as_chunks::<BLKPTR_SIZE>().0.iter().enumerate();
        all.filter(move |(_, bytes)| !empty(bytes))
            .map(|(i, bytes)| (i, Self::from_bytes(bytes)))
            .filter(|(_, bp)| !bp.is_hole())
    }

    /// Reads and verifies.
    pub fn parse(bytes: &[u8; BLKPTR_SIZE], at: Option<Bookmark>) -> Result<Self> {
        let bp = Self::from_bytes(bytes);
        bp.verify(at)?;
        Ok(bp)
    }

    /// The rules that every block pointer on disk obeys (`zfs_blkptr_verify`). Types, checksums and compressions
    /// are checked by whoever looks them up; vdev ids and offsets by the vdev tree.
    pub fn verify(&self, at: Option<Bookmark>) -> Result<()> {
        if self.is_embedded() {
            if self.embedded_type() == EMBEDDED_TYPE_DATA && self.psize() > EMBEDDED_PAYLOAD_SIZE as u64 {
                return Err(Error::corrupt("embedded block pointer: payload over 112 bytes", at));
            }
            if self.lsize() > MAX_BLOCK_SIZE {
                return Err(Error::corrupt("block pointer: logical size over 16 MiB", at));
            }
            return Ok(());
        }
        if self.is_hole() {
            return Ok(());
        }
        if self.lsize() > MAX_BLOCK_SIZE || self.psize() > MAX_BLOCK_SIZE {
            return Err(Error::corrupt("block pointer: size over 16 MiB", at));
        }
        if !self.dva(0).is_valid() {
            return Err(Error::corrupt("block pointer: first address is empty", at));
        }
        Ok(())
    }

    /// DVA `i` (0 to 2).
    #[must_use]
    pub fn dva(&self, i: usize) -> Dva {
        Dva::from_words(self.words[2 * i], self.words[2 * i + 1])
    }

    /// The valid DVAs; none of a hole or an embedded block. Encrypted data has two at most: the third holds its salt
    /// and initialization vector.
    pub fn dvas(&self) -> impl Iterator<Item = Dva> + '_ {
        let count = match () {
            () if self.is_embedded() => 0,
            () if self.is_encrypted() => DVAS_PER_BP - 1,
            () => DVAS_PER_BP,
        };
        (0..count).map(|i| self.dva(i)).filter(Dva::is_valid)
    }

    /// Sets DVA `i`.
    ///
    /// # Panics
    /// If a value of ours is not a multiple of 512 or does not fit.
    pub fn set_dva(&mut self, i: usize, dva: Dva) {
        assert!(dva.asize.is_multiple_of(MIN_BLOCK_SIZE) && dva.asize / MIN_BLOCK_SIZE <= 0xff_ffff);
        assert!(dva.offset.is_multiple_of(MIN_BLOCK_SIZE) && dva.vdev <= 0xff_ffff);
        self.words[2 * i] = u64::from(dva.vdev) << 32 | dva.asize / MIN_BLOCK_SIZE;
        self.words[2 * i + 1] = u64::from(dva.gang) << 63 | dva.offset / MIN_BLOCK_SIZE;
    }

    /// Nothing was written here: reads as zeros (`BP_IS_HOLE`). It may still have a birth time (hole_birth).
    #[must_use]
    pub fn is_hole(&self) -> bool {
        !self.is_embedded() && self.words[0] == 0 && self.words[1] == 0
    }

    /// The payload is in the pointer itself (`BP_IS_EMBEDDED`).
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        EMBEDDED.get(&self.words) != 0
    }

    /// The first DVA leads to a gang header (`BP_IS_GANG`).
    #[must_use]
    pub fn is_gang(&self) -> bool {
        !self.is_embedded() && self.dva(0).gang
    }

    /// Logical size in bytes; 0 of a hole that never had one.
    #[must_use]
    pub fn lsize(&self) -> u64 {
        if self.is_embedded() {
            EMBEDDED_LSIZE.get(&self.words) + 1
        } else if self.words[PROP] == 0 {
            0
        } else {
            (LSIZE.get(&self.words) + 1) * MIN_BLOCK_SIZE
        }
    }

    /// Physical size in bytes, after compression, without padding to the vdev's sectors.
    #[must_use]
    pub fn psize(&self) -> u64 {
        if self.is_embedded() {
            EMBEDDED_PSIZE.get(&self.words) + 1
        } else if self.is_hole() {
            0
        } else {
            (PSIZE.get(&self.words) + 1) * MIN_BLOCK_SIZE
        }
    }

    /// Compressed and uncompressed bytes as accounts count them (`BP_GET_PSIZE`, `BP_GET_UCSIZE`): an embedded block has no compressed ones,
    /// and metadata counts as compressed in both.
    #[must_use]
    pub fn counted(&self) -> (u64, u64) {
        let compressed = if self.is_embedded() { 0 } else { self.psize() };
        let metadata = self.level() > 0 || ObjectType(self.object_type()).is_metadata();
        (compressed, if metadata { compressed } else { self.lsize() })
    }

    /// Allocated size in bytes over all DVAs (`BP_GET_ASIZE`); 0 if embedded.
    #[must_use]
    pub fn asize(&self) -> u64 {
        self.dvas().map(|d| d.asize).sum()
    }

    /// Sets logical and physical size, in bytes, multiples of 512.
    ///
    /// # Panics
    /// If a value of ours is not a multiple of 512, or out of range.
    pub fn set_sizes(&mut self, lsize: u64, psize: u64) {
        for (field, size) in [(LSIZE, lsize), (PSIZE, psize)] {
            assert!(size.is_multiple_of(MIN_BLOCK_SIZE) && size > 0, "block size {size}");
            field.set(&mut self.words, size / MIN_BLOCK_SIZE - 1);
        }
    }

    /// Sets the logical size of a hole, in bytes, a multiple of 512; its physical size has no bits.
    ///
    /// # Panics
    /// If a value of ours is not a multiple of 512, or out of range.
    pub fn set_hole_size(&mut self, lsize: u64) {
        assert!(lsize.is_multiple_of(MIN_BLOCK_SIZE) && lsize > 0, "hole size {lsize}");
        LSIZE.set(&mut self.words, lsize / MIN_BLOCK_SIZE - 1);
    }

    /// Compression function, as numbered on disk (`enum zio_compress`).
    #[must_use]
    pub fn compress(&self) -> u8 {
        COMPRESS.get(&self.words) as u8
    }

    /// Sets the compression function.
    pub fn set_compress(&mut self, compress: u8) {
        COMPRESS.set(&mut self.words, u64::from(compress));
    }

    /// Checksum function, as numbered on disk (`enum zio_checksum`); meaningless if embedded.
    #[must_use]
    pub fn checksum_type(&self) -> u8 {
        CHECKSUM.get(&self.words) as u8
    }

    /// Sets the checksum function.
    pub fn set_checksum_type(&mut self, checksum: u8) {
        CHECKSUM.set(&mut self.words, u64::from(checksum));
    }

    /// Kind of embedded payload ([`EMBEDDED_TYPE_DATA`], …).
    #[must_use]
    pub fn embedded_type(&self) -> u64 {
        CHECKSUM.get(&self.words)
    }

    /// Object type (`dmu_object_type_t`) of what it points to.
    #[must_use]
    pub fn object_type(&self) -> u8 {
        TYPE.get(&self.words) as u8
    }

    /// Sets the object type.
    pub fn set_object_type(&mut self, ty: u8) {
        TYPE.set(&mut self.words, u64::from(ty));
    }

    /// Level of the block: 0 is data, above are indirect blocks.
    #[must_use]
    pub fn level(&self) -> u8 {
        LEVEL.get(&self.words) as u8
    }

    /// Sets the level.
    pub fn set_level(&mut self, level: u8) {
        LEVEL.set(&mut self.words, u64::from(level));
    }

    /// The data is encrypted, or (of an indirect block or objset) authenticated: the X bit (`BP_USES_CRYPT`).
    #[must_use]
    pub fn uses_crypt(&self) -> bool {
        CRYPT.get(&self.words) != 0
    }

    /// Sets the X bit: of the root block of an encrypted dataset, which is authenticated and not encrypted.
    pub fn set_authenticated(&mut self) {
        CRYPT.set(&mut self.words, 1);
    }

    /// The data is encrypted: the third DVA is its salt and IV (`BP_IS_ENCRYPTED`).
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.uses_crypt()
            && !self.is_embedded()
            && self.level() == 0
            && ObjectType(self.object_type()).is_encrypted()
    }

    /// Half of the checksum is a MAC: all that is protected but objsets, which hold their MACs themselves.
    #[must_use]
    pub fn has_mac(&self) -> bool {
        self.uses_crypt() && ObjectType(self.object_type()) != ObjectType::OBJSET
    }

    /// The block is in the dedup table.
    #[must_use]
    pub fn dedup(&self) -> bool {
        DEDUP.get(&self.words) != 0
    }

    /// Says whether the block is in the dedup table.
    pub fn set_dedup(&mut self, dedup: bool) {
        DEDUP.set(&mut self.words, u64::from(dedup));
    }

    /// Sets the physical size alone, in bytes, a multiple of 512.
    ///
    /// # Panics
    /// If a value of ours is not a multiple of 512, or out of range.
    pub fn set_psize(&mut self, psize: u64) {
        assert!(psize.is_multiple_of(MIN_BLOCK_SIZE) && psize > 0, "block size {psize}");
        PSIZE.set(&mut self.words, psize / MIN_BLOCK_SIZE - 1);
    }

    /// Whether what it points to was written little-endian.
    #[must_use]
    pub fn little_endian(&self) -> bool {
        BYTEORDER.get(&self.words) != 0
    }

    /// Marks the data as little-endian, which everything that we write is.
    pub fn set_little_endian(&mut self) {
        BYTEORDER.set(&mut self.words, 1);
    }

    /// Takes that mark away.
    pub fn clear_byteorder(&mut self) {
        BYTEORDER.set(&mut self.words, 0);
    }

    /// The txg in which it was born, as snapshots count (`BP_GET_LOGICAL_BIRTH`).
    #[must_use]
    pub fn birth(&self) -> u64 {
        self.words[BIRTH]
    }

    /// The txg in which it was really written, which differs for deduplicated and remapped blocks.
    #[must_use]
    pub fn physical_birth(&self) -> u64 {
        if !self.is_embedded() && self.words[PHYS_BIRTH] != 0 {
            self.words[PHYS_BIRTH]
        } else {
            self.words[BIRTH]
        }
    }

    /// Sets the birth txg; the physical one is left implied.
    pub fn set_birth(&mut self, txg: u64) {
        self.words[BIRTH] = txg;
        if !self.is_embedded() {
            self.words[PHYS_BIRTH] = 0;
        }
    }

    /// The same block as another txg refers to it: that txg is its birth, when it was written is its physical one (`BP_SET_BIRTH`).
    pub fn reborn(mut self, txg: u64) -> Self {
        let written = self.physical_birth();
        self.set_birth(txg);
        if !self.is_embedded() && written != txg {
            self.words[PHYS_BIRTH] = written;
        }
        self
    }

    /// Whether it leads to a block on a device: no hole, and not embedded.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.is_hole() && !self.is_embedded()
    }

    /// Non-hole blocks below it: 1 at level 0 of data, used dnodes below a meta-dnode (`BP_GET_FILL`).
    #[must_use]
    pub fn fill(&self) -> u64 {
        if self.is_embedded() {
            1
        } else if self.is_encrypted() {
            self.words[FILL] & 0xffff_ffff
        } else {
            self.words[FILL]
        }
    }

    /// Sets the fill count.
    pub fn set_fill(&mut self, fill: u64) {
        self.words[FILL] = fill;
    }

    /// The checksum of the physical data.
    #[must_use]
    pub fn checksum(&self) -> [u64; 4] {
        let mut words = [0; 4];
        words.copy_from_slice(&self.words[CHECKSUM_WORDS..]);
        words
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: [u64; 4]) {
        self.words[CHECKSUM_WORDS..].copy_from_slice(&checksum);
    }

    /// All sixteen words, for what this module does not name (encryption's salt, IV and MAC).
    #[must_use]
    pub fn words(&self) -> &[u64; 16] {
        &self.words
    }

    /// The payload of an embedded block, still compressed; empty if it is none.
    #[must_use]
    pub fn embedded_payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        if self.is_embedded() {
            payload.extend(EMBEDDED_WORDS.iter().flat_map(|&w| self.words[w].to_le_bytes()));
            payload.truncate(self.psize() as usize);
        }
        payload
    }

    /// An embedded block of `payload` (1 to 112 bytes), which is `lsize` bytes when decompressed. Birth is left 0.
    ///
    /// # Panics
    /// If the payload is empty or over 112 bytes.
    #[must_use]
    pub fn embed(payload: &[u8], lsize: u64, compress: u8, object_type: u8, level: u8) -> Self {
        assert!((1..=EMBEDDED_PAYLOAD_SIZE).contains(&payload.len()));
        let mut bp = Blkptr::HOLE;
        EMBEDDED.set(&mut bp.words, 1);
        EMBEDDED_LSIZE.set(&mut bp.words, lsize - 1);
        EMBEDDED_PSIZE.set(&mut bp.words, payload.len() as u64 - 1);
        bp.set_compress(compress);
        bp.set_checksum_type(EMBEDDED_TYPE_DATA as u8);
        bp.set_object_type(object_type);
        bp.set_level(level);
        bp.set_little_endian();
        for (&word, chunk) in EMBEDDED_WORDS.iter().zip(payload.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            bp.words[word] = u64::from_le_bytes(bytes);
        }
        bp
    }
}

impl core::fmt::Debug for Blkptr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.is_embedded() {
            write!(
                f,
                "EMBEDDED et={} {:#x}L/{:#x}P B={}",
                self.embedded_type(),
                self.lsize(),
                self.psize(),
                self.birth()
            )
        } else if self.is_hole() {
            write!(f, "HOLE {:#x}L B={}", self.lsize(), self.birth())
        } else {
            for dva in self.dvas() {
                write!(
                    f,
                    "DVA={}:{:x}:{:x}{} ",
                    dva.vdev,
                    dva.offset,
                    dva.asize,
                    if dva.gang { " gang" } else { "" }
                )?;
            }
            write!(
                f,
                "L{} type={} {:#x}L/{:#x}P F={} B={}/{}",
                self.level(),
                self.object_type(),
                self.lsize(),
                self.psize(),
                self.fill(),
                self.birth(),
                self.physical_birth()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back() {
        let mut bp = Blkptr::HOLE;
        let dva = Dva { vdev: 3, offset: 0x1234_5600, asize: 0x2_0000, gang: true };
        bp.set_dva(1, dva);
        bp.set_dva(0, Dva { gang: false, ..dva });
        bp.set_sizes(131_072, 4096);
        bp.set_compress(15);
        bp.set_checksum_type(7);
        bp.set_object_type(19);
        bp.set_level(2);
        bp.set_little_endian();
        bp.set_birth(77);
        bp.set_fill(9);
        bp.set_checksum([1, 2, 3, 4]);
        let back = Blkptr::parse(&bp.to_bytes(), None).unwrap();
        assert_eq!(back, bp);
        assert_eq!(back.dva(1), dva);
        assert_eq!((back.lsize(), back.psize(), back.asize()), (131_072, 4096, 0x4_0000));
        assert_eq!((back.compress(), back.checksum_type(), back.object_type(), back.level()), (15, 7, 19, 2));
        assert_eq!(
            (back.birth(), back.physical_birth(), back.fill(), back.checksum()),
            (77, 77, 9, [1, 2, 3, 4])
        );
        assert!(back.little_endian() && !back.is_hole() && !back.is_embedded());
    }

    #[test]
    fn holes_of_either_kind_are_left_out() {
        let mut born = Blkptr::HOLE;
        born.set_hole_size(4096);
        born.set_birth(5);
        let mut block = Blkptr::HOLE;
        block.set_dva(0, Dva { vdev: 0, offset: 0, asize: 512, gang: false });
        let embedded = Blkptr::embed(&[0; 8], 512, 15, 19, 0);
        let all = [Blkptr::HOLE, block, born, embedded, Blkptr::HOLE];
        let bytes = all.map(|bp| bp.to_bytes()).concat();
        assert!(Blkptr::present(&bytes).eq([(1, block), (3, embedded)]));
    }

    /// Lists of blocks that OpenZFS wrote and we take from must come to 0.
    #[test]
    fn embedded_blocks_count_uncompressed_only() {
        assert_eq!(Blkptr::embed(&[1; 80], 4096, 15, 19, 0).counted(), (0, 4096));
        // Metadata (a directory) not at all.
        assert_eq!(Blkptr::embed(&[1; 80], 4096, 15, 20, 0).counted(), (0, 0));
    }

    #[test]
    fn embedded_payload_comes_back() {
        let payload: Vec<u8> = (0..112).collect();
        for len in 1..=112 {
            let mut bp = Blkptr::embed(&payload[..len], 512, 15, 19, 0);
            bp.set_birth(5);
            assert_eq!(bp.embedded_payload(), &payload[..len]);
            assert_eq!((bp.lsize(), bp.psize(), bp.birth(), bp.fill()), (512, len as u64, 5, 1));
            assert!(bp.verify(None).is_ok() && bp.dvas().next().is_none());
        }
    }

    #[test]
    fn an_oversized_embedded_payload_is_refused() {
        let mut bp = Blkptr::embed(&[1], 512, 2, 19, 0);
        EMBEDDED_PSIZE.set(&mut bp.words, 120);
        let refused = Error::corrupt("embedded block pointer: payload over 112 bytes", None);
        assert_eq!(bp.verify(None), Err(refused));
    }
}

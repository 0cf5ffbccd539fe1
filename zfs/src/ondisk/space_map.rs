//! Space maps: logs of allocations and frees. Source: `space_map_phys_t` and the entry formats of `include/sys/space_map.h`.
//!
//! ```text
//! header (bonus):  0 object   8 length   16 allocated (signed)   24 pad (40 B)   64 histogram of free ranges (32 × 8 B)
//! debug entry:      63..62 = 2, 61..60 action, 59..50 sync pass, 49..0 txg
//! one-word entry:   63 = 0, 62..16 offset, 15 type, 14..0 run - 1
//! two-word entry:   63..62 = 3, 59..24 run - 1, 23..0 vdev;   63 type, 62..0 offset
//! ```
//! Offsets and runs count units of the map's shift. A two-word entry does not cross a block of the object.

use super::read_u64;
use crate::error::{Error, Result};
use alloc::vec;
use alloc::vec::Vec;

/// Buckets of the histogram (`SPACE_MAP_HISTOGRAM_SIZE`).
pub const HISTOGRAM_SIZE: usize = 32;
/// Size of the header with a histogram, in bytes.
pub const HEADER_SIZE: usize = 64 + 8 * HISTOGRAM_SIZE;
/// Size of the header without (`SPACE_MAP_SIZE_V0`), in bytes.
pub const HEADER_SIZE_V0: usize = 24;
/// The longest run of a one-word entry.
pub const RUN_MAX: u64 = 1 << 15;
/// The largest offset of a one-word entry.
pub const OFFSET_MAX: u64 = (1 << 47) - 1;
/// The longest run of a two-word entry.
pub const RUN2_MAX: u64 = 1 << 36;

const DEBUG_PREFIX: u64 = 2;
const TWO_WORD_PREFIX: u64 = 3;
/// Stands for no vdev in two-word entries (`SM_NO_VDEVID`).
pub const NO_VDEV: u32 = (1 << 24) - 1;

/// The header of a space map: the bonus buffer of its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceMapHeader {
    /// Once the object's number; not used.
    pub object: u64,
    /// Length of the log in bytes.
    pub length: u64,
    /// Allocations less frees, in bytes.
    pub allocated: i64,
    /// How many free ranges have a size of `2^(i + shift)` to twice that; `None` in old maps.
    pub histogram: Option<[u64; HISTOGRAM_SIZE]>,
}

impl SpaceMapHeader {
    /// The header of an empty map.
    #[must_use]
    pub fn empty(object: u64, histogram: bool) -> Self {
        let histogram = histogram.then_some([0; HISTOGRAM_SIZE]);
        SpaceMapHeader { object, length: 0, allocated: 0, histogram }
    }

    /// Reads a bonus buffer.
    pub fn parse(bonus: &[u8]) -> Result<Self> {
        if bonus.len() < HEADER_SIZE_V0 {
            return Err(Error::corrupt("space map: header too short", None));
        }
        let length = read_u64(bonus, 8);
        if !length.is_multiple_of(8) {
            return Err(Error::corrupt("space map: length is no multiple of 8", None));
        }
        let histogram =
            (bonus.len() >= HEADER_SIZE).then(|| core::array::from_fn(|i| read_u64(bonus, 64 + 8 * i)));
        Ok(SpaceMapHeader {
            object: read_u64(bonus, 0),
            length,
            allocated: read_u64(bonus, 16).cast_signed(),
            histogram,
        })
    }

    /// The bonus buffer.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![0; if self.histogram.is_some() { HEADER_SIZE } else { HEADER_SIZE_V0 }];
        let mut put = |at: usize, v: u64| out[at..at + 8].copy_from_slice(&v.to_le_bytes());
        put(0, self.object);
        put(8, self.length);
        put(16, self.allocated.cast_unsigned());
        for (i, count) in self.histogram.iter().flatten().enumerate() {
            put(64 + 8 * i, *count);
        }
        out
    }
}

/// One entry of a space map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The entries after it were written in that txg and pass.
    Debug {
        /// The txg, its low 50 bits.
        txg: u64,
        /// The sync pass.
        pass: u16,
        /// What the entries after it do.
        free: bool,
    },
    /// A range was allocated or freed.
    Range {
        /// Freed, else allocated.
        free: bool,
        /// First unit.
        offset: u64,
        /// Number of units.
        run: u64,
        /// The vdev, where the entry names it (logs of several metaslabs).
        vdev: Option<u32>,
    },
}

/// Calls `visit` for all entries of a log. The padding of blocks is left out.
pub fn decode(log: &[u8], mut visit: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let (words, rest) = log.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Error::corrupt("space map: length is no multiple of 8", None));
    }
    let mut words = words.iter().map(|w| u64::from_le_bytes(*w));
    while let Some(word) = words.next() {
        let entry = match word >> 62 {
            DEBUG_PREFIX if word & ((1 << 62) - 1) == 0 => continue,
            DEBUG_PREFIX => Entry::Debug {
                txg: word & ((1 << 50) - 1),
                pass: (word >> 50 & 0x3ff) as u16,
                free: word >> 60 & 3 == 1,
            },
            TWO_WORD_PREFIX => {
                let second = words.next().ok_or(Error::corrupt("space map: half a two-word entry", None))?;
                let vdev = word & u64::from(NO_VDEV);
                Entry::Range {
                    free: second >> 63 == 1,
                    offset: second & (u64::MAX >> 1),
                    run: (word >> 24 & ((1 << 36) - 1)) + 1,
                    vdev: Some(vdev as u32),
                }
            }
            _ => Entry::Range {
                free: word >> 15 & 1 == 1,
                offset: word >> 16 & OFFSET_MAX,
                run: (word & (RUN_MAX - 1)) + 1,
                vdev: None,
            },
        };
        visit(entry)?;
    }
    Ok(())
}

/// Appends entries to a log.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    /// Position of `out` within the object.
    start: u64,
    block_size: u64,
    vdev: u32,
    two_words: bool,
}

impl Encoder {
    /// An encoder whose output goes to offset `start` of an object of that block size. `vdev` is the vdev of the ranges, `two_words`
    /// whether the pool knows two-word entries (feature `spacemap_v2`).
    #[must_use]
    pub fn new(start: u64, block_size: u64, vdev: u32, two_words: bool) -> Self {
        Encoder { out: Vec::new(), start, block_size, vdev, two_words }
    }

    fn put(&mut self, word: u64) {
        self.out.extend_from_slice(&word.to_le_bytes());
    }

    /// Says in which txg and pass the following ranges were written.
    pub fn debug(&mut self, txg: u64, pass: u32, free: bool) {
        let pass = u64::from(pass.min(0x3ff));
        self.put(DEBUG_PREFIX << 62 | u64::from(free) << 60 | pass << 50 | txg & ((1 << 50) - 1));
    }

    /// A range of `run` units from `offset`.
    pub fn range(&mut self, free: bool, offset: u64, run: u64) {
        // As OpenZFS chooses: one word where a single one will do, two for what is long or far out.
        if self.two_words && (run > RUN_MAX || offset + run > OFFSET_MAX) {
            self.ranges_of_two_words(free, offset, run);
        } else {
            self.ranges_of_one_word(free, offset, run);
        }
    }

    fn ranges_of_one_word(&mut self, free: bool, mut offset: u64, mut run: u64) {
        while run > 0 {
            let part = run.min(RUN_MAX);
            self.put(offset << 16 | u64::from(free) << 15 | part - 1);
            offset += part;
            run -= part;
        }
    }

    fn ranges_of_two_words(&mut self, free: bool, mut offset: u64, mut run: u64) {
        while run > 0 {
            let part = run.min(RUN2_MAX);
            if (self.start + self.out.len() as u64) % self.block_size == self.block_size - 8 {
                self.put(DEBUG_PREFIX << 62);
            }
            self.put(TWO_WORD_PREFIX << 62 | (part - 1) << 24 | u64::from(self.vdev));
            self.put(u64::from(free) << 63 | offset);
            offset += part;
            run -= part;
        }
    }

    /// What was encoded.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(log: &[u8]) -> Vec<Entry> {
        let mut all = Vec::new();
        decode(log, |e| {
            all.push(e);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn entries_come_back() {
        let mut encoder = Encoder::new(0, 4096, 3, true);
        encoder.debug(77, 2, true);
        encoder.range(true, 5, 1);
        encoder.range(false, 1 << 20, RUN_MAX);
        encoder.range(false, 9, RUN_MAX + 1);
        let want = [
            Entry::Debug { txg: 77, pass: 2, free: true },
            Entry::Range { free: true, offset: 5, run: 1, vdev: None },
            Entry::Range { free: false, offset: 1 << 20, run: RUN_MAX, vdev: None },
            Entry::Range { free: false, offset: 9, run: RUN_MAX + 1, vdev: Some(3) },
        ];
        assert_eq!(entries(&encoder.finish()), want);
    }

    #[test]
    fn without_the_feature_long_runs_are_split() {
        let mut encoder = Encoder::new(0, 4096, 0, false);
        encoder.range(false, 0, 2 * RUN_MAX + 1);
        let runs: Vec<u64> = entries(&encoder.finish())
            .iter()
            .map(|e| match e {
                Entry::Range { run, .. } => *run,
                Entry::Debug { .. } => 0,
            })
            .collect();
        assert_eq!(runs, [RUN_MAX, RUN_MAX, 1]);
    }

    #[test]
    fn a_two_word_entry_does_not_cross_a_block() {
        let mut encoder = Encoder::new(4096 - 8, 4096, 0, true);
        encoder.range(false, 7, RUN_MAX + 5);
        let log = encoder.finish();
        assert_eq!(log.len(), 24);
        assert_eq!(entries(&log), [Entry::Range { free: false, offset: 7, run: RUN_MAX + 5, vdev: Some(0) }]);
    }

    #[test]
    fn headers_come_back() {
        let mut header = SpaceMapHeader::empty(0, true);
        header.length = 64;
        header.allocated = -512;
        header.histogram.as_mut().unwrap()[31] = 9;
        assert_eq!(SpaceMapHeader::parse(&header.emit()), Ok(header));
        let old = SpaceMapHeader::empty(4, false);
        assert_eq!(SpaceMapHeader::parse(&old.emit()), Ok(old));
        assert_eq!(SpaceMapHeader::parse(&[0; 23]), Err(Error::corrupt("space map: header too short", None)));
        let mut odd = SpaceMapHeader::empty(4, false).emit();
        odd[8] = 1;
        assert_eq!(
            SpaceMapHeader::parse(&odd),
            Err(Error::corrupt("space map: length is no multiple of 8", None))
        );
    }

    #[test]
    fn half_an_entry_is_refused() {
        let log = (TWO_WORD_PREFIX << 62).to_le_bytes();
        let refused = Error::corrupt("space map: half a two-word entry", None);
        assert_eq!(decode(&log, |_| Ok(())), Err(refused));
    }
}

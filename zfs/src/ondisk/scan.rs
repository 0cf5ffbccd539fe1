//! The state of a scrub or resilver, recorded in the MOS. Source: `dsl_scan_phys_t` (`include/sys/dsl_scan.h`).
//!
//! ```text
//!  0 func   1 state   2 queue object   3 min txg   4 max txg   5, 6 the same of the dataset being scanned
//!  7 start time   8 end time   9 to examine  10 examined  11 to process  12 processed  13 errors
//! 14 last class of the dedup table  15..19 bookmark in it  19..23 bookmark in the pool  23 flags
//! ```
//! All are words of 64 bits, the value of `scan` in the object directory.

use crate::ondisk::bookmark::Bookmark;

/// Number of words (`SCAN_PHYS_NUMINTS`).
pub const SCAN_WORDS: usize = 24;
/// A bookmark's objset when the MOS is done and the datasets of the queue are next (`ZB_DESTROYED_OBJSET`).
pub const OBJSET_NEXT: u64 = u64::MAX;
/// `DSF_SCRUB_PAUSED`.
const FLAG_PAUSED: u64 = 2;

/// `pool_scan_func_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanFunc {
    /// Every copy of every block is checked.
    Scrub,
    /// What devices missed is written to them.
    Resilver,
}

/// `dsl_scan_state_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanState {
    /// It is under way, or waits to be taken up again.
    Scanning,
    /// It came to its end.
    Finished,
    /// It was stopped.
    Canceled,
}

/// The last scan of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanPhys {
    /// What it does.
    pub func: ScanFunc,
    /// How it stands.
    pub state: ScanState,
    /// MOS object of the datasets that are still to be scanned; 0 if there is none.
    pub queue: u64,
    /// Blocks born after that txg are scanned …
    pub min_txg: u64,
    /// … and not after this one.
    pub max_txg: u64,
    /// When it began, in seconds since 1970.
    pub start_time: u64,
    /// When it ended.
    pub end_time: u64,
    /// Allocated bytes when it began.
    pub to_examine: u64,
    /// Allocated bytes looked at.
    pub examined: u64,
    /// Bytes that devices lack.
    pub to_process: u64,
    /// Bytes written to devices.
    pub processed: u64,
    /// Blocks that could not be read.
    pub errors: u64,
    /// Last class of the dedup table that is scanned ahead of the datasets.
    pub ddt_class_max: u64,
    /// How far in the dedup table.
    pub ddt_bookmark: [u64; 4],
    /// How far in the pool.
    pub bookmark: Bookmark,
    /// A scrub waits for somebody to resume it.
    pub paused: bool,
}

impl ScanPhys {
    /// Reads the words. `None` if no scan was ever made, or none that is known.
    #[must_use]
    pub fn parse(words: &[u64]) -> Option<Self> {
        let w: &[u64; SCAN_WORDS] = words.first_chunk()?;
        let func = match w[0] {
            1 => ScanFunc::Scrub,
            2 => ScanFunc::Resilver,
            _ => return None,
        };
        let state = match w[1] {
            1 => ScanState::Scanning,
            2 => ScanState::Finished,
            3 => ScanState::Canceled,
            _ => return None,
        };
        Some(ScanPhys {
            func,
            state,
            queue: w[2],
            min_txg: w[3],
            max_txg: w[4],
            start_time: w[7],
            end_time: w[8],
            to_examine: w[9],
            examined: w[10],
            to_process: w[11],
            processed: w[12],
            errors: w[13],
            ddt_class_max: w[14],
            ddt_bookmark: [w[15], w[16], w[17], w[18]],
            bookmark: Bookmark { objset: w[19], object: w[20], level: w[21].cast_signed(), blkid: w[22] },
            paused: w[23] & FLAG_PAUSED != 0,
        })
    }

    /// The words on disk.
    #[must_use]
    pub fn emit(&self) -> [u64; SCAN_WORDS] {
        let mut w = [0; SCAN_WORDS];
        w[0] = match self.func {
            ScanFunc::Scrub => 1,
            ScanFunc::Resilver => 2,
        };
        w[1] = match self.state {
            ScanState::Scanning => 1,
            ScanState::Finished => 2,
            ScanState::Canceled => 3,
        };
        (w[2], w[3], w[4], w[5], w[6]) = (self.queue, self.min_txg, self.max_txg, self.min_txg, self.max_txg);
        (w[7], w[8], w[9], w[10]) = (self.start_time, self.end_time, self.to_examine, self.examined);
        (w[11], w[12], w[13], w[14]) = (self.to_process, self.processed, self.errors, self.ddt_class_max);
        w[15..19].copy_from_slice(&self.ddt_bookmark);
        let at = &self.bookmark;
        (w[19], w[20], w[21], w[22]) = (at.objset, at.object, at.level.cast_unsigned(), at.blkid);
        w[23] = if self.paused { FLAG_PAUSED } else { 0 };
        w
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back() {
        let scan = ScanPhys {
            func: ScanFunc::Resilver,
            state: ScanState::Canceled,
            queue: 3,
            min_txg: 4,
            max_txg: 5,
            start_time: 6,
            end_time: 7,
            to_examine: 8,
            examined: 9,
            to_process: 10,
            processed: 11,
            errors: 12,
            ddt_class_max: 1,
            ddt_bookmark: [1, 2, 3, 4],
            bookmark: Bookmark { objset: OBJSET_NEXT, object: 1, level: -1, blkid: 2 },
            paused: true,
        };
        assert_eq!(ScanPhys::parse(&scan.emit()), Some(scan));
    }

    #[test]
    fn what_is_no_scan_is_none() {
        assert_eq!(ScanPhys::parse(&[0; SCAN_WORDS]), None);
        assert_eq!(ScanPhys::parse(&[1; SCAN_WORDS - 1]), None);
        assert_eq!(ScanPhys::parse(&[9; SCAN_WORDS]), None);
    }
}

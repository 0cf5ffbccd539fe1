//! Where the bytes of a removed vdev are now. Source: `vdev_indirect.c`, `vdev_indirect_mapping.c`.

use crate::error::{Error, Result};
use alloc::vec::Vec;

/// A stretch of the removed vdev that was copied to another place, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it was.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// The vdev where it is now: one that may be removed itself.
    pub vdev: u32,
    /// Where it is there.
    pub to: u64,
}

/// The mapping of a removed vdev.
#[derive(Debug, Default)]
pub struct Mapping {
    segments: Vec<Segment>,
}

impl Mapping {
    /// A mapping of segments in the order of their offsets. [`Error::Corrupt`] if they overlap.
    pub fn new(segments: Vec<Segment>) -> Result<Self> {
        let apart = |pair: &[Segment]| {
            pair[0].offset.checked_add(pair[0].len).is_some_and(|end| end <= pair[1].offset)
        };
        let sound = |s: &Segment| s.len > 0 && s.offset.checked_add(s.len).is_some();
        if segments.windows(2).all(apart) && segments.iter().all(sound) {
            Ok(Mapping { segments })
        } else {
            Err(Error::corrupt("removed vdev: its mapping's segments overlap", None))
        }
    }

    /// The pieces of `len` bytes at `offset`: vdev, offset and length of each.
    pub(super) fn pieces(&self, offset: u64, len: u64) -> Result<Vec<(u32, u64, u64)>> {
        let unmapped = || Error::corrupt("block pointer: removed vdev has no mapping for it", None);
        let end = offset.checked_add(len).ok_or_else(unmapped)?;
        let first = self.segments.partition_point(|s| s.offset + s.len <= offset);
        let (mut at, mut pieces) = (offset, Vec::new());
        for segment in &self.segments[first..] {
            if at >= end {
                break;
            }
            if segment.offset > at {
                return Err(unmapped());
            }
            let skip = at - segment.offset;
            let len = (segment.len - skip).min(end - at);
            let to = segment.to.checked_add(skip).ok_or_else(unmapped)?;
            pieces.push((segment.vdev, to, len));
            at += len;
        }
        if at < end { Err(unmapped()) } else { Ok(pieces) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_pieces() {
        let segment = |offset, len, vdev, to| Segment { offset, len, vdev, to };
        let mapping = Mapping::new([segment(512, 1024, 2, 0), segment(1536, 512, 0, 4096)].into()).unwrap();
        assert_eq!(mapping.pieces(1024, 1024).unwrap(), [(2, 512, 512), (0, 4096, 512)]);
        assert_eq!(mapping.pieces(512, 512).unwrap(), [(2, 0, 512)]);
        let unmapped = Err(Error::corrupt("block pointer: removed vdev has no mapping for it", None));
        for (offset, len) in [(0, 512), (1536, 1024), (4096, 512), (u64::MAX, 512)] {
            assert_eq!(mapping.pieces(offset, len), unmapped, "{offset}");
        }
        assert!(Mapping::new([segment(0, 1024, 0, 0), segment(512, 512, 0, 0)].into()).is_err());
    }
}

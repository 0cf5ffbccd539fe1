//! The mapping of a removed vdev. Source: `vdev_indirect_mapping_phys_t`, `vdev_indirect_mapping_entry_phys_t`
//! (`include/sys/vdev_indirect_mapping.h`).
//!
//! ```text
//! bonus: 0 max_offset  8 bytes_mapped  16 num_entries  24 counts_object
//! entry: 0 source offset in 512-byte sectors, low 63 bits  8 DVA (16 B): its allocated size is the length
//! ```

use crate::error::{Error, Result};
use crate::ondisk::blkptr::Dva;
use crate::ondisk::read_u64;

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 24;
/// Bytes of the bonus without its last field, which old pools lack (`VDEV_INDIRECT_MAPPING_SIZE_V0`).
const BONUS_SIZE: usize = 24;

/// The number of entries that a mapping object's bonus states.
pub fn entry_count(bonus: &[u8]) -> Result<u64> {
    if bonus.len() < BONUS_SIZE {
        return Err(Error::corrupt("removed vdev: mapping without its header", None));
    }
    Ok(read_u64(bonus, 16))
}

/// One entry of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingEntry {
    /// Where the bytes were, in bytes.
    pub source: u64,
    /// Where they are now.
    pub target: Dva,
}

impl MappingEntry {
    /// Reads an entry. Every 24 bytes are one.
    #[must_use]
    pub fn parse(bytes: &[u8; ENTRY_SIZE]) -> Self {
        let source = (read_u64(bytes, 0) << 1 >> 1).wrapping_mul(512);
        MappingEntry { source, target: Dva::from_words(read_u64(bytes, 8), read_u64(bytes, 16)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&(1u64 << 63 | 3).to_le_bytes());
        bytes[8..16].copy_from_slice(&(2u64 << 32 | 4).to_le_bytes());
        bytes[16..].copy_from_slice(&5u64.to_le_bytes());
        let target = Dva { vdev: 2, offset: 2560, asize: 2048, gang: false };
        assert_eq!(MappingEntry::parse(&bytes), MappingEntry { source: 1536, target });
        assert_eq!(entry_count(&[1; 24]).unwrap(), 0x0101_0101_0101_0101);
        assert!(entry_count(&[0; 23]).is_err());
    }
}

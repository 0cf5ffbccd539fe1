//! GUID partition tables. Source: UEFI specification 2.10, chapter 5.3.
//!
//! ```text
//! header (LBA 1, backup in the last LBA):
//!    0 "EFI PART"   8 revision   12 header size   16 CRC-32 of the header   24 its own LBA   32 LBA of the other one
//!   40 first usable LBA   48 last usable LBA   56 disk GUID   72 LBA of the entries   80 their number   84 their size   88 CRC-32 of them
//! entry:
//!    0 type GUID   16 own GUID   32 first LBA   40 last LBA   48 attributes   56 name (36 UTF-16 units)
//! ```
//! GUIDs have their first three fields in little-endian order.

use super::read_u64;
use crate::error::{Error, Result};
use alloc::vec::Vec;

/// What a header begins with.
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// The smallest header, in bytes; what lies behind up to the sector's end is reserved.
const HEADER_SIZE: usize = 92;
/// Where the header's own CRC is in it, in bytes.
const CRC_OFFSET: usize = 16;
/// The smallest entry, in bytes.
const ENTRY_SIZE: u32 = 128;
/// The most bytes of entries that are read: eight times what tables usually have.
const ENTRIES_MAX: u64 = 128 << 10;

/// What OpenZFS gives its partitions (Solaris `/usr`, Apple ZFS): 6A898CC3-1DD2-11B2-99A6-080020736631.
const OPENZFS: [u8; 16] =
    [0xc3, 0x8c, 0x89, 0x6a, 0xd2, 0x1d, 0xb2, 0x11, 0x99, 0xa6, 0x08, 0x00, 0x20, 0x73, 0x66, 0x31];
/// FreeBSD ZFS: 516E7CBA-6ECF-11D6-8FF8-00022D09712B.
const FREEBSD: [u8; 16] =
    [0xba, 0x7c, 0x6e, 0x51, 0xcf, 0x6e, 0xd6, 0x11, 0x8f, 0xf8, 0x00, 0x02, 0x2d, 0x09, 0x71, 0x2b];

/// A header whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptHeader {
    first_usable: u64,
    last_usable: u64,
    /// LBA of the entries.
    pub entries_lba: u64,
    count: u32,
    entry_size: u32,
    entries_crc: u32,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1 on.
    pub number: u32,
    /// First LBA.
    pub first: u64,
    /// Last LBA, part of it.
    pub last: u64,
    /// Its type says that it is part of a pool.
    pub is_zfs: bool,
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b))
}

impl GptHeader {
    /// Reads the sector at `lba`. `None` if there is no header, an error if there is a broken one.
    pub fn parse(sector: &[u8], lba: u64) -> Result<Option<Self>> {
        if !sector.starts_with(SIGNATURE) {
            return Ok(None);
        }
        let size = read_u32(sector, 12) as usize;
        let Some(header) = sector.get(..size).filter(|_| size >= HEADER_SIZE) else {
            return Err(Error::corrupt("partition table: impossible size of its header", None));
        };
        let mut hashed = header.to_vec();
        hashed[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        if crc32fast::hash(&hashed) != read_u32(header, CRC_OFFSET) {
            return Err(Error::corrupt("partition table: checksum of its header", None));
        }
        if read_u64(header, 24) != lba {
            return Err(Error::corrupt("partition table: its header belongs to another place", None));
        }
        let header = GptHeader {
            first_usable: read_u64(header, 40),
            last_usable: read_u64(header, 48),
            entries_lba: read_u64(header, 72),
            count: read_u32(header, 80),
            entry_size: read_u32(header, 84),
            entries_crc: read_u32(header, 88),
        };
        let whole = header.entry_size >= ENTRY_SIZE && header.entry_size.is_multiple_of(8);
        if !whole || header.entries_len() > ENTRIES_MAX {
            return Err(Error::corrupt("partition table: impossible size of its entries", None));
        }
        Ok(Some(header))
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn entries_len(&self) -> u64 {
        u64::from(self.count) * u64::from(self.entry_size)
    }

    /// The partitions that `entries`, [`GptHeader::entries_len`] bytes, list.
    pub fn partitions(&self, entries: &[u8]) -> Result<Vec<Partition>> {
        if crc32fast::hash(entries) != self.entries_crc {
            return Err(Error::corrupt("partition table: checksum of its entries", None));
        }
        let mut partitions = Vec::new();
        for (entry, number) in entries.chunks_exact(self.entry_size as usize).zip(1..) {
            let kind = &entry[..16];
            if kind.iter().all(|byte| *byte == 0) {
                continue;
            }
            let (first, last) = (read_u64(entry, 32), read_u64(entry, 40));
            if first < self.first_usable || last > self.last_usable || last < first {
                return Err(Error::corrupt("partition table: a partition lies outside the disk", None));
            }
            partitions.push(Partition { number, first, last, is_zfs: kind == OPENZFS || kind == FREEBSD });
        }
        Ok(partitions)
    }
}

/// Tables made by hand.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use alloc::vec;

    pub(crate) fn entry(kind: [u8; 16], first: u64, last: u64) -> Vec<u8> {
        let mut entry = vec![0; ENTRY_SIZE as usize];
        entry[..16].copy_from_slice(&kind);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry
    }

    /// Gives a header its checksum.
    pub(crate) fn sealed(mut header: Vec<u8>) -> Vec<u8> {
        header[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        let crc = crc32fast::hash(&header[..HEADER_SIZE]);
        header[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The header at `lba` of `entries` at `entries_lba`.
    pub(crate) fn header(lba: u64, entries_lba: u64, last_usable: u64, entries: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(SIGNATURE);
        header[12..16].copy_from_slice(&(HEADER_SIZE as u32).to_le_bytes());
        for (at, word) in [(24, lba), (40, 34), (48, last_usable), (72, entries_lba)] {
            header[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        header[80..84].copy_from_slice(&(entries.len() as u32 / ENTRY_SIZE).to_le_bytes());
        header[84..88].copy_from_slice(&ENTRY_SIZE.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        sealed(header)
    }

    /// A disk of `size` bytes with one ZFS partition, and both tables.
    pub(crate) fn disk(size: usize, first: u64, last: u64) -> Vec<u8> {
        let mut disk = vec![0; size];
        let sectors = (size / 512) as u64;
        let mut entries = entry(OPENZFS, first, last);
        entries.resize(4 * ENTRY_SIZE as usize, 0);
        for (lba, entries_lba) in [(1, 2), (sectors - 1, sectors - 2)] {
            let at = |lba: u64| lba as usize * 512;
            disk[at(lba)..at(lba) + 512].copy_from_slice(&header(lba, entries_lba, sectors - 34, &entries));
            disk[at(entries_lba)..at(entries_lba) + 512].copy_from_slice(&entries);
        }
        disk
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{entry, header, sealed};
    use super::*;

    fn table() -> (Vec<u8>, Vec<u8>) {
        let mut entries = entry(OPENZFS, 2048, 9000);
        entries.extend(entry([7; 16], 9001, 9999));
        entries.resize(4 * ENTRY_SIZE as usize, 0);
        (header(1, 2, 10_000, &entries), entries)
    }

    #[test]
    fn partitions_are_found() {
        let (header, entries) = table();
        let header = GptHeader::parse(&header, 1).unwrap().unwrap();
        assert_eq!(header.entries_len(), 512);
        let found = header.partitions(&entries).unwrap();
        let first = Partition { number: 1, first: 2048, last: 9000, is_zfs: true };
        assert_eq!(found, [first, Partition { number: 2, first: 9001, last: 9999, is_zfs: false }]);
        assert_eq!(GptHeader::parse(&[0; 512], 1), Ok(None));
    }

    #[test]
    fn broken_tables_are_named() {
        let refused = |result: Result<Option<GptHeader>>, rule| {
            assert_eq!(result.err(), Some(Error::corrupt(rule, None)));
        };
        let (header, entries) = table();
        let mut odd = header.clone();
        odd[41] ^= 1;
        refused(GptHeader::parse(&odd, 1), "partition table: checksum of its header");
        refused(GptHeader::parse(&header, 9), "partition table: its header belongs to another place");
        let mut odd = header.clone();
        odd[12] = 91;
        refused(GptHeader::parse(&odd, 1), "partition table: impossible size of its header");
        let mut odd = header.clone();
        odd[80..84].copy_from_slice(&u32::MAX.to_le_bytes());
        refused(GptHeader::parse(&sealed(odd), 1), "partition table: impossible size of its entries");
        let parsed = GptHeader::parse(&header, 1).unwrap().unwrap();
        let mut odd = entries.clone();
        odd[33] ^= 1;
        let rule = Error::corrupt("partition table: checksum of its entries", None);
        assert_eq!(parsed.partitions(&odd), Err(rule));
        let mut odd = header;
        odd[48..56].copy_from_slice(&8999u64.to_le_bytes());
        let parsed = GptHeader::parse(&sealed(odd), 1).unwrap().unwrap();
        let rule = Error::corrupt("partition table: a partition lies outside the disk", None);
        assert_eq!(parsed.partitions(&entries), Err(rule));
    }
}

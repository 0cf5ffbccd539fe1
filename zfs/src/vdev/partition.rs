//! Pools in partitions: OpenZFS gives a whole disk a GUID partition table and takes its first partition. Source: `zpool_label_disk`
//! (`lib/libzutil`), UEFI specification 2.10, chapter 5.3.

use super::label::{self, Label};
use crate::error::{Error, Result};
use crate::ondisk::gpt::{GptHeader, Partition};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use platform::block::{BlockDevice, BlockError, BlockInfo, Op, Request, check_range, run};

/// A stretch of a device, as a device.
struct Slice {
    whole: Arc<dyn BlockDevice>,
    /// In bytes.
    start: u64,
    size: u64,
}

impl BlockDevice for Slice {
    fn info(&self) -> BlockInfo {
        BlockInfo { size: self.size, ..self.whole.info() }
    }

    fn submit(&self, request: Request) {
        let Request { op, done } = request;
        if let Err(refused) = check_range(&self.info(), &op) {
            done(Err(refused));
            return;
        }
        let op = match op {
            Op::Read { offset, buf } => Op::Read { offset: offset + self.start, buf },
            Op::Write { offset, data } => Op::Write { offset: offset + self.start, data },
            Op::Discard { offset, len } => Op::Discard { offset: offset + self.start, len },
            Op::Flush => Op::Flush,
        };
        self.whole.submit(Request { op, done });
    }
}

/// The label of a device, or of the first of its partitions that has one, and where it is.
///
/// # Errors
/// [`Error::NoPool`] if there is neither; [`Error::Corrupt`] if there is no label but a broken partition table, and no good copy
/// of it; what [`label::read`] says of the device.
pub fn find(device: &Arc<dyn BlockDevice>) -> Result<(Label, Arc<dyn BlockDevice>)> {
    match label::read(&**device) {
        Err(Error::NoPool) => {}
        read => return read.map(|label| (label, Arc::clone(device))),
    }
    let sector = u64::from(device.info().sector_size.max(512));
    let mut partitions = read(&**device, sector)?;
    // Those that say so first; of the others one may have been given to a pool as it was.
    partitions.sort_by_key(|partition| (!partition.is_zfs, partition.number));
    for partition in partitions {
        let slice: Arc<dyn BlockDevice> = Arc::new(Slice {
            whole: Arc::clone(device),
            start: partition.first * sector,
            size: (partition.last - partition.first + 1) * sector,
        });
        if let Ok(label) = label::read(&*slice) {
            return Ok((label, slice));
        }
    }
    Err(Error::NoPool)
}

/// The partitions of a device; none if it has no table.
fn read(device: &dyn BlockDevice, sector: u64) -> Result<Vec<Partition>> {
    let last = (device.info().size / sector).saturating_sub(1);
    let mut failure = None;
    for lba in [1, last] {
        match table(device, sector, lba, last) {
            Ok(Some(partitions)) => return Ok(partitions),
            Ok(None) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(Vec::new()), Err)
}

/// The table whose header is at `lba`.
fn table(device: &dyn BlockDevice, sector: u64, lba: u64, last: u64) -> Result<Option<Vec<Partition>>> {
    if lba == 0 || lba > last {
        return Ok(None);
    }
    let read = |offset: u64, len: u64| -> core::result::Result<Vec<u8>, BlockError> {
        run(device, Op::Read { offset, buf: vec![0; len as usize] })
    };
    let Some(header) = GptHeader::parse(&read(lba * sector, sector)?, lba)? else { return Ok(None) };
    let outside = || Error::corrupt("partition table: its entries lie outside the disk", None);
    let start = header.entries_lba.checked_mul(sector).ok_or_else(outside)?;
    let len = header.entries_len();
    let mut entries = read(start, len.next_multiple_of(sector)).map_err(|_| outside())?;
    entries.truncate(len as usize);
    let partitions = header.partitions(&entries)?;
    if partitions.iter().any(|partition| partition.last > last) {
        return Err(Error::corrupt("partition table: a partition lies outside the disk", None));
    }
    Ok(Some(partitions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::gpt::testing;
    use platform::mem::MemDisk;

    fn find_in(image: Vec<u8>) -> Result<(Label, Arc<dyn BlockDevice>)> {
        find(&(Arc::new(MemDisk::from_vec(image)) as Arc<dyn BlockDevice>))
    }

    #[test]
    fn what_is_no_pool_is_none() {
        assert_eq!(find_in(vec![0; 8 << 20]).err(), Some(Error::NoPool));
        assert_eq!(find_in(testing::disk(8 << 20, 2048, 9000)).err(), Some(Error::NoPool));
    }

    #[test]
    fn one_good_table_of_two_is_enough() {
        let good = testing::disk(8 << 20, 2048, 9000);
        let (first, last) = (512 + 40, good.len() - 512 + 40);
        let mut odd = good;
        odd[first] ^= 1;
        assert_eq!(find_in(odd.clone()).err(), Some(Error::NoPool));
        odd[last] ^= 1;
        let rule = Error::corrupt("partition table: checksum of its header", None);
        assert_eq!(find_in(odd).err(), Some(rule));
    }
}

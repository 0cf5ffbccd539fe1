//! A disk in memory: for tests, and for images that are built before they are written out.

use crate::block::{BlockDevice, BlockInfo, Op, Request, check_range};
use crate::sync::RwLock;
use alloc::vec;
use alloc::vec::Vec;

/// What discarded bytes read as.
const DISCARDED: u8 = 0xdd;

/// A disk whose sectors live in memory. Requests complete before [`BlockDevice::submit`] returns.
#[derive(Debug)]
pub struct MemDisk {
    data: RwLock<Vec<u8>>,
    sector_size: u32,
    read_only: bool,
}

impl MemDisk {
    /// A zeroed disk of `size` bytes with 512-byte sectors.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self::from_vec(vec![0; size])
    }

    /// A disk that holds `data`; its length is rounded down to whole sectors.
    #[must_use]
    pub fn from_vec(data: Vec<u8>) -> Self {
        MemDisk { data: RwLock::new(data), sector_size: 512, read_only: false }
    }

    /// The same disk, refusing writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// A copy of the content.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.data.read().clone()
    }

    /// Changes the content behind the engine's back, as a failing medium would.
    pub fn damage(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.data.write());
    }
}

impl BlockDevice for MemDisk {
    fn info(&self) -> BlockInfo {
        let len = self.data.read().len() as u64;
        BlockInfo {
            size: len - len % u64::from(self.sector_size),
            sector_size: self.sector_size,
            physical_sector_size: self.sector_size,
            read_only: self.read_only,
            discard: true,
            queue_depth: 32,
        }
    }

    fn submit(&self, request: Request) {
        let outcome = check_range(&self.info(), &request.op).map(|()| match request.op {
            Op::Read { offset, mut buf } => {
                let start = offset as usize;
                let end = start + buf.len();
                buf.copy_from_slice(&self.data.read()[start..end]);
                buf
            }
            Op::Write { offset, data } => {
                let start = offset as usize;
                self.data.write()[start..start + data.len()].copy_from_slice(&data);
                Vec::new()
            }
            Op::Flush => Vec::new(),
            Op::Discard { offset, len } => {
                // Nobody may rely on what is read there.
                self.data.write()[offset as usize..(offset + len) as usize].fill(DISCARDED);
                Vec::new()
            }
        });
        (request.done)(outcome);
    }
}
